"""Base classes of scores, and the fields that a score is computed from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.index import ArtifactIndex, artifact_index, signed_root
from anemoi_house.boundary.significance import Difference, Stretches, paired_difference
from anemoi_house.geometry import Floats
from anemoi_house.scores.grid import Grid

Kind = Literal["error", "forecast", "analysis"]


@dataclass(frozen=True)
class Fields:
    """One variable of one forecast, at the lead times at which a score exists.

    Attributes
    ----------
    values : ndarray, shape (leads, nodes)
        Errors, forecasts or analyses, as `Score.of` asks for.
    forecast, analysis : ndarray, shape (leads, nodes)
        The fields behind an error.
    grid : Grid
    weights : mapping of str to ndarray, shape (nodes,)
        Weight of each node in the mean over a region: `inner_ring` along the run's own boundary, `common_inner_ring`
        on the common nodes, and so on for each of `boundary.regions.REGIONS`.
    """

    values: NDArray[np.floating]
    forecast: NDArray[np.float32]
    analysis: NDArray[np.float32]
    grid: Grid
    weights: Mapping[str, Floats]

    @cached_property
    def squared(self) -> Floats:
        """Squares of the values."""
        return np.square(self.values, dtype=np.float64)

    @cached_property
    def index(self) -> ArtifactIndex:
        """Jump, kink and ripple of the values."""
        return artifact_index(self.grid.band, self.values)

    def at(self, leads: NDArray[np.bool_]) -> Fields:
        """Return the fields at some of the lead times."""
        return Fields(self.values[leads], self.forecast[leads], self.analysis[leads], self.grid, self.weights)


class Score(ABC):
    """A number for each lead time and date of a variable.

    Attributes
    ----------
    name : str
        Key in `report.json`.
    label : str
        In figures and table headings.
    of : str
        Fields that it is computed from. Errors exist where both forecast and analysis do, except at lead time 0.
    squares : bool
        `values` are (signed) squares: they are averaged over dates, then the signed root is taken.
    has_stretches : bool
        It has values by stretches of the boundary too.
    per : str
        What the units of the variable are divided by, such as `100 km`.
    table_leads : str
        Lead times at which the tables by variable show it: none, the `first`, or `all` of them.
    """

    name: str
    label: str
    of: Kind = "error"
    squares: bool = True
    has_stretches: bool = False
    per: str = ""
    table_leads: Literal["", "first", "all"] = ""

    @abstractmethod
    def values(self, fields: Fields) -> Floats:
        """Return the score at each lead time, of shape (leads,)."""

    def stretches(self, fields: Fields) -> Floats | None:
        """Return the score by stretches of the boundary, of shape (leads, stretches), if it has them."""
        return None

    def in_units(self, values: Floats) -> Floats:
        """Return values, or means of them, in the units of the variable."""
        return signed_root(values) if self.squares else values

    def compare(self, ours: Floats, theirs: Floats, stretches: Stretches | None) -> Difference | None:
        """Return how two experiments differ; None for a score by which none is better.

        Parameters
        ----------
        ours, theirs : ndarray, shape (trainings, dates)
        stretches : Stretches or None
            The same by stretches of the boundary, for a score that has them.
        """
        return paired_difference(ours, theirs, squares=self.squares, stretches=stretches)


class Curve(Score):
    """A score along an axis, such as distance or wavelength, at the lead times of the tables.

    Attributes
    ----------
    axis_name : str
        Key of the axis in `report.json`.
    """

    axis_name: str

    @abstractmethod
    def values(self, fields: Fields) -> Floats:
        """Return the score at each lead time, of shape (leads, points of the axis)."""

    @abstractmethod
    def axis(self, grid: Grid) -> Floats | None:
        """Return the axis: a value for each point, or the bounds of bins; None where the grid has no such score."""

    def points(self, grid: Grid) -> int:
        """Return the number of points along the axis."""
        axis = self.axis(grid)
        return 0 if axis is None else len(axis)


def finite_mean(values: Floats, axis: int | tuple[int, ...]) -> Floats:
    """Return the mean of the finite values along an axis; NaN where there are none."""
    return np.ma.masked_invalid(values).mean(axis=axis).filled(np.nan)
