"""Root-mean-square error by distance from the boundary."""

from __future__ import annotations

from anemoi_house.boundary.profile import error_profile
from anemoi_house.geometry import Floats
from anemoi_house.scores.grid import Grid
from anemoi_house.scores.score import Curve, Fields


class ErrorProfile(Curve):
    """Root-mean-square error in bins of distance from the run's own boundary."""

    name, label, axis_name = "profile", "error by distance", "bins_km"

    def values(self, fields: Fields) -> Floats:
        """Return mean squares, of shape (leads, bins)."""
        grid = fields.grid
        return error_profile(grid.signed_km, fields.values, grid.areas, grid.bins_km).rms ** 2

    def axis(self, grid: Grid) -> Floats:
        """Return the bounds of the bins in km, negative in the LAM."""
        return grid.bins_km

    def points(self, grid: Grid) -> int:
        """Return the number of bins."""
        return len(grid.bins_km) - 1
