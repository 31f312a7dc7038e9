"""Headers of GRIB2 messages: what a file holds and where, without decoding a value.

Only the sections' own bytes are read (WMO manual on codes, FM 92 GRIB edition 2), so that a file of half a gigabyte is
looked through with some 500 bytes a message. Decoding is left to eccodes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from anemoi_house.datasets.variables import NAMES
from anemoi_house.errors import HouseError

Read = Callable[[int, int], bytes]
"""Bytes of a file: (offset, length) to at most that many bytes."""

HEADER_BYTES = 512
"""Read at the start of a message: all sections up to the values, where no bitmap lies between."""

INDICATOR_BYTES = 16
END = b"7777"
MAXIMUM_FIELDS = 1000
"""Fields in one message; more is a damaged message."""

# Code table 4.4: hours of the units that forecasts are counted in.
_HOURS = {0: 1 / 60, 1: 1.0, 2: 24.0, 10: 3.0, 11: 6.0, 12: 12.0, 13: 1 / 3600}
# Code table 4.10, as wgrib2 names them.
_PROCESSES = {0: "ave", 1: "acc", 2: "max", 3: "min"}
# Product definition templates; others (members, probabilities) stand for other things under the same names.
_INSTANT, _RANGE = 0, 8
_ONE_SURFACE = 255
# Data representation templates: complex packing, and complex packing with spatial differences.
_COMPLEX = (2, 3)
MAXIMUM_BITS, MAXIMUM_DESCRIPTOR_BYTES = 32, 4


class GribError(HouseError):
    """What is wrong with a message, as the end of a sentence that begins with its address."""


@dataclass(frozen=True)
class Forecast:
    """Time that a field stands for, counted from the start of the run.

    Attributes
    ----------
    start, end : timedelta
        Equal for an instant.
    process : str or None
        What was done over a range: `acc`, `ave`, `max` or `min`.
    """

    start: timedelta
    end: timedelta
    process: str | None = None

    def __str__(self) -> str:
        """As messages name it."""
        if self.process is None:
            return f"{_hours(self.end)} hour" if self.end else "analysis"
        return f"{_hours(self.start)}-{_hours(self.end)} hour {self.process}"


def _hours(time: timedelta) -> str:
    return f"{time / timedelta(hours=1):g}"


@dataclass(frozen=True)
class FieldHeader:
    """One field of a GRIB2 file.

    Attributes
    ----------
    offset, length : int
        Of its message, in bytes.
    part, parts : int
        Its place among the fields of the message, from 1, and how many they are.
    run : datetime
        Reference time, UTC.
    name, level : str
        As wgrib2 gives them for what the experiments use; `var0_1_22` or `level type 104` otherwise.
    forecast : Forecast or None
        None for a product that is neither an instant nor a simple range.
    grid : bytes
        The grid definition, section 3.
    smallest, quantum : float
        Smallest value of the packing, and the step between its values, in units of the field.
    sections : tuple
        Number, first and last-plus-one byte in the message of each section that the field is made of.
    """

    offset: int
    length: int
    part: int
    parts: int
    run: datetime
    name: str
    level: str
    forecast: Forecast | None
    grid: bytes
    smallest: float
    quantum: float
    sections: tuple[tuple[int, int, int], ...]


def message_length(indicator: bytes) -> int:
    """Length in bytes that a message states in its first 16 bytes.

    Raises
    ------
    GribError
        For what does not begin a GRIB2 message.
    """
    if len(indicator) < INDICATOR_BYTES:
        raise GribError(f"holds {len(indicator)} bytes where a GRIB message should begin: it is cut short")
    if indicator[:4] != b"GRIB":
        start = indicator.lstrip()[:9].lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise GribError("is a web page, not GRIB")
        raise GribError(f"holds no GRIB message: it begins with {bytes(indicator[:8])!r}")
    if indicator[7] != 2:
        raise GribError(f"is GRIB edition {indicator[7]}; NOAA's archives used here are of edition 2")
    length = int.from_bytes(indicator[8:16], "big")
    if length < INDICATOR_BYTES + len(END):
        raise GribError(f"states a length of {length} bytes, which no message has")
    return length


def walk(read: Read, size: int) -> Iterator[FieldHeader]:
    """Headers of all fields of a file, in the order in which they stand.

    A few bytes that belong to no message are passed over: bulletins have their heading there, and files that were put
    together from byte ranges a byte too many.

    Parameters
    ----------
    read : callable
    size : int
        Bytes in the file.

    Raises
    ------
    GribError
        Where something else than whole messages stands, with the byte at which it does.
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
    """Headers of the fields of one whole message.

    Raises
    ------
    GribError
        If it is not exactly one message with its closing `7777`, or its sections do not fit together.
    """
    length = message_length(message[:INDICATOR_BYTES])
    if length != len(message):
        raise GribError(f"states a length of {length:,} bytes, and {len(message):,} are there: it is cut short")
    if message[-4:] != END:
        raise GribError(f"does not end with {END.decode()}: it is cut short or overwritten")
    return _message(lambda start, count: message[start : start + count], 0, length)


