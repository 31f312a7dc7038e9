"""The artifact index of constructed fields: without an artifact, and with one of known size."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from boundary_grids import NAMES, Nested, grid, nested, turn_to

from anemoi_house.boundary.band import Band
from anemoi_house.boundary.index import ArtifactIndex, artifact_index, signed_root
from anemoi_house.errors import HouseError
from anemoi_house.geometry import EARTH_RADIUS_KM, HRRR_3KM, LambertGrid, global_grid, to_cartesian

DATES = 24

RIPPLE = np.sqrt(0.5 - 3 / (4 * np.pi**2))
"""Root mean square of two periods of a sine about their best-fit line."""


def outside(of: Nested) -> np.ndarray:
    return np.where(of.in_lam, 0.0, 1.0)


def kink(of: Nested) -> np.ndarray:
    """Return a field whose slope changes by one per 100 km at the border."""
    return np.maximum(of.signed_km, 0) / 100


def ripple(of: Nested, inside: bool) -> np.ndarray:
    """Return waves across the border, of one cell and amplitude one, two cells deep on one side."""
    cells = of.signed_km / of.band.cell_km
    return np.sin(2 * np.pi * cells) * ((cells < 0) & (cells > -2) if inside else (cells > 0) & (cells < 2))


@cache
def without_artifact(of: Nested) -> dict[str, np.ndarray]:
    noise = of.noise(DATES)
    fade = 1.5 - 0.5 * np.tanh(of.signed_km / (4 * of.band.cell_km))
    return {
        "noise": noise,
        "noise, stronger inside": noise * np.where(of.in_lam, 3, 1),
        "noise, stronger outside": noise * np.where(of.in_lam, 1, 3),
        "short waves": of.waves(4, DATES),
        "long waves": of.waves(10, DATES),
        "waves to the east": of.waves(6, DATES, towards=0),
        "waves to the north": of.waves(6, DATES, towards=np.pi / 2),
        "waves that fade outwards": of.waves(6, DATES) * fade,
        "waves and noise": of.waves(8, DATES) + 0.3 * noise,
    }


# Without an artifact


@pytest.mark.parametrize("name", NAMES)
def test_there_is_nothing_where_nothing_is(name: str) -> None:
    of = grid(name)
    alarms = []
    for field in without_artifact(of).values():
        index = artifact_index(of.band, field)
        for each in (index.jump, index.kink, index.ripple):
            mean = each.mean()
            # Without subtracting the background, the excess would be all of it.
            assert abs(mean.squared) < 0.45 * mean.background**2
            assert abs(mean.squared) < 3 * mean.margin
            alarms.append(each.beyond_noise.mean())
        assert abs(index.jump.mean().index) < 0.4
    assert np.mean(alarms) < 0.06  # 0.025 by construction of the interval


def test_where_the_rows_of_the_outer_grid_lie_makes_no_difference() -> None:
    """Without the band's ratios, the excess would be a quarter of the background (jump) or a tenth (ripple)."""
    of = grid("tiny")
    mean = artifact_index(of.band, of.waves(10, 400)).mean()
    assert abs(mean.jump.squared) < 0.12 * mean.jump.background**2
    assert abs(mean.ripple.squared) < 0.04 * mean.ripple.background**2


@pytest.mark.parametrize("name", NAMES)
def test_constants_and_gradients_have_no_artifact(name: str) -> None:
    of = grid(name)
    constant = artifact_index(of.band, np.full((1, len(of.points)), 5.5e3))
    gradient = artifact_index(of.band, (of.points @ [30.0, 50.0, 80.0])[None])
    for each in (constant.jump, constant.kink, constant.ripple):
        assert (each.squared, each.index) == (0, 0)
        assert not each.beyond_noise
    assert abs(gradient.jump.index) < 0.01
    assert abs(gradient.kink.index) < 0.06


# With an artifact of known size


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_artifact_has_its_size_and_no_other(name: str) -> None:
    of = grid(name)
    jump = artifact_index(of.band, 3 * outside(of))
    assert jump.jump.value == pytest.approx(3, rel=1e-9)
    np.testing.assert_allclose(jump.jumps, 3)
    assert max(abs(jump.kink.value), abs(jump.ripple.value)) < 1e-6
    assert jump.jump.index > 1e6  # nothing else varies
    assert artifact_index(of.band, -3 * outside(of)).jump.value == pytest.approx(3)

    bend = artifact_index(of.band, 3 * kink(of))
    assert bend.kink.value == pytest.approx(3, rel=0.1)
    assert abs(bend.jump.value) < 0.08 * 3 * of.band.cell_km / 100  # distances are to border nodes and corners
    assert abs(bend.ripple_inside.value) < 1e-6

    for inside in (True, False):
        wave = artifact_index(of.band, 3 * ripple(of, inside))
        here, there = (wave.ripple_inside, wave.ripple_outside)[:: 1 if inside else -1]
        assert abs(there.value) < 1e-6
        if inside:  # the outer grid does not resolve it
            assert here.value == pytest.approx(3 * RIPPLE, rel=0.15)
            assert wave.ripple.value == pytest.approx(here.value / np.sqrt(2), rel=0.02)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["noise", "long waves", "waves and noise", "noise, stronger outside"])
