from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from anemoi_house.geometry import HRRR_3KM, HRRR_15KM, LambertGrid, distance_to_km, global_grid, to_cartesian
from anemoi_house.sample.atmosphere import EPOCH, WAVES, Atmosphere, saturation, variable_names, window

TINY_LAM = HRRR_3KM.coarsened(40)
SIX_HOURS = timedelta(hours=6)


@pytest.fixture(scope="module")
def lam() -> Atmosphere:
    return Atmosphere(*TINY_LAM.latlon())


@pytest.fixture(scope="module")
def globe() -> Atmosphere:
    return Atmosphere(*global_grid(4.0))


def series(atmosphere: Atmosphere, name: str, dates: int) -> np.ndarray:
    return np.array([atmosphere.state(EPOCH + i * SIX_HOURS)[name] for i in range(dates)])


def test_names_are_the_published_ones_less_the_nine_forcings(globe: Atmosphere) -> None:
    levels = (100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
    expected = {f"{p}_{level}" for p in ("gh", "u", "v", "w", "t", "q") for level in levels}
    expected |= {"sp", "u10", "v10", "t2m", "t_surface", "sh2", "u80", "v80", "accum_tp", "lsm", "orog"}
    assert len(variable_names()) == len(set(variable_names())) == 83
    assert set(variable_names()) == expected
    state = globe.state(EPOCH)
    assert list(state) == variable_names()
    assert {values.shape for values in state.values()} == {(45, 90)}


@pytest.mark.parametrize("hours", [0, 6, 12, 6 * 119, 24 * 400])
def test_values_are_physical_everywhere(globe: Atmosphere, lam: Atmosphere, hours: int) -> None:
    ranges = {
        "gh_500": (4900, 6000),
        "t_850": (245, 305),
        "t_100": (185, 230),
        "sp": (48e3, 107e3),
        "t2m": (225, 320),
        "w_500": (-0.2, 0.2),
        "accum_tp": (0, 30),
        "orog": (0, 6000),
        "lsm": (0, 1),
    }
    ranges |= {name: (0, 0.03) for name in variable_names() if name.startswith("q_") or name == "sh2"}
    ranges |= {name: (-80, 80) for name in variable_names() if name[0] in "uv"}
    for atmosphere in (globe, lam):
        state = atmosphere.state(EPOCH + timedelta(hours=hours))
        for name, values in state.items():
            assert np.isfinite(values).all(), name
            low, high = ranges.get(name, (-np.inf, np.inf))
            assert low <= values.min(), name
            assert values.max() <= high, name


def test_poles_are_finite() -> None:
    state = Atmosphere(np.array([90.0, -90.0]), np.array([0.0, 123.0])).state(EPOCH + SIX_HOURS)
    assert all(np.isfinite(values).all() for values in state.values())
    assert np.abs(state["v_500"]).max() < 1


def test_constant_and_varied_surfaces(lam: Atmosphere, globe: Atmosphere) -> None:
    for name in ("lsm", "orog"):
        np.testing.assert_array_equal(series(globe, name, 2)[0], series(globe, name, 2)[1])
    land = globe.state(EPOCH)["lsm"]
    assert set(np.unique(land)) == {0.0, 1.0}
    assert 0.2 < np.average(land, weights=np.cos(np.deg2rad(global_grid(4.0)[0]))) < 0.4
    assert 0.5 < lam.state(EPOCH)["lsm"].mean() < 0.95
    lat, lon = TINY_LAM.latlon()
    orog = lam.state(EPOCH)["orog"]
    top = np.unravel_index(orog.argmax(), orog.shape)
    assert orog.max() > 2000
    assert 35 < lat[top] < 50
    assert 240 < lon[top] < 258


def test_one_atmosphere_on_all_grids(lam: Atmosphere) -> None:
    """A point has the same values on every grid and for every convention of longitudes."""
    lat, lon = TINY_LAM.latlon()
    at = (np.array([3, 13, 25]), np.array([5, 22, 40]))
    time = EPOCH + 7 * SIX_HOURS
    whole, some = lam.state(time), Atmosphere(lat[at], lon[at] - 360).state(time)
    for name in variable_names():
        np.testing.assert_allclose(some[name], whole[name][at], rtol=1e-9, atol=1e-9, err_msg=name)


def test_wind_is_geostrophic() -> None:
    """Against central differences of `gh` on the sphere and the textbook Coriolis parameter."""
    lat, lon = np.meshgrid(np.linspace(25, 65, 15), np.linspace(0, 350, 36), indexing="ij")
    lat, lon = np.append(lat, 40.0), np.append(lon, 262.0)
    step, time = 0.01, EPOCH + 3 * SIX_HOURS
    high = {k: Atmosphere(lat + dy, lon + dx).state(time) for k, dy, dx in
            (("n", step, 0), ("s", -step, 0), ("e", 0, step), ("w", 0, -step))}  # fmt: skip
    here = Atmosphere(lat, lon).state(time)
    metres = 2 * np.deg2rad(step) * 6371229.0
    f = 2 * 7.292e-5 * np.sin(np.deg2rad(lat))
    slack = 1 + (7.292e-5 * 2 * np.sin(np.deg2rad(15)) / f) ** 2
    for level in (1000, 500, 200):
        gh = {k: v[f"gh_{level}"] for k, v in high.items()}
        u = -9.80665 / f * (gh["n"] - gh["s"]) / metres
        v = 9.80665 / f * (gh["e"] - gh["w"]) / (metres * np.cos(np.deg2rad(lat)))
        np.testing.assert_allclose(here[f"u_{level}"] * slack, u, atol=1e-2)
        np.testing.assert_allclose(here[f"v_{level}"] * slack, v, atol=1e-2)


def test_temperature_is_hydrostatic(globe: Atmosphere) -> None:
    """Thickness between 600 and 400 hPa gives the mean temperature of the layer, outside the window."""
    state = globe.state(EPOCH + SIX_HOURS)
    layer = 9.80665 / 287.04 * (state["gh_400"] - state["gh_600"]) / np.log(600 / 400)
    outside = window(*global_grid(4.0)) == 0
    np.testing.assert_allclose(layer[outside], state["t_500"][outside], atol=1.0)


@pytest.mark.parametrize("wave", [wave for wave in WAVES if not wave.mesoscale], ids=lambda w: f"m{w.zonal}")
def test_global_waves_move_with_their_phase_speed(wave) -> None:
    """The Fourier component of one latitude circle turns by frequency x time."""
    lon = np.arange(0, 360, 2.0)
    circle = Atmosphere(np.full_like(lon, -45.0), lon)
    component = np.fft.rfft(series(circle, "gh_500", 2), axis=1)[:, int(wave.zonal)]
    turned = np.angle(component[1] / component[0])
    assert turned == pytest.approx(-wave.frequency * 6 * 3600, abs=1e-6)
    assert 0.1 < abs(turned) < 1


def test_mesoscale_waves_move_with_their_phase_speed() -> None:
    """The series at the window's centre contains all frequencies: a least-squares fit of them leaves no residual."""
    there = Atmosphere(np.array([38.5]), np.array([262.5]))
    v = series(there, "v_1000", 200)[:, 0]
    hours = np.arange(200) * 6 * 3600.0

    def residual(waves) -> float:
        phases = np.outer(hours, [wave.frequency for wave in waves])
        design = np.concatenate([np.ones((200, 1)), np.cos(phases), np.sin(phases)], axis=1)
        return float(np.std(v - design @ np.linalg.lstsq(design, v, rcond=None)[0]) / v.std())

    assert residual(WAVES) < 1e-6
    assert residual([wave for wave in WAVES if not wave.mesoscale]) > 0.3


@pytest.mark.parametrize("name", ["gh_500", "t_850", "u_850", "v_850"])
@pytest.mark.parametrize("part", ["lam", "globe"])
def test_persistence_is_a_real_opponent(name: str, part: str, request: pytest.FixtureRequest) -> None:
    x = series(request.getfixturevalue(part), name, 60)
    lat = TINY_LAM.latlon()[0] if part == "lam" else global_grid(4.0)[0]
    weights = np.cos(np.deg2rad(lat))
    error = np.average((np.diff(x, axis=0) ** 2).mean(0), weights=weights)
    spread = np.average(x.var(0), weights=weights)
    assert 0.25 < np.sqrt(error / spread) < 0.45


def test_next_state_follows_from_two(lam: Atmosphere) -> None:
    """Ridge regression on 5 x 5 points of two states has a quarter of persistence's error on unseen dates."""
    x = series(lam, "v_850", 60)
    x = (x - x[:45].mean(0)) / x[:45].std()

    def rows(date: int) -> tuple[np.ndarray, np.ndarray]:
        stencil = [x[t, i : i + 22, j : j + 40].ravel() for t in (date, date - 1) for i in range(5) for j in range(5)]
        return np.array(stencil).T, x[date + 1, 2:-2, 2:-2].ravel()

    design, target = (np.concatenate(part) for part in zip(*map(rows, range(1, 44))))
    normal = design.T @ design
    weights = np.linalg.solve(normal + 1e-5 * np.trace(normal) * np.eye(50), design.T @ target)
    design, target = (np.concatenate(part) for part in zip(*map(rows, range(45, 59))))
    persistence = np.sqrt(np.mean((design[:, 12] - target) ** 2))
    assert np.sqrt(np.mean((design @ weights - target) ** 2)) < 0.25 * persistence


def test_states_do_not_repeat(globe: Atmosphere) -> None:
    x = series(globe, "gh_500", 120).reshape(120, -1)
    away = np.sqrt(((x[1:] - x[0]) ** 2).mean(1))
    assert away.min() > 0.25 * x.std(0).mean()


def test_structure_finer_than_the_global_grid_is_in_the_window_alone() -> None:
    """A 4-degree grid misses much of the wind inside the window, and almost nothing elsewhere."""
    lat, lon = global_grid(4.0)
    coarse = Atmosphere(lat, lon).state(EPOCH)["v_1000"]
    interpolator = RegularGridInterpolator((lat[::-1, 0], lon[0]), coarse[::-1], method="cubic")
    fine_lat, fine_lon = np.meshgrid(np.arange(31, 46, 0.5), np.arange(-15, 15, 0.5), indexing="ij")
    missed = {}
    for centre in (262.5, 82.5):
        v = Atmosphere(fine_lat, fine_lon + centre).state(EPOCH)["v_1000"]
        guess = interpolator(np.stack([fine_lat, fine_lon + centre], axis=-1))
        missed[centre] = np.std(v - guess) / v.std()
    assert missed[262.5] > 0.3
    assert missed[82.5] < 0.03


@pytest.mark.parametrize("grid", [HRRR_15KM, TINY_LAM], ids=["published", "tiny"])
def test_window_lies_inside_the_lam(grid: LambertGrid) -> None:
    lat, lon = (x.ravel() for x in global_grid(1.0))
    inside = window(lat, lon) > 0
    assert inside.sum() > 300
    points, lam_points = to_cartesian(lat[inside], lon[inside]), to_cartesian(*grid.latlon())
    assert distance_to_km(points, lam_points).max() < 0.75 * grid.spacing_km


def test_saturation_matches_known_values() -> None:
    """Bolton's table: 6.112 hPa at 0 C, 23.37 hPa at 20 C within 0.1 %."""
    for celsius, vapour in ((0.0, 611.2), (20.0, 2337.0)):
        expected = 0.622 * vapour / (1e5 - 0.378 * vapour)
        assert saturation(celsius + 273.15, 1e5) == pytest.approx(expected, rel=1e-3)


def test_room_is_pure() -> None:
    code = "import sys, anemoi_house.sample.atmosphere; print([m for m in sys.modules if m.split('.')[0] in "
    code += "('anemoi', 'earthkit', 'torch', 'scipy', 'zarr')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
