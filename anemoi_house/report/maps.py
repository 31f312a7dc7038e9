"""Maps of a report: forecasts and errors with the boundary drawn, and the isolated nodes of each graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from anemoi_house.figures.graph import ISOLATED, LAM, Projection, coastlines, outline
from anemoi_house.figures.style import DOTS_PER_INCH, INK, png, pretty
from anemoi_house.geometry import EARTH_RADIUS_KM, to_cartesian
from anemoi_house.graphs.coverage import DataNodes
from anemoi_house.report.lines import Picture
from anemoi_house.scores.common_nodes import Grid
from anemoi_house.scores.comparison import RunComparison

Floats = NDArray[np.float64]

INCHES = (4.7, 4.0)
PIXELS = 420
"""Of a map, across: each shows the value of the node that is nearest to it."""
MARGIN_KM = 900.0
FIELD, ERROR, CHANGE = "cividis", "cividis", "PuOr_r"


@dataclass(frozen=True)
class View:
    """What a map shows: an equal-area map around the LAM, which may hold a pole or cross the date line.

    Attributes
    ----------
    projection : Projection
    box : tuple of float
        Left, right, bottom and top in earth radii.
    """

    projection: Projection
    box: tuple[float, float, float, float]

    @classmethod
    def around(cls, lam: Floats, margin_km: float = MARGIN_KM) -> View:
        """View of points of shape (n, 3), and of what lies around them."""
        mean = lam.mean(axis=0)
        length = np.linalg.norm(mean)
        projection = Projection(mean / length if length > 1e-6 else lam[0], globe=False)
        x, y = projection.project(lam)
        margin = margin_km / EARTH_RADIUS_KM
        bounds = [np.nanmin(x) - margin, np.nanmax(x) + margin, np.nanmin(y) - margin, np.nanmax(y) + margin]
        left, right, bottom, top = (float(bound) for bound in np.clip(bounds, -2, 2))
        return cls(projection, (left, right, bottom, top))

    @cached_property
    def pixels(self) -> tuple[Floats, Floats]:
        """Map coordinates of the pixels, each of shape (rows, columns)."""
        left, right, bottom, top = self.box
        rows = max(2, round(PIXELS * (top - bottom) / (right - left)))
        x, y = np.meshgrid(_middles(left, right, PIXELS), _middles(bottom, top, rows))
        return x, y

    def nearest(self, points: Floats) -> NDArray[np.intp]:
        """Which of `points`, of shape (n, 3), is nearest to each pixel; -1 where a pixel is beyond the map's edge."""
        x, y = self.pixels
        places = self.projection.unproject(x.ravel(), y.ravel())
        on_map = np.isfinite(places).all(axis=1)
        found = np.full(len(places), -1)
        found[on_map] = cKDTree(points).query(places[on_map], workers=-1)[1]
        return found.reshape(x.shape)


