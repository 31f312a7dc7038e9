"""Forecasts on a small nested grid with known errors, for the tests of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from forecasts.fabricate import fabricate
from scipy.spatial import SphericalVoronoi
from small_grids import globe_grid, haversine_km, unit_vectors

from anemoi_house.scores.grid import Widths

WIDTHS = Widths(400.0, 600.0)
LEADS_H = (0, 6, 12)
DATES = tuple(f"2020-01-{day:02d}T00" for day in range(1, 7))
UNITS = {"gh_500": "m", "t_850": "K"}
EARTH_KM2 = 4 * np.pi * 6371.229**2


@dataclass(frozen=True)
class World:
    """A LAM in a global grid, its nodes in the order of a forecast."""

    latitudes: np.ndarray
    longitudes: np.ndarray
    shape: tuple[int, int]

    @property
    def in_lam(self) -> np.ndarray:
        return np.arange(len(self.latitudes)) < self.shape[0] * self.shape[1]

    @property
    def border(self) -> np.ndarray:
        """LAM nodes in its outermost rows and columns."""
        inside = np.zeros(self.shape, dtype=bool)
        inside[1:-1, 1:-1] = True
        return np.flatnonzero(~inside.ravel())

    def km_to(self, nodes: np.ndarray) -> np.ndarray:
        """Return the distance of each node from the nearest of some nodes."""
        own = self.latitudes, self.longitudes
        return haversine_km(own, (self.latitudes[nodes], self.longitudes[nodes])).min(axis=1)

    @property
    def signed_km(self) -> np.ndarray:
        return np.where(self.in_lam, -1, 1) * self.km_to(self.border)

    @property
    def areas(self) -> np.ndarray:
        return SphericalVoronoi(unit_vectors(self.latitudes, self.longitudes)).calculate_areas()


def world(trim: int = 0, centre: tuple[float, float] = (40.0, 265.0), globe_step: float = 5.0) -> World:
    """Return a LAM of 16 x 20 points, 250 km apart, around a centre, with `trim` points cut off on every side."""
    rows, columns = np.meshgrid(np.arange(16) - 7.5, np.arange(20) - 9.5, indexing="ij")
    inner = slice(trim, -trim or None)
    plane = np.stack([columns[inner, inner].ravel(), rows[inner, inner].ravel()]) * 250 / 6371.229
    north = unit_vectors(np.array([centre[0]]), np.array([centre[1]]))[0]
    lon = np.deg2rad(centre[1])
    east = np.array([-np.sin(lon), np.cos(lon), 0])
    points = north + plane[0][:, None] * east + plane[1][:, None] * np.cross(north, east)
    points /= np.linalg.norm(points, axis=1, keepdims=True)  # a gnomonic grid
    globe = unit_vectors(*globe_grid(globe_step))
    inside = np.abs(globe @ np.stack([east, np.cross(north, east)], axis=1) / np.maximum(globe @ north, 1e-9)[:, None])
    far = (globe @ north < 0.1) | (inside > (np.abs(plane).max(axis=1) + 0.02)).any(axis=1)
    points = np.concatenate([points, globe[far]])
    latitudes = np.rad2deg(np.arcsin(points[:, 2]))
    longitudes = np.rad2deg(np.arctan2(points[:, 1], points[:, 0])) % 360
    return World(latitudes, longitudes, columns[inner, inner].shape)


def truth(where: World, lead_h: int) -> np.ndarray:
    """Return a smooth field."""
    return 20 * np.sin(unit_vectors(where.latitudes, where.longitudes) @ np.array([3.0, 2, 4]) + lead_h / 24)


class Analyses:
    """Analyses of a world, as `Verification` has them."""

    def __init__(self, where: World, missing: Sequence[str] = ()) -> None:
        self._world = where
        self.missing = tuple(np.datetime64(date, "s") for date in missing)

    def values(self, forecast: Any, variable: str) -> np.ndarray:
        rows = [
            np.full(len(self._world.latitudes), np.nan) if date in self.missing else truth(self._world, lead)
            for date, lead in zip(forecast.valid_dates, forecast.leads_h)
        ]
        return np.stack(rows).astype(np.float32)


def verify(worlds: dict[str, World], **how: Any) -> Callable[..., Analyses]:
    """Return a source of analyses for the comparison; worlds are by run id."""
    return lambda forecasts, variables: Analyses(worlds[forecasts[0].about.run_id], **how)


Error = Callable[[World, str, str, int], np.ndarray]
"""Error of a forecast at each node: world, variable, date and lead time."""


def write_run(
    folder: Path,
    where: World,
    error: Error,
    *,
    run_id: str = "run",
    name: str = "nbd",
    dates: Sequence[str] = DATES,
    leads_h: Sequence[int] = LEADS_H,
    variables: Sequence[str] = ("gh_500",),
    **more: Any,
) -> Path:
    """Write the forecasts of a run; return their folder."""
    for date in dates:
        fields = {
            variable: np.stack(
                [truth(where, lead) + (error(where, variable, date, lead) if lead else 0) for lead in leads_h]
            )
            for variable in variables
        }
        fabricate(
            folder / run_id, date, leads_h, fields, where.latitudes, where.longitudes, where.shape,
            run_id=run_id, name=name, units=UNITS, dataset={"of": run_id}, **more,
        )  # fmt: skip
    return folder / run_id
