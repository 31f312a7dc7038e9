"""Compute the scores of several runs.

Each field is read once. What is kept of it are its scores and, at one lead time, what maps are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anemoi_house.errors import HouseError
from anemoi_house.forecast.read import Forecast, Verification
from anemoi_house.geometry import Bools, Floats
from anemoi_house.scores import SCORES
from anemoi_house.scores.common_nodes import common_nodes
from anemoi_house.scores.grid import Grid, Widths
from anemoi_house.scores.runs import ComparedRun, Frame, Settings, date_text, frame_of
from anemoi_house.scores.score import Curve, Fields, Kind
from anemoi_house.scores.scored import Fault, RunComparison, RunScores, Values

Tell = Callable[[str], None]

FAULTS_DRAWN = 4
"""Fields with missing values of which the gaps are kept for a map."""


def compare(
    runs: Sequence[ComparedRun],
    settings: Settings,
    tell: Tell = lambda line: None,
    verify: Callable[[Sequence[Forecast], Sequence[str]], Verification] = Verification,
) -> RunComparison:
    """Compute the scores of all runs.

    Parameters
    ----------
    runs : sequence of ComparedRun
        The first one is the baseline.
    settings : Settings
    tell : callable
        Takes a line of progress.
    verify : callable
        Opens the analyses of some forecasts of one run.

    Raises
    ------
    HouseError
        If the runs cannot be compared: which, and why.
    """
    frame = frame_of(runs, settings)
    grids = _grids(runs, settings.widths)
    common = common_nodes([grids[run.run_id] for run in runs], [run.label for run in runs])
    scores: dict[str, RunScores] = {}
    faults: list[Fault] = []
    unverified: set[np.datetime64] = set()
    unknown: list[str] = []
    done, total = 0, len(runs) * len(frame.dates)
    for group in _by_data(runs, grids):
        try:
            analyses = verify([forecast for run in group for forecast in frame.forecasts(run)], frame.variables)
            analysed = analyses.values
            unverified.update(analyses.missing)
        except HouseError as reason:
            unknown.append(f"Not verified: {', '.join(run.label for run in group)}; {reason}")
            tell(unknown[-1])
            analysed = _without_analyses
        of_analyses: dict[Any, Any] = {}  # the runs share them, so that each is read and scored once
        for run in group:
            grid = grids[run.run_id]
            weights = grid.weights | common.weights_on(runs.index(run), len(grid.in_lam))
            scorer = _Scorer(frame, grid, weights, of_analyses)
            scores[run.run_id] = scorer.scores
            for forecast in frame.forecasts(run):
                for name in frame.variables:
                    faults += scorer.take(forecast, name, analysed(forecast, name), len(faults))
                done += 1
                tell(f"{done} of {total} forecasts: {run.label} from {date_text(forecast.date)}")
    for fault in faults:
        for each in scores.values():
            each.exclude(fault)
    frame = replace(frame, notes=(*frame.notes, *unknown))
    return RunComparison(runs, frame, grids, common, scores, faults, tuple(sorted(unverified)))


class _Scorer:
    """Takes the forecasts of one run, one variable after the other.

    Parameters
    ----------
    frame : Frame
    grid : Grid
    weights : dict of ndarray
        Of the regions, see `Fields`.
    of_analyses : dict
        Scores of analyses that are known already; runs on the same data share it.
    """

    def __init__(self, frame: Frame, grid: Grid, weights: dict[str, Floats], of_analyses: dict[Any, Any]) -> None:
        self._frame, self._grid, self._weights, self._of_analyses = frame, grid, weights, of_analyses
        self.scores = RunScores(frame, grid)

    def take(self, forecast: Forecast, name: str, truth: Values, known_faults: int) -> list[Fault]:
        """Score one variable of a forecast; return its fields with missing values."""
        frame = self._frame
        rows = [forecast.leads_h.index(lead) for lead in frame.leads_h]
        field, truth = forecast.values(name)[rows], truth[rows]
        whole, verified = (np.all(np.isfinite(each), axis=1) for each in (field, truth))
        initial = np.array(frame.leads_h) == 0
        both: Bools = whole & verified & ~initial
        error = field[both].astype(np.float64) - truth[both]
        place = frame.variables.index(name), frame.dates.index(forecast.date)
        kinds: tuple[tuple[Kind, Bools, Any], ...] = (
            ("forecast", whole, field[whole]),
            ("analysis", verified, truth[verified]),
            ("error", both, error),
        )
        for of, leads, values in kinds:
            if leads.any():
                fields = Fields(values, field[leads], truth[leads], self._grid, self._weights)
                self._score(of, place, leads, fields)

        deciding = frame.leads_h.index(frame.deciding_h)
        if both[deciding]:
            self.scores.squared_error[name, forecast.date] = (field[deciding] - truth[deciding]) ** 2
        if whole[deciding] or name not in self.scores.example:
            self.scores.example[name] = field[deciding], truth[deciding]

        without_start = initial & (name in forecast.about.diagnostic)
        faults = []
        for number, lead in enumerate(np.flatnonzero(~whole & ~without_start), known_faults):
            gaps = ~np.isfinite(field[lead])
            kept = gaps if number < FAULTS_DRAWN else None
            faults.append(Fault(forecast.about.run_id, name, forecast.date, frame.leads_h[lead], int(gaps.sum()), kept))
        return faults

    def _score(self, of: Kind, place: tuple[int, int], leads: Bools, fields: Fields) -> None:
        """Compute and keep all scores of errors, of forecasts or of analyses, at some lead times."""
        frame, kept, (variable, date) = self._frame, self.scores, place
        in_tables = leads & np.isin(frame.leads_h, frame.table_leads_h)
        rows = [frame.table_leads_h.index(frame.leads_h[lead]) for lead in np.flatnonzero(in_tables)]
        of_tables = fields.at(in_tables[leads])
        for score in (score for score in SCORES.values() if score.of == of):
            if not isinstance(score, Curve):
                key = score.name, *place
                found = self._of_analyses.get(key) or (score.values(fields), score.stretches(fields))
                if of == "analysis":
                    self._of_analyses[key] = found
                kept.values[score.name][variable, leads, date] = found[0]
                if score.has_stretches:
                    kept.stretches[score.name][variable, leads, date] = found[1]
            elif rows and kept.values[score.name].shape[-1]:
                kept.values[score.name][variable, rows, date] = score.values(of_tables)


def _without_analyses(forecast: Forecast, variable: str) -> Values:
    """Return NaN in place of analyses that cannot be opened."""
    return np.full((len(forecast.leads_h), len(forecast.in_lam)), np.nan, dtype=np.float32)


def _grids(runs: Sequence[ComparedRun], widths: Widths) -> dict[str, Grid]:
    grids: dict[str, Grid] = {}
    known: dict[Any, Grid] = {}
    for run in runs:
        forecast = run.forecasts[0]
        grid = Grid(forecast.latitudes, forecast.longitudes, forecast.in_lam, forecast.about.lam_shape, widths)
        grids[run.run_id] = known.setdefault(grid.key, grid)
    return grids


def _by_data(runs: Sequence[ComparedRun], grids: dict[str, Grid]) -> list[list[ComparedRun]]:
    """Group runs that have the same data and grid."""
    groups: dict[Any, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault((repr(run.forecasts[0].about.dataset), id(grids[run.run_id])), []).append(run)
    return list(groups.values())
