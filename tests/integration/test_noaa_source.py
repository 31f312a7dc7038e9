"""The source house-noaa: what a recipe may ask, and fields from real and from written files."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import eccodes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noaa.files import (
    GFS,
    HRRR,
    Record,
    analysis_records,
    encode,
    field_values,
    forecast_records,
    precision,
    stored_values,
    write_date,
    write_file,
)
from noaa.samples import GFS_2P5, HRRR_APCP, sample
from pydantic import TypeAdapter

from anemoi_house.datasets.archive import Message, Wanted
from anemoi_house.datasets.fields import decode
from anemoi_house.datasets.grib import GribError, TimeRange, fields_of
from anemoi_house.datasets.request import Request
from anemoi_house.datasets.sources import HouseNoaaSource
from anemoi_house.datasets.variables import VARIABLES
from anemoi_house.errors import HouseError
from anemoi_house.upstream.errors import CommandError

DATE = datetime(2021, 4, 1, 6)
SMALL_GFS, SMALL_HRRR = GFS.thinned(60), HRRR.thinned(60)
LEVELS = [500, 850]


def fields(date: datetime = DATE, **settings) -> list:
    return list(HouseNoaaSource(None, **settings).execute_valid_dates([date]))


def root(folder: Path, model=SMALL_HRRR) -> dict:
    return {"model": model.name, "roots": [str(folder / model.bucket)], "shape": list(model.grid.shape)}


@pytest.mark.parametrize("model", [SMALL_GFS, SMALL_HRRR])
@pytest.mark.parametrize("shared_winds", [False, True])
@pytest.mark.parametrize("idx", [False, True])
def test_fields_hold_what_was_written(tmp_path: Path, model, shared_winds: bool, idx: bool) -> None:
    write_date(tmp_path, model, DATE, LEVELS, shared_winds=shared_winds, idx=idx)
    settings = root(tmp_path, model) | {"indexes": str(tmp_path / "indexes")}
    analysis = [name for name, variable in VARIABLES.items() if not variable.accumulated]
    found = fields(**settings, param=analysis, level=LEVELS)
    found += fields(**settings, param="accum_tp", lead_time="6h")
    names = {(field.metadata("param"), field.metadata("levelist", default=None)) for field in found}
    assert len(names) == len(found) == 6 * len(LEVELS) + 11
    for field in found:
        variable = VARIABLES[field.metadata("param")]
        lead = 6 if variable.accumulated else 0
        record = Record(
            variable.name,
            variable.level or f"{field.metadata('levelist')} mb",
            (0, 6) if variable.accumulated else None,
        )
        values = field.to_numpy()
        assert values.shape == model.grid.shape == field.shape
        truth = stored_values(model, record, DATE, lead)
        np.testing.assert_allclose(values, truth, rtol=0, atol=1.01 * precision(record, truth))
        assert field.metadata("valid_datetime") == DATE.isoformat()
        assert field.metadata("units") == variable.units
        assert field.metadata("uvRelativeToGrid") == (1 if model.name == "hrrr" else 0)
    rain = found[-1]
    assert (rain.metadata("startStep"), rain.metadata("endStep")) == (0, 6)
    lat, lon = model.grid.latlon()
    np.testing.assert_allclose(rain.grid_points()[0], lat.ravel(), atol=1e-5)
    np.testing.assert_allclose(rain.grid_points()[1], lon.ravel(), atol=1e-5)


def test_real_hrrr_rain_comes_with_the_range_asked_for(tmp_path: Path) -> None:
    path = sample(HRRR_APCP)
    settings = {
        "model": "hrrr",
        "param": "accum_tp",
        "lead_time": "12h",
        "roots": [{"url": str(path.parent), "files": "hrrr.{run:%Y%m%d}.t{run:%H}z.wrfsfcf{lead:02d}.apcp.grib2"}],
        "indexes": str(tmp_path),
    }
    date = datetime(2020, 12, 14, 12)
    with path.open("rb") as file:
        truth = {}
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            values = eccodes.codes_get_values(handle)
            truth[eccodes.codes_get(handle, "startStep")] = values.reshape(1059, 1799)
            eccodes.codes_release(handle)
    for accumulation, start in (("12h", 0), ("1h", 11)):
        (field,) = fields(date, accumulation=accumulation, **settings)
        np.testing.assert_array_equal(field.to_numpy(), truth[start])
        assert (field.metadata("startStep"), field.metadata("endStep")) == (start, 12)
    assert not np.array_equal(truth[0], truth[11])
    with pytest.raises(
        CommandError, match=r"no APCP surface 6-12 hour acc; it has APCP surface 0-12 hour acc, .* 11-12"
    ):
        fields(date, accumulation="6h", **settings)


def test_real_gfs_levels_equal_eccodes_values(tmp_path: Path) -> None:
    """The file holds no specific humidity on pressure levels: its relative humidity is not taken for it."""
    path = sample(GFS_2P5)
    settings = {
        "model": "gfs",
        "lead_time": "120h",
        "roots": [{"url": str(path.parent), "files": "gfs.t{run:%H}z.pgrbf{lead:03d}.2p5deg.grib2"}],
        "shape": [73, 144],
        "indexes": str(tmp_path),
    }
    # The run is of 2011, before the archives that the source knows.
    names = {"gh": "gh", "t": "t", "u": "u", "v": "v", "w": "w"}
    request = Request.of(param=list(names), level=[100, 500, 850], **settings)
    source = HouseNoaaSource(None, param=list(names), level=[100, 500, 850], **settings)
    messages = request.archive().fetch(datetime(2011, 1, 10, 12), 120, request.fields)
    found = [source.field(message, datetime(2011, 1, 15, 12)) for message in messages]
    assert len(found) == 15
    truth = {}
    eccodes.codes_grib_multi_support_on()
    with path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            if eccodes.codes_get(handle, "typeOfLevel") in ("isobaricInhPa", "heightAboveGround"):
                key = eccodes.codes_get(handle, "shortName"), eccodes.codes_get(handle, "level")
                truth[key] = eccodes.codes_get_values(handle).reshape(73, 144)
            eccodes.codes_release(handle)
    eccodes.codes_grib_multi_support_off()
    (humidity,) = Request.of(param="sh2", **settings).fields
    (message,) = request.archive().fetch(datetime(2011, 1, 10, 12), 120, [humidity])
    near_ground = source.field(message, datetime(2011, 1, 15, 12)).to_numpy()
    np.testing.assert_array_equal(near_ground, truth["2sh", 2])
    for field in found:
        key = names[field.metadata("param")], field.metadata("levelist")
        np.testing.assert_array_equal(field.to_numpy(), truth[key], err_msg=str(key))
    request = Request.of(param="q", level=[500], **settings)
    with pytest.raises(HouseError, match="has no SPFH 500 mb 120 hour"):
        request.archive().fetch(datetime(2011, 1, 10, 12), 120, request.fields)


def test_fields_that_the_first_file_lacks_come_from_the_second(tmp_path: Path) -> None:
    folder = tmp_path / SMALL_GFS.bucket
    wanted = [record for record in analysis_records(LEVELS) if record.name == "TMP"]
    first = folder / SMALL_GFS.path(DATE, 0)
    write_file(first, SMALL_GFS, DATE, 0, [record for record in wanted if record.level == "500 mb"])
    second = folder / SMALL_GFS.path(DATE, 0, product="pgrb2b")
    write_file(second, SMALL_GFS, DATE, 0, [record for record in wanted if record.level == "850 mb"])
    found = fields(**root(tmp_path, SMALL_GFS), param="t", level=[850, 500])
    assert [field.metadata("levelist") for field in found] == [850, 500]
    second.unlink()
    second.with_name(second.name + ".idx").unlink()
    with pytest.raises(CommandError, match=r"has no TMP 850 mb analysis; it has TMP 500 mb analysis"):
        fields(**root(tmp_path, SMALL_GFS), param="t", level=[850, 500])


@pytest.mark.parametrize("layout", ["current", "old", "ncar"])
def test_every_generation_of_paths_is_found(tmp_path: Path, layout: str) -> None:
    write_date(tmp_path, SMALL_GFS, DATE, LEVELS, layout=layout, idx=layout != "ncar")
    settings = root(tmp_path, SMALL_GFS) | {"indexes": str(tmp_path / "indexes")}
    assert len(fields(**settings, param=["t", "sp"], level=LEVELS)) == 3


def test_roots_are_tried_in_their_order(tmp_path: Path) -> None:
    """The first holds one date, the second both, with other values: each date comes from the first that has it."""
    later = DATE + timedelta(hours=6)
    rain = forecast_records(SMALL_HRRR, 6)
    for folder, dates in (("first", [DATE]), ("second", [DATE, later])):
        for date in dates:
            path = tmp_path / folder / SMALL_HRRR.path(date, 0)
            records = [Record("TMP", "surface")] if folder == "first" else [Record("TMP", "surface"), *rain[:1]]
            write_file(path, SMALL_HRRR, date, 0, records)
    settings = {"model": "hrrr", "param": "t_surface", "shape": list(SMALL_HRRR.grid.shape)}
    source = HouseNoaaSource(None, roots=[str(tmp_path / "first"), str(tmp_path / "second")], **settings)
    found = [field._message.where for field in source.execute_valid_dates([DATE, later])]
    assert [Path(where.split(" (")[0]).relative_to(tmp_path).parts[0] for where in found] == ["first", "second"]
    with pytest.raises(CommandError, match=r"first has no hrrr.20210402.*second has no hrrr.20210402.*dates.missing"):
        list(source.execute_valid_dates([datetime(2021, 4, 2)]))


WRONG = [
    ({"model": "rap", "param": "sp"}, "model: 'rap' is unknown. Use gfs or hrrr."),
    ({"param": "sp"}, "model: missing. Use gfs or hrrr."),
    ({"model": "hrrr", "param": "t2"}, "param: 't2' is unknown. Did you mean t2m"),
    ({"model": "hrrr", "param": []}, "param: empty"),
    ({"model": "hrrr", "param": "t"}, "level: missing. t is on pressure levels; give some"),
    ({"model": "hrrr", "param": "t", "level": ["500hPa"]}, "level: '500hPa' is not a pressure in hPa"),
    ({"model": "hrrr", "param": "sp", "level": [500]}, "nothing in param is on pressure levels"),
    ({"model": "hrrr", "param": ["sp", "sp"]}, "has a duplicate"),
    ({"model": "hrrr", "param": "accum_tp"}, "is a sum over 0 h, but lead_time is 0h"),
    ({"model": "hrrr", "param": "accum_tp", "lead_time": "6h", "accumulation": "12h"}, "a sum over 12 h"),
    ({"model": "hrrr", "param": "sp", "lead_time": "soon"}, "lead_time: 'soon' is not a time"),
    ({"model": "hrrr", "param": "sp", "lead_time": "90m"}, "lead_time: '90m' must be whole hours"),
    ({"model": "gfs", "param": "sp", "lead_time": "390h"}, "lead_time: 390h: forecasts of gfs end at 384h."),
    ({"model": "hrrr", "params": "sp"}, "'params' is not a setting of this source"),
    (
        {"model": "hrrr", "param": "sp", "roots": ["ftp://host"]},
        "ftp:// is not supported. Give s3://, https:// or a directory.",
    ),
    ({"model": "hrrr", "param": "sp", "roots": [{"file": "x"}]}, "is invalid. Give a URL, or a mapping with url."),
    ({"model": "hrrr", "param": "sp", "roots": [{"url": "x", "bucket": "y"}]}, "'bucket' is not a key of a root"),
    (
        {"model": "hrrr", "param": "sp", "roots": [{"url": "x", "files": "{date}"}]},
        "'{date}' is not a valid pattern of a file",
    ),
    ({"model": "hrrr", "param": "sp", "shape": 5}, "shape: 5 is not a pair of ny and nx"),
    ({"model": "hrrr", "param": "sp", "patience_s": 0}, "patience_s: 0 is invalid. Give a number of seconds above 0."),
]


@pytest.mark.parametrize(("settings", "told"), WRONG)
def test_a_wrong_key_ends_in_one_line_while_the_recipe_is_read(settings: dict, told: str) -> None:
    with pytest.raises(CommandError) as mistake:
        TypeAdapter(HouseNoaaSource.schema).validate_python(settings)
    assert told in str(mistake.value)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    ("model", "date", "told"),
    [
        ("hrrr", datetime(2014, 1, 1), "hrrr has no archive before 2014-07-30. Set a later dates.start."),
        ("gfs", datetime(2021, 4, 1, 3), "gfs runs every 6 hours from 00 UTC, not at 03:00"),
        ("hrrr", datetime(2021, 4, 1, 3, 30), "hrrr runs every 1 hour from 00 UTC, not at 03:30"),
    ],
)
def test_dates_without_a_run_end_in_one_line(tmp_path: Path, model: str, date: datetime, told: str) -> None:
    with pytest.raises(CommandError, match=told):
        fields(date, model=model, param="sp", roots=[str(tmp_path)])


def written(tmp_path: Path, damage, *, idx_of: Record | None = None, model=SMALL_HRRR, record=None) -> dict:
    """Settings for a file of one message that was damaged, or whose index is that of another record."""
    record = record or Record("TMP", "surface")
    path = tmp_path / model.bucket / model.path(DATE, 0)
    write_file(path, model, DATE, 0, [record])
    path.write_bytes(damage(path.read_bytes()))
    if idx_of is not None:
        other = tmp_path / "other"
        write_file(other, model, DATE, 0, [idx_of])
        path.with_name(path.name + ".idx").write_text(Path(f"{other}.idx").read_text())
    return root(tmp_path, model) | {"param": "t_surface"}


def flip(message: bytes, byte: int, bit: int = 0) -> bytes:
    changed = bytearray(message)
    changed[byte] ^= 1 << bit
    return bytes(changed)


def section(message: bytes, wanted: int) -> int:
    at = 16
    while message[at + 4] != wanted:
        at += int.from_bytes(message[at : at + 4], "big")
    return at


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda m: m[:-9], r"cut short"),
        (lambda m: m[:-4] + b"77\x007", "does not end with 7777"),
        (lambda m: b"<html>" + m[6:], "is a web page, not GRIB"),
        (lambda m: m[:7] + b"\x01" + m[8:], "is GRIB edition 1"),
        (
            lambda m: flip(m, section(m, 4) + 10, 1),
            r"the index does not belong to its file; the message holds var0",
        ),
        (lambda m: flip(m, section(m, 1) + 15, 2), "the index does not belong to its file"),
        (lambda m: flip(m, section(m, 5) + 11, 6), "damaged: values from .* are outside 140 to 360"),
        (lambda m: flip(m, section(m, 5) + 15, 1), "damaged: (values|its smallest value)"),
        (lambda m: flip(m, section(m, 7) + 6, 6), "damaged: "),
        (
            lambda m: encode(SMALL_GFS, Record("TMP", "surface"), DATE, 0),
            "on a regular_ll grid of 13 x 24 points, expected 18 x 30",
        ),
    ],
)
def test_a_damaged_message_ends_in_one_line(tmp_path: Path, damage, told: str) -> None:
    settings = written(tmp_path, damage)
    with pytest.raises(CommandError, match=told) as mistake:
        [field.to_numpy() for field in fields(**settings)]
    line = str(mistake.value)
    assert "\n" not in line
    assert "hrrr.20210401/conus/hrrr.t06z.wrfprsf00.grib2" in line
    assert "2021-04-01T06" in line


def test_missing_values_end_in_one_line(tmp_path: Path) -> None:
    def with_bitmap(message: bytes) -> bytes:
        handle = eccodes.codes_new_from_message(message)
        values = eccodes.codes_get_values(handle)
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", 9999)
        values[:5] = 9999
        eccodes.codes_set_values(handle, values)
        message = eccodes.codes_get_message(handle)
        eccodes.codes_release(handle)
        return message

    settings = written(tmp_path, with_bitmap, idx_of=Record("TMP", "surface"))
    (field,) = fields(**settings)
    with pytest.raises(CommandError, match="damaged: 5 of 540 values are missing"):
        field.to_numpy()


def test_an_index_of_another_file_ends_in_one_line(tmp_path: Path) -> None:
    settings = written(tmp_path, lambda m: m, record=Record("TMP", "500 mb"), idx_of=Record("TMP", "surface"))
    with pytest.raises(CommandError, match="index does not belong to its file; the message holds TMP 500 mb"):
        fields(**settings)


def test_winds_of_hrrr_come_as_they_are_stored(tmp_path: Path) -> None:
    """Turning them is left to a filter, after the block mean."""
    write_date(tmp_path, SMALL_HRRR, DATE, LEVELS)
    u, _ = fields(**root(tmp_path), param=["u10", "v10"])
    earth = field_values(SMALL_HRRR, Record("UGRD", "10 m above ground"), DATE)
    assert np.abs(u.to_numpy() - earth).max() > 0.5


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bit_turned_gives_values_or_one_line(data: st.DataObject) -> None:
    """A message that crashes eccodes would end this process."""
    record = Record("TMP", "surface")
    whole = encode(SMALL_HRRR, record, DATE, 0)
    begin = section(whole, 5)
    message = flip(whole, data.draw(st.integers(begin, len(whole) - 1)), data.draw(st.integers(0, 7)))
    with suppress(GribError, CommandError):
        (header,) = fields_of(message)
        wanted = Wanted(VARIABLES["t_surface"], None, TimeRange(timedelta(0), timedelta(0)))
        assert decode(Message(wanted, header, message, "here")).size == 540
