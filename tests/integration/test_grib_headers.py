"""Headers of GRIB2 messages, against eccodes on real files, and against damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import eccodes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noaa.files import GFS, HRRR, Record, analysis_records, encode, forecast_records, share
from noaa.samples import GFS_2P5, HRRR_APCP, NAM, sample

from anemoi_house.datasets.grib import (
    FieldHeader,
    GribError,
    TimeRange,
    check_values,
    fields_of,
    message_length,
    split,
    walk,
)

RUN = datetime(2021, 4, 1, 6)
SMALL = GFS.thinned(60)
HOURS = timedelta(hours=1)
WGRIB2_NAMES = {"t": "TMP", "gh": "HGT", "u": "UGRD", "v": "VGRD", "tp": "APCP", "w": "VVEL", "sp": "PRES", "q": "SPFH"}


def headers(path: Path) -> list[FieldHeader]:
    content = path.read_bytes()
    return list(walk(lambda start, count: content[start : start + count], len(content)))


@contextmanager
def several_fields_a_message() -> Iterator[None]:
    eccodes.codes_grib_multi_support_on()
    try:
        yield
    finally:
        eccodes.codes_grib_multi_support_off()


def as_eccodes_sees(path: Path) -> list[dict]:
    keys = ("shortName", "typeOfLevel", "level", "dataDate", "dataTime", "startStep", "endStep", "numberOfValues")
    found = []
    with several_fields_a_message(), path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            found.append({key: eccodes.codes_get(handle, key) for key in keys})
            found[-1]["values"] = eccodes.codes_get_values(handle)
            eccodes.codes_release(handle)
    return found


@pytest.mark.parametrize("name", [HRRR_APCP, NAM, GFS_2P5])
def test_real_files_are_read_as_eccodes_reads_them(name: str) -> None:
    path = sample(name)
    ours, theirs = headers(path), as_eccodes_sees(path)
    assert len(ours) == len(theirs)
    compared = 0
    for header, known in zip(ours, theirs):
        assert f"{header.run:%Y%m%d}" == str(known["dataDate"])
        assert header.run.hour * 100 == known["dataTime"]
        if header.time_range is not None:
            assert header.time_range.end == int(known["endStep"]) * HOURS
            assert header.time_range.start == int(known["startStep"]) * HOURS
        if known["shortName"] in WGRIB2_NAMES and known["typeOfLevel"] == "isobaricInhPa":
            assert (header.name, header.level) == (WGRIB2_NAMES[known["shortName"]], f"{known['level']} mb")
            compared += 1
        if header.level.endswith(" mb"):
            assert known["typeOfLevel"] == "isobaricInhPa"
    assert compared > 60 or "apcp" in name


@pytest.mark.parametrize("name", [NAM, GFS_2P5])
def test_fields_that_share_a_message_come_out_alone(name: str) -> None:
    """Both files have U and V in one message; eccodes reads the second one only with its multi-field support on."""
    path = sample(name)
    content, theirs = path.read_bytes(), as_eccodes_sees(path)
    shared = [(header, known) for header, known in zip(headers(path), theirs) if header.parts > 1]
    assert {header.part for header, _ in shared} == {1, 2}
    for header, known in shared[:20]:
        message = content[header.offset : header.offset + header.length]
        alone = split(message, header)
        assert len(fields_of(alone)) == 1
        handle = eccodes.codes_new_from_message(alone)
        try:
            assert eccodes.codes_get(handle, "shortName") == known["shortName"]
            np.testing.assert_array_equal(eccodes.codes_get_values(handle), known["values"])
        finally:
            eccodes.codes_release(handle)


def test_a_bitmap_given_once_holds_for_the_second_field() -> None:
    """Flag 254 in section 6: the bitmap is that of the field before."""
    first, second = (encode(SMALL, Record(name, "500 mb"), RUN, 0) for name in ("UGRD", "VGRD"))
    both = bytearray(share(with_bitmap(first), with_bitmap(second)))
    position = second_bitmap(both)
    length = int.from_bytes(both[position : position + 4], "big")
    both[position : position + length] = (6).to_bytes(4, "big") + b"\x06\xfe"
    both[8:16] = len(both).to_bytes(8, "big")
    headers_ = fields_of(bytes(both))
    values = [decoded(split(bytes(both), header)) for header in headers_]
    np.testing.assert_array_equal(values[0], decoded(with_bitmap(first)))
    np.testing.assert_array_equal(values[1], decoded(with_bitmap(second)))


def with_bitmap(message: bytes) -> bytes:
    handle = eccodes.codes_new_from_message(message)
    try:
        values = eccodes.codes_get_values(handle)
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", 9999)
        values[3] = 9999
        eccodes.codes_set_values(handle, values)
        return eccodes.codes_get_message(handle)
    finally:
        eccodes.codes_release(handle)


def second_bitmap(message: bytes) -> int:
    at, seen = 16, 0
    while True:
        length, number = int.from_bytes(message[at : at + 4], "big"), message[at + 4]
        seen += number == 6
        if seen == 2:
            return at
        at += length


def decoded(message: bytes) -> np.ndarray:
    handle = eccodes.codes_new_from_message(message)
    try:
        return eccodes.codes_get_values(handle)
    finally:
        eccodes.codes_release(handle)


def test_headers_of_what_we_write() -> None:
    records = [*analysis_records([500, 850]), *forecast_records(GFS, 6)]
    content = b"".join(encode(SMALL, record, RUN, 6) for record in records)
    found = list(walk(lambda start, count: content[start : start + count], len(content)))
    assert [(header.name, header.level) for header in found if not header.name.startswith("var")] == [
        (record.name, record.level) for record in records if record.name != "RH"
    ]
    assert {header.run for header in found} == {RUN}
    rain = [header.time_range for header in found if header.name == "APCP"]
    assert rain[0] == TimeRange(timedelta(0), 6 * HOURS, "acc")


def test_few_bytes_are_read_for_a_header() -> None:
    content = encode(HRRR.thinned(4), Record("TMP", "500 mb"), RUN, 0)
    asked = []

    def read(start: int, count: int) -> bytes:
        asked.append(min(count, len(content) - start))
        return content[start : start + count]

    assert len(list(walk(read, len(content)))) == 1
    assert sum(asked) < 1200 < len(content) / 20


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda m: b"", "0 bytes where a GRIB message should begin"),
        (lambda m: m[:-7], "it is cut short"),
        (lambda m: m[:-4] + b"0000", "does not end with 7777"),
        (lambda m: b"<!DOCTYPE html><html><body>403</body>", "is a web page, not GRIB"),
        (lambda m: b"BUFR" + m[4:], "holds no GRIB message"),
        (lambda m: m[:7] + b"\x01" + m[8:], "is GRIB edition 1"),
        (lambda m: m[:16] + b"\x00\x00\x00\x00" + m[20:], "does not fit into it"),
        (lambda m: m[:20] + b"\x09" + m[21:], "a misplaced section 9"),
        (lambda m: m[:30] + b"\x63" + m[31:], "has no valid reference time"),
    ],
)
def test_damage_is_named(damage, told: str) -> None:
    message = encode(SMALL, Record("TMP", "500 mb"), RUN, 0)
    assert len(fields_of(message)) == 1
    with pytest.raises(GribError, match=told):
        fields_of(damage(message))


def test_a_file_that_ends_too_early_is_named_with_the_place() -> None:
    message = encode(SMALL, Record("TMP", "500 mb"), RUN, 0)
    content = message * 3
    content = content[:-10]
    with pytest.raises(GribError, match=rf"cut short \(at byte {2 * len(message):,} of {len(content):,}\)"):
        list(walk(lambda start, count: content[start : start + count], len(content)))


def test_a_few_bytes_between_messages_are_passed_over() -> None:
    """As in files put together from byte ranges that took one byte too many: the real HRRR sample is one."""
    message = encode(SMALL, Record("TMP", "500 mb"), RUN, 0)
    content = message + b"G" + message + b"\r\r\n\x03"
    found = list(walk(lambda start, count: content[start : start + count], len(content)))
    assert [header.offset for header in found] == [0, len(message) + 1]


@pytest.mark.parametrize("name", [HRRR_APCP, NAM, GFS_2P5])
def test_groups_of_real_files_are_whole(name: str) -> None:
    path = sample(name)
    content = path.read_bytes()
    for header in headers(path):
        check_values(split(content[header.offset : header.offset + header.length], header))


@pytest.mark.parametrize(
    ("octet", "bit", "told"),
    [
        (20, 6, "with .* bits a value|do not fit|do not fill"),
        (32, 6, r"groups for 312 values"),
        (37, 2, "groups"),
        (46, 0, "has groups of .* values in all; expected 312"),
        (48, 3, "an invalid order of differences"),
        (49, 5, "an invalid order of differences"),
    ],
)
def test_damaged_groups_are_named(octet: int, bit: int, told: str) -> None:
    """With eccodes 2.50 some of these end the process, by an assertion or a segmentation fault."""
    message = bytearray(encode(SMALL, Record("TMP", "500 mb"), RUN, 0))
    (start,) = [first for number, first, _ in fields_of(bytes(message))[0].sections if number == 5]
    message[start + octet - 1] ^= 1 << bit
    with pytest.raises(GribError, match=told):
        check_values(bytes(message))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_fields_or_one_kind_of_error(content: bytes) -> None:
    with suppress(GribError):
        list(walk(lambda start, count: content[start : start + count], len(content)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_gives_fields_or_one_kind_of_error(data: st.DataObject) -> None:
    message = bytearray(MESSAGE)
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, 250))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(message)), st.integers(0, len(message))))
    with suppress(GribError):
        for header in fields_of(bytes(message[:end])):
            assert header.parts >= header.part >= 1
            assert len(split(bytes(message[:end]), header)) <= len(message) + 300


@given(st.binary(min_size=16, max_size=16))
def test_a_length_is_positive_or_refused(indicator: bytes) -> None:
    try:
        assert message_length(b"GRIB\x00\x00\x00\x02" + indicator[8:]) >= 20
    except GribError:
        assert int.from_bytes(indicator[8:], "big") < 20


MESSAGE = share(*(encode(SMALL, Record(name, "500 mb"), RUN, 0) for name in ("UGRD", "VGRD")))