def _in_both(one: Grid, other: Grid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Nodes that lie at one place and have one role in two grids, as indices of each."""
    role, other_role = (2 * grid.names + grid.in_lam for grid in (one, other))
    _, ours, theirs = np.intersect1d(role, other_role, assume_unique=True, return_indices=True)
    return ours, theirs


@cache
def _land() -> Floats:
    """Coasts as one line with gaps, where anemoi-training ships them."""
    return _joined(coastlines())


@cache
def _graticule() -> Floats:
    """Every tenth parallel and meridian, as one line with gaps."""
    along = np.linspace(-180, 180, 721)
    lines = [(np.full_like(along, latitude), along) for latitude in range(-80, 81, 10)]
    return _joined([*lines, *((along[180:541] * 8 / 9, np.full(361, longitude)) for longitude in range(-180, 180, 10))])


def _joined(lines: Sequence[tuple[Floats, Floats]]) -> Floats:
    gap = np.full((1, 3), np.nan)
    parts = [part for latitudes, longitudes in lines for part in (to_cartesian(latitudes, longitudes), gap)]
    return np.concatenate(parts or [gap])


def _middles(low: float, high: float, number: int) -> Floats:
    return low + (high - low) / number * (np.arange(number, dtype=np.float64) + 0.5)


class Atlas:
    """Draws maps of runs on one view.

    Parameters
    ----------
    comparison : RunComparison
    """

    def __init__(self, comparison: RunComparison) -> None:
        self._comparison = comparison
        largest = max(comparison.grids.values(), key=lambda grid: int(grid.in_lam.sum()))
        self._view = View.around(largest.points[largest.in_lam])
        self._nearest: dict[int, NDArray[np.intp]] = {}
        self._outlines: dict[int, list[Floats]] = {}

    def errors(self, variable: str) -> Iterator[Picture]:
        """Root-mean-square error over dates of each experiment, on one scale."""
        comparison = self._comparison
        fields = {name: self._rms(name, variable) for name in comparison.experiments}
        shown = {name: values for name, values in fields.items() if values is not None}
        if not shown:
            return
        scale = self._scale(list(shown.items()), 1)
        lead = comparison.frame.deciding_h
        for name, values in shown.items():
            title = f"{name}: RMSE of {variable}, +{lead} h"
            yield self._map(f"error-{variable}-{name}", title, name, values, ERROR, scale, self._units(variable))

    def changes(self, variable: str) -> Iterator[Picture]:
        """Error of each experiment less that of the baseline, on the nodes that all have."""
        comparison = self._comparison
        baseline, *others = comparison.experiments
        first = self._rms(baseline, variable)
        fields = {name: self._rms(name, variable) for name in others}
        changes = {}
        for name, values in fields.items():
            if values is None or first is None:
                continue
            ours, theirs = _in_both(self._grid(name), self._grid(baseline))
            change = np.full(len(values), np.nan)
            change[ours] = values[ours] - first[theirs]
            changes[name] = change
        if not changes:
            return
        near = np.abs(np.concatenate([self._near(name, values) for name, values in changes.items()]))
        bound = float(np.nanpercentile(near, 99)) or 1.0
        scale = TwoSlopeNorm(0, -bound, bound)
        for name, values in changes.items():
            title = f"{name} less {baseline}: RMSE of {variable}"
            yield self._map(
                f"change-{variable}-{name}",
                title,
                name,
                values,
                CHANGE,
                scale,
                f"{self._units(variable)} (dotted: larger error)",
                dotted_above=bound / 3,
            )

    def examples(self, variable: str) -> Iterator[Picture]:
        """Forecast of the last date, with the analysis, on one scale."""
        comparison = self._comparison
        lead, date = comparison.frame.deciding_h, str(comparison.frame.dates[-1].astype("datetime64[h]"))
        fields: dict[str, tuple[str, Floats]] = {}
        for name, (run_id, *_) in comparison.experiments.items():
            forecast, analysis = comparison.scores[run_id].example[variable]
            if not fields and np.isfinite(analysis).all():
                fields["analysis"] = name, analysis.astype(np.float64)
            fields[name] = name, forecast.astype(np.float64)
        scale = self._scale(list(fields.values()), 0.5)
        for text, (name, values) in fields.items():
            title = f"{text}: {variable}, {date} +{lead} h"
            yield self._map(f"field-{variable}-{text}", title, name, values, FIELD, scale, self._units(variable))

    def faults(self) -> Iterator[Picture]:
        """Where the values of fields are missing, for the first few."""
        comparison = self._comparison
        named = {run.run_id: run.experiment for run in comparison.runs}
        for number, fault in enumerate(comparison.faults):
            if fault.missing is None:
                continue
            name, date = named[fault.run_id], str(fault.date.astype("datetime64[h]"))
            grid = comparison.grids[fault.run_id]
            values = np.where(fault.missing, np.nan, 0.0)
            title = f"{name}: {fault.variable}, {date} +{fault.lead_h} h"
            yield self._map(
                f"missing-{number + 1}", title, name, values, "Greys", Normalize(-1, 9), "", grid=grid,
                hatched=f"{fault.count:,} missing values: hatched",
            )  # fmt: skip

    def isolated(self, name: str, nodes: DataNodes, isolated: NDArray[np.intp]) -> Picture:
        """Isolated data nodes of a graph around its LAM, with their number by zone."""
        figure, axes = self._frame(f"{name}: isolated data nodes")
        self._boundary(axes, name, shaded=True)
        x, y = self._view.projection.project(nodes.points)
        shown = self._inside(x, y)
        grid = shown & ~nodes.in_lam
        axes.scatter(x[grid], y[grid], s=1.5, color="#999999", linewidths=0, rasterized=True)
        out = np.zeros(len(x), dtype=bool)
        out[isolated] = True
        axes.scatter(
            x[out & shown],
            y[out & shown],
            s=42,
            marker="X",
            color=ISOLATED,
            edgecolors="black",
            linewidths=0.6,
            zorder=5,
        )
        count = nodes.count(isolated)
        text = f"in the LAM {count['lam']:,}, within {nodes.boundary_width_km:g} km of it {count['rim']:,}"
        text += f"\ntowards the poles {count['poles']:,}, elsewhere {count['elsewhere']:,}"
        axes.set_xlabel(text, fontsize=9, color=INK)
        return Picture(f"coverage-{name}", f"Isolated data nodes of {name}: {text}", png(figure))

    def _map(
        self,
        file: str,
        title: str,
        experiment: str,
        values: Floats,
        colours: str,
        scale: Normalize,
        label: str,
        *,
        dotted_above: float | None = None,
        hatched: str = "",
        grid: Grid | None = None,
    ) -> Picture:
        figure, axes = self._frame(title)
        nearest = self._nearest_of(grid or self._grid(experiment))
        pixels = np.where(nearest >= 0, values[np.maximum(nearest, 0)], np.nan)
        x, y = self._view.pixels
        image = axes.imshow(
            pixels, cmap=colours, norm=scale, extent=self._view.box, origin="lower", interpolation="nearest"
        )
        missing = ((nearest >= 0) & ~np.isfinite(pixels)).astype(float)
        if missing.any():
            axes.contourf(x, y, missing, levels=[0.5, 1.5], colors="none", hatches=["xxxx"])
        if dotted_above is not None:
            above = (np.nan_to_num(pixels) > dotted_above).astype(float)
            if above.any():
                axes.contourf(x, y, above, levels=[0.5, 1.5], colors="none", hatches=["...."])
        self._boundary(axes, experiment)
        if hatched:
            axes.set_xlabel(hatched, fontsize=9, color=INK)
        else:
            place = figure.add_axes((0.08, 0.115, 0.84, 0.025))
            bar = figure.colorbar(image, cax=place, orientation="horizontal", extend="both")
            bar.set_label(label, fontsize=9, color=INK)
            bar.ax.tick_params(labelsize=8.5)
        return Picture(file, title, png(figure))

    def _frame(self, title: str) -> tuple[Figure, Axes]:
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.02, 0.165, 0.96, 0.77), anchor="N")
        figure.text(0.02, 0.955, title, fontsize=10, weight="bold", color=INK)
        left, right, bottom, top = self._view.box
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
        return figure, axes

    def _boundary(self, axes: Axes, experiment: str, shaded: bool = False) -> None:
        """Coasts where they are there, a graticule, and the edge of the LAM."""
        lines: list[tuple[Floats, dict[str, Any]]] = [
            (_graticule(), {"color": "white", "linewidth": 0.9, "alpha": 0.35}),
            (_graticule(), {"color": "black", "linewidth": 0.35, "alpha": 0.5}),
            (_land(), {"color": "white", "linewidth": 1.6, "alpha": 0.7}),
            (_land(), {"color": "#333333", "linewidth": 0.7}),
        ]
        for line, style in lines:
            x, y = self._view.projection.project(line)
            x[~self._inside(x, y, margin=0.2)] = np.nan
            axes.plot(x, y, **style, zorder=3)
        grid = self._grid(experiment)
        loops = self._outlines.setdefault(id(grid), []) or outline(grid.points[grid.in_lam])
        self._outlines[id(grid)] = loops
        for loop in loops:
            x, y = self._view.projection.project(loop)
            axes.plot(x, y, color="white", linewidth=3.4, zorder=4)
            if shaded:
                axes.fill(x, y, facecolor=LAM, alpha=0.35, linewidth=0, zorder=0.5)
            axes.plot(x, y, color="black", linewidth=1.6, zorder=4.1)
        left, right, bottom, top = self._view.box
        axes.set(xlim=(left, right), ylim=(bottom, top))

    def _inside(self, x: Floats, y: Floats, margin: float = 0.0) -> NDArray[np.bool_]:
        left, right, bottom, top = self._view.box
        with np.errstate(invalid="ignore"):
            return (x > left - margin) & (x < right + margin) & (y > bottom - margin) & (y < top + margin)

    def _rms(self, experiment: str, variable: str) -> Floats | None:
        """Of the trainings of an experiment on the grid of the first, over dates."""
        comparison = self._comparison
        grid = self._grid(experiment)
        squares = [
            squared
            for run_id in comparison.experiments[experiment]
            if comparison.grids[run_id] is grid
            for date in comparison.frame.dates
            if (squared := comparison.scores[run_id].squared_error.get((variable, date))) is not None
        ]
        if not squares:
            return None
        total = np.zeros(len(squares[0]))
        for squared in squares:
            total += squared
        return np.sqrt(total / len(squares))

    def _scale(self, fields: list[tuple[str, Floats]], beyond: float) -> Normalize:
        """One scale for all of some fields, but for a few percent of the pixels at either end."""
        near = np.concatenate([self._near(name, values) for name, values in fields])
        low, high = (float(bound) for bound in np.nanpercentile(near, [beyond, 100 - beyond]))
        return Normalize(low, high if high > low else low + 1)

    def _near(self, experiment: str, values: Floats) -> Floats:
        nearest = self._nearest_of(self._grid(experiment))
        return values[nearest[nearest >= 0]]

    def _nearest_of(self, grid: Grid) -> NDArray[np.intp]:
        if id(grid) not in self._nearest:
            self._nearest[id(grid)] = self._view.nearest(grid.points)
        return self._nearest[id(grid)]

    def _grid(self, experiment: str) -> Grid:
        return self._comparison.grids[self._comparison.experiments[experiment][0]]

    def _units(self, variable: str) -> str:
        return pretty(str(self._comparison.runs[0].forecasts[0].about.units.get(variable, "")))
