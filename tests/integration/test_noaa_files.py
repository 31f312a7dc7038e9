"""The files that the tests write are NOAA's, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
from noaa.files import (
    GFS,
    HRRR,
    LEVELS_HPA,
    Model,
    Record,
    analysis_records,
    encode,
    field_values,
    forecast_records,
    precision,
    sections,
    share,
    stored_values,
    write_date,
    write_file,
)
from noaa.samples import GFS_2P5, HRRR_APCP, sample

from anemoi_house.geometry import HRRR_3KM

RUN = datetime(2021, 3, 22, 18)
SMALL = [GFS.thinned(20), HRRR.thinned(20)]

# Keys of a message that need not be NOAA's, because they follow from the values, how well they pack, and how many
# decimals NOAA gives to a field.
PACKED_VALUES = {
    *("decimalScaleFactor", "decimalPrecision", "changeDecimalPrecision"),
    *("referenceValue", "referenceValueError", "binaryScaleFactor", "bitsPerValue", "setBitsPerValue"),
    *("numberOfGroupsOfDataValues", "numberOfBitsUsedForTheGroupWidths", "referenceForGroupWidths"),
    *("referenceForGroupLengths", "trueLengthOfLastGroup", "numberOfBitsForScaledGroupLengths"),
}
LENGTHS = {"totalLength", "section7Length"}
CHECKSUMS = {"md5Section5", "md5Section7", "md5Headers"}  # the last one covers the total length
OF_THE_VALUES = PACKED_VALUES | LENGTHS | CHECKSUMS

# Not looked at, for the seconds that eccodes takes for them on the full grid: the values and their statistics, and the
# places, which follow from the keys of the grid.
VALUES = {"values", "codedValues", "maximum", "minimum", "average", "standardDeviation", "skewness", "kurtosis"}
PLACES = {"latitudes", "longitudes", "latLonValues", "distinctLatitudes", "distinctLongitudes"}


def keys_of(message: bytes) -> dict[str, Any]:
    handle = eccodes.codes_new_from_message(message)
    iterator = eccodes.codes_keys_iterator_new(handle)
    found = {}
    try:
        while eccodes.codes_keys_iterator_next(iterator):
            key = eccodes.codes_keys_iterator_get_name(iterator)
            if key in VALUES | PLACES:
                continue
            try:
                if eccodes.codes_get_size(handle, key) > 1:
                    found[key] = np.asarray(eccodes.codes_get_array(handle, key)).tobytes()
                else:
                    found[key] = eccodes.codes_get(handle, key)
            except eccodes.CodesInternalError as error:
                found[key] = type(error).__name__
    finally:
        eccodes.codes_keys_iterator_delete(iterator)
        eccodes.codes_release(handle)
    return found


def values_of(message: bytes) -> np.ndarray:
    handle = eccodes.codes_new_from_message(message)
    try:
        return eccodes.codes_get_values(handle)
    finally:
        eccodes.codes_release(handle)


def messages_of(path: Path) -> Iterator[bytes]:
    # HRRR's sample was cut out of a larger file with one byte too many between its messages.
    content, start = path.read_bytes(), 0
    while (start := content.find(b"GRIB", start)) >= 0:
        length = int.from_bytes(content[start + 8 : start + 16], "big")
        yield content[start : start + length]
        start += length


def same_keys(ours: bytes, noaa: bytes) -> None:
    expected, found = keys_of(noaa), keys_of(ours)
    assert len(expected) > 200
    assert set(found) == set(expected)
    different = {key for key in expected if found[key] != expected[key]}
    assert different <= OF_THE_VALUES, {key: (found[key], expected[key]) for key in different - OF_THE_VALUES}


def test_every_key_of_hrrr_is_noaas() -> None:
    for noaa, hours in zip(messages_of(sample(HRRR_APCP)), ((0, 12), (11, 12)), strict=True):
        ours = encode(HRRR, Record("APCP", "surface", hours), datetime(2020, 12, 14), 12)
        for number, start, end in sections(noaa):
            if number in (1, 3, 4, 6):
                assert [ours[a:b] for n, a, b in sections(ours) if n == number] == [noaa[start:end]]
        if hours[0] == 0:
            same_keys(ours, noaa)


def test_every_key_of_gfs_is_noaas() -> None:
    """At 2.5 degrees, the spacing of the real file, whose first field is HGT on 10 hPa."""
    noaa = next(messages_of(sample(GFS_2P5)))
    same_keys(encode(GFS.thinned(10), Record("HGT", "10 mb"), datetime(2011, 1, 10, 12), 120), noaa)


def test_headers_of_every_gfs_field_are_noaas() -> None:
    """U and V share messages in the real file."""
    model, run = GFS.thinned(10), datetime(2011, 1, 10, 12)
    records = [Record(name, f"{level} mb") for level in LEVELS_HPA for name in ("HGT", "TMP", "VVEL", "UGRD", "VGRD")]
    surface = [Record(*words.split(":")) for words in ("PRES:surface", "HGT:surface", "TMP:surface", "LAND:surface")]
    near = [Record(name, "2 m above ground") for name in ("TMP", "SPFH")]
    wind = [Record(name, "10 m above ground") for name in ("UGRD", "VGRD")]
    rain = Record("APCP", "surface", (114, 120))

    def headers(message: bytes) -> Iterator[tuple[bytes, ...]]:
        """Section 0 up to the discipline, and sections 1, 3 and 4, of each field of a message."""
        parts = {number: message[start:end] for number, start, end in sections(message) if number in (1, 3)}
        for number, start, end in sections(message):
            if number == 4:
                yield message[:8], parts[1], parts[3], message[start:end]

    noaa = {header for message in messages_of(sample(GFS_2P5)) for header in headers(message)}
    for record in (*records, *surface, *near, *wind, rain):
        (ours,) = headers(encode(model, record, run, 120))
        assert ours in noaa, record


@pytest.mark.parametrize("model", SMALL, ids=["gfs", "hrrr"])
def test_values_are_the_truth_within_packing(model: Model) -> None:
    valid = RUN + timedelta(hours=6)
    for record in (*analysis_records(), *forecast_records(model)):
        truth = stored_values(model, record, valid, lead_hours=6)
        packed = values_of(encode(model, record, RUN, 6)).reshape(model.grid.shape)
        error = np.abs(packed - truth).max()
        assert error <= precision(record, truth), record
        assert error < 1e-3 * np.ptp(truth), record


@pytest.mark.parametrize("model", SMALL, ids=["gfs", "hrrr"])
def test_no_two_fields_are_alike(model: Model) -> None:
    """Other names, levels, times, leads and copies have other values: a mix-up would show."""
    records = [*analysis_records(), *forecast_records(model)[-4:-1]]
    fields = [(record, stored_values(model, record, RUN)) for record in records]
    for index, (record, values) in enumerate(fields):
        for other, others in fields[:index]:
            if other.name == record.name and other != record:
                apart = np.abs(values - others).max()
                assert apart > 2 * (precision(record, values) + precision(other, others)), (record, other)
        if record.name != "LAND" and record.level + record.name != "surfaceHGT":
            swings = [stored_values(model, record, RUN + timedelta(hours=6 * step)) for step in range(1, 8)]
            assert min(np.abs(values - later).max() for later in swings) > precision(record, values), record


def test_winds_of_hrrr_follow_the_grid() -> None:
    """The wind's direction on the plane of the projection, by moving along it on the earth."""
    model, record = SMALL[1], Record("UGRD", "500 mb")
    north = Record("VGRD", "500 mb")
    lat, lon = model.grid.latlon()
    east, up = field_values(model, record, RUN), field_values(model, north, RUN)
    seconds = 1e-4  # of some 10 m/s: far below the scale on which the projection bends
    degrees = np.rad2deg(seconds / 6371.229)
    there = HRRR_3KM.project(lat + degrees * up, lon + degrees * east / np.cos(np.deg2rad(lat)))
    dx, dy = (after - before for after, before in zip(there, HRRR_3KM.project(lat, lon), strict=True))
    u, v = stored_values(model, record, RUN), stored_values(model, north, RUN)
    np.testing.assert_allclose(np.arctan2(dy, dx), np.arctan2(v, u), atol=1e-4)
    np.testing.assert_allclose(np.hypot(east, up), np.hypot(u, v), rtol=1e-9)
    assert np.abs(u - east).max() > 1


