"""Variance by wavelength in the LAM, of the forecast and of the analysis at the same times."""

from __future__ import annotations

from typing import Any

import numpy as np

from anemoi_house.boundary.spectra import Spectrum, lam_spectrum
from anemoi_house.geometry import Floats
from anemoi_house.scores.grid import Grid
from anemoi_house.scores.score import Curve, Fields


class ForecastSpectrum(Curve):
    """Variance of the forecast, where there is an analysis to compare it with."""

    name, label, squares, axis_name = "spectrum", "spectrum in the LAM", False, "wavelength_km"

    def values(self, fields: Fields) -> Floats:
        """Return variances, of shape (leads, wavelengths)."""
        return _spectrum(fields.forecast, fields.grid).variance

    def axis(self, grid: Grid) -> Floats | None:
        """Return wavelengths in km; None for a LAM without rows and columns."""
        if grid.lam_shape is None:
            return None
        return _spectrum(np.zeros((1, len(grid.in_lam)), dtype=np.float32), grid).wavelength_km


class AnalysisSpectrum(ForecastSpectrum):
    """Variance of the analysis."""

    name, label = "analysis_spectrum", "spectrum of the analysis in the LAM"

    def values(self, fields: Fields) -> Floats:
        """Return variances, of shape (leads, wavelengths)."""
        return _spectrum(fields.analysis, fields.grid).variance


def _spectrum(field: Any, grid: Grid) -> Spectrum:
    assert grid.lam_shape is not None
    assert grid.lam_spacing_km is not None
    return lam_spectrum(field[:, grid.in_lam], grid.lam_shape, grid.lam_spacing_km)
