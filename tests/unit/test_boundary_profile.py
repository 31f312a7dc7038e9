"""Error by distance, spectra inside the LAM and drift of its mean, against brute force and analytic answers."""

from __future__ import annotations

import numpy as np
import pytest
from boundary_grids import grid
from hypothesis import given, settings
from hypothesis import strategies as st

from anemoi_house.boundary.band import cell_areas_km2
from anemoi_house.boundary.drift import lam_drift, lam_mean
from anemoi_house.boundary.profile import distance_bins, error_profile
from anemoi_house.boundary.spectra import lam_spectrum
from anemoi_house.errors import HouseError
from anemoi_house.geometry import EARTH_RADIUS_KM

# Areas


def test_areas_sum_to_the_globe_and_are_those_of_the_grid() -> None:
    of = grid("tiny")
    areas = cell_areas_km2(of.points)
    assert areas.sum() == pytest.approx(4 * np.pi * EARTH_RADIUS_KM**2)
    inner = of.signed_km < -200
    np.testing.assert_allclose(np.sqrt(areas[inner]), 120, rtol=0.08)
    latitude = np.arcsin(of.points[:, 2])
    far = (of.signed_km > 2000) & (np.abs(np.rad2deg(latitude)) < 85)
    row = EARTH_RADIUS_KM**2 * np.deg2rad(4) * 2 * np.sin(np.deg2rad(2)) * np.cos(latitude)
    np.testing.assert_allclose(areas[far], row[far], rtol=0.01)


# Error by distance


def brute_force(
    signed: np.ndarray, error: np.ndarray, areas: np.ndarray, low: float, high: float
) -> tuple[float, float]:
    chosen = [(a, e) for s, e, a in zip(signed, error, areas) if low < s <= high]
    total = sum(a for a, _ in chosen)
    return np.sqrt(sum(a * e**2 for a, e in chosen) / total), sum(a * e for a, e in chosen) / total


def test_profile_is_that_of_brute_force() -> None:
    of = grid("tiny")
    error = of.noise(6).reshape(2, 3, -1) * (2 + np.tanh(of.signed_km / 500)) + 0.3
    edges = distance_bins(of.signed_km, of.band.cell_km)
    profile = error_profile(of.signed_km, error.astype(np.float32), of.areas, edges)
    assert profile.rms.shape == profile.bias.shape == (2, 3, len(edges) - 1)
    assert profile.centres_km[0] == pytest.approx((edges[0] + edges[1]) / 2)
    assert 0 in edges
    assert (profile.nodes > 0).all()
    for index in (0, 3, len(edges) - 2):
        rms, bias = brute_force(of.signed_km, error[1, 2], of.areas, *edges[index : index + 2])
        assert profile.rms[1, 2, index] == pytest.approx(rms, rel=1e-5)
        assert profile.bias[1, 2, index] == pytest.approx(bias, rel=1e-4, abs=1e-6)
        assert profile.nodes[index] == ((of.signed_km > edges[index]) & (of.signed_km <= edges[index + 1])).sum()


def test_profile_of_an_error_that_depends_on_distance_alone() -> None:
    of = grid("tiny")
    profile = error_profile(of.signed_km, np.where(of.in_lam, 2.0, -3.0), of.areas, [-900, -450, 0, 450, 900])
    np.testing.assert_allclose(profile.rms, [2, 2, 3, 3])
    np.testing.assert_allclose(profile.bias, [2, 2, -3, -3])


def test_a_bin_without_nodes_has_no_error() -> None:
    profile = error_profile([-5.0, 5.0, np.inf], [1.0, 3.0, 100.0], [1.0, 1.0, 1.0], [-10, 0, 1, 10])
    np.testing.assert_array_equal(profile.nodes, [1, 0, 1])
    np.testing.assert_array_equal(profile.rms, [1, np.nan, 3])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-3000, 0), min_size=1, max_size=40),
    st.lists(st.floats(1e-3, 3000), min_size=1, max_size=40),
    st.floats(20, 500),
)
def test_bins_are_never_empty_and_meet_at_the_border(inside: list[float], outside: list[float], cell: float) -> None:
    signed = np.array([*inside, *outside, -np.inf, np.inf])
    edges = distance_bins(signed, cell, reach_km=4000)
    assert (np.diff(edges) > 0).all()
    assert 0 in edges
    nodes = error_profile(signed, np.zeros(len(signed)), np.ones(len(signed)), edges).nodes
    assert (nodes > 0).all()
    assert nodes.sum() == len(inside) + len(outside)


def test_bins_need_nodes_on_both_sides() -> None:
    with pytest.raises(HouseError, match="No node outside the limited area lies within 1000 km"):
        distance_bins([-50.0, 0.0, 3000.0], 100)


# Spectra