def test_grids_are_those_of_the_messages() -> None:
    for model in SMALL:
        handle = eccodes.codes_new_from_message(encode(model, Record("TMP", "500 mb"), RUN, 0))
        try:
            for key, ours in zip(("latitudes", "longitudes"), model.grid.latlon(), strict=True):
                found = eccodes.codes_get_array(handle, key).reshape(model.grid.shape)
                np.testing.assert_allclose((found - ours + 180) % 360 - 180, 0, atol=2e-6)
        finally:
            eccodes.codes_release(handle)


def offsets_by_eccodes(path: Path) -> list[int]:
    with path.open("rb") as file:
        offsets = []
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            offsets.append(int(eccodes.codes_get_message_offset(handle)))
            eccodes.codes_release(handle)
    return offsets


def test_index_agrees_with_the_file(tmp_path: Path) -> None:
    model, path = SMALL[1], tmp_path / "a" / "f"
    placed = write_file(path, model, RUN, 0, analysis_records())
    lines = (tmp_path / "a" / "f.idx").read_text().splitlines()
    assert lines == [record.line for record in placed]
    assert [int(line.split(":")[1]) for line in lines] == offsets_by_eccodes(path)
    assert placed[-1].offset + placed[-1].length == path.stat().st_size
    assert lines[0] == "1:0:d=2021032218:HGT:100 mb:anl:"
    assert lines[-1].endswith(":d=2021032218:LAND:surface:anl:")
    assert sorted(p.name for p in path.parent.iterdir()) == ["f", "f.idx"]


