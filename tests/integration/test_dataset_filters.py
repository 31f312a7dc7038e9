from __future__ import annotations

import datetime
import math
import weakref
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from anemoi.datasets.create.gridded.result import SimpleGriddedResult
from anemoi.datasets.create.recipe.dates import StartEndDates
from anemoi.datasets.dates.groups import GroupOfDates
from anemoi.transform.fields import new_field_from_numpy, new_field_with_metadata, new_fieldlist_from_list
from anemoi.transform.filters import create_filter_by_name
from earthkit.data import from_source
from earthkit.data.core.order import build_remapping
from noaa.samples import GFS_2P5, HRRR_APCP, NAM, sample
from pydantic import TypeAdapter
from pyproj import Geod

from anemoi_house.datasets.filters.base import HouseFilter
from anemoi_house.datasets.filters.coarsen import HouseCoarsen
from anemoi_house.datasets.filters.rotate_winds import HouseRotateWinds
from anemoi_house.datasets.filters.same_grid import HouseSameGrid
from anemoi_house.geometry import HRRR_15KM, LambertGrid, global_grid
from anemoi_house.upstream.errors import CommandError

LAMBERT = LambertGrid(
    nx=23, ny=16, spacing_km=3.0, first_latitude=38.5, first_longitude=260.0, parallel=38.5, meridian=262.5
)
LAMBERT_METADATA = {
    "gridType": "lambert",
    "Nx": 23,
    "Ny": 16,
    "DxInMetres": 3000.0,
    "DyInMetres": 3000.0,
    "LaDInDegrees": 38.5,
    "LoVInDegrees": 262.5,
    "Latin1InDegrees": 38.5,
    "Latin2InDegrees": 38.5,
    "latitudeOfFirstGridPointInDegrees": 38.5,
    "longitudeOfFirstGridPointInDegrees": 260.0,
    "iScansNegatively": 0,
    "jScansPositively": 1,
}
GLOBAL_METADATA = {
    "gridType": "regular_ll",
    "Ni": 36,
    "Nj": 19,
    "iDirectionIncrementInDegrees": 10.0,
    "jDirectionIncrementInDegrees": 10.0,
    "latitudeOfFirstGridPointInDegrees": 90.0,
    "longitudeOfFirstGridPointInDegrees": 0.0,
    "iScansNegatively": 0,
    "jScansPositively": 0,
}
DATES = [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 1, 6)]
SHAPES = {"lambert": LAMBERT.shape, "regular_ll": (19, 36)}


@pytest.fixture(autouse=True)
def _errors_as_in_a_build() -> Iterator[None]:
    """anemoi-datasets makes every floating point error an exception."""
    with np.errstate(all="raise"):
        yield


@cache
def _blank(kind: str) -> Any:
    """A field of earthkit's on a grid of ours, without metadata but the coordinates."""
    if kind == "lambert":
        lat, lon = LAMBERT.latlon()
    else:
        lat, lon = np.meshgrid(90 - 10.0 * np.arange(19), 10.0 * np.arange(36), indexing="ij")
    (field,) = from_source("list-of-dicts", [{"values": np.zeros(lat.shape), "latitudes": lat, "longitudes": lon}])
    return field


def field(values: Any = 0.0, grid: dict[str, Any] = LAMBERT_METADATA, date: int = 0, **metadata: Any) -> Any:
    """A field under the names that the sources give."""
    kind = grid["gridType"] if grid["gridType"] in SHAPES else "lambert"
    described = {"param": "t2m", "levelist": None, "levtype": "sfc", "units": "K"} | grid | metadata
    array = np.broadcast_to(np.asarray(values, dtype=float), SHAPES[kind])
    return new_field_from_numpy(
        array.copy(), template=_blank(kind), valid_datetime=DATES[date].isoformat(), number=None, **described
    )


def wind(name: str, values: Any = 10.0, **metadata: Any) -> Any:
    return field(values, param=name, units="m/s", **({"uvRelativeToGrid": 1} | metadata))


