"""Error against distance from the border of the LAM. Arrays in, arrays out: numpy and scipy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from anemoi_house.boundary.index import require_finite
from anemoi_house.errors import HouseError
from anemoi_house.geometry import Floats

REACH = 10
"""Default extent of the bins on either side, in cells."""


@dataclass(frozen=True)
class Profile:
    """Errors by signed distance from the border.

    Attributes
    ----------
    limits_km : ndarray, shape (bins + 1,)
        Limits of the bins, negative inside. A bin includes its upper limit and excludes its lower one.
    rms, bias : ndarray, shape (..., bins)
        Area-weighted root mean square and mean of the error, in the field's units; NaN in a bin without nodes.
    nodes : ndarray of int, shape (bins,)
        Nodes in each bin.
    """

    limits_km: Floats
    rms: Floats
    bias: Floats
    nodes: NDArray[np.int64]

    @property
    def centres_km(self) -> Floats:
        """Centres of the bins."""
        return (self.limits_km[1:] + self.limits_km[:-1]) / 2


def distance_bins(signed_km: ArrayLike, cell_km: float, reach_km: float | None = None) -> Floats:
    """Return limits of bins of signed distance, in km, without empty bins.

    Bins are `cell_km` wide and meet at the border, distance 0. An empty bin is merged with the next one farther out.

    Parameters
    ----------
    signed_km : array_like, shape (nodes,)
        Negative inside; may be infinite.
    cell_km : float
        Such as `Band.cell_km`.
    reach_km : float, optional
        Extent on either side; by default ten cells, or to the farthest node if that is nearer.

    Raises
    ------
    HouseError
        If a side has no node within reach.
    """
    signed = np.asarray(signed_km, dtype=np.float64)
    reach = REACH * cell_km if reach_km is None else float(reach_km)
    inside = np.floor(-signed[(signed <= 0) & (signed > -reach)] / cell_km)
    outside = np.ceil(signed[(signed > 0) & (signed <= reach)] / cell_km) - 1
    for cells, side in ((inside, "inside"), (outside, "outside")):
        if not len(cells):
            raise HouseError(f"No node {side} the limited area lies within {reach:.0f} km of its border.")
    below, above = ((np.unique(cells) + 1) * cell_km for cells in (inside, outside))
    return np.concatenate([-below[::-1], [0.0], above])


def error_profile(signed_km: ArrayLike, error: ArrayLike, areas: ArrayLike, limits_km: ArrayLike) -> Profile:
    """Return root mean square and mean of errors in bins of signed distance from the border.

    Parameters
    ----------
    signed_km : array_like, shape (nodes,)
        Distance of each node from the border, negative inside.
    error : array_like, shape (..., nodes)
        Forecast minus verification.
    areas : array_like, shape (nodes,)
        Weights.
    limits_km : array_like, shape (bins + 1,)
        Limits of the bins, ascending, as from `distance_bins`.

    Raises
    ------
    HouseError
        For errors that are not finite.
    """
    error, limits = np.asarray(error), np.asarray(limits_km, dtype=np.float64)
    require_finite(error)
    bins = np.searchsorted(limits, np.asarray(signed_km, dtype=np.float64), side="left") - 1
    number = len(limits) - 1
    (within,) = np.nonzero((bins >= 0) & (bins < number))
    weights = np.asarray(areas, dtype=np.float64)[within]
    area = np.bincount(bins[within], weights, minlength=number)
    sums = csr_array((weights, (bins[within], within)), shape=(number, error.shape[-1]))
    errors = error.reshape(-1, error.shape[-1]).T.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a bin without nodes
        squares, bias = ((sums @ each).T / area for each in (errors**2, errors))
    shape = (*error.shape[:-1], number)
    nodes = np.bincount(bins[within], minlength=number)
    return Profile(limits_km=limits, rms=np.sqrt(squares).reshape(shape), bias=bias.reshape(shape), nodes=nodes)
