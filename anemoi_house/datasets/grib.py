"""Headers of GRIB2 messages: what a file holds and where, without decoding a value.

Only section headers are read (WMO manual on codes, FM 92 GRIB edition 2): some 500 bytes a message of a file of half a
gigabyte. eccodes decodes the values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from anemoi_house.datasets.packing import GribError, check_groups, check_packing
from anemoi_house.datasets.variables import NAMES

Read = Callable[[int, int], bytes]
"""Reader of a file: (offset, length) to at most that many bytes."""

HEADER_BYTES = 512
"""Read at the start of a message: all sections before the values, unless there is a bitmap."""

INDICATOR_BYTES = 16
END = b"7777"
MAXIMUM_FIELDS = 1000
"""Fields in one message; more is a damaged message."""

# Code table 4.4: units of forecast times, in hours.
_HOURS = {0: 1 / 60, 1: 1.0, 2: 24.0, 10: 3.0, 11: 6.0, 12: 12.0, 13: 1 / 3600}
# Code table 4.10, as wgrib2 names them.
_PROCESSES = {0: "ave", 1: "acc", 2: "max", 3: "min"}
# Code table 4.5, as wgrib2 names them.
_LEVELS = {1: "surface", 100: "{hpa:g} mb", 103: "{size:g} m above ground"}
# Product definition templates; others (members, probabilities) are different products under the same names.
_INSTANT, _RANGE = 0, 8
_ONE_SURFACE = 255
_BITMAP, _VALUES = 6, 7
_NEEDED = (1, 3, 4, 5, _BITMAP)
# Indicators of section 6: the bitmap follows; the one before it in this message holds for this field too.
_OWN_BITMAP, _EARLIER_BITMAP = b"\x00", b"\xfe"

_Span = tuple[int, int]


@dataclass(frozen=True)
class TimeRange:
    """The time that a field is valid for, counted from the start of the run.

    Attributes
    ----------
    start, end : timedelta
        Equal for an instant.
    process : str or None
        How values over a range were combined: `acc`, `ave`, `max` or `min`.
    """

    start: timedelta
    end: timedelta
    process: str | None = None

    def __str__(self) -> str:
        """Return it as messages name it."""
        start, end = (f"{time / timedelta(hours=1):g}" for time in (self.start, self.end))
        if self.process is not None:
            return f"{start}-{end} hour {self.process}"
        return f"{end} hour" if self.end else "analysis"


@dataclass(frozen=True)
class IndexedField:
    """One field, as an index lists it.

    Attributes
    ----------
    offset : int
        First byte of its message.
    length : int or None
        Bytes of the message; None for the last one of an `.idx`, which does not give it.
    part : int
        Its position among the fields of the message, from 1.
    run : datetime
        Reference time, UTC.
    name, level : str
        As wgrib2 names the variables and levels of the experiments; else `var0_1_22` or `level type 104`.
    time_range : TimeRange or None
        None for a product that is neither an instant nor a simple range.
    """

    offset: int
    length: int | None
    part: int
    run: datetime
    name: str
    level: str
    time_range: TimeRange | None

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"{self.name} {self.level} {self.time_range or '(another product)'}"


@dataclass(frozen=True)
class FieldHeader(IndexedField):
    """One field of a GRIB2 file, with what only its header gives.

    Attributes
    ----------
    parts : int
        Fields in its message.
    grid : bytes
        The grid definition, section 3.
    smallest, quantum : float
        Smallest value of the packing, and the step between its values, in units of the field.
    sections : tuple
        Number, first and last-plus-one byte in the message of each section of the field.
    """

    length: int
    parts: int
    grid: bytes
    smallest: float
    quantum: float
    sections: tuple[tuple[int, int, int], ...]


def message_length(indicator: bytes) -> int:
    """Return the length in bytes that a message gives in its first 16 bytes.

    Raises
    ------
    GribError
        If they do not begin a GRIB2 message.
    """
    if len(indicator) < INDICATOR_BYTES:
        raise GribError(f"holds {len(indicator)} bytes where a GRIB message should begin: it is cut short")
    if indicator[:4] != b"GRIB":
        if indicator.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
            raise GribError("is a web page, not GRIB")
        raise GribError(f"holds no GRIB message: it begins with {bytes(indicator[:8])!r}")
    if indicator[7] != 2:
        raise GribError(f"is GRIB edition {indicator[7]}; only edition 2 is supported")
    length = int.from_bytes(indicator[8:16], "big")
    if length < INDICATOR_BYTES + len(END):
        raise GribError(f"gives a length of {length} bytes, which is impossible")
    return length


def walk(read: Read, size: int) -> Iterator[FieldHeader]:
    """Yield the headers of all fields of a file, in file order.

    A few bytes between messages are skipped: bulletins have a heading there, and files that were joined from byte
    ranges may have a byte too many.

    Parameters
    ----------
    read : callable
    size : int
        Bytes in the file.

    Raises
    ------
    GribError
        Where the file does not hold whole messages, with the byte.
    """
    offset = 0
    while offset < size:
        try:
            heading = max(0, read(offset, HEADER_BYTES).find(b"GRIB"))
            if offset and not heading and size - offset < INDICATOR_BYTES:
                return
            offset += heading
            fields = _message(read, offset, size)
        except GribError as wrong:
            raise GribError(f"{wrong} (at byte {offset:,} of {size:,})") from None
        yield from fields
        offset += fields[0].length


def fields_of(message: bytes) -> list[FieldHeader]:
    """Return the headers of the fields of one whole message.

    Raises
    ------
    GribError
        If it is not exactly one message with its closing `7777`, or its sections do not fit together.
    """
    length = message_length(message[:INDICATOR_BYTES])
    if length != len(message):
        raise GribError(f"gives a length of {length:,} bytes but has {len(message):,}: it is cut short")
    if message[-4:] != END:
        raise GribError(f"does not end with {END.decode()}: it is cut short or overwritten")
    return _message(lambda start, count: message[start : start + count], 0, length)


def check_values(message: bytes) -> None:
    """Raise a GribError if the values section of a message with one field does not fit its packing section."""
    sections = {number: message[start:end] for number, start, end in fields_of(message)[0].sections}
    check_groups(sections[5], sections[_VALUES])


def split(message: bytes, header: FieldHeader) -> bytes:
    """Return a message that holds one field alone, out of one that several fields share.

    Parameters
    ----------
    message : bytes
        One whole message.
    header : FieldHeader
        One of `fields_of(message)`.
    """
    if header.parts == 1:
        return message
    body = b"".join(message[start:end] for _, start, end in header.sections) + END
    return message[:8] + struct.pack(">Q", INDICATOR_BYTES + len(body)) + body


def _message(read: Read, offset: int, size: int) -> list[FieldHeader]:
    """Return the headers of the fields of the message that begins at `offset`."""
    window = _Window(read, offset)
    length = message_length(window[0:INDICATOR_BYTES])
    if offset + length > size:
        raise GribError(f"holds a message of {length:,} bytes but only {size - offset:,} of them: it is cut short")
    fields = _fields(window, length)
    return [_header(window, offset, length, part, len(fields), field) for part, field in enumerate(fields, 1)]


def _fields(window: _Window, length: int) -> list[dict[int, _Span]]:
    """Return the sections of each field of a message, by their numbers."""
    fields: list[dict[int, _Span]] = []
    seen: dict[int, _Span] = {}
    bitmap: _Span | None = None
    for number, span in _sections(window, length):
        # A section replaces all that follow it: a new product has its own packing and values.
        seen = {earlier: seen[earlier] for earlier in seen if earlier < number} | {number: span}
        if number == _BITMAP:
            indicator = window[span[0] + 5 : span[0] + 6]
            if indicator == _OWN_BITMAP:
                bitmap = span
            elif indicator == _EARLIER_BITMAP:
                if bitmap is None:
                    raise GribError("refers to a bitmap that it does not hold")
                seen[number] = bitmap
        if number == _VALUES:
            if missing := [str(needed) for needed in _NEEDED if needed not in seen]:
                raise GribError(f"lacks section {', '.join(missing)}")
            fields.append(seen)
            if len(fields) > MAXIMUM_FIELDS:
                raise GribError(f"has more than {MAXIMUM_FIELDS} fields")
    if not fields or _VALUES not in seen:
        raise GribError("ends without values")
    return fields


def _sections(window: _Window, length: int) -> Iterator[tuple[int, _Span]]:
    """Yield the number and span of each section of a message."""
    start, last = INDICATOR_BYTES, length - len(END)
    while start < last:
        head = window[start : start + 5]
        if len(head) < 5:
            raise GribError("has a section that begins beyond its end")
        end, number = start + int.from_bytes(head[:4], "big"), head[4]
        if not start + 5 <= end <= last:
            raise GribError(f"has a section {number} of {end - start:,} bytes that does not fit into it")
        if not 1 <= number <= _VALUES or (number == 1) != (start == INDICATOR_BYTES):
            raise GribError(f"has a misplaced section {number}")
        yield number, (start, end)
        start = end


def _header(
    window: _Window, offset: int, length: int, part: int, parts: int, sections: dict[int, _Span]
) -> FieldHeader:
    identification, grid, product, packing = (window[slice(*sections[number])] for number in (1, 3, 4, 5))
    try:
        run = datetime(*struct.unpack_from(">HBBBBB", identification, 12))
    except (ValueError, struct.error):
        raise GribError("has no valid reference time") from None
    try:
        discipline = window[6:7][0]
        code = (discipline, product[9], product[10])
        level = _level(product)
        time_range = _time_range(run, product)
        reference, binary_scale, decimal_scale = struct.unpack_from(">fHH", packing, 11)
        unit = 10.0 ** -_sign_and_magnitude(decimal_scale, 15)
        quantum = 2.0 ** _sign_and_magnitude(binary_scale, 15) * unit
        check_packing(packing)
    except (IndexError, struct.error, OverflowError):
        raise GribError("has a product or packing section that is too short") from None
    return FieldHeader(
        offset=offset,
        length=length,
        part=part,
        parts=parts,
        run=run,
        name=NAMES.get(code, "var{}_{}_{}".format(*code)),
        level=level,
        time_range=time_range,
        grid=grid,
        smallest=reference * unit,
        quantum=quantum,
        sections=tuple((number, *sections[number]) for number in sorted(sections)),
    )


def _level(product: bytes) -> str:
    kind, scale, value = struct.unpack_from(">BBI", product, 22)
    size = _sign_and_magnitude(value, 31) / 10.0 ** _sign_and_magnitude(scale, 7)
    if product[28] != _ONE_SURFACE:
        return f"layer of type {kind}"
    return _LEVELS.get(kind, "level type {kind}").format(kind=kind, size=size, hpa=size / 100)


def _time_range(run: datetime, product: bytes) -> TimeRange | None:
    (template,) = struct.unpack_from(">H", product, 7)
    unit, time = struct.unpack_from(">BI", product, 17)
    if template not in (_INSTANT, _RANGE) or unit not in _HOURS:
        return None
    start = timedelta(hours=_sign_and_magnitude(time, 31) * _HOURS[unit])
    if template == _INSTANT:
        return TimeRange(start, start)
    try:
        end = datetime(*struct.unpack_from(">HBBBBB", product, 34))
    except ValueError:
        return None
    return TimeRange(start, end - run, _PROCESSES.get(product[46], "other"))


def _sign_and_magnitude(value: int, bits: int) -> int:
    """Return a signed integer of GRIB, whose first bit is its sign."""
    magnitude = value & ((1 << bits) - 1)
    return -magnitude if value >> bits else magnitude


class _Window:
    """Bytes of one message, read on demand. The first read takes what a header usually needs."""

    def __init__(self, read: Read, offset: int) -> None:
        self._read, self._offset = read, offset
        self._start = read(offset, HEADER_BYTES)

    def __getitem__(self, part: slice) -> bytes:
        if part.stop <= len(self._start):
            return self._start[part]
        return self._read(self._offset + part.start, part.stop - part.start)
