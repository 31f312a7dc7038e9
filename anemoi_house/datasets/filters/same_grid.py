"""The filter `house-same-grid`: all fields of a dataset are on one grid with rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from anemoi_house.datasets.filters.base import HouseFilter, described
from anemoi_house.geometry import Floats

SAME_POINT_DEG = 1e-6
"""About 0.1 m."""

_WAY_OUT = "Bring all parts of the join to one grid, for example with house-coarsen."


def same_points(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> bool:
    """Return whether two grids, each given by its latitudes and longitudes in degrees, have the same points."""
    return all(
        mine is other or bool(np.all(np.abs((mine - other + 180) % 360 - 180) <= SAME_POINT_DEG))
        for mine, other in zip(first, second)
    )


class HouseSameGrid(HouseFilter):
    """Passes fields through if they all have rows and columns and are on the same points.

    anemoi-datasets takes the shape and coordinates of a dataset from its first field alone, and only a dataset with
    rows and columns can be trimmed.

    Raises
    ------
    CommandError
        For a field of one dimension, of another shape or on other points than the first.
    """

    NAME = "house-same-grid"

    def forward(self, data: Any) -> Any:
        """Return the fields unchanged."""
        fields = list(data)
        for field in fields:
            self._check(fields[0], field)
        return data

    def _check(self, first: Any, field: Any) -> None:
        shape, expected = tuple(field.shape), tuple(first.shape)
        if len(shape) != 2:
            raise self.mistake(
                f"it has {shape[0]} points without rows and columns, so that a dataset of it could not be trimmed. Use "
                "filters that keep the shape, such as house-coarsen and house-rotate-winds, or build it as a separate "
                "dataset.",
                field,
            )
        if shape != expected:
            raise self.mistake(
                f"it has {shape[0]} x {shape[1]} points, but the first field, {described(first)}, has {expected[0]} x "
                f"{expected[1]}. anemoi-datasets takes the shape from the first field alone. {_WAY_OUT}",
                field,
            )
        # The stock forcings share their template's geography: comparing it saves computing the points.
        if field.metadata().geography is first.metadata().geography:
            return
        if not same_points(first.grid_points(), field.grid_points()):
            raise self.mistake(
                f"its points are not those of the first field, {described(first)}. anemoi-datasets takes the points "
                f"from the first field alone. {_WAY_OUT}",
                field,
            )
