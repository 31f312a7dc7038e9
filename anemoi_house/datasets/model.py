"""The data by which this room knows a model: its grid, dates, variables and archives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from anemoi_house.datasets.variables import VARIABLES, Variable


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A model, and how its archives name their files. The modules of `datasets.models` each define one as `MODEL`.

    Attributes
    ----------
    name : str
        As in the `model` of a recipe.
    shape : tuple of int
        (ny, nx) of its grid.
    begins : datetime
        First day that any archive holds.
    cycle_hours : int
        Hours between two runs.
    longest_lead_hours : int
        Lead time at which the longest of its forecasts end.
    layouts : tuple of tuple of str
        How archives name the files of one run and lead time. A layout is the name of the main file, followed by those
        that hold the fields it lacks; `run` is a datetime, `lead` a number of hours.
    stores : tuple of str
        URLs of its public archives, in order of preference.
    variables : mapping
        The variables it has, by their names in the experiments.
    """

    name: str
    shape: tuple[int, int]
    begins: datetime
    cycle_hours: int
    longest_lead_hours: int
    layouts: tuple[tuple[str, ...], ...]
    stores: tuple[str, ...]
    variables: Mapping[str, Variable] = field(default_factory=lambda: VARIABLES)
