"""Data nodes of a run around its own boundary: distances, areas, regions, bins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.band import Band, cell_areas_km2
from anemoi_house.boundary.profile import distance_bins
from anemoi_house.boundary.regions import REGIONS, regions
from anemoi_house.boundary.widths import INNER_KM, OUTER_KM
from anemoi_house.geometry import Bools, Floats, signed_distance_km, spacing_km, to_cartesian

REACH_KM = 2000.0
"""Distance from the boundary up to which errors are shown."""


class Widths(NamedTuple):
    """Widths of the two rings along the boundary, in km."""

    inner_km: float = INNER_KM
    outer_km: float = OUTER_KM


@dataclass(eq=False)
class Grid:
    """Data nodes of a run, and what scores need of them, each computed once.

    Attributes
    ----------
    latitudes, longitudes : ndarray, shape (nodes,)
        Degrees.
    in_lam : ndarray of bool, shape (nodes,)
    lam_shape : tuple of int or None
        Rows and columns of the LAM, whose nodes come row by row.
    widths : Widths
        Of the rings.
    """

    latitudes: Floats
    longitudes: Floats
    in_lam: Bools
    lam_shape: tuple[int, int] | None
    widths: Widths

    @cached_property
    def node_ids(self) -> NDArray[np.int64]:
        """An integer for each node; nodes of two grids within some 100 m of each other have the same one."""
        latitudes = np.round(self.latitudes * 1e3).astype(np.int64)
        return latitudes * 360_000 + np.round(self.longitudes * 1e3).astype(np.int64) % 360_000

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for equal grids."""
        return self.node_ids.tobytes(), self.in_lam.tobytes()

    @cached_property
    def points(self) -> Floats:
        """Unit vectors, of shape (nodes, 3)."""
        return to_cartesian(self.latitudes, self.longitudes)

    @cached_property
    def areas(self) -> Floats:
        """Area of each node's cell in km2."""
        return cell_areas_km2(self.points)

    @cached_property
    def signed_km(self) -> Floats:
        """Distance from the boundary, negative in the LAM."""
        return signed_distance_km(self.points, self.in_lam, within_km=3 * REACH_KM)

    @cached_property
    def band(self) -> Band:
        """Sites along the boundary."""
        return Band.along_border(self.points, self.in_lam, self.areas)

    @cached_property
    def bins_km(self) -> Floats:
        """Bounds of the bins of distance from the boundary."""
        return distance_bins(self.signed_km, self.band.cell_km, REACH_KM)

    @cached_property
    def weights(self) -> dict[str, Floats]:
        """Weight of each node in the mean over each region."""
        return region_weights(regions(self.signed_km, *self.widths), self.areas)

    @cached_property
    def lam_spacing_km(self) -> float | None:
        """Mean of the LAM's spacing along rows and columns; None without a two-dimensional grid."""
        if self.lam_shape is None:
            return None
        lattice = [part[self.in_lam].reshape(self.lam_shape) for part in (self.latitudes, self.longitudes)]
        return float(np.mean(spacing_km(*lattice)))


def region_weights(codes: NDArray[np.int8], areas: Floats) -> dict[str, Floats]:
    """Return the weight of each node in the area-weighted mean over each region, from the codes of the regions."""
    inside = {region: np.where(codes == code, areas, 0.0) for code, region in enumerate(REGIONS)}
    return {region: weights / weights.sum() for region, weights in inside.items()}
