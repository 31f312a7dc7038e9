from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Proj
from small_grids import haversine_km, unit_vectors

from anemoi_house.errors import HouseError
from anemoi_house.geometry import (
    EARTH_RADIUS_KM,
    HRRR_3KM,
    HRRR_15KM,
    border_of,
    chord,
    distance_to_km,
    global_grid,
    great_circle_km,
    signed_distance_km,
    spacing_km,
    to_cartesian,
    to_latlon,
)

HRRR_PROJECTION = Proj(proj="lcc", lat_1=38.5, lat_2=38.5, lat_0=38.5, lon_0=262.5, R=6371229)
latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 360)


def expected_hrrr() -> tuple[np.ndarray, np.ndarray]:
    """The 3 km grid by PROJ, from its first point and its spacing."""
    x0, y0 = HRRR_PROJECTION(237.280472, 21.138123)
    x, y = np.meshgrid(x0 + 3000 * np.arange(1799), y0 + 3000 * np.arange(1059))
    lon, lat = HRRR_PROJECTION(x, y, inverse=True)
    return lat, lon % 360


def test_hrrr_grid_is_that_of_proj() -> None:
    expected_lat, expected_lon = expected_hrrr()
    lat, lon = HRRR_3KM.latlon()
    assert lat.shape == lon.shape == HRRR_3KM.shape == (1059, 1799)
    np.testing.assert_allclose(lat, expected_lat, atol=1e-9)
    np.testing.assert_allclose(lon, expected_lon, atol=1e-9)
    assert (lat[0, 0], lon[0, 0]) == pytest.approx((21.138123, 237.280472), abs=1e-9)


def test_15_km_grid_is_the_centres_of_blocks_of_the_3_km_grid() -> None:
    """The published definition: drop the last 4 rows and columns, then every fifth point from the third."""
    centres = np.s_[2:-4:5, 2:-4:5]
    lat, lon = HRRR_15KM.latlon()
    assert (HRRR_15KM.nx, HRRR_15KM.ny) == (359, 211)
    assert lat.size == 75_749
    expected_lat, expected_lon = expected_hrrr()
    np.testing.assert_allclose(lat, expected_lat[centres], atol=1e-8)
    np.testing.assert_allclose(lon, expected_lon[centres], atol=1e-8)


def test_grid_of_even_blocks_lies_in_the_middle_of_its_four_points() -> None:
    coarse = HRRR_3KM.coarsened(2)
    assert coarse.shape == (529, 899)
    x0, y0 = HRRR_PROJECTION(237.280472, 21.138123)
    x, y = np.meshgrid(x0 + 1500 + 6000 * np.arange(899), y0 + 1500 + 6000 * np.arange(529))
    lon, lat = HRRR_PROJECTION(x, y, inverse=True)
    np.testing.assert_allclose(coarse.latlon()[0], lat, atol=1e-8)
    np.testing.assert_allclose(coarse.latlon()[1], lon % 360, atol=1e-8)


def test_blocks_of_one_cell_change_nothing() -> None:
    np.testing.assert_allclose(HRRR_3KM.coarsened(1).latlon(), HRRR_3KM.latlon(), atol=1e-9)


@given(lat=st.floats(-80, 89), lon=longitudes)
def test_projection_is_that_of_proj(lat: float, lon: float) -> None:
    if abs((lon - 262.5 + 180) % 360 - 180) > 179.99:  # the cut of the cone: either side is right
        return
    x, y = HRRR_3KM.project(lat, lon)
    x_pole, y_pole = HRRR_PROJECTION(262.5, 90)
    expected_x, expected_y = HRRR_PROJECTION(lon, lat)
    assert float(x) == pytest.approx((expected_x - x_pole) / 1000, rel=1e-9, abs=1e-6)
    assert float(y) == pytest.approx((expected_y - y_pole) / 1000, rel=1e-9, abs=1e-6)


def test_global_grid_of_one_degree_is_that_of_the_published_experiments() -> None:
    lat, lon = global_grid(1.0)
    assert lat.shape == lon.shape == (180, 360)
    assert (lat[0, 0], lat[-1, 0]) == (89.5, -89.5)
    assert (lon[0, 0], lon[0, -1]) == (0.5, 359.5)
    assert np.all(lat == lat[:, :1])
    assert np.all(lon == lon[:1])


def test_earth_is_that_of_the_grib_files() -> None:
    assert EARTH_RADIUS_KM == 6371.229


@given(lat=latitudes, lon=longitudes)
def test_cartesian_points_and_back(lat: float, lon: float) -> None:
    point = to_cartesian(lat, lon)
    assert point.shape == (1, 3)
    np.testing.assert_allclose(point, unit_vectors(np.array(lat), np.array(lon)), atol=1e-15)
    back_lat, back_lon = to_latlon(point)
    assert back_lat[0] == pytest.approx(lat, abs=1e-7)
    assert 0 <= back_lon[0] <= 360
    if abs(lat) < 89.999:
        assert (back_lon[0] - lon + 180) % 360 - 180 == pytest.approx(0, abs=1e-7)