def one_line(error: pytest.ExceptionInfo[CommandError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert error.value.code == message  # what ends the process prints this alone
    return message


def real(name: str, **selection: Any) -> Any:
    return from_source("file", str(sample(name))).sel(**selection)


def real_winds(name: str, params: tuple[str, ...]) -> Any:
    """Fields on pressure levels of a real file; in its messages u and v share one, of which earthkit sees u alone."""
    import eccodes  # after pyproj, which finds the PROJ that comes with eccodes where that is loaded first

    eccodes.codes_grib_multi_support_on()
    try:
        with sample(name).open("rb") as file:
            messages = []
            while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
                if (
                    eccodes.codes_get(handle, "typeOfLevel") == "isobaricInhPa"
                    and eccodes.codes_get(handle, "shortName") in params
                ):
                    messages.append(eccodes.codes_get_message(handle))
                eccodes.codes_release(handle)
    finally:
        eccodes.codes_grib_multi_support_off()
    return from_source("memory", b"".join(messages))


# Settings


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("coarsen", {"cell": 5}, "house-coarsen: 'cell' is not a setting. Did you mean 'cells'?"),
        ("coarsen", {"grid": "o32", "cells": 5}, "house-coarsen: 'grid' is not a setting. Use cells."),
        ("coarsen", {}, "house-coarsen: cells: None must be a whole number, 1 or more, such as 5 for blocks"),
        ("coarsen", {"cells": "5"}, "house-coarsen: cells: '5' must be a whole number, 1 or more"),
        ("coarsen", {"cells": 0}, "house-coarsen: cells: 0 must be a whole number, 1 or more"),
        ("coarsen", 5, "house-coarsen: 5 is not a mapping. Write the settings as {key: value}."),
        ("rotate", {"pairs": "u v"}, "house-rotate-winds: pairs: 'u v' must be a list of pairs of names, such as"),
        ("rotate", {"pairs": [["u"]]}, "house-rotate-winds: pairs: [['u']] must be a list of pairs of names"),
        ("rotate", {"pairs": [["u", 1]]}, "house-rotate-winds: pairs: [['u', 1]] must name each component once"),
        ("rotate", {"pairs": [["u", "u"]]}, "house-rotate-winds: pairs: [['u', 'u']] must name each component once"),
        ("rotate", {"pair": []}, "house-rotate-winds: 'pair' is not a setting. Did you mean 'pairs'?"),
        ("same", {"tolerance": 1}, "house-same-grid: 'tolerance' is not a setting. It has none."),
    ],
)
def test_wrong_settings_are_refused_when_the_recipe_is_read(name: str, settings: Any, message: str) -> None:
    filter_class = {"coarsen": HouseCoarsen, "rotate": HouseRotateWinds, "same": HouseSameGrid}[name]
    with pytest.raises(CommandError) as error:
        TypeAdapter(filter_class.schema).validate_python(settings)
    assert one_line(error).startswith(message)


@pytest.mark.parametrize(
    ("filter_class", "settings", "expected"),
    [
        (HouseCoarsen, {"cells": 5}, {"cells": 5}),
        (HouseRotateWinds, None, {}),  # a recipe may leave out the braces
        (HouseRotateWinds, {"pairs": [["10u", "10v"]]}, {"pairs": [["10u", "10v"]]}),
        (HouseSameGrid, {}, {}),
    ],
)
def test_settings_pass_through_the_schema_as_they_are(
    filter_class: type[HouseFilter], settings: Any, expected: Any
) -> None:
    assert TypeAdapter(filter_class.schema).validate_python(settings) == expected


# Coarsening


