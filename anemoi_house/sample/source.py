"""The source `house-sample` of anemoi-datasets: the sample atmosphere as in-memory fields."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from anemoi.datasets.create.source import Source
from earthkit.data.indexing.fieldlist import SimpleFieldList
from earthkit.data.sources.array_list import ArrayField
from earthkit.data.utils.metadata.dict import UserGeography

from anemoi_house.datasets.fields import Metadata
from anemoi_house.errors import HouseError
from anemoi_house.sample.atmosphere import LEVEL_UNITS, SURFACE_UNITS, Atmosphere
from anemoi_house.sample.grids import GRIDS, PARTS


class HouseSampleSource(Source):
    """Fields of the sample atmosphere on one part of a sample grid.

    Parameters
    ----------
    context : Any
        Context of anemoi-datasets.
    grid : str
        A name in `anemoi_house.sample.grids.GRIDS`.
    part : str
        `lam` or `global`.
    """

    def __init__(self, context: Any, grid: str, part: str) -> None:
        super().__init__(context)
        for key, value, known in (("grid", grid, GRIDS), ("part", part, PARTS)):
            if value not in known:
                raise HouseError(f"house-sample: {key}: {value!r} is not one of {', '.join(known)}.")
        self.grid, self.part = grid, part

    def execute_valid_dates(self, argument: Any) -> SimpleFieldList:
        """Return all 83 fields of each date, as float32 arrays with the two-dimensional shape of the grid."""
        atmosphere, geography, spacing = _sampled(self.grid, self.part)
        return SimpleFieldList(
            [
                ArrayField(values.astype(np.float32), Metadata(_description(name, date, spacing), geography))
                for date in argument
                for name, values in atmosphere.state(date).items()
            ]
        )


@lru_cache(maxsize=1)
def _sampled(grid: str, part: str) -> tuple[Atmosphere, UserGeography, str]:
    """Return the atmosphere on the points of a grid, computed once for all groups of dates."""
    lat, lon = GRIDS[grid].points(part)
    geography = UserGeography({"latitudes": lat, "longitudes": lon}, shape=lat.shape)
    return Atmosphere(lat, lon), geography, GRIDS[grid].spacing(part)


def _description(name: str, date: Any, spacing: str) -> dict[str, Any]:
    """Return the metadata of one field, under the names that anemoi-datasets reads."""
    param, _, level = name.rpartition("_")
    common = {"valid_datetime": date.isoformat(), "resolution": spacing}
    if level.isdigit():
        return common | {"param": param, "levelist": int(level), "levtype": "pl", "units": LEVEL_UNITS[param]}
    total = {"startStep": 0, "endStep": 6, "stepTypeForConversion": "accum"} if name == "accum_tp" else {}
    return common | {"param": name, "levtype": "sfc", "units": SURFACE_UNITS[name]} | total
