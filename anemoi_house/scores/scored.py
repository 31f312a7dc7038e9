"""What a comparison of runs consists of: the scores of each variable, lead time and starting date, run by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anemoi_house.geometry import Bools, Floats
from anemoi_house.scores import SCORES
from anemoi_house.scores.common_nodes import CommonNodes
from anemoi_house.scores.grid import Grid
from anemoi_house.scores.runs import ComparedRun, Frame
from anemoi_house.scores.score import Curve, Score

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Fault:
    """A field of a forecast with missing values.

    Attributes
    ----------
    missing : ndarray of bool, shape (nodes,), or None
        Where; kept for the first few.
    """

    run_id: str
    variable: str
    date: np.datetime64
    lead_h: int
    count: int
    missing: Bools | None


class RunScores:
    """Scores of one run.

    Attributes
    ----------
    values : dict of ndarray
        By name of the score: shape (variables, lead times, dates), for a curve (variables, table lead times, dates,
        points of its axis); NaN where there is none.
    stretches : dict of ndarray
        Of scores that have them, by stretches of the boundary: shape (variables, lead times, dates, stretches).
    squared_error : dict
        By variable and date: squared error of each node at the deciding lead time.
    example : dict
        By variable: forecast and analysis of the last date at the deciding lead time.
    """

    def __init__(self, frame: Frame, grid: Grid) -> None:
        self._frame = frame
        self.values: dict[str, Floats] = {}
        self.stretches: dict[str, Floats] = {}
        self.squared_error: dict[tuple[str, np.datetime64], Values] = {}
        self.example: dict[str, tuple[Values, Values]] = {}
        for name, score in SCORES.items():
            points = (score.points(grid),) if isinstance(score, Curve) else ()
            shape = len(frame.variables), len(self.leads_of(score)), len(frame.dates)
            self.values[name] = np.full((*shape, *points), np.nan)
            if score.has_stretches:
                self.stretches[name] = np.full((*shape, int(grid.band.blocks.max()) + 1), np.nan)

    def leads_of(self, score: Score) -> tuple[int, ...]:
        """Return the lead times at which a score is kept."""
        return self._frame.table_leads_h if isinstance(score, Curve) else self._frame.leads_h

    def exclude(self, fault: Fault) -> None:
        """Take a field out of every mean."""
        variable, date = self._frame.variables.index(fault.variable), self._frame.dates.index(fault.date)
        for name, values in (*self.values.items(), *self.stretches.items()):
            if fault.lead_h in (leads := self.leads_of(SCORES[name])):
                values[variable, leads.index(fault.lead_h), date] = np.nan
        if fault.lead_h == self._frame.deciding_h:
            self.squared_error.pop((fault.variable, fault.date), None)


@dataclass(frozen=True)
class RunComparison:
    """Runs and their scores.

    Attributes
    ----------
    runs : sequence of ComparedRun
        The first one is the baseline.
    frame : Frame
        What they have in common.
    grids : dict of Grid
        By run id; runs on the same grid share it.
    common : CommonNodes
    scores : dict of RunScores
        By run id.
    faults : list of Fault
    unverified : tuple of datetime64
        Valid dates without an analysis in the data of some run.
    """

    runs: Sequence[ComparedRun]
    frame: Frame
    grids: dict[str, Grid]
    common: CommonNodes
    scores: dict[str, RunScores]
    faults: list[Fault]
    unverified: tuple[np.datetime64, ...]

    @property
    def experiments(self) -> dict[str, list[str]]:
        """Ids of the runs of each experiment."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            found.setdefault(run.experiment, []).append(run.run_id)
        return found

    def grid(self, experiment: str) -> Grid:
        """Return the grid of the first training of an experiment."""
        return self.grids[self.experiments[experiment][0]]

    def stacked(self, experiment: str, score: str) -> Floats:
        """Return a score of all trainings of an experiment, of shape (trainings, variables, lead times, dates)."""
        return np.stack([self.scores[run_id].values[score] for run_id in self.experiments[experiment]])

    def stretches(self, experiment: str, score: str) -> Floats:
        """Return a score that has them by stretches of the boundary, with the stretches on one more axis."""
        return np.stack([self.scores[run_id].stretches[score] for run_id in self.experiments[experiment]])

    def on_one_grid(self, *experiments: str) -> bool:
        """Return whether all trainings of some experiments have the same grid."""
        return len({self.grids[run_id] for name in experiments for run_id in self.experiments[name]}) == 1
