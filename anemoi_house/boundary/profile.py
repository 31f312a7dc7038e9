"""Error against distance from the edge of the LAM. Arrays in, arrays out: numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anemoi_house.boundary.index import require_finite
from anemoi_house.errors import HouseError
from anemoi_house.geometry import Floats

REACH = 10
"""How far bins go to either side by default, in cells."""


@dataclass(frozen=True)
class Profile:
    """Errors by signed distance from the edge.

    Attributes
    ----------
    edges_km : ndarray, shape (bins + 1,)
        Limits of the bins: negative inside, and each bin with its upper limit but without its lower one.
    rms, bias : ndarray, shape (..., bins)
        Area-weighted root mean square and mean of the error, in the field's units; NaN in a bin without nodes.
    nodes : ndarray of int, shape (bins,)
        Nodes in each bin.
    """

    edges_km: Floats
    rms: Floats
    bias: Floats
    nodes: NDArray[np.int64]

    @property
    def centres_km(self) -> Floats:
        """Middles of the bins."""
        return (self.edges_km[1:] + self.edges_km[:-1]) / 2


def distance_bins(signed_km: ArrayLike, cell_km: float, reach_km: float | None = None) -> Floats:
    """Limits of bins of signed distance, in km, none of them empty.

    Bins are `cell_km` wide and meet at the edge itself, distance 0. An empty one is joined to the next farther out.

    Parameters
    ----------
    signed_km : array_like, shape (nodes,)
        Negative inside; may be infinite.
    cell_km : float
        Such as `Band.cell_km`.
    reach_km : float, optional
        How far to go to either side: ten cells by default, or as far as there are nodes.

    Raises
    ------
    HouseError
        Where a side has no nodes within reach.
    """
    signed = np.asarray(signed_km, dtype=np.float64)
    reach = REACH * cell_km if reach_km is None else float(reach_km)
    sides = []
    for distance, what in ((-signed[signed <= 0], "in the limited area"), (signed[signed > 0], "outside of it")):
        counts = np.bincount(
            np.floor(distance[distance < reach] / cell_km).astype(int)
            if what.startswith("in")
            else np.ceil(distance[distance <= reach] / cell_km).astype(int) - 1
        )
        if not len(counts):
            raise HouseError(f"no bins of distance: no node {what} lies within {reach:.0f} km of its edge")
        sides.append((np.flatnonzero(counts) + 1.0) * cell_km)
    inside, outside = sides
    return np.concatenate([-inside[::-1], [0.0], outside])


def error_profile(signed_km: ArrayLike, error: ArrayLike, areas: ArrayLike, edges_km: ArrayLike) -> Profile:
    """Root mean square and mean of errors in bins of signed distance from the edge.

    Parameters
    ----------
    signed_km : array_like, shape (nodes,)
        Distance of each node from the edge, negative inside.
    error : array_like, shape (..., nodes)
        Forecast minus verification.
    areas : array_like, shape (nodes,)
        Weights.
    edges_km : array_like, shape (bins + 1,)
        Limits of the bins, ascending, as from `distance_bins`.

    Raises
    ------
    HouseError
        For errors that are not finite.
    """
    error, edges = np.asarray(error), np.asarray(edges_km, dtype=np.float64)
    require_finite(error)
    bins = np.searchsorted(edges, np.asarray(signed_km, dtype=np.float64), side="left") - 1
    order = np.argsort(bins, kind="stable")
    order = order[(bins[order] >= 0) & (bins[order] < len(edges) - 1)]
    nodes = np.bincount(bins[order], minlength=len(edges) - 1)
    filled = np.flatnonzero(nodes)
    starts = np.concatenate([[0], np.cumsum(nodes[filled])[:-1]]).astype(int)
    weights = np.asarray(areas, dtype=np.float64)[order]
    total = np.add.reduceat(weights, starts) if len(order) else weights

    flat = error.reshape(-1, error.shape[-1])
    sums = np.full((2, len(flat), len(nodes)), np.nan)
    for index, field in enumerate(flat if len(order) else []):  # one at a time: the copies stay in the cache
        values = field[order].astype(np.float64)
        weighted = weights * values
        sums[0, index, filled] = np.add.reduceat(weighted * values, starts) / total
        sums[1, index, filled] = np.add.reduceat(weighted, starts) / total
    squares, bias = sums.reshape(2, *error.shape[:-1], len(nodes))
    return Profile(edges_km=edges, rms=np.sqrt(squares), bias=bias, nodes=nodes)