def test_real_hrrr_becomes_the_published_grid() -> None:
    fields = real(HRRR_APCP)
    coarse = HouseCoarsen(cells=5).forward(fields)
    assert len(coarse) == len(fields) == 2
    for before, after in zip(fields, coarse):
        expected = before.to_numpy()[:1055, :1795].reshape(211, 5, 359, 5).mean(axis=(1, 3))
        np.testing.assert_allclose(after.to_numpy(), expected, atol=1e-12)
        keys = (
            "param",
            "units",
            "valid_datetime",
            "startStep",
            "endStep",
            "stepType",
            "levtype",
            "typeOfStatisticalProcessing",
        )
        assert after.metadata(*keys) == before.metadata(*keys)
        assert after.metadata(namespace="mars") == before.metadata(namespace="mars")
    assert [f.metadata("startStep", "endStep") for f in coarse] == [(0, 12), (11, 12)]
    points = coarse[0].grid_points()
    for mine, published in zip(points, HRRR_15KM.latlon()):
        np.testing.assert_allclose(mine, published.ravel(), atol=1e-5)
    # Independent of our own geometry: the centres of the blocks are fine points, as eccodes places them.
    for mine, theirs in zip(points, fields[0].to_latlon().values()):
        np.testing.assert_allclose(mine, theirs[2:-4:5, 2:-4:5].ravel() % 360, atol=1e-5)
    assert coarse[0].shape == (211, 359)
    assert coarse[0].resolution == coarse[0].metadata("resolution") == "15km"


def test_real_gfs_is_conserved() -> None:
    fields = real(GFS_2P5, param="t", levtype="pl")
    coarse = HouseCoarsen(cells=4).forward(fields)
    assert len(coarse) > 20
    lat, lon = global_grid(10.0)
    rows = np.deg2rad(np.clip(90 - 2.5 * (np.arange(74) - 0.5), -90, 90))
    for before, after in zip(fields, coarse):
        expected = np.average(before.to_numpy().mean(axis=1), weights=-np.diff(np.sin(rows)))
        assert np.average(after.to_numpy(), weights=np.cos(np.deg2rad(lat))) == pytest.approx(expected, rel=1e-12)
        assert after.metadata("param", "levelist", "units") == before.metadata("param", "levelist", "units")
    np.testing.assert_array_equal(coarse[0].grid_points(), (lat.ravel(), lon.ravel()))
    assert coarse[0].shape == (18, 36)
    assert coarse[0].resolution == "10deg"


def test_rows_from_south_to_north_are_turned() -> None:
    values = np.arange(19 * 36.0).reshape(19, 36)
    northward = GLOBAL_METADATA | {"jScansPositively": 1, "latitudeOfFirstGridPointInDegrees": -90.0}
    (south,) = HouseCoarsen(cells=3).forward([field(values[::-1], northward)])
    (north,) = HouseCoarsen(cells=3).forward([field(values, GLOBAL_METADATA)])
    np.testing.assert_array_equal(south.to_numpy(), north.to_numpy())
    assert south.metadata("jScansPositively", "latitudeOfFirstGridPointInDegrees") == (0, 75.0)


def test_values_come_in_the_shape_and_type_asked_for() -> None:
    values = np.arange(16 * 23.0).reshape(16, 23)
    (coarse,) = HouseCoarsen(cells=5).forward([field(values)])
    expected = values[:15, :20].reshape(3, 5, 4, 5).mean(axis=(1, 3))
    assert coarse.to_numpy().dtype == np.float64
    np.testing.assert_allclose(coarse.to_numpy(), expected)
    np.testing.assert_allclose(coarse.to_numpy(flatten=True), expected.ravel())
    assert coarse.to_numpy(dtype=np.float32).dtype == np.float32
    assert coarse.to_numpy(flatten=True, index=slice(2, 5)).shape == (3,)
    assert coarse.to_latlon()["lat"].shape == coarse.to_latlon()["lon"].shape == (3, 4)
    assert coarse.to_latlon(flatten=True)["lat"].shape == coarse.grid_points()[0].shape == (12,)
    north, west, south, east = coarse.mars_area
    assert south < 38.6 < north < 39
    assert 260 < west < east < 261


def test_coarse_fields_can_be_coarsened_again() -> None:
    values = np.arange(16 * 23.0).reshape(16, 23)
    once = HouseCoarsen(cells=4).forward([field(values)])
    twice = HouseCoarsen(cells=2).forward(HouseCoarsen(cells=2).forward([field(values)]))
    np.testing.assert_allclose(twice[0].to_numpy(), once[0].to_numpy()[:, :5])
    np.testing.assert_allclose(twice[0].grid_points(), once[0].grid_points(), atol=1e-9)
    assert twice[0].metadata("Nx", "Ny", "DxInMetres", "Ni", "Nj") == (5, 4, 12000, 5, 4)


