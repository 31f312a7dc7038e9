"""Root-mean-square error by region, around each run's own boundary and on the common nodes."""

from __future__ import annotations

from anemoi_house.boundary.regions import REGIONS
from anemoi_house.geometry import Floats
from anemoi_house.scores.score import Fields, Score

IN_TABLES = ("rmse_inner_ring", "rmse_outer_ring", "common_rmse_inner_ring", "common_rmse_lam_interior")


class Rmse(Score):
    """Root-mean-square error in one region."""

    def __init__(self, region: str, common: bool) -> None:
        self._region = f"common_{region}" if common else region
        self.name = f"common_rmse_{region}" if common else f"rmse_{region}"
        words = region.replace("_", " ").replace("lam", "LAM")
        self.label = f"RMSE, {'common' if common else 'own'} {words}"
        self.table_leads = "first" if self.name in IN_TABLES else ""

    def values(self, fields: Fields) -> Floats:
        """Return mean squares."""
        return fields.squared @ fields.weights[self._region]


_RINGS_FIRST = sorted(REGIONS, key=lambda region: "ring" not in region)

RMSE_SCORES = tuple(Rmse(region, common) for common in (False, True) for region in _RINGS_FIRST)
