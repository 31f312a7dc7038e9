"""Where the nodes of compared runs lie: each around its own boundary, and the places that all of them have.

A trim moves the boundary. So runs are compared twice: each around its own boundary, and on the nodes that all have in
the same role, inside the smallest LAM and outside the largest. What lies between, the trimmed zone, is LAM in one run
and global in another, with another truth in each: it is in no common score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.band import Band, cell_areas_km2
from anemoi_house.boundary.profile import distance_bins
from anemoi_house.boundary.regions import REGIONS, regions
from anemoi_house.boundary.widths import INNER_KM, OUTER_KM
from anemoi_house.errors import HouseError
from anemoi_house.geometry import distance_to_km, signed_distance_km, spacing_km, to_cartesian

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

REACH_KM = 2000.0
"""Distance from the boundary up to which errors are shown."""


class Widths(NamedTuple):
    """Widths of the two rings along the boundary, in km."""

    inner_km: float = INNER_KM
    outer_km: float = OUTER_KM


class Grid:
    """Data nodes of a run, with what is computed of them once.

    Parameters
    ----------
    latitudes, longitudes : ndarray, shape (nodes,)
        Degrees.
    in_lam : ndarray of bool, shape (nodes,)
    lam_shape : tuple of int or None
        Rows and columns of the LAM, whose nodes come row by row.
    widths : Widths
        Of the rings.
    """

    def __init__(
        self,
        latitudes: Floats,
        longitudes: Floats,
        in_lam: Bools,
        lam_shape: tuple[int, int] | None,
        widths: Widths = Widths(),  # noqa: B008
    ) -> None:
        self.latitudes, self.longitudes = latitudes, longitudes
        self.in_lam, self.lam_shape, self.widths = in_lam, lam_shape, widths

    @cached_property
    def names(self) -> NDArray[np.int64]:
        """A number for each node that is the same wherever a node lies at the same place, to some 100 m."""
        latitudes = np.round(self.latitudes * 1e3).astype(np.int64)
        return latitudes * 360_000 + np.round(self.longitudes * 1e3).astype(np.int64) % 360_000

    @property
    def key(self) -> tuple[bytes, bytes]:
        """The same for grids that are alike."""
        return self.names.tobytes(), self.in_lam.tobytes()

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
        """Cells along the boundary."""
        return Band.along_border(self.points, self.in_lam, self.areas)

    @cached_property
    def bins_km(self) -> Floats:
        """Bounds of the distances from the boundary at which errors are shown."""
        return distance_bins(self.signed_km, self.band.cell_km, REACH_KM)

    @cached_property
    def weights(self) -> Floats:
        """Weight of each node in the mean over each region, of shape (regions, nodes)."""
        codes = regions(self.signed_km, *self.widths)
        return _weights(codes, self.areas)

    @cached_property
    def lam_spacing_km(self) -> float | None:
        """Mean of the LAM's spacing along rows and columns; None without a two-dimensional grid."""
        if self.lam_shape is None:
            return None
        latitudes, longitudes = (
            part[self.in_lam].reshape(self.lam_shape) for part in (self.latitudes, self.longitudes)
        )
        return float(np.mean(spacing_km(latitudes, longitudes)))


@dataclass(frozen=True)
class Shared:
    """Nodes that all grids have in the same role.

    Attributes
    ----------
    nodes : list of ndarray of int
        For each grid, its indices of these nodes, in the same order for all.
    weights : ndarray, shape (regions, shared nodes)
        Weight of each in the mean over each region: inside, of the smallest LAM; outside, of the largest.
    lam_nodes : int
    trimmed_nodes : int
        LAM nodes of the largest LAM that are none of the smallest.
    alike : bool
        Whether all grids are the same.
    """

    nodes: list[Indices]
    weights: Floats
    lam_nodes: int
    trimmed_nodes: int
    alike: bool


def shared_places(grids: Sequence[Grid], labels: Sequence[str]) -> Shared:
    """Nodes that all grids have as LAM, and those that all have outside.

    Parameters
    ----------
    grids : sequence of Grid
        One of each run.
    labels : sequence of str
        The runs, for messages.

    Raises
    ------
    HouseError
        Where two grids differ by more than how much of the LAM's edge is trimmed.
    """
    first = grids[0]
    for grid, label in zip(grids[1:], labels[1:]):
        _check_trim_alone(first, grid, labels[0], label)
    lam, outside = (_in_all([grid.names[grid.in_lam == role] for grid in grids]) for role in (True, False))
    wanted = np.concatenate([lam, outside])
    nodes = [_places(grid.names, wanted) for grid in grids]
    signed = np.stack([grid.signed_km[picked] for grid, picked in zip(grids, nodes)])
    inside = np.arange(len(wanted)) < len(lam)
    codes = regions(np.where(inside, signed.max(axis=0), signed.min(axis=0)), *first.widths)
    largest = max(int(grid.in_lam.sum()) for grid in grids)
    return Shared(
        nodes,
        _weights(codes, first.areas[nodes[0]]),
        len(lam),
        largest - len(lam),
        all(grid.key == first.key for grid in grids[1:]),
    )


def _check_trim_alone(first: Grid, other: Grid, first_label: str, label: str) -> None:
    if first.key == other.key:
        return
    way_out = "Runs can be compared whose grids are the same but for the trim of the LAM."
    common = np.isin(first.names[first.in_lam], other.names[other.in_lam])
    if not common.any():
        raise HouseError(
            f"the LAMs of {first_label} ({int(first.in_lam.sum()):,} nodes) and {label} "
            f"({int(other.in_lam.sum()):,} nodes) have no node in common: another area or another spacing. {way_out}"
        )
    lam = np.concatenate([grid.points[grid.in_lam] for grid in (first, other)])
    for one, another, one_label, another_label in (
        (first, other, first_label, label),
        (other, first, label, first_label),
    ):
        alone = ~one.in_lam & ~np.isin(one.names, another.names[~another.in_lam])
        # Global nodes that the larger LAM replaces lie among its nodes, or a cell beside them.
        far = np.isinf(distance_to_km(one.points[alone], lam, within_km=one.band.cell_km)).sum() if alone.any() else 0
        if far:
            raise HouseError(
                f"{int(far):,} nodes of {one_label} outside the LAM are none of {another_label}: another global grid. "
                f"{way_out}"
            )


def _weights(codes: NDArray[np.int8], areas: Floats) -> Floats:
    weights = np.stack([np.where(codes == code, areas, 0.0) for code in range(len(REGIONS))])
    return weights / weights.sum(axis=1, keepdims=True)


def _in_all(names: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    common = names[0]
    for more in names[1:]:
        common = common[np.isin(common, more)]
    return common


def _places(names: NDArray[np.int64], wanted: NDArray[np.int64]) -> Indices:
    order = np.argsort(names)
    return order[np.searchsorted(names, wanted, sorter=order)]
