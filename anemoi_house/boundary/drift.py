"""Drift of the LAM's mean with lead time. Arrays in, arrays out: numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from anemoi_house.boundary.index import require_finite
from anemoi_house.errors import HouseError
from anemoi_house.geometry import Bools, Floats


def lam_mean(field: ArrayLike, in_lam: Bools, areas: ArrayLike) -> Floats:
    """Return the area-weighted mean over the nodes of the LAM.

    Parameters
    ----------
    field : array_like, shape (..., nodes)
    in_lam : ndarray of bool, shape (nodes,)
    areas : array_like, shape (nodes,)
        Weights.

    Raises
    ------
    HouseError
        For values that are not finite.
    """
    field = np.asarray(field)
    require_finite(field)
    return np.average(field[..., in_lam], axis=-1, weights=np.asarray(areas, dtype=np.float64)[in_lam])


def lam_drift(forecast: ArrayLike, in_lam: Bools, areas: ArrayLike, verification: ArrayLike | None = None) -> Floats:
    """Return how far the mean over the LAM has drifted, by lead time.

    Parameters
    ----------
    forecast : array_like, shape (..., leads, nodes)
    in_lam : ndarray of bool, shape (nodes,)
    areas : array_like, shape (nodes,)
        Weights.
    verification : array_like, shape (..., leads, nodes), optional
        Analyses at the same times.

    Returns
    -------
    ndarray, shape (..., leads)
        Mean of the forecast minus that of the verification. Without verification, minus that of the first lead time,
        so that it includes the diurnal cycle.

    Raises
    ------
    HouseError
        For values that are not finite, or a verification of a different shape.
    """
    mean = lam_mean(forecast, in_lam, areas)
    if verification is None:
        return mean - mean[..., :1]
    if np.shape(verification) != np.shape(forecast):
        raise HouseError(
            f"The verification has shape {np.shape(verification)}, the forecast has shape {np.shape(forecast)}. "
            "Give both at the same lead times and nodes."
        )
    return mean - lam_mean(verification, in_lam, areas)