def test_every_field_is_read_once_and_let_go() -> None:
    """83 fields of 3 km do not fit in memory together."""
    alive: list[weakref.ref[Any]] = []

    class Lazy:
        def __init__(self, field: Any) -> None:
            self.metadata, self.shape = field.metadata, field.shape

        def to_numpy(self) -> np.ndarray:
            assert not any(array() is not None for array in alive)
            values = np.ones(self.shape)
            alive.append(weakref.ref(values))
            return values

    coarse = HouseCoarsen(cells=5).forward([Lazy(field()) for _ in range(5)])
    for result in coarse:
        result.to_numpy(), result.to_numpy()
    assert len(alive) == 5


@pytest.mark.parametrize(
    ("grid", "cells", "message"),
    [
        ({"gridType": "reduced_gg"}, 5, "gridType: 'reduced_gg' is not supported. It must be 'lambert' or 'regular"),
        ({"Latin2InDegrees": 45.0}, 5, "LaD, Latin1, Latin2: 38.5, 38.5, 45: only Lambert grids with one standard"),
        ({"LaDInDegrees": 30.0}, 5, "LaD, Latin1, Latin2: 30, 38.5, 38.5: only Lambert grids with one standard"),
        ({"DyInMetres": 4000.0}, 5, "DxInMetres: 3000, DyInMetres: 4000: only Lambert grids of square cells"),
        ({"jScansPositively": 0}, 5, "jScansPositively: 0: Lambert grids with southward columns are not"),
        ({"iScansNegatively": 1}, 5, "iScansNegatively: 1: westward rows are not supported."),
        ({"radius": 6378137}, 5, "radius: 6378137: only grids on a sphere of 6371.229 km are supported."),
        ({"LoVInDegrees": None}, 5, "metadata 'LoVInDegrees' is missing, which its grid needs."),
        ({"Nx": 24}, 5, "its values have shape (16, 23), but its metadata give 16 x 24."),
        ({}, 17, "cells: 17: a grid of 16 x 23 points has no block of that size."),
        (GLOBAL_METADATA, 4, "cells: 4 does not divide the 18 spacings from pole to pole."),
        (GLOBAL_METADATA | {"Ni": 35}, 3, "the longitudes run from 0 to 340. They must go once around, eastward from"),
        (
            GLOBAL_METADATA | {"Nj": 17, "latitudeOfFirstGridPointInDegrees": 80.0},
            2,
            "the latitudes run from 80 to -80. The grid must have points on both poles.",
        ),
    ],
)
def test_grids_that_cannot_be_coarsened(grid: dict[str, Any], cells: int, message: str) -> None:
    fields = [field(), field(1, LAMBERT_METADATA | grid, date=1, param="t", levelist=500)]
    fields = fields[1:] if cells != 5 else fields
    with pytest.raises(CommandError) as error:
        HouseCoarsen(cells=cells).forward(fields)
    where = "house-coarsen: field 't' at level 500 of 2020-01-01T06:00:00: "
    assert one_line(error).startswith(where + message)


# Winds


def test_real_nam_winds_agree_with_the_stock_filter() -> None:
    fields = real_winds(NAM, ("u", "v", "t"))
    turned = HouseRotateWinds().forward(fields)
    stock = create_filter_by_name("rotate_winds", x_wind="u", y_wind="v")
    with np.errstate(all="warn"):
        expected = {f.metadata("param", "levelist"): f for f in stock.forward(fields)}
    places = [f.metadata("param", "levelist") for f in fields]
    assert [f.metadata("param", "levelist") for f in turned] == places
    winds = [(before, after) for before, after in zip(fields, turned) if before.metadata("param") != "t"]
    assert len(winds) == 38
    change = 0.0
    for before, after in winds:
        packing = 2.0 ** before.metadata("binaryScaleFactor") / 10.0 ** before.metadata("decimalScaleFactor")
        other = expected[after.metadata("param", "levelist")].to_numpy().reshape(65, 93)
        np.testing.assert_allclose(after.to_numpy(), other, atol=packing)
        assert after.metadata("uvRelativeToGrid") == 0
        assert after.metadata("units", "valid_datetime") == before.metadata("units", "valid_datetime")
        change = max(change, np.abs(after.to_numpy() - before.to_numpy()).max())
    assert change > 10
    assert all(after is before for before, after in zip(fields, turned) if before.metadata("param") == "t")


