from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from earthkit.geo.rotate import rotate_vector
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Proj

from anemoi_house.datasets.regrid import ConservativeCells, LambertRotation, block_mean, cone_constant
from anemoi_house.errors import HouseError
from anemoi_house.geometry import HRRR_3KM, HRRR_15KM, global_grid

EQUAL_AREA = Proj(proj="cea", R=1.0)
"""Lat-lon boxes are rectangles on this plane, and of the same area as on the sphere."""

HRRR_PROJECTION = Proj(proj="lcc", lat_1=38.5, lat_2=38.5, lat_0=38.5, lon_0=262.5, R=6371229)


@pytest.fixture(autouse=True)
def _errors_as_in_a_build() -> Iterator[None]:
    """anemoi-datasets makes every floating point error an exception."""
    with np.errstate(all="raise"):
        yield


def nodes(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes, north to south, and longitudes of a global grid with points on the poles."""
    intervals = round(180 / spacing)
    return 90 - spacing * np.arange(intervals + 1), spacing * np.arange(2 * intervals)


def smooth(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """A field with waves of some hundred km, as a weather map has."""
    return np.sin(np.deg2rad(40 * lat)) + np.cos(np.deg2rad(30 * lon + 20 * lat))


# Blocks of a projected grid


@given(cells=st.integers(1, 5), rows=st.integers(5, 16), columns=st.integers(5, 16), seed=st.integers(0, 99))
def test_blocks_are_the_means_of_their_points(cells: int, rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    result = block_mean(values, cells)
    assert result.shape == (rows // cells, columns // cells)
    for j, i in np.ndindex(result.shape):
        block = [values[j * cells + y, i * cells + x] for y in range(cells) for x in range(cells)]
        assert result[j, i] == pytest.approx(sum(block) / len(block), abs=1e-14)


def test_blocks_of_hrrr_drop_the_last_four_rows_and_columns() -> None:
    values = np.ones(HRRR_3KM.shape, dtype=np.float32)
    values[-4:], values[:, -4:] = 99, 99
    result = block_mean(values, 5)
    assert result.shape == HRRR_15KM.shape
    assert result.dtype == np.float64
    assert np.all(result == 1)


def test_nan_stays_in_its_block() -> None:
    values = np.ones((6, 9))
    values[4, 8] = np.nan
    np.testing.assert_array_equal(block_mean(values, 3), [[1, 1, 1], [1, 1, np.nan]])


def test_blocks_of_hrrr_agree_with_polygons_on_the_sphere() -> None:
    """Each source cell a polygon of PROJ's, its overlap with the block its own area; corners and the middle."""
    lat, lon = HRRR_3KM.latlon()
    values = smooth(lat, lon)
    means = block_mean(values, 5)
    x0, y0 = HRRR_PROJECTION(237.280472, 21.138123)
    sphere = Geod(a=6371229, b=6371229)
    turn = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 1500
    spread = []
    for j, i in ((0, 0), (0, 358), (210, 0), (210, 358), (105, 179), (30, 300)):
        weights = np.empty((5, 5))
        for y, x in np.ndindex(5, 5):
            corners = turn + np.array([x0 + 3000 * (5 * i + x), y0 + 3000 * (5 * j + y)])
            weights[y, x], _ = sphere.polygon_area_perimeter(*HRRR_PROJECTION(*corners.T, inverse=True))
        expected = np.average(values[5 * j : 5 * j + 5, 5 * i : 5 * i + 5], weights=weights)
        assert abs(means[j, i] - expected) < 8e-5 * values.std()
        spread.append(np.ptp(weights) / weights.mean())
    assert max(spread) > 1e-4  # or the areas would not matter


@pytest.mark.parametrize(
    ("shape", "cells", "message"),
    [
        ((4, 9), 5, "cells: 5: a grid of 4 x 9 points has no block of that size."),
        ((45,), 5, "blocks need rows and columns, but the values have shape (45,)."),
        ((9, 9), 0, "cells: 0 must be a whole number, 1 or more, such as 5 for blocks of 5 x 5 points."),
        ((9, 9), 2.5, "cells: 2.5 must be a whole number, 1 or more, such as 5 for blocks of 5 x 5 points."),
    ],
)
def test_blocks_that_cannot_be_made(shape: tuple[int, ...], cells: int, message: str) -> None:
    with pytest.raises(HouseError) as error:
        block_mean(np.ones(shape), cells)
    assert str(error.value) == message


# Cells of a lat-lon grid


def overlap_mean(values: np.ndarray, spacing: float, row: int, column: int, cells: int) -> float:
    """Mean over a target cell from polygons of all source cells on a plane of equal area."""
    lat, lon = nodes(spacing)

    def rectangle(south: float, north: float, west: float, east: float) -> tuple[float, float, float, float]:
        y0, y1 = (EQUAL_AREA(0, y)[1] for y in (south, north))
        return y0, y1, np.deg2rad(west), np.deg2rad(east)

    size = cells * spacing
    y0, y1, x0, x1 = rectangle(90 - size * (row + 1), 90 - size * row, size * column, size * (column + 1))
    total = area = 0.0
    for j, i in np.ndindex(values.shape):
        south, north = max(lat[j] - spacing / 2, -90), min(lat[j] + spacing / 2, 90)
        if north < 90 - size * (row + 1) or south > 90 - size * row:
            continue
        for turn in (0, 360):  # the first column reaches west of Greenwich
            west = lon[i] + turn - spacing / 2
            if west >= size * (column + 1) or west + spacing <= size * column:
                continue
            v0, v1, u0, u1 = rectangle(south, north, west, west + spacing)
            shared = max(min(y1, v1) - max(y0, v0), 0) * max(min(x1, u1) - max(x0, u0), 0)
            total, area = total + shared * values[j, i], area + shared
    assert area == pytest.approx((y1 - y0) * (x1 - x0), rel=1e-12)
    return total / area


@pytest.mark.parametrize(("spacing", "cells"), [(2.5, 4), (3.75, 3), (5.0, 1), (2.5, 9)])
def test_cells_agree_with_polygons_on_the_sphere(spacing: float, cells: int) -> None:
    values = np.random.default_rng(7).normal(size=tuple(len(axis) for axis in nodes(spacing)))
    result = ConservativeCells(*nodes(spacing), cells)(values)
    rows, columns = round(180 / spacing / cells), round(360 / spacing / cells)
    assert result.shape == (rows, columns)
    for row, column in (0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns // 2), (rows // 2, columns - 1):
        assert result[row, column] == pytest.approx(overlap_mean(values, spacing, row, column, cells), abs=1e-12)


def test_quarter_degree_agrees_with_quadrature() -> None:
    """Fine points within a cell of 1 degree, each with the value of the nearest node."""
    values = np.random.default_rng(8).normal(size=(721, 1440))
    result = ConservativeCells(*nodes(0.25), 4)(values)
    steps = (np.arange(200) + 0.5) / 200
    for row, column in (0, 0), (0, 359), (179, 123), (179, 359), (45, 0), (90, 359):
        lat, lon = 90 - row - steps[:, None], column + steps[None, :]
        sampled = values[np.rint((90 - lat) * 4).astype(int), np.rint(lon * 4).astype(int) % 1440]
        weights = np.broadcast_to(np.cos(np.deg2rad(lat)), sampled.shape)
        assert result[row, column] == pytest.approx(np.average(sampled, weights=weights), abs=1e-8)


def areas(lat: np.ndarray, spacing: float) -> np.ndarray:
    """Areas of the rows of cells around points, from PROJ's plane of equal area."""
    north, south = np.minimum(lat + spacing / 2, 90), np.maximum(lat - spacing / 2, -90)
    return EQUAL_AREA(np.zeros_like(lat), north)[1] - EQUAL_AREA(np.zeros_like(lat), south)[1]


@settings(deadline=None)
@given(cells=st.integers(1, 6), rows=st.integers(2, 9), southern=st.booleans(), seed=st.integers(0, 99))
def test_area_mean_is_conserved(cells: int, rows: int, southern: bool, seed: int) -> None:
    spacing = 180 / (rows * cells)
    lat, lon = nodes(spacing)
    lat = lat[::-1] if southern else lat
    values = 280 + np.random.default_rng(seed).normal(scale=20, size=(lat.size, lon.size))
    result = ConservativeCells(lat, lon, cells)(values)
    before = np.average(values.mean(axis=1), weights=areas(lat, spacing))
    centres = 90 - spacing * cells * (np.arange(rows) + 0.5)
    assert np.average(result.mean(axis=1), weights=areas(centres, spacing * cells)) == pytest.approx(before, rel=1e-13)


def test_a_constant_stays_that_constant_also_at_the_poles() -> None:
    """The original experiments dropped the rows at the poles: 288 K came out as 283.5 K there."""
    result = ConservativeCells(*nodes(0.25), 4)(np.full((721, 1440), 288.0))
    np.testing.assert_allclose(result, 288, rtol=1e-14)


def test_quarter_degree_goes_to_the_published_grid() -> None:
    lat, lon = ConservativeCells(*nodes(0.25), 4).points()
    assert lat.shape == lon.shape == (180, 360)
    np.testing.assert_array_equal(lat[:, 0], np.arange(89.5, -90, -1))
    np.testing.assert_array_equal(lon[0], np.arange(0.5, 360))
    np.testing.assert_array_equal((lat, lon), global_grid(1.0))


def test_results_run_north_to_south_whatever_the_source() -> None:
    lat, lon = nodes(10)
    values = np.random.default_rng(9).normal(size=(19, 36))
    result = ConservativeCells(lat, lon, 3)(values)
    np.testing.assert_array_equal(ConservativeCells(lat[::-1], lon, 3)(values[::-1]), result)
    north = ConservativeCells(lat, lon, 3)(np.repeat(lat[:, None], 36, axis=1))
    assert np.all(np.diff(north, axis=0) < 0)


def test_nan_stays_in_the_cells_that_it_touches() -> None:
    values = np.zeros((19, 36))
    values[3, 0] = np.nan  # on the rim of two rows, and of the first and the last column
    result = ConservativeCells(*nodes(10), 3)(values)
    assert [tuple(cell) for cell in np.argwhere(np.isnan(result))] == [(0, 0), (0, 11), (1, 0), (1, 11)]


def test_increments_as_rounded_in_grib_are_equally_spaced() -> None:
    lat, lon = 90 - 0.333333 * np.arange(541), 0.333333 * np.arange(1080)
    assert ConservativeCells(lat, lon, 3).spacing == 1


LAT, LON = nodes(10)


@pytest.mark.parametrize(
    ("lat", "lon", "cells", "message"),
    [
        (LAT[1:-1], LON, 3, "the latitudes run from 80 to -80. The grid must have points on both poles."),
        (LAT, LON[:18], 3, "the longitudes run from 0 to 170. They must go once around, eastward from 0."),
        (LAT, LON - 180, 3, "the longitudes run from -180 to 170. They must go once around, eastward from 0."),
        (LAT, LON, 4, "cells: 4 does not divide the 18 spacings from pole to pole."),
        (LAT**3 / 8100, LON, 3, "the latitudes are not equally spaced. Only regular global grids are supported"),
        (LAT, LON**2 / 350, 3, "the longitudes are not equally spaced. Only regular global grids are supported"),
        (LAT[::2], LON, 3, "the spacing is 20 degrees in latitude and 10 in longitude. Both must be equal."),
        (LAT, LON, 19, "cells: 19: a grid of 19 x 36 points has no cell of that size."),
        (LAT[:, None], LON, 3, "latitudes and longitudes must have one axis, not 2 and 1."),
        (LAT, LON, True, "cells: True must be a whole number, 1 or more, such as 5 for blocks of 5 x 5 points."),
    ],
)
def test_grids_without_cells(lat: np.ndarray, lon: np.ndarray, cells: int, message: str) -> None:
    with pytest.raises(HouseError) as error:
        ConservativeCells(lat, lon, cells)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_values_of_another_grid() -> None:
    with pytest.raises(HouseError, match=r"values have shape \(18, 36\), but the grid has \(19, 36\)\."):
        ConservativeCells(LAT, LON, 3)(np.ones((18, 36)))


# Winds


@pytest.mark.parametrize("parallels", [(38.5, 38.5), (33.0, 45.0), (25.0, 25.0), (-30.0, -60.0)])
def test_wind_along_y_blows_where_proj_steps_along_y(parallels: tuple[float, float]) -> None:
    projection = Proj(proj="lcc", lat_1=parallels[0], lat_2=parallels[1], lat_0=parallels[0], lon_0=262.5, R=6371229)
    lon = np.linspace(200, 320, 13)
    lat = np.sign(parallels[0]) * np.linspace(15, 60, 13)
    x, y = projection(lon, lat)
    ahead = projection(x, y + 10, inverse=True)
    bearing, _, _ = Geod(a=6371229, b=6371229).inv(lon, lat, *ahead)
    u, v = LambertRotation(lon, parallels, 262.5)(np.zeros(13), np.ones(13))
    np.testing.assert_allclose(np.rad2deg(np.arctan2(u, v)), bearing, atol=1e-3)
    assert np.abs(bearing).max() > 20


def test_cone_of_one_parallel_is_the_limit_of_two() -> None:
    assert cone_constant(38.5, 38.5) == pytest.approx(np.sin(np.deg2rad(38.5)))
    assert cone_constant(38.49, 38.51) == pytest.approx(cone_constant(38.5, 38.5), rel=1e-6)


def test_rotation_agrees_with_the_stock_one_on_hrrr() -> None:
    lat, lon = (points[::40, ::40] for points in HRRR_3KM.latlon())
    u, v = 30 * smooth(lat, lon), 20 * smooth(lon, lat)
    projection = "+proj=lcc +lat_1=38.5 +lat_2=38.5 +lat_0=38.5 +lon_0=262.5 +R=6371229"
    with np.errstate(all="warn"):
        expected = rotate_vector(lat, lon, u, v, projection, "+proj=longlat +R=6371229")
    turned = LambertRotation(lon, (38.5, 38.5), 262.5)(u, v)
    np.testing.assert_allclose(turned, expected, atol=5e-4)  # the stock one steps along the wind
    np.testing.assert_allclose(np.hypot(*turned), np.hypot(u, v), rtol=1e-13)
    assert max(np.abs(turned[0] - u).max(), np.abs(turned[1] - v).max()) > 5  # or there was nothing to see


def test_rotating_means_is_nearly_rotating_before() -> None:
    lat, lon = HRRR_3KM.latlon()
    u, v = 40 * np.sin(np.deg2rad(4 * lat + lon)), 40 * np.cos(np.deg2rad(3 * lon))
    before = [block_mean(wind, 5) for wind in LambertRotation(lon, (38.5, 38.5), 262.5)(u, v)]
    _, centres = HRRR_15KM.latlon()
    after = LambertRotation(centres, (38.5, 38.5), 262.5)(block_mean(u, 5), block_mean(v, 5))
    assert 0 < np.abs(np.subtract(after, before)).max() < 2e-3


def test_winds_of_another_grid() -> None:
    rotation = LambertRotation(np.zeros((2, 3)), (25.0, 25.0), 0.0)
    with pytest.raises(HouseError, match=r"shapes \(2, 3\) and \(6,\), but the grid has \(2, 3\)"):
        rotation(np.ones((2, 3)), np.ones(6))
