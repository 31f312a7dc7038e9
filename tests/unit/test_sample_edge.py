"""The error at the edge of the LAM of a sample."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from anemoi_house.geometry import HRRR_3KM
from anemoi_house.sample.atmosphere import EPOCH
from anemoi_house.sample.build import GRIDS
from anemoi_house.sample.edge import SIZES, EdgeError

GRID = HRRR_3KM.coarsened(20)
DATES = [EPOCH + step * timedelta(hours=6) for step in range(80)]


@pytest.fixture(scope="module")
def errors() -> dict[str, np.ndarray]:
    made = EdgeError(GRID)
    fields = [made.at(date) for date in DATES]
    return {name: np.stack([field[name] for field in fields]) for name in SIZES}


def test_it_is_as_large_as_said_on_the_edge_and_gone_within(errors: dict[str, np.ndarray]) -> None:
    for name, size in SIZES.items():
        series = errors[name]
        edge = np.concatenate([series[:, 0], series[:, -1], series[:, 1:-1, 0], series[:, 1:-1, -1]], axis=1)
        assert edge.std() == pytest.approx(size, rel=0.05)
        assert abs(edge.mean()) < 0.05 * size
        # 4 cells of 60 km within, and 8.
        assert series[:, 4, 20:-20].std() == pytest.approx(size * np.exp(-4), rel=0.15)
        assert np.abs(series[:, 8:-8, 8:-8]).max() < 1e-5 * size


def test_a_date_tells_nothing_of_the_next_nor_a_variable_of_another(errors: dict[str, np.ndarray]) -> None:
    edge = {name: series[:, 0] / SIZES[name] for name, series in errors.items()}
    for lag in (1, 2, 4):
        assert abs(np.mean(edge["t"][lag:] * edge["t"][:-lag])) < 0.08
    assert abs(np.mean(edge["u"] * edge["v"])) < 0.08


def test_it_is_smooth_enough_for_the_grid(errors: dict[str, np.ndarray]) -> None:
    """Waves of 250 km and longer: neighbours 60 km apart differ by less than the error itself."""
    along = np.diff(errors["t"][:, 0], axis=-1).std() / errors["t"][:, 0].std()
    assert 0.5 < along < 1.3


def test_the_same_date_has_the_same_error_for_ever() -> None:
    """Numbers of the day that this was written: another generator would give others."""
    first = EdgeError(GRID).at(EPOCH)["gh"]
    assert first.shape == GRID.shape
    np.testing.assert_array_equal(first, EdgeError(GRID).at(EPOCH)["gh"])
    assert first[0, :3] == pytest.approx((0.66803606, -7.12766775, -13.48463374), abs=1e-6)


def test_only_the_sample_that_says_so_has_it() -> None:
    assert [name for name, grid in GRIDS.items() if grid.edge_error] == ["study_edge"]
