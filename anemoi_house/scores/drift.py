"""Drift of the mean over the LAM."""

from __future__ import annotations

from anemoi_house.boundary.drift import lam_mean
from anemoi_house.geometry import Floats
from anemoi_house.scores.score import Fields, Score


class Drift(Score):
    """Mean error over the LAM: what leaks in or out through the boundary."""

    name, label, squares = "drift", "drift of the LAM mean", False

    def values(self, fields: Fields) -> Floats:
        """Return means."""
        return lam_mean(fields.values, fields.grid.in_lam, fields.grid.areas)