def test_winds_after_the_mean_are_turned_by_the_angle_of_the_block() -> None:
    coarse = HouseCoarsen(cells=5).forward([wind("u", 0.0), wind("v", 10.0)])
    u, v = HouseRotateWinds().forward(coarse)
    lat, lon = LAMBERT.coarsened(5).latlon()
    north = LambertGrid(**{**vars(LAMBERT), "first_latitude": float(lat[0, 0]), "first_longitude": float(lon[0, 0])})
    ahead = [points[1, 0] for points in north.latlon()]
    bearing, _, _ = Geod(a=6371229, b=6371229).inv(lon[0, 0], lat[0, 0], ahead[1], ahead[0])
    assert np.rad2deg(np.arctan2(u.to_numpy()[0, 0], v.to_numpy()[0, 0])) == pytest.approx(bearing, abs=0.02)
    assert u.shape == v.shape == (3, 4)
    np.testing.assert_array_equal(u.grid_points(), coarse[0].grid_points())
    assert u.resolution == "15km"


def test_rotating_twice_is_rotating_once() -> None:
    once = HouseRotateWinds().forward([wind("u"), wind("v")])
    twice = HouseRotateWinds().forward(once)
    assert [a is b for a, b in zip(once, twice)] == [True, True]
    assert np.abs(once[0].to_numpy() - 10).max() > 0.1


def test_winds_relative_to_the_earth_and_all_else_pass_in_order() -> None:
    fields = [
        field(),
        wind("v", 3.0, levelist=500),
        wind("u10", 1.0, uvRelativeToGrid=0),
        wind("u", 4.0, levelist=500),
        wind("u80", 1.0, uvRelativeToGrid=None),
        field(param="uvRelativeToGrid", uvRelativeToGrid=1),
    ]
    result = HouseRotateWinds().forward(fields)
    assert [a is b for a, b in zip(fields, result)] == [True, False, True, False, True, True]
    assert [f.metadata("param") for f in result] == [f.metadata("param") for f in fields]
    np.testing.assert_allclose(np.hypot(result[1].to_numpy(), result[3].to_numpy()), 5)


def test_components_are_matched_by_level_and_time() -> None:
    rng = np.random.default_rng(0)
    places = [{"levelist": level, "date": date} for level in (500, 850) for date in (0, 1)]
    fields = [wind(name, rng.normal(size=(16, 23)), **place) for name in ("u", "v") for place in places]
    result = HouseRotateWinds().forward(fields)
    for index in range(4):
        u, v = HouseRotateWinds().forward([fields[index], fields[index + 4]])
        np.testing.assert_array_equal(result[index].to_numpy(), u.to_numpy())
        np.testing.assert_array_equal(result[index + 4].to_numpy(), v.to_numpy())


def test_grids_and_cones_that_change_from_field_to_field() -> None:
    east = LAMBERT_METADATA | {"longitudeOfFirstGridPointInDegrees": 280.0}
    fields = [
        *HouseCoarsen(cells=5).forward([wind(name, levelist=500) for name in "uv"]),
        *HouseCoarsen(cells=5).forward([wind(name, grid=east, levelist=700) for name in "uv"]),
    ]
    fields += [new_field_with_metadata(f, levelist=850, LoVInDegrees=250.0) for f in fields[2:]]
    together = HouseRotateWinds().forward(fields)
    for first in (0, 2, 4):
        alone = HouseRotateWinds().forward(fields[first : first + 2])
        for mine, expected in zip(together[first : first + 2], alone):
            np.testing.assert_array_equal(mine.to_numpy(), expected.to_numpy())
    assert len({float(f.to_numpy()[0, 0]) for f in together}) == 6