def check_groups(message: bytes) -> None:
    """Check that the groups of complex packing are as many values, and take as many bytes, as the message has.

    eccodes follows these tables without a look at where they lead: of damaged ones it ends the whole process.

    Parameters
    ----------
    message : bytes
        One whole message of one field.

    Raises
    ------
    GribError
        If they are not.
    """
    sections = {number: message[start:end] for number, start, end in fields_of(message)[0].sections}
    packing, values = sections[5], sections[7][5:]
    count, template = struct.unpack_from(">IH", packing, 5)
    if template not in _COMPLEX:
        return
    groups, shortest_width, width_bits, shortest, step, last, length_bits = struct.unpack_from(">IBBIBIB", packing, 31)
    if groups == 0 and packing[19] == 0 and not values:
        return
    if not 0 < groups <= count:
        raise GribError(f"has a packing section that states {groups:,} groups for {count:,} values")
    at = (packing[47] + 1) * packing[48] if template == _COMPLEX[-1] else 0
    at += -(-groups * packing[19] // 8)
    widths = shortest_width + _unpacked(values, at, groups, width_bits)
    at += -(-groups * width_bits // 8)
    lengths = shortest + step * _unpacked(values, at, groups, length_bits)
    at += -(-groups * length_bits // 8)
    lengths[-1] = last
    if lengths.sum() != count:
        raise GribError(f"has groups of {lengths.sum():,} values in all, and should have {count:,}")
    if widths.max() > MAXIMUM_BITS or at + -(-int(widths @ lengths) // 8) != len(values):
        raise GribError("has groups that do not fill its values section")


def _unpacked(content: bytes, start: int, count: int, bits: int) -> NDArray[np.int64]:
    """Unsigned integers of `bits` bits each, that begin at a byte."""
    if bits == 0:
        return np.zeros(count, dtype=np.int64)
    packed = np.frombuffer(content[start : start + -(-count * bits // 8)], dtype=np.uint8)
    if packed.size * 8 < count * bits:
        raise GribError("has tables of groups that do not fit into its values section")
    digits = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return digits @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def split(message: bytes, header: FieldHeader) -> bytes:
    """Message that holds one field alone, out of one that several fields share.

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
    window = _Window(read, offset)
    length = message_length(window[0:INDICATOR_BYTES])
    if offset + length > size:
        raise GribError(f"holds a message of {length:,} bytes of which {size - offset:,} are there: it is cut short")
    discipline = window[6:7][0]
    seen: dict[int, tuple[int, int]] = {}
    bitmap: tuple[int, int] | None = None
    found: list[dict[int, tuple[int, int]]] = []
    at = INDICATOR_BYTES
    while at < length - len(END):
        head = window[at : at + 5]
        if len(head) < 5:
            raise GribError("has a section that begins beyond its end")
        section_length, number = int.from_bytes(head[:4], "big"), head[4]
        if section_length < 5 or at + section_length > length - len(END):
            raise GribError(f"has a section {number} of {section_length:,} bytes that does not fit into it")
        if not 1 <= number <= 7 or (number == 1) != (at == INDICATOR_BYTES):
            raise GribError(f"has a section {number} where it cannot stand")
        # A section replaces those that follow it: a new product needs its own packing and values.
        for later in [key for key in seen if key >= number]:
            del seen[later]
        seen[number] = (at, at + section_length)
        if number == 6:
            indicator = window[at + 5 : at + 6]
            # 254: the bitmap that stood before in this message holds for this field too.
            if indicator == b"\xfe":
                if bitmap is None:
                    raise GribError("refers to a bitmap that is not there")
                seen[number] = bitmap
            elif indicator == b"\x00":
                bitmap = seen[number]
        if number == 7:
            missing = [str(needed) for needed in (1, 3, 4, 5, 6) if needed not in seen]
            if missing:
                raise GribError(f"lacks section {', '.join(missing)}")
            found.append(dict(seen))
            if len(found) > MAXIMUM_FIELDS:
                raise GribError(f"has more than {MAXIMUM_FIELDS} fields")
        at += section_length
    if not found or 7 not in seen:
        raise GribError("ends without values")
    return [
        _header(window, offset, length, discipline, part, len(found), sections)
        for part, sections in enumerate(found, 1)
    ]


def _header(
    window: _Window,
    offset: int,
    length: int,
    discipline: int,
    part: int,
    parts: int,
    sections: dict[int, tuple[int, int]],
) -> FieldHeader:
    identification, grid, product, packing = (window[slice(*sections[number])] for number in (1, 3, 4, 5))
    try:
        run = datetime(*struct.unpack_from(">HBBBBB", identification, 12))
    except (ValueError, struct.error):
        raise GribError("has no valid reference time") from None
    try:
        code = (discipline, product[9], product[10])
        level = _level(product)
        forecast = _forecast(run, product)
        reference, binary_scale, decimal_scale = struct.unpack_from(">fHH", packing, 11)
        unit = 10.0 ** -_sign_and_magnitude(decimal_scale, 15)
        quantum = 2.0 ** _sign_and_magnitude(binary_scale, 15) * unit
        _check_packing(packing)
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
        forecast=forecast,
        grid=grid,
        smallest=reference * unit,
        quantum=quantum,
        sections=tuple((number, *sections[number]) for number in sorted(sections)),
    )


def _check_packing(packing: bytes) -> None:
    """Raise a GribError for what no encoder writes, and eccodes would end the whole process for."""
    (template,) = struct.unpack_from(">H", packing, 9)
    widths = [packing[19]]
    if template in _COMPLEX:
        widths += [packing[36], packing[46]]
    if template == _COMPLEX[-1] and (packing[47] not in (1, 2) or packing[48] > MAXIMUM_DESCRIPTOR_BYTES):
        raise GribError("has a packing section that states no order of differences")
    if max(widths) > MAXIMUM_BITS:
        raise GribError(f"has a packing section that states {max(widths)} bits a value")


def _level(product: bytes) -> str:
    kind, scale, value = struct.unpack_from(">BBI", product, 22)
    size = _sign_and_magnitude(value, 31) / 10.0 ** _sign_and_magnitude(scale, 7)
    if product[28] != _ONE_SURFACE:
        return f"layer of type {kind}"
    match kind:
        case 1:
            return "surface"
        case 100:
            return f"{size / 100:g} mb"
        case 103:
            return f"{size:g} m above ground"
        case _:
            return f"level type {kind}"


def _forecast(run: datetime, product: bytes) -> Forecast | None:
    (template,) = struct.unpack_from(">H", product, 7)
    if template not in (_INSTANT, _RANGE):
        return None
    unit, time = struct.unpack_from(">BI", product, 17)
    if unit not in _HOURS:
        return None
    start = timedelta(hours=_sign_and_magnitude(time, 31) * _HOURS[unit])
    if template == _INSTANT:
        return Forecast(start, start)
    try:
        end = datetime(*struct.unpack_from(">HBBBBB", product, 34))
    except ValueError:
        return None
    return Forecast(start, end - run, _PROCESSES.get(product[46], "other"))


def _sign_and_magnitude(value: int, bits: int) -> int:
    """Signed integers of GRIB have their sign in the first bit."""
    magnitude = value & ((1 << bits) - 1)
    return -magnitude if value >> bits else magnitude


class _Window:
    """Bytes of one message, read as they are needed; the first read takes what a header usually needs."""

    def __init__(self, read: Read, offset: int) -> None:
        self._read, self._offset = read, offset
        self._start = read(offset, HEADER_BYTES)

    def __getitem__(self, part: slice) -> bytes:
        if part.stop <= len(self._start):
            return self._start[part]
        return self._read(self._offset + part.start, part.stop - part.start)