def test_planted_jumps_come_out_in_proportion_and_in_order(name: str, what: str) -> None:
    of = grid(name)
    field = without_artifact(of)[what]
    size = 1.5 * artifact_index(of.band, field).jump.mean().background
    found = [artifact_index(of.band, field + a * size * outside(of)).jump for a in (1, 2, 4, 8)]
    np.testing.assert_allclose([each.mean().value / size for each in found], [1, 2, 4, 8], rtol=0.15)
    assert (np.diff([each.value for each in found], axis=0) > 0).all()  # on every single date
    assert found[1].beyond_noise.mean() > 0.9
    assert all(each.mean().beyond_noise for each in found)
    # The planted artifact does not enter the scale.
    np.testing.assert_allclose([each.mean().index for each in found] / found[0].mean().index, [1, 2, 4, 8], rtol=0.15)
    np.testing.assert_allclose(found[3].scale, found[0].scale, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_planted_kinks_and_ripples_come_out_in_proportion(name: str) -> None:
    of = grid(name)
    field = without_artifact(of)["waves and noise"]
    for planted, which, response in ((kink(of), "kink", 1.0), (ripple(of, inside=True), "ripple_inside", RIPPLE)):
        size = 2 * getattr(artifact_index(of.band, field), which).mean().background
        found = [getattr(artifact_index(of.band, field + a * size * planted), which).mean() for a in (1, 2, 4)]
        np.testing.assert_allclose([each.value / size / response for each in found], [1, 2, 4], rtol=0.2)
        assert all(each.beyond_noise for each in found)


def test_the_jump_is_that_of_the_edge_and_outside_minus_inside() -> None:
    of = grid("medium")
    latitude = np.rad2deg(np.arcsin(of.points[:, 2]))
    field = outside(of) * np.where(latitude > 38, 2.0, -1.0)
    index = artifact_index(of.band, field)
    north = of.band.latlon[0] > 44
    south = of.band.latlon[0] < 30
    np.testing.assert_allclose(index.jumps[north], 2)
    np.testing.assert_allclose(index.jumps[south], -1)
    # A step elsewhere is background, not an artifact.
    deep = artifact_index(of.band, np.where(of.signed_km < -2 * of.band.cell_km, 1.0, 0.0))
    assert deep.jump.value == -np.sqrt(-deep.jump.squared) < 0
    assert deep.jump.background > 0.3


def test_a_spot_of_noise_at_the_rim_is_an_artifact() -> None:
    """As from an isolated node, which has an error of its own on the rim."""
    of = grid("medium")
    rim = (of.signed_km > 0) & (of.signed_km < of.band.cell_km)
    index = artifact_index(of.band, 0.2 * of.noise(DATES) + 3 * rim * of.noise(DATES, seed=1))
    assert index.jump.mean().beyond_noise
    assert index.ripple_outside.mean().beyond_noise
    assert not index.ripple_inside.mean().beyond_noise


# Against another method


def test_a_jump_is_the_difference_of_two_planes_and_their_curvature() -> None:
    """At one site: boxes found independently, least squares on a plane with its origin at the site."""
    of = grid("tiny")
    band, field = of.band, of.waves(6, 1)[0]
    jumps = artifact_index(band, field).jumps
    site = band.sites[np.argmax(band.latlon[0])]  # northernmost, where across is almost north
    border = of.points[np.abs(of.signed_km) < 1e-6]
    near = border[border @ site > np.cos(1.5 * band.cell_km / EARTH_RADIUS_KM)]
    along = near[-1] - near[0]
    along -= (along @ site) * site
    along /= np.linalg.norm(along)
    out = np.cross(along, site) * np.sign(np.cross(along, site)[2])
    angle = np.arccos(np.clip(of.points @ site, -1, 1))
    stretch = np.divide(angle, np.sin(angle), out=np.ones_like(angle), where=angle > 1e-9)
    x, y = (of.points @ out * stretch, of.points @ along * stretch) * np.array(EARTH_RADIUS_KM / band.cell_km)
    ahead = (angle < 1) & (np.abs(y) <= 1.5) & (np.abs(x) <= 4)
    boxes = [
        ahead & of.in_lam & (x > -4) & (x <= -2),
        ahead & of.in_lam & (x > -2),
        ahead & ~of.in_lam & (x <= 2),
        ahead & ~of.in_lam & (x > 2) & (x <= 4),
    ]

    def plane(box: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(np.stack([np.ones(box.sum()), x[box], y[box]], 1), values[box], rcond=None)[0]

    fits = [(plane(box, field), plane(box, x**2 / 2)) for box in boxes]
    bends = [
        (one[0][1] - other[0][1]) / (one[1][1] - other[1][1]) for one, other in ((fits[1], fits[0]), (fits[3], fits[2]))
    ]
    inner, outer = (fits[box][0][0] - fits[box][1][0] * np.mean(bends) for box in (1, 2))
    assert jumps[np.argmax(band.latlon[0])] == pytest.approx(outer - inner, abs=1e-3)


def test_fields_do_not_know_of_each_other() -> None:
    of = grid("tiny")
    several = (of.waves(6, 70) + outside(of)).astype(np.float32).reshape(2, 35, -1)
    together = artifact_index(of.band, several)
    assert together.jump.value.shape == (2, 35)
    assert together.jumps.shape == (2, 35, len(of.band.sites))
    alone = artifact_index(of.band, several[1, 34])
    assert alone.jump.value.shape == ()
    for name in ("jump", "kink", "ripple", "ripple_inside", "ripple_outside"):
        for part in ("squared", "margin", "background", "scale", "low", "high", "index"):
            got, expected = getattr(getattr(together, name), part)[1, 34], getattr(getattr(alone, name), part)
            assert got == pytest.approx(float(expected), rel=1e-9)
    np.testing.assert_allclose(together.jumps[1, 34], alone.jumps)


def test_units_scale() -> None:
    of = grid("tiny")
    field = of.waves(6, 3) + 0.5 * outside(of)
    one, thousand = (artifact_index(of.band, factor * field + shift) for factor, shift in ((1, 0), (1e3, 7e4)))
    for name in ("jump", "kink", "ripple"):
        np.testing.assert_allclose(getattr(thousand, name).value, 1e3 * getattr(one, name).value, rtol=1e-6)
        np.testing.assert_allclose(getattr(thousand, name).index, getattr(one, name).index, rtol=1e-6)


# Over dates


def test_mean_over_dates() -> None:
    of = grid("tiny")
    index = artifact_index(of.band, (of.noise(40) + outside(of)).reshape(4, 10, -1))
    mean = index.mean(axis=1)
    assert isinstance(mean, ArtifactIndex)
    np.testing.assert_allclose(mean.jump.value, signed_root(index.jump.squared.mean(axis=1)))
    over_dates = index.jump.squared.std(axis=1, ddof=1) / np.sqrt(10) * 2.262
    along_border = index.jump.stretches.mean(axis=1).std(axis=-1, ddof=1) / np.sqrt(5) * 2.776
    np.testing.assert_allclose(mean.jump.margin, np.maximum(over_dates, along_border), rtol=1e-3)
    assert 0 < (over_dates > along_border).sum() < 4
    np.testing.assert_allclose(mean.jumps, index.jumps.mean(axis=1))
    np.testing.assert_allclose(index.mean(axis=-1).jumps, mean.jumps)
    assert (mean.jump.low < mean.jump.value).all()
    assert (mean.jump.value < mean.jump.high).all()
    # One date has no spread over dates, only along the border.
    single = artifact_index(of.band, of.noise(1))
    assert single.mean().jump.margin == pytest.approx(single.jump.margin[0])
    assert single.mean().jump.squared == pytest.approx(single.jump.squared[0])


def test_what_stays_in_place_is_no_artifact() -> None:
    """Like mountains: all dates agree, but their position along the border is chance."""
    of = grid("finer")
    places, dates = of.waves(6, 60), of.noise(10)
    found = artifact_index(of.band, places[:, None] + 0.05 * dates).mean(axis=1).jump
    assert found.beyond_noise.mean() < 0.1
    planted = artifact_index(of.band, places[:, None] + 0.05 * dates + outside(of)).mean(axis=1).jump
    assert planted.beyond_noise.mean() > 0.9
    spread = found.squared / (artifact_index(of.band, places[0] + 0.05 * dates).jump.squared.std() / np.sqrt(10))
    assert (spread > 3).mean() > 0.1  # over dates alone, it would count as an artifact


# Invalid input


def test_values_that_are_not_finite_are_refused() -> None:
    of = grid("tiny")
    broken = of.noise(5)
    broken[1, 7] = broken[1, 8] = np.nan
    broken[4, 1000] = np.inf
    with pytest.raises(HouseError, match=r"3 of 25,495 values are not finite, in 2 of 5 fields"):
        artifact_index(of.band, broken)


def test_another_grid_is_refused() -> None:
    with pytest.raises(HouseError, match=r"shape \(2, 9\) do not match a grid of 5,099 nodes"):
        artifact_index(grid("tiny").band, np.zeros((2, 9)))


def test_a_limited_area_that_is_too_small_is_refused() -> None:
    small = nested(LambertGrid(12, 12, 120.0, 30.0, 260.0, 38.5, 262.5), 4.0)
    with pytest.raises(HouseError, match=r"445 km \(the spacing of the outer grid\).* at 3 of 9 places.* 2224 km"):
        Band.along_border(small.points, small.in_lam, small.areas)


def test_cells_narrower_than_the_outer_grid_are_refused() -> None:
    of = grid("tiny")
    with pytest.raises(HouseError, match=r"cells of 150 km \(as given\).*another cell_km"):
        Band.along_border(of.points, of.in_lam, of.areas, cell_km=150)


def test_places_whose_nodes_tell_too_little_are_left_out() -> None:
    """With cells of two thirds of a row, some boxes hold little more than one row: steps there are mostly noise."""
    of = grid("pole")
    band = Band.along_border(of.points, of.in_lam, of.areas, cell_km=300)
    assert artifact_index(band, of.noise(DATES)).jump.mean().background < 1.2


def test_a_grid_without_outside_is_refused() -> None:
    points = to_cartesian(*HRRR_3KM.coarsened(40).latlon())
    inside = np.ones(len(points), dtype=bool)
    with pytest.raises(HouseError, match="no border: it holds 1,144 of 1,144 points"):
        Band.along_border(points, inside, np.ones(len(points)))
    inside[:5] = False
    with pytest.raises(HouseError, match="5 nodes outside"):
        Band.along_border(points, inside, np.ones(len(points)))


def test_places_where_a_side_is_too_narrow_are_left_out() -> None:
    """A body of 2640 km with an arm of 1200 km, where the boxes take 1780: the arm's sides are not measured."""
    lam = LambertGrid(44, 40, 120.0, 15.0, 240.0, 38.5, 262.5)
    x, y = lam.project(*lam.latlon())
    globe = global_grid(4.0)
    at_x, at_y = lam.project(*globe)

    def in_arm_or_body(x: np.ndarray, y: np.ndarray, corner: tuple[float, float]) -> np.ndarray:
        east, north = (x - corner[0]) / 120, (y - corner[1]) / 120
        body = (east > -0.5) & (east < 21.5) & (north > -0.5) & (north < 39.5)
        return body | ((east > -0.5) & (east < 43.5) & (north > -0.5) & (north < 10.5))

    corner = (x.min(), y.min())
    local = to_cartesian(*lam.latlon())[in_arm_or_body(x, y, corner).ravel()]
    outer = to_cartesian(*globe)[~in_arm_or_body(at_x, at_y, corner).ravel()]
    of = Nested(np.concatenate([local, outer]), np.arange(len(local) + len(outer)) < len(local), lam.shape)
    assert 0.3 < of.band.used < 0.6
    site_x, _ = lam.project(*of.band.latlon)
    along_arm = (site_x - corner[0] > 25 * 120) & (site_x - corner[0] < 41 * 120)
    assert not along_arm.any()
    assert artifact_index(of.band, 2 * outside(of)).jump.value == pytest.approx(2)


def test_sites_lie_on_the_edge_apart_from_each_other() -> None:
    of = grid("finer")
    band = of.band
    assert band.cell_km == pytest.approx(111, abs=1)
    assert 0.7 < band.used < 1
    apart = np.arccos(np.clip(band.sites @ band.sites.T, -1, 1)) * EARTH_RADIUS_KM
    assert apart[~np.eye(len(apart), dtype=bool)].min() > 0.99 * band.cell_km
    border = of.points[np.abs(of.signed_km) < 1e-6]
    assert (band.sites @ border.T).max(axis=1) == pytest.approx(1)
    one, other = band.partners.T
    assert apart[one, other] == pytest.approx(3 * band.cell_km, rel=0.34)
    assert (np.diff(band.blocks) >= 0).all()
    assert np.bincount(band.blocks).min() >= 3


def test_a_turn_of_the_sphere_changes_nothing() -> None:
    """The same points about the pole: other sites may be chosen, nothing else differs."""
    of = grid("tiny")
    turned = Nested(of.points @ turn_to(88.0, 0.0).T, of.in_lam, of.shape)
    assert turned.band.cell_km == pytest.approx(of.band.cell_km)
    field = of.waves(8, DATES) + 0.5 * outside(of)
    here, there = (artifact_index(each.band, field).jump.mean() for each in (of, turned))
    assert there.value == pytest.approx(float(here.value), rel=0.1)
    assert there.background == pytest.approx(float(here.background), rel=0.15)