@given(a=st.tuples(latitudes, longitudes), b=st.tuples(latitudes, longitudes))
def test_great_circle_is_that_of_proj(a: tuple[float, float], b: tuple[float, float]) -> None:
    *_, metres = Geod(a=6371229, f=0).inv(a[1], a[0], b[1], b[0])
    straight = np.linalg.norm(to_cartesian(*a) - to_cartesian(*b))
    assert float(great_circle_km(straight)) == pytest.approx(metres / 1000, abs=0.5)
    if metres < 19_000_000:  # an arcsine loses digits close to the antipode
        assert float(great_circle_km(straight)) == pytest.approx(metres / 1000, abs=1e-4)
        assert float(chord(metres / 1000)) == pytest.approx(straight, abs=1e-9)


@given(st.floats(0, 20_000))
def test_chord_and_great_circle_are_inverse(distance_km: float) -> None:
    assert float(great_circle_km(chord(distance_km))) == pytest.approx(distance_km, abs=1e-3)


def test_chord_ends_at_the_antipode() -> None:
    np.testing.assert_allclose(chord([np.pi * 6371.229, 1e9]), 2.0)


@pytest.mark.parametrize("within_km", [np.inf, 2000.0, 50.0])
def test_distance_to_the_nearest_is_that_of_brute_force(within_km: float) -> None:
    rng = np.random.default_rng(1)
    points = np.stack([rng.uniform(-90, 90, 300), rng.uniform(0, 360, 300)])
    others = np.stack([rng.uniform(20, 60, 40), rng.uniform(200, 300, 40)])
    expected = haversine_km(points, others).min(axis=1)
    found = distance_to_km(unit_vectors(*points), unit_vectors(*others), within_km)
    far = expected > within_km
    assert np.all(np.isinf(found[far]))
    np.testing.assert_allclose(found[~far], expected[~far], rtol=1e-6, atol=1e-6)


def test_a_point_at_the_bound_itself_is_near() -> None:
    others = unit_vectors(np.array([0.0]), np.array([0.0]))
    at = np.rad2deg(1000 / 6371.229)
    points = unit_vectors(np.array([at - 1e-7, at + 1e-7]), np.array([0.0, 0.0]))
    assert list(np.isfinite(distance_to_km(points, others, 1000))) == [True, False]


def test_spacing_is_that_between_neighbours() -> None:
    lat, lon = np.meshgrid(np.arange(40, 45, 1.0), np.arange(100, 110, 2.0), indexing="ij")
    dy, dx = spacing_km(lat, lon)
    degree = np.pi * 6371.229 / 180
    assert dy == pytest.approx(degree, rel=1e-9)
    assert dx == pytest.approx(2 * degree * np.cos(np.deg2rad(42)), rel=1e-3)
    assert spacing_km(*HRRR_15KM.latlon()) == pytest.approx((15, 15), rel=0.03)


def spiral(number: int) -> np.ndarray:
    """Points spread evenly over the sphere."""
    count = np.arange(number) + 0.5
    return to_cartesian(np.rad2deg(np.arcsin(1 - 2 * count / number)), np.rad2deg(np.pi * (1 + 5**0.5) * count) % 360)


@pytest.mark.parametrize("centre", [(40, 260), (90, 0), (-90, 77), (-15, 180)], ids=str)
def test_signed_distance_of_a_dense_cap_in_a_coarse_globe(centre: tuple[float, float]) -> None:
    """The cap's border is a circle: the distance is known wherever the cap lies."""
    radius_km = 2000.0
    middle = to_cartesian(*([each] for each in centre))[0]

    def beyond_km(points: np.ndarray) -> np.ndarray:
        return great_circle_km(np.linalg.norm(points - middle, axis=1)) - radius_km

    fine, coarse = spiral(40_000), spiral(2_500)  # 113 and 450 km apart
    fine, coarse = fine[beyond_km(fine) <= 0], coarse[beyond_km(coarse) > 0]
    points, inside = np.concatenate([fine, coarse]), np.arange(len(fine) + len(coarse)) < len(fine)

    distance = signed_distance_km(points, inside)
    assert (distance[inside] <= 0).all()
    assert (distance[~inside] > 0).all()
    # Without rows, the border of the points is ragged by a spacing.
    np.testing.assert_allclose(distance, beyond_km(points), atol=150)
    near = signed_distance_km(points, inside, within_km=500)
    np.testing.assert_array_equal(near, np.where(np.abs(distance) <= 500, distance, np.copysign(np.inf, distance)))


def test_border_of_a_grid_is_its_outermost_points() -> None:
    lat, lon = HRRR_3KM.coarsened(40).latlon()
    outside_lat, outside_lon = global_grid(4.0)
    lam, globe = to_cartesian(lat, lon), to_cartesian(outside_lat, outside_lon)
    globe = globe[distance_to_km(globe, lam) > 100]
    border = border_of(np.concatenate([lam, globe]), np.arange(len(lam) + len(globe)) < len(lam))
    expected = np.ones(lat.shape, dtype=bool)
    expected[1:-1, 1:-1] = False
    np.testing.assert_array_equal(border[: len(lam)].reshape(lat.shape), expected)


@pytest.mark.parametrize(
    ("inside", "message"), [(0, "no border: it holds 0 of 40 points"), (40, "no border: it holds 40 of 40 points")]
)
def test_a_region_without_a_border_is_refused(inside: int, message: str) -> None:
    with pytest.raises(HouseError, match=message):
        border_of(spiral(40), np.arange(40) < inside)
    with pytest.raises(HouseError, match="3 points cannot be triangulated"):
        border_of(spiral(3), np.arange(3) < 1)
