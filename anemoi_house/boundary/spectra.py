"""Variance by wavelength inside the LAM. Arrays in, arrays out: numpy and scipy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dctn

from anemoi_house.boundary.index import require_finite
from anemoi_house.errors import HouseError
from anemoi_house.geometry import Floats

SMALLEST_GRID = 4
"""Points each way below which there is no spectrum to speak of."""

_FIELDS_AT_ONCE = 16


@dataclass(frozen=True)
class Spectrum:
    """Variance of fields in bands of wavelength.

    Attributes
    ----------
    wavelength_km : ndarray, shape (bands,)
        Longest wave of each band, from long to short.
    variance : ndarray, shape (..., bands)
        In squared units; the sum over the bands is the variance of the field.
    """

    wavelength_km: Floats
    variance: Floats

    def ratio(self, other: Spectrum) -> Floats:
        """Variance over that of another spectrum of the same grid, such as the verification's; NaN where that is 0."""
        nothing = np.full(np.broadcast_shapes(self.variance.shape, other.variance.shape), np.nan)
        return np.divide(self.variance, other.variance, out=nothing, where=other.variance > 0)


def lam_spectrum(field: ArrayLike, shape: tuple[int, int], spacing_km: float) -> Spectrum:
    """Variance spectrum of fields on the grid of the LAM, by the discrete cosine transform.

    The field is taken as mirrored at the edges, so that a trend across the limited area does not leak into short waves
    (Denis, Cote and Laprise, 2002, Monthly Weather Review 130, p. 1812-1829).

    Parameters
    ----------
    field : array_like, shape (..., ny * nx) or (..., ny, nx)
        On the nodes of the LAM alone, in the order of the grid.
    shape : (int, int)
        (ny, nx).
    spacing_km : float
        Grid spacing, the same both ways.

    Raises
    ------
    HouseError
        For another number of nodes than the shape's, a grid of less than four points either way, or values that are
        not finite.
    """
    ny, nx = shape
    if min(shape) < SMALLEST_GRID:
        raise HouseError(f"a limited area of {ny} x {nx} points has no spectrum: it takes {SMALLEST_GRID} each way")
    field = np.asarray(field)
    leading = field.shape[:-2] if field.shape[-2:] == (ny, nx) else field.shape[:-1]
    if field.size != np.prod(leading, dtype=int) * ny * nx:
        raise HouseError(f"fields of shape {field.shape} do not belong to a limited area of {ny} x {nx} points")
    grids = field.reshape(-1, ny, nx)
    if grids.dtype != np.float32:
        grids = grids.astype(np.float64)
    require_finite(grids.reshape(len(grids), -1))

    smaller = min(shape)
    # Normalised wavenumber: 1 for waves of two grid spacings, so that elongated grids are treated alike both ways.
    wavenumber = np.hypot(np.arange(ny)[:, None] / ny, np.arange(nx)[None, :] / nx)
    band = np.floor(wavenumber * smaller + 1e-9).astype(int).ravel()
    variance = np.zeros((len(grids), band.max() + 1))
    for start in range(0, len(grids), _FIELDS_AT_ONCE):
        some = grids[start : start + _FIELDS_AT_ONCE]
        some = some - some.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(some.dtype)
        squares = dctn(some, axes=(1, 2), norm="ortho", workers=-1).reshape(len(some), -1) ** 2 / (ny * nx)
        for index, each in enumerate(squares):
            variance[start + index] = np.bincount(band, weights=each)

    lowest = np.arange(variance.shape[1], dtype=np.float64)
    lowest[0] = smaller / max(shape)  # of waves longer than the smaller side has, the longest
    kept = np.bincount(band[1:], minlength=len(lowest)) > 0  # on a square grid, band 0 is the mean alone
    wavelength = 2 * spacing_km * smaller / lowest
    return Spectrum(wavelength[kept], variance[:, kept].reshape(*leading, -1))