def test_pairs_of_other_names() -> None:
    fields = [wind("u"), wind("10u"), wind("10v")]
    result = HouseRotateWinds(pairs=[["10u", "10v"]]).forward(fields)
    assert [a is b for a, b in zip(fields, result)] == [True, False, False]


def test_two_parallels_turn_less_than_the_steeper_one() -> None:
    both = [
        wind(n, v, Latin1InDegrees=30.0, Latin2InDegrees=second)
        for second in (30.0, 60.0)
        for n, v in zip("uv", (0, 1))
    ]
    one = HouseRotateWinds().forward(both[:2])[0].to_numpy()
    two = HouseRotateWinds().forward(both[2:])[0].to_numpy()
    assert np.all(np.abs(one) < np.abs(two))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            [("u", {"levelist": 500}), ("v", {"levelist": 850})],
            "field 'u' at level 500 of 2020-01-01T00:00:00: it is relative to its grid, but 'v' of the same level and "
            "time is not, or is missing. Read both from the source.",
        ),
        (
            [("v10", {}), ("u10", {"date": 1})],
            "field 'v10' of 2020-01-01T00:00:00: it is relative to its grid, but 'u10' of the same level and time",
        ),
        (
            [("u", {}), ("v", {"uvRelativeToGrid": 0})],
            "field 'u' of 2020-01-01T00:00:00: it is relative to its grid, but 'v' of the same level and time",
        ),
        ([("u", {}), ("u", {})], "field 'u' of 2020-01-01T00:00:00: it occurs twice."),
        (
            [("u", {"gridType": "polar_stereographic"}), ("v", {"gridType": "polar_stereographic"})],
            "field 'u' of 2020-01-01T00:00:00: gridType: 'polar_stereographic' is not supported. Only winds on "
            "'lambert' can be rotated.",
        ),
        (
            [("u", {"Latin1InDegrees": None}), ("v", {})],
            "field 'u' of 2020-01-01T00:00:00: metadata 'Latin1InDegrees' is missing, which its grid needs.",
        ),
    ],
)
def test_winds_that_cannot_be_rotated(fields: list[tuple[str, dict[str, Any]]], message: str) -> None:
    with pytest.raises(CommandError) as error:
        HouseRotateWinds().forward([wind(name, **metadata) for name, metadata in fields])
    assert one_line(error).startswith(f"house-rotate-winds: {message}")


def test_components_of_different_shape() -> None:
    v = new_field_from_numpy(np.ones(5), template=wind("v"))
    with pytest.raises(CommandError) as error:
        HouseRotateWinds().forward([wind("u"), v])
    assert one_line(error).startswith(
        "house-rotate-winds: field 'u' of 2020-01-01T00:00:00: the components have shapes"
    )


# One grid for all


def forcings(template: Any, *names: str) -> Any:
    """Of the stock source of that name, as it makes them."""
    made = from_source("forcings", source_or_dataset=template, date=DATES, param=list(names))
    return new_fieldlist_from_list([new_field_with_metadata(f, units="1") for f in made])


def test_fields_on_one_grid_pass() -> None:
    coarse = HouseCoarsen(cells=5).forward([field(), field(1, date=1)])
    fields = coarse + forcings(coarse, "cos_latitude", "insolation")
    assert len(fields) == 6
    assert HouseSameGrid().forward(fields) is fields


