"""Nested grids and fields for the tests of `anemoi_house.boundary`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from anemoi_house.boundary.band import Band, cell_areas_km2
from anemoi_house.geometry import (
    EARTH_RADIUS_KM,
    HRRR_3KM,
    HRRR_15KM,
    LambertGrid,
    global_grid,
    signed_distance_km,
    to_cartesian,
    to_latlon,
)


@dataclass(frozen=True, eq=False)
class Nested:
    """A cutout: nodes of the LAM, then those of the globe outside of it."""

    points: np.ndarray
    in_lam: np.ndarray
    shape: tuple[int, int]

    @cached_property
    def areas(self) -> np.ndarray:
        return cell_areas_km2(self.points)

    @cached_property
    def band(self) -> Band:
        return Band.along_border(self.points, self.in_lam, self.areas)

    @cached_property
    def signed_km(self) -> np.ndarray:
        return signed_distance_km(self.points, self.in_lam)

    def noise(self, number: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(number, len(self.points)))

    def waves(self, cells: float, number: int, seed: int = 0, towards: float | None = None) -> np.ndarray:
        """Return sums of four plane waves, of variance one, in all directions or near `towards` (radians from east)."""
        rng = np.random.default_rng(seed)
        middle = self.points[self.in_lam].mean(axis=0)
        middle /= np.linalg.norm(middle)
        east = np.cross([0.0, 0.0, 1.0], middle)
        east /= np.linalg.norm(east)
        angles = rng.uniform(0, 2 * np.pi, (number, 4))
        if towards is not None:
            angles = towards + rng.normal(0, 0.15, (number, 4))
        vectors = np.cos(angles)[..., None] * east + np.sin(angles)[..., None] * np.cross(middle, east)
        phases = (2 * np.pi * EARTH_RADIUS_KM / (cells * self.band.cell_km)) * vectors @ self.points.T
        return np.cos(phases + rng.uniform(0, 2 * np.pi, (number, 4, 1))).sum(axis=1) / np.sqrt(2)


def nested(lam: LambertGrid, spacing: float, turn: np.ndarray | None = None, near: bool = False) -> Nested:
    """Return a LAM, rotated by a matrix, in a global grid or in its part near the LAM."""
    local = to_cartesian(*lam.latlon())
    globe = to_cartesian(*global_grid(spacing))
    turn = np.eye(3) if turn is None else turn
    x, y = lam.project(*lam.latlon())
    at_x, at_y = lam.project(*to_latlon(globe @ turn))  # turned back
    outside = (at_x < x.min()) | (at_x > x.max()) | (at_y < y.min()) | (at_y > y.max())
    if near:
        middle = local.mean(axis=0) @ turn.T
        outside &= globe @ (middle / np.linalg.norm(middle)) > np.cos(2200 / EARTH_RADIUS_KM)
    points = np.concatenate([local @ turn.T, globe[outside]])
    return Nested(points, np.arange(len(points)) < len(local), lam.shape)


def turn_to(latitude: float, longitude: float) -> np.ndarray:
    """Return the rotation that moves the centre of the HRRR grid to a point."""
    here, there = (to_cartesian([lat], [lon])[0] for lat, lon in ((38.5, 262.5), (latitude, longitude)))
    axis = np.cross(here, there)
    sine, cosine = np.linalg.norm(axis), here @ there
    x, y, z = axis / sine
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + sine * skew + (1 - cosine) * skew @ skew


@cache
def grid(name: str) -> Nested:
    if name == "tiny":
        return nested(HRRR_3KM.coarsened(40), 4.0)
    if name == "medium":
        return nested(HRRR_3KM.coarsened(20), 4.0)
    if name == "finer":  # part of the grids of the published experiments
        return nested(LambertGrid(110, 80, 15.0, 32.0, 255.0, HRRR_15KM.parallel, HRRR_15KM.meridian), 1.0, near=True)
    if name == "pole":
        return nested(HRRR_3KM.coarsened(40), 4.0, turn_to(89.0, 10.0))
    if name == "date line":
        return nested(HRRR_3KM.coarsened(40), 4.0, turn_to(-20.0, 180.0))
    raise KeyError(name)


NAMES = ("tiny", "medium", "finer", "pole", "date line")
