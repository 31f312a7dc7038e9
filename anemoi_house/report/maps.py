"""Maps of a report: forecasts and errors with the boundary, and the isolated nodes of each graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

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
        self._nearest = cache(lambda grid: self._view.nearest(grid.points))
        self._outline = cache(lambda grid: outline(grid.points[grid.in_lam]))

    def errors(self, variable: str) -> Iterator[Picture]:
        """Draw the root-mean-square error of each experiment over dates, on one scale."""
        fields = {name: (self._comparison.grid(name), field) for name, field in self._rms(variable).items()}
        if not fields:
            return
        scale = self._scale(fields.values(), 1)
        for name, (grid, field) in fields.items():
            title = f"{name}: RMSE of {variable}, +{self._comparison.frame.deciding_h} h"
            yield self._picture(f"error-{variable}-{name}", title, grid, field, FIELD, scale, self._units(variable))

    def changes(self, variable: str) -> Iterator[Picture]:
        """Draw the error of each experiment minus that of the first, on the nodes that both have."""
        first, fields = next(iter(self._comparison.experiments)), self._rms(variable)
        theirs = fields.pop(first, None)
        if theirs is None or not fields:
            return
        changes = {}
        for name, ours in fields.items():
            grid, change = self._comparison.grid(name), np.full(len(ours), np.nan)
            nodes, same = _in_both(grid, self._comparison.grid(first))
            change[nodes] = ours[nodes] - theirs[same]
            changes[name] = grid, change
        bound = float(np.nanpercentile(np.abs(self._pixels(changes.values())), 99)) or 1.0
        scale, label = TwoSlopeNorm(0, -bound, bound), f"{self._units(variable)} (dotted: larger error)"
        for name, (grid, change) in changes.items():
            title, file = f"{name} less {first}: RMSE of {variable}", f"change-{variable}-{name}"
            yield self._picture(file, title, grid, change, CHANGE, scale, label, dotted_above=bound / 3)

    def examples(self, variable: str) -> Iterator[Picture]:
        """Draw the forecast of the last date of each experiment, and the analysis, on one scale."""
        comparison = self._comparison
        fields: dict[str, tuple[Grid, Floats]] = {}
        for name, (run_id, *_) in comparison.experiments.items():
            forecast, analysis = comparison.scores[run_id].example[variable]
            if not fields and np.isfinite(analysis).all():
                fields["analysis"] = comparison.grids[run_id], analysis.astype(np.float64)
            fields[name] = comparison.grids[run_id], forecast.astype(np.float64)
        scale = self._scale(fields.values(), 0.5)
        for name, (grid, field) in fields.items():
            title = f"{name}: {variable}, {date_text(comparison.frame.dates[-1])} +{comparison.frame.deciding_h} h"
            yield self._picture(f"field-{variable}-{name}", title, grid, field, FIELD, scale, self._units(variable))

    def faults(self) -> Iterator[Picture]:
        """Draw where fields have missing values, for the first few."""
        comparison = self._comparison
        experiments = {run.run_id: run.experiment for run in comparison.runs}
        for number, fault in enumerate(comparison.faults, 1):
            if fault.missing is None:
                continue
            title = f"{experiments[fault.run_id]}: {fault.variable}, {date_text(fault.date)} +{fault.lead_h} h"
            grid, gaps = comparison.grids[fault.run_id], np.where(fault.missing, np.nan, 0.0)
            text = f"{fault.count:,} missing values: hatched"
            yield self._picture(f"missing-{number}", title, grid, gaps, GAPS, Normalize(-1, 9), caption=text)

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

    def _picture(
        self, file: str, title: str, grid: Grid, field: Floats, *style: Any, caption: str = "", **more: Any
    ) -> Picture:
        """Draw a field and the boundary, with the arguments of `Map.field`."""
        chart = Map(self._view, title)
        chart.field(field, self._nearest(grid), *style, **more)
        chart.caption(caption)
        chart.boundary(self._outline(grid))
        return Picture(file, title, chart.png())

    def _rms(self, variable: str) -> dict[str, Floats]:
        """Return the error of each experiment over dates and over the trainings that share the grid of the first."""
        comparison, found = self._comparison, {}
        for name, ids in comparison.experiments.items():
            squares = [
                squared
                for run_id in ids
                if comparison.grids[run_id] is comparison.grid(name)
                for date in comparison.frame.dates
                if (squared := comparison.scores[run_id].squared_error.get((variable, date))) is not None
            ]
            if squares:
                found[name] = np.sqrt(sum(squares, np.zeros(len(squares[0]))) / len(squares))
        return found

    def _scale(self, fields: Iterable[tuple[Grid, Floats]], beyond: float) -> Normalize:
        """Return one scale for several fields, without the outer `beyond` percent of the pixels at either end."""
        low, high = map(float, np.nanpercentile(self._pixels(fields), [beyond, 100 - beyond]))
        return Normalize(low, high if high > low else low + 1)

    def _pixels(self, fields: Iterable[tuple[Grid, Floats]]) -> Floats:
        """Return the values of all pixels of several fields."""
        return np.concatenate([field[nodes[nodes >= 0]] for grid, field in fields for nodes in [self._nearest(grid)]])

    def _units(self, variable: str) -> str:
        return pretty(str(self._comparison.runs[0].forecasts[0].about.units.get(variable, "")))


def _in_both(one: Grid, other: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the nodes that two grids have in the same role, LAM or global, as indices of each."""
    ids, other_ids = (2 * grid.node_ids + grid.in_lam for grid in (one, other))
    _, ours, theirs = np.intersect1d(ids, other_ids, assume_unique=True, return_indices=True)
    return ours, theirs