def test_all_variance_of_a_cosine_is_at_its_wavelength() -> None:
    ny, nx, spacing = 40, 60, 15.0
    row, column = np.mgrid[:ny, :nx] + 0.5
    for m, n in ((0, 3), (6, 0), (8, 9), (39, 59)):
        field = 5 + 2 * np.cos(np.pi * m * row / ny) * np.cos(np.pi * n * column / nx)
        spectrum = lam_spectrum(field, (ny, nx), spacing)
        variance = field.var()
        assert spectrum.variance.sum() == pytest.approx(variance)
        at = spectrum.variance.argmax()
        assert spectrum.variance[at] == pytest.approx(variance)
        wavelength = 2 * spacing / np.hypot(m / ny, n / nx)
        assert spectrum.wavelength_km[at] >= wavelength * (1 - 1e-9)
        assert at + 1 == len(spectrum.wavelength_km) or spectrum.wavelength_km[at + 1] < wavelength
    whole = lam_spectrum(np.cos(np.pi * 6 * row / ny), (ny, nx), spacing)
    assert whole.wavelength_km[whole.variance.argmax()] == pytest.approx(200)  # 6 half waves in 600 km


@pytest.mark.parametrize("shape", [(26, 44), (30, 30), (45, 20), (4, 4)])
def test_parseval(shape: tuple[int, int]) -> None:
    fields = np.random.default_rng(0).normal(size=(2, 20, *shape)).cumsum(axis=-1).astype(np.float32) + 300
    spectrum = lam_spectrum(fields.reshape(2, 20, -1), shape, 3.0)
    np.testing.assert_allclose(spectrum.variance.sum(axis=-1), fields.astype(float).var(axis=(-2, -1)), rtol=1e-4)
    assert (np.diff(spectrum.wavelength_km) < 0).all()
    assert spectrum.wavelength_km[0] == pytest.approx(2 * 3.0 * max(shape))
    np.testing.assert_allclose(lam_spectrum(fields, shape, 3.0).variance, spectrum.variance)


def test_a_trend_does_not_leak_into_short_waves() -> None:
    """Against the periodogram, which takes the field as periodic."""
    field = np.add.outer(np.arange(40.0), 2 * np.arange(40.0))
    spectrum = lam_spectrum(field, (40, 40), 10.0)
    short = spectrum.variance[spectrum.wavelength_km < 100].sum() / field.var()
    fourier = np.abs(np.fft.fft2(field - field.mean())) ** 2 / field.size**2
    wavenumber = np.hypot(*np.meshgrid(np.fft.fftfreq(40, 10.0), np.fft.fftfreq(40, 10.0)))
    assert short < 0.1 * fourier[wavenumber > 1 / 100].sum() / field.var()


def test_ratio_of_spectra() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(30, 20))
    spectrum = lam_spectrum(truth, (30, 20), 3.0)
    np.testing.assert_allclose(lam_spectrum(0.5 * truth, (30, 20), 3.0).ratio(spectrum), 0.25)
    assert np.isnan(spectrum.ratio(lam_spectrum(np.ones((30, 20)), (30, 20), 3.0))).all()


def test_spectra_of_the_wrong_grid_are_refused() -> None:
    with pytest.raises(HouseError, match=r"shape \(2, 50\) do not match a limited area of 5 x 9 points"):
        lam_spectrum(np.zeros((2, 50)), (5, 9), 3.0)
    with pytest.raises(HouseError, match="3 x 9 points is too small for a spectrum"):
        lam_spectrum(np.zeros(27), (3, 9), 3.0)
    with pytest.raises(HouseError, match="1 of 50 values are not finite, in 1 of 2 fields"):
        lam_spectrum(np.array([[np.nan] + [0.0] * 24, [0.0] * 25]), (5, 5), 3.0)


# Drift


def test_drift_with_and_without_verification() -> None:
    rng = np.random.default_rng(2)
    forecast, verification = rng.normal(size=(2, 3, 4, 50)).astype(np.float32) + 280
    areas, in_lam = rng.uniform(1, 9, 50), np.arange(50) % 3 > 0
    mean = np.average(forecast[..., in_lam].astype(float), axis=-1, weights=areas[in_lam])
    np.testing.assert_allclose(lam_mean(forecast, in_lam, areas), mean)
    alone = lam_drift(forecast, in_lam, areas)
    np.testing.assert_allclose(alone, mean - mean[:, :1], atol=1e-9)
    against = np.average(verification[..., in_lam].astype(float), axis=-1, weights=areas[in_lam])
    np.testing.assert_allclose(lam_drift(forecast, in_lam, areas, verification), mean - against, atol=1e-9)
    warmer = forecast + np.arange(4, dtype=np.float32)[:, None] * in_lam
    np.testing.assert_allclose(lam_drift(warmer, in_lam, areas) - alone, np.tile(np.arange(4), (3, 1)), atol=1e-4)


def test_drift_of_the_wrong_input_is_refused() -> None:
    forecast, in_lam, areas = np.zeros((3, 10)), np.arange(10) < 5, np.ones(10)
    with pytest.raises(HouseError, match=r"verification has shape \(2, 10\), the forecast has shape \(3, 10\)"):
        lam_drift(forecast, in_lam, areas, forecast[:2])
    forecast[1, 2] = np.nan
    with pytest.raises(HouseError, match="1 of 30 values are not finite, in 1 of 3 fields"):
        lam_drift(forecast, in_lam, areas)
