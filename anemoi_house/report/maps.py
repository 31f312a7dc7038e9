"""Maps of a report: forecasts and errors with the boundary, and the isolated nodes of each graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.colors import Normalize, TwoSlopeNorm
from numpy.typing import NDArray

from anemoi_house.figures.maps import Map, View
from anemoi_house.figures.projection import outline
from anemoi_house.figures.style import pretty
from anemoi_house.geometry import Floats
from anemoi_house.graphs.coverage import DataNodes
from anemoi_house.report.lines import Picture
from anemoi_house.scores.grid import Grid
from anemoi_house.scores.runs import date_text
from anemoi_house.scores.scored import RunComparison

FIELD, CHANGE, GAPS = "cividis", "PuOr_r", "Greys"


class Atlas:
    """Draws maps of all runs with the same view.

    Parameters
    ----------
    comparison : RunComparison
    """

    def __init__(self, comparison: RunComparison) -> None:
        self._comparison = comparison
        largest = max(comparison.grids.values(), key=lambda grid: int(grid.in_lam.sum()))
        self._view = View.around(largest.points[largest.in_lam])
        self._nearest: dict[Grid, NDArray[np.intp]] = {}
        self._outlines: dict[Grid, list[Floats]] = {}

    def errors(self, variable: str) -> Iterator[Picture]:
        """Draw the root-mean-square error of each experiment over dates, on one scale."""
        fields = {name: rms for name in self._comparison.experiments if (rms := self._rms(name, variable)) is not None}
        if not fields:
            return
        scale = self._scale([(self._comparison.grid(name), field) for name, field in fields.items()], 1)
        for name, field in fields.items():
            title = f"{name}: RMSE of {variable}, +{self._comparison.frame.deciding_h} h"
            chart = Map(self._view, title)
            chart.field(field, self._nearest_of(self._comparison.grid(name)), FIELD, scale, self._units(variable))
            yield self._picture(f"error-{variable}-{name}", title, chart, self._comparison.grid(name))

    def changes(self, variable: str) -> Iterator[Picture]:
        """Draw the error of each experiment minus that of the first, on the nodes that both have."""
        baseline, *others = self._comparison.experiments
        theirs, changes = self._rms(baseline, variable), {}
        for name in others:
            ours = self._rms(name, variable)
            if ours is not None and theirs is not None:
                nodes, same = _in_both(self._comparison.grid(name), self._comparison.grid(baseline))
                changes[name] = np.full(len(ours), np.nan)
                changes[name][nodes] = ours[nodes] - theirs[same]
        if not changes:
            return
        shown = [self._pixels_of(self._comparison.grid(name), change) for name, change in changes.items()]
        bound = float(np.nanpercentile(np.abs(np.concatenate(shown)), 99)) or 1.0
        label = f"{self._units(variable)} (dotted: larger error)"
        for name, change in changes.items():
            title, grid = f"{name} less {baseline}: RMSE of {variable}", self._comparison.grid(name)
            chart = Map(self._view, title)
            chart.field(change, self._nearest_of(grid), CHANGE, TwoSlopeNorm(0, -bound, bound), label, bound / 3)
            yield self._picture(f"change-{variable}-{name}", title, chart, grid)

    def examples(self, variable: str) -> Iterator[Picture]:
        """Draw the forecast of the last date of each experiment, and the analysis, on one scale."""
        comparison = self._comparison
        fields: dict[str, tuple[Grid, Floats]] = {}
        for name, (run_id, *_) in comparison.experiments.items():
            forecast, analysis = comparison.scores[run_id].example[variable]
            if not fields and np.isfinite(analysis).all():
                fields["analysis"] = comparison.grids[run_id], analysis.astype(np.float64)
            fields[name] = comparison.grids[run_id], forecast.astype(np.float64)
        scale = self._scale(list(fields.values()), 0.5)
        for name, (grid, field) in fields.items():
            title = f"{name}: {variable}, {date_text(comparison.frame.dates[-1])} +{comparison.frame.deciding_h} h"
            chart = Map(self._view, title)
            chart.field(field, self._nearest_of(grid), FIELD, scale, self._units(variable))
            yield self._picture(f"field-{variable}-{name}", title, chart, grid)

    def faults(self) -> Iterator[Picture]:
        """Draw where fields have missing values, for the first few."""
        comparison = self._comparison
        experiments = {run.run_id: run.experiment for run in comparison.runs}
        for number, fault in enumerate(comparison.faults, 1):
            if fault.missing is None:
                continue
            grid = comparison.grids[fault.run_id]
            title = f"{experiments[fault.run_id]}: {fault.variable}, {date_text(fault.date)} +{fault.lead_h} h"
            chart = Map(self._view, title)
            chart.field(np.where(fault.missing, np.nan, 0.0), self._nearest_of(grid), GAPS, Normalize(-1, 9))
            chart.caption(f"{fault.count:,} missing values: hatched")
            yield self._picture(f"missing-{number}", title, chart, grid)

    def isolated(self, graphs: Mapping[str, tuple[DataNodes, NDArray[np.intp]]]) -> Iterator[Picture]:
        """Draw the isolated data nodes of each experiment's graph around its LAM, with their number by zone."""
        for name, (nodes, isolated) in graphs.items():
            count = nodes.count(isolated)
            text = f"in the LAM {count['lam']:,}, within {nodes.boundary_width_km:g} km of it {count['rim']:,}"
            text += f"\ntowards the poles {count['poles']:,}, elsewhere {count['elsewhere']:,}"
            chart = Map(self._view, f"{name}: isolated data nodes")
            chart.boundary(self._outline(self._comparison.grid(name)), shaded=True)
            chart.nodes(nodes.points[~nodes.in_lam])
            chart.isolated(nodes.points[isolated])
            chart.caption(text)
            yield Picture(f"coverage-{name}", f"Isolated data nodes of {name}: {text}", chart.png())

    def _picture(self, file: str, title: str, chart: Map, grid: Grid) -> Picture:
        chart.boundary(self._outline(grid))
        return Picture(file, title, chart.png())

    def _rms(self, experiment: str, variable: str) -> Floats | None:
        """Return the error over dates and over the trainings that share the grid of the first."""
        comparison = self._comparison
        squares = [
            squared
            for run_id in comparison.experiments[experiment]
            if comparison.grids[run_id] is comparison.grid(experiment)
            for date in comparison.frame.dates
            if (squared := comparison.scores[run_id].squared_error.get((variable, date))) is not None
        ]
        if not squares:
            return None
        total = np.zeros(len(squares[0]))
        for squared in squares:
            total += squared
        return np.sqrt(total / len(squares))

    def _scale(self, fields: list[tuple[Grid, Floats]], beyond: float) -> Normalize:
        """Return one scale for several fields, without the outer `beyond` percent of the pixels at either end."""
        shown = np.concatenate([self._pixels_of(grid, field) for grid, field in fields])
        low, high = (float(bound) for bound in np.nanpercentile(shown, [beyond, 100 - beyond]))
        return Normalize(low, high if high > low else low + 1)

    def _pixels_of(self, grid: Grid, field: Floats) -> Floats:
        nearest = self._nearest_of(grid)
        return field[nearest[nearest >= 0]]

    def _nearest_of(self, grid: Grid) -> NDArray[np.intp]:
        if grid not in self._nearest:
            self._nearest[grid] = self._view.nearest(grid.points)
        return self._nearest[grid]

    def _outline(self, grid: Grid) -> list[Floats]:
        if grid not in self._outlines:
            self._outlines[grid] = outline(grid.points[grid.in_lam])
        return self._outlines[grid]

    def _units(self, variable: str) -> str:
        return pretty(str(self._comparison.runs[0].forecasts[0].about.units.get(variable, "")))


def _in_both(one: Grid, other: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the nodes that two grids have in the same role, LAM or global, as indices of each."""
    ids, other_ids = (2 * grid.node_ids + grid.in_lam for grid in (one, other))
    _, ours, theirs = np.intersect1d(ids, other_ids, assume_unique=True, return_indices=True)
    return ours, theirs
