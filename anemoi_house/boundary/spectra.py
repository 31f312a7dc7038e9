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
"""Fewest points in each direction for which a spectrum is meaningful."""


@dataclass(frozen=True)
class Spectrum:
    """Variance of fields by band of wavelength.

    Attributes
    ----------
    wavelength_km : ndarray, shape (bands,)
        Longest wavelength of each band, in descending order.
    variance : ndarray, shape (..., bands)
        In squared units; the bands sum to the variance of the field.
    """

    wavelength_km: Floats
    variance: Floats

    def ratio(self, other: Spectrum) -> Floats:
        """Return the variance divided by another spectrum's on the same grid, such as the verification's; NaN for 0."""
        missing = np.full(np.broadcast_shapes(self.variance.shape, other.variance.shape), np.nan)
        return np.divide(self.variance, other.variance, out=missing, where=other.variance > 0)


def lam_spectrum(field: ArrayLike, shape: tuple[int, int], spacing_km: float) -> Spectrum:
    """Return the variance spectrum of fields on the LAM grid, by discrete cosine transform.

    The transform mirrors the field at the borders, so that a trend across the limited area does not leak into short
    waves (Denis, Cote and Laprise, 2002, Monthly Weather Review 130, p. 1812-1829).

    Parameters
    ----------
    field : array_like, shape (..., ny * nx) or (..., ny, nx)
        On the LAM nodes only, in grid order.
    shape : (int, int)
        (ny, nx).
    spacing_km : float
        Grid spacing, the same in both directions.

    Raises
    ------
    HouseError
        If the number of nodes does not match the shape, the grid has fewer than four points in a direction, or values
        are not finite.
    """
    ny, nx = shape
    if min(shape) < SMALLEST_GRID:
        raise HouseError(
            f"A limited area of {ny} x {nx} points is too small for a spectrum, which needs "
            f"{SMALLEST_GRID} points each way."
        )
    field = np.asarray(field)
    leading = field.shape[:-2] if field.shape[-2:] == (ny, nx) else field.shape[:-1]
    if field.size != np.prod(leading, dtype=int) * ny * nx:
        raise HouseError(f"Fields of shape {field.shape} do not match a limited area of {ny} x {nx} points.")
    grids = field.reshape(-1, ny, nx)
    require_finite(grids.reshape(len(grids), -1))

    smaller = min(shape)
    # Normalised wavenumber: 1 for waves of two grid spacings, so that elongated grids are treated isotropically.
    wavenumber = np.hypot(np.arange(ny)[:, None] / ny, np.arange(nx)[None, :] / nx)
    band = np.floor(wavenumber * smaller + 1e-9).astype(int).ravel()
    variance = np.zeros((len(grids), band.max() + 1))
    for index, grid in enumerate(grids.astype(np.float64)):
        squares = dctn(grid - grid.mean(), norm="ortho", workers=-1) ** 2 / grid.size
        variance[index] = np.bincount(band, weights=squares.ravel())

    lowest = np.arange(variance.shape[1], dtype=np.float64)
    lowest[0] = smaller / max(shape)  # the longest wave does not fit into the smaller side
    kept = np.bincount(band[1:], minlength=len(lowest)) > 0  # on a square grid, band 0 holds only the mean
    wavelength = 2 * spacing_km * smaller / lowest
    return Spectrum(wavelength[kept], variance[:, kept].reshape(*leading, -1))