def test_points_are_compared_where_they_are_not_the_same_object() -> None:
    assert HouseSameGrid().forward(grib := real(NAM, param="t", levelist=[500, 850])) is grib
    fine = [field(), new_field_from_numpy(np.ones(LAMBERT.shape), template=field())]
    assert HouseSameGrid().forward(fine) is fine


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: new_field_from_numpy(np.ones(12), template=field(param="u10")),
            "field 'u10' of 2020-01-01T00:00:00: it has 12 points without rows and columns, so that a dataset of it "
            "could not be trimmed. Use filters that keep the shape",
        ),
        (
            lambda: field(param="u10"),
            "field 'u10' of 2020-01-01T00:00:00: it has 16 x 23 points, but the first field, 't2m' of "
            "2020-01-01T00:00:00, has 3 x 4. anemoi-datasets takes the shape from the first field alone.",
        ),
        (
            lambda: HouseCoarsen(cells=5).forward([field(1, LAMBERT_METADATA | {"LoVInDegrees": 262.0})])[0],
            "field 't2m' of 2020-01-01T00:00:00: its points are not those of the first field, 't2m' of",
        ),
    ],
)
def test_fields_on_several_grids(other: Any, message: str) -> None:
    coarse = HouseCoarsen(cells=5).forward([field()])
    with pytest.raises(CommandError) as error:
        HouseSameGrid().forward([*coarse, other()])
    assert one_line(error).startswith(f"house-same-grid: {message}")


def test_all_in_a_row_is_refused_too() -> None:
    with pytest.raises(CommandError, match="it has 12 points without rows and columns"):
        HouseSameGrid().forward([new_field_from_numpy(np.ones(12), template=field())] * 2)


# What anemoi-datasets makes of it


@pytest.mark.parametrize(("grid", "cells", "shape"), [(LAMBERT_METADATA, 5, (3, 4)), (GLOBAL_METADATA, 3, (6, 12))])
def test_a_dataset_has_rows_and_columns(grid: dict[str, Any], cells: int, shape: tuple[int, int]) -> None:
    """All that anemoi-datasets reads off the fields of a group of dates, forcings included."""
    relative = int(grid is LAMBERT_METADATA)
    fields = [
        wind(name, 1.0, grid=grid, levelist=500, levtype="pl", date=date, uvRelativeToGrid=relative)
        for date in (0, 1)
        for name in ("u", "v")
    ]
    rain = {"param": "accum_tp", "units": "m", "startStep": 0, "endStep": 6, "stepTypeForConversion": "accum"}
    fields += [field(0.5, grid, date, **rain) for date in (0, 1)]
    coarse = HouseRotateWinds().forward(HouseCoarsen(cells=cells).forward(fields))
    together = HouseSameGrid().forward(coarse + forcings(coarse, "cos_latitude", "insolation"))
    context = SimpleNamespace(
        order_by=["valid_datetime", "param_level", "number"],
        remapping=build_remapping({"param_level": "{param}_{levelist}"}),
    )
    provider = StartEndDates(start=DATES[0], end=DATES[1], frequency="6h")
    result = SimpleGriddedResult(context, GroupOfDates(DATES, provider), together)
    assert result.variables == ("accum_tp", "cos_latitude", "insolation", "u_500", "v_500")
    assert result.field_shape == shape
    assert result.shape == (2, 5, 1, math.prod(shape))
    assert result.resolution == ("15km" if relative else "30deg")
    lat, lon = LAMBERT.coarsened(5).latlon() if relative else global_grid(30.0)
    np.testing.assert_allclose(result.grid_points, (lat.ravel(), lon.ravel()), atol=1e-9)
    described = result.variables_metadata
    assert described["accum_tp"]["period"] == (datetime.timedelta(0), datetime.timedelta(hours=6))
    assert described["accum_tp"]["process"] == "accumulation"
    assert described["u_500"]["units"] == "m/s"
    loaded = {cubelet._coords_names[:2]: cubelet.to_numpy().ravel() for cubelet in result.get_cube().iterate_cubelets()}
    first = DATES[0].isoformat()
    np.testing.assert_allclose(loaded[first, "accum_tp"], 0.5)
    np.testing.assert_allclose(loaded[first, "cos_latitude"], np.cos(np.deg2rad(lat)).ravel(), atol=1e-12)
    np.testing.assert_allclose(np.hypot(loaded[first, "u_500"], loaded[first, "v_500"]), np.sqrt(2))
