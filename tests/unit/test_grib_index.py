"""Indexes of GRIB files: NOAA's own lines, those made from headers, and anything else."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from noaa.files import GFS, HRRR, analysis_records, forecast_records, write_file

from anemoi_house.datasets.grib import TimeRange, walk
from anemoi_house.datasets.index import IndexCache, NoIndexError, find, from_headers, parse_idx, parse_time_range

HOURS = timedelta(hours=1)
RUN = datetime(2021, 4, 1, 6)
# Lines as NOAA writes them: U and V in one message, rain twice under one key, ranges in hours and days.
LINES = """\
1:0:d=2021040106:PRMSL:mean sea level:6 hour fcst:
2:990253:d=2021040106:HGT:500 mb:6 hour fcst:
3.1:1500000:d=2021040106:UGRD:10 m above ground:6 hour fcst:
3.2:1500000:d=2021040106:VGRD:10 m above ground:6 hour fcst:
4:1800000:d=2021040106:APCP:surface:0-6 hour acc fcst:
5:1900000:d=2021040106:APCP:surface:0-6 hour acc fcst:
6:2000000:d=2021040106:TMP:surface:0-6 hour ave fcst:
7:2100000:d=2021040106:TMP:surface:anl:ENS=+1
"""


def test_a_message_ends_where_the_next_other_offset_begins() -> None:
    entries = parse_idx(LINES)
    assert [entry.length for entry in entries] == [990253, 509747, 300000, 300000, 100000, 100000, 100000, None]
    assert [entry.part for entry in entries] == [1, 1, 1, 2, 1, 1, 1, 1]
    assert {entry.run for entry in entries} == {RUN}


def test_the_first_of_two_equal_lines_is_taken() -> None:
    found = find(parse_idx(LINES), "APCP", "surface", TimeRange(0 * HOURS, 6 * HOURS, "acc"))
    assert found is not None
    assert found.offset == 1800000


def test_only_the_range_asked_for_is_found() -> None:
    entries = parse_idx(
        LINES.replace("5:1900000:d=2021040106:APCP:surface:0-6", "5:1900000:d=2021040106:APCP:surface:5-6")
    )
    assert find(entries, "APCP", "surface", TimeRange(5 * HOURS, 6 * HOURS, "acc")).offset == 1900000
    assert find(entries, "APCP", "surface", TimeRange(0 * HOURS, 6 * HOURS, "acc")).offset == 1800000
    assert find(entries, "APCP", "surface", TimeRange(3 * HOURS, 6 * HOURS, "acc")) is None
    assert find(entries, "TMP", "surface", TimeRange(6 * HOURS, 6 * HOURS)) is None


@pytest.mark.parametrize(
    ("text", "time_range"),
    [
        ("anl", TimeRange(0 * HOURS, 0 * HOURS)),
        ("6 hour fcst", TimeRange(6 * HOURS, 6 * HOURS)),
        ("15 min fcst", TimeRange(HOURS / 4, HOURS / 4)),
        ("0-1 day acc fcst", TimeRange(0 * HOURS, 24 * HOURS, "acc")),
        ("6-12 hour ave fcst", TimeRange(6 * HOURS, 12 * HOURS, "ave")),
        ("0-0 day acc f", None),
        ("prob >2.54:5-6 hour", None),
        ("", None),
    ],
)
def test_times_in_wgrib2s_words(text: str, time_range: TimeRange | None) -> None:
    assert parse_time_range(text) == time_range


@pytest.mark.parametrize("model", [GFS.thinned(60), HRRR.thinned(60)])
@pytest.mark.parametrize("shared_winds", [False, True])
def test_headers_give_the_same_as_noaas_index(tmp_path: Path, model, shared_winds: bool) -> None:
    path = tmp_path / "file"
    records = [*analysis_records([500, 850]), *forecast_records(model, 6)]
    write_file(path, model, RUN, 6, records, shared_winds=shared_winds)
    content = path.read_bytes()
    made = from_headers(walk(lambda start, count: content[start : start + count], len(content)))
    told = parse_idx(path.with_name("file.idx").read_text())
    assert told[-1].length is None
    assert [entry.length for entry in made[:-1]] == [entry.length for entry in told[:-1]]
    assert [_of(entry) for entry in made] == [_of(entry) for entry in told]


def _of(entry) -> tuple:
    """All but the length; humidity as wgrib2 calls it is not among the names of the experiments."""
    name = "RH" if entry.name == "var0_1_1" else entry.name
    return entry.offset, entry.part, entry.run, name, entry.level, entry.time_range


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("<!DOCTYPE html>\n<html>", "line 1 is a web page"),
        (LINES + "garbage\n", "line 9 is not a line of a GRIB index: 'garbage'"),
        (LINES.replace("d=2021040106:APCP", "d=2021134506:APCP", 1), "line 5: 2021134506 is not a date"),
        (LINES.replace("5:1900000", "5:19"), "line 6: offset 19 is smaller than the one before it"),
        (LINES[:-20], "line 8 is not a line of a GRIB index"),
    ],
)
def test_what_is_no_index_is_named_by_its_line(text: str, told: str) -> None:
    with pytest.raises(NoIndexError, match=told):
        parse_idx(text)


_ANY_LINE = st.from_regex(
    r"\d{1,5}(\.\d)?:\d{1,12}:d=\d{10}:[A-Z]{0,5}:[a-z0-9 ]{0,9}:[a-z0-9 -]{0,18}:", fullmatch=True
)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(_ANY_LINE, max_size=8).map("\n".join)))
@example("9" * 40 + ":0:d=2021040106:TMP:surface:anl:")
@example("1:0:d=2021040106:TMP:surface:999999-999999 day acc fcst:")
def test_any_text_gives_entries_or_one_kind_of_error(text: str) -> None:
    with suppress(NoIndexError):
        entries = parse_idx(text)
        assert all(entry.length is None or entry.length > 0 for entry in entries)
        assert entries[-1].length is None


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_index_gives_entries_or_one_kind_of_error(data: st.DataObject) -> None:
    text = list(LINES)
    for _ in range(data.draw(st.integers(1, 5))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.characters())
    with suppress(NoIndexError):
        assert parse_idx("".join(text))


def test_an_index_is_kept_for_the_same_file_only(tmp_path: Path) -> None:
    entries, kept = parse_idx(LINES), IndexCache(tmp_path / "new" / "folder")
    assert kept.read("s3://bucket/file", 10, "etag") is None
    kept.write("s3://bucket/file", 10, "etag", entries)
    assert kept.read("s3://bucket/file", 10, "etag") == entries
    assert kept.read("s3://bucket/file", 11, "etag") is None
    assert kept.read("s3://bucket/file", 10, "another") is None
    assert kept.read("s3://bucket/other", 10, "etag") is None
    (path,) = kept.folder.iterdir()
    path.write_text(path.read_text()[:-30])
    assert kept.read("s3://bucket/file", 10, "etag") is None


def test_a_folder_that_cannot_be_written_to_costs_the_index_alone(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("in the way")
    IndexCache(tmp_path / "file").write("s3://bucket/file", 10, "etag", parse_idx(LINES))
    assert "each use rebuilds them" in caplog.text