def test_forecasts_in_the_index(tmp_path: Path) -> None:
    for model, ranges in zip(SMALL, (["0-6", "0-6"], ["0-6", "5-6"]), strict=True):
        placed = write_file(tmp_path / model.name, model, RUN, 6, forecast_records(model), idx=False)
        rain = [record.line.split(":")[3:-1] for record in placed if record.record.name == "APCP"]
        assert rain == [["APCP", "surface", f"{hours} hour acc fcst"] for hours in ranges]
        assert placed[0].line == "1:0:d=2021032218:HGT:500 mb:6 hour fcst:"
        assert not (tmp_path / f"{model.name}.idx").exists()


@pytest.fixture
def fields_of_messages() -> Iterator[None]:
    """Eccodes hands out each field of a shared message."""
    eccodes.codes_grib_multi_support_on()
    yield
    eccodes.codes_grib_multi_support_off()


@pytest.mark.usefixtures("fields_of_messages")
def test_shared_winds_are_two_fields_of_one_message(tmp_path: Path) -> None:
    model = SMALL[1]
    placed = write_file(tmp_path / "f", model, RUN, 0, analysis_records([500], decoys=False), shared_winds=True)
    labels = [record.line.split(":")[0] for record in placed]
    assert labels[:6] == ["1", "2", "3", "4", "5.1", "5.2"]
    u, v = placed[4:6]
    assert (u.offset, u.length, u.record.name, v.record.name) == (v.offset, v.length, "UGRD", "VGRD")
    message = (tmp_path / "f").read_bytes()[u.offset : u.offset + u.length]
    assert message[-4:] == b"7777"
    assert [number for number, _, _ in sections(message)] == [1, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    with (tmp_path / "f").open("rb") as file:
        for record in placed:
            handle = eccodes.codes_grib_new_from_file(file)
            single = eccodes.codes_new_from_message(encode(model, record.record, RUN, 0))
            try:
                for key in ("shortName", "level", "dataDate", "dataTime", "typeOfLevel", "gridType"):
                    assert eccodes.codes_get(handle, key) == eccodes.codes_get(single, key)
                np.testing.assert_array_equal(eccodes.codes_get_values(handle), eccodes.codes_get_values(single))
            finally:
                eccodes.codes_release(handle)
                eccodes.codes_release(single)
        assert eccodes.codes_grib_new_from_file(file) is None


def test_shared_message_is_built_as_noaas() -> None:
    """Taking a real shared message of GFS apart and putting it together gives the same bytes."""
    noaa = next(m for m in messages_of(sample(GFS_2P5)) if len(sections(m)) > 6)
    cut = sections(noaa)[6][1]
    head = noaa[: sections(noaa)[2][1]]
    first, second = noaa[:cut] + b"7777", head + noaa[cut:]
    assert share(first, second) == noaa


def test_82_fields_at_lead_0_and_the_rain_later() -> None:
    assert len(analysis_records(decoys=False)) == 82
    assert sum(record.name == "RH" for record in analysis_records()) == len(LEVELS_HPA) + 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (GFS.path(RUN, 6), "gfs.20210322/18/atmos/gfs.t18z.pgrb2.0p25.f006"),
        (GFS.path(RUN, 0, "old", "pgrb2b"), "gfs.20210322/18/gfs.t18z.pgrb2b.0p25.f000"),
        (GFS.path(RUN, 6, "ncar"), "2021/20210322/gfs.0p25.2021032218.f006.grib2"),
        (HRRR.path(RUN, 6), "hrrr.20210322/conus/hrrr.t18z.wrfprsf06.grib2"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


def test_files_of_a_date(tmp_path: Path) -> None:
    for model in SMALL:
        write_date(tmp_path, model, datetime(2021, 4, 1), [500], idx=False)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "noaa-gfs-bdp-pds/gfs.20210331/18/atmos/gfs.t18z.pgrb2.0p25.f006",
        "noaa-gfs-bdp-pds/gfs.20210401/00/atmos/gfs.t00z.pgrb2.0p25.f000",
        "noaa-hrrr-bdp-pds/hrrr.20210331/conus/hrrr.t18z.wrfprsf06.grib2",
        "noaa-hrrr-bdp-pds/hrrr.20210401/conus/hrrr.t00z.wrfprsf00.grib2",
    ]


def test_full_size_grids() -> None:
    assert GFS.grid.shape == (721, 1440)
    assert HRRR.grid.shape == (1059, 1799)
