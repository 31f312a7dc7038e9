"""Line charts of a report, drawn from the numbers of `report.json` alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from anemoi_house.boundary.index import signed_root
from anemoi_house.figures.style import (
    INK,
    LABEL_LETTERS,
    LABEL_POINTS,
    REFERENCE,
    label_ends,
    line_of,
    new_panel,
    png,
    pretty,
)

Floats = NDArray[np.float64]
Numbers = dict[str, Any]

WORST_RATIOS = 0.01, 100.0
"""Of variances, forecast over analysis, that are still drawn."""


class Picture(NamedTuple):
    """One picture of a page."""

    name: str
    """Of its file, without the ending."""
    text: str
    """What it shows, for who cannot see it."""
    data: bytes
    """PNG."""


def experiments_of(numbers: Numbers) -> list[str]:
    """Names of the experiments; their places say how they are drawn."""
    return [each["name"] for each in numbers["experiments"]]


def by_lead(numbers: Numbers, score: str, title: str, reference: str | None = None, per: str = "") -> Iterator[Picture]:
    """A score that is a root of squares against lead time: one picture for each variable.

    `reference` is the same score of the analyses; `per` is what the units are divided by.
    """
    for variable in numbers["variables"]:
        name = variable["name"]
        lines = [_over_dates(numbers, experiment, name, score) for experiment in experiments_of(numbers)]
        beside = _analyses(numbers, name, reference) if reference else {}
        units = f"{variable['units']} per {per}" if per else variable["units"]
        yield _of_leads(numbers, f"{score}-{name}", f"{name}: {title}", lines, units, beside)


def index_by_lead(numbers: Numbers) -> Iterator[Picture]:
    """The artifact index, mean over variables, against lead time."""
    experiments, verified = experiments_of(numbers), numbers["summary"]["verified"]
    what, along = ("jump", "along") if verified else ("forecast_jump", "forecast_along")
    scales = {}
    for variable in numbers["variables"]:
        scales[variable["name"]] = _squares(numbers, experiments[0], variable["name"], along)
    lines = []
    for experiment in experiments:
        parts = []
        for name, scale in scales.items():
            with np.errstate(divide="ignore", invalid="ignore"):
                parts.append(_squares(numbers, experiment, name, what) / _finite_mean(scale, (0, 2))[None, :, None])
        lines.append(_finite_mean(signed_root(_finite_mean(np.mean(parts, axis=0), 2)), 0))
    yield _of_leads(numbers, "index", "Artifact index, all variables", lines, "", {})


def by_date(numbers: Numbers) -> Picture:
    """The index of each experiment on each date, dates linked: whether a difference holds on all of them."""
    rows, lead = numbers["summary"]["rows"], numbers["deciding_lead_h"]
    figure, axes = new_panel(f"Artifact index, +{lead} h, of each date and of all")
    axes.set_position((0.33, 0.2, 0.64, 0.69))
    places = np.arange(len(rows))
    axes.plot(
        np.stack([_floats(row["by_date"]) for row in rows]), places, ".-", color="#999999", linewidth=0.8, zorder=2
    )
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for number, row in enumerate(rows):
        (value,) = _floats([row["index"][str(lead)]["value"]])
        look = line_of(number)
        axes.plot(value, number, marker=look.marker, color=look.color, markersize=9, zorder=4)
    size = LABEL_POINTS * min(1.0, LABEL_LETTERS / max(len(row["experiment"]) for row in rows))
    axes.set_yticks(places, [row["experiment"] for row in rows], fontsize=size)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_xlabel("thin lines: the same date in all experiments", fontsize=9, color=INK)
    return Picture("by-date", "Artifact index of each experiment on each date", png(figure))


def drift(numbers: Numbers) -> Iterator[Picture]:
    """Mean error over the LAM against lead time, one picture for each variable."""
    for variable in numbers["variables"]:
        lines = [
            _finite_mean(_array(numbers, experiment, variable["name"], "drift"), (0, 2))
            for experiment in experiments_of(numbers)
        ]
        title = f"{variable['name']}: drift of the LAM mean"
        yield _of_leads(numbers, f"drift-{variable['name']}", title, lines, variable["units"], {})


def profiles(numbers: Numbers) -> Iterator[Picture]:
    """Error against distance from the boundary at the deciding lead time, one picture for each variable."""
    for variable in numbers["variables"]:
        figure, axes = new_panel(f"{variable['name']}: error by distance, +{numbers['deciding_lead_h']} h")
        ends = []
        for number, experiment in enumerate(experiments_of(numbers)):
            runs = _runs(numbers, experiment)
            bins = np.array(runs[0]["bins_km"])
            values = _rms([_floats(run["scores"][variable["name"]]["profile"][0]) for run in runs])
            _draw(axes, number, (bins[1:] + bins[:-1]) / 2, values)
            ends.append(_end((bins[1:] + bins[:-1]) / 2, values, experiment, number))
        _boundary(axes)
        _axes(axes, "km from the run's own boundary", _units("RMSE", variable["units"]))
        label_ends(axes, ends)
        yield Picture(
            f"profile-{variable['name']}", f"Error of {variable['name']} by distance from the boundary", png(figure)
        )


def spectra(numbers: Numbers) -> Iterator[Picture]:
    """Variance in the LAM by wavelength, forecast over analysis, one picture for each variable."""
    for variable in numbers["variables"]:
        figure, axes = new_panel(f"{variable['name']}: spectrum in the LAM, +{numbers['deciding_lead_h']} h")
        ends = []
        for number, experiment in enumerate(experiments_of(numbers)):
            runs = _runs(numbers, experiment)
            if runs[0]["wavelength_km"] is None:
                continue
            waves = np.array(runs[0]["wavelength_km"])
            of_runs = [run["scores"][variable["name"]] for run in runs]
            forecast, analysis = (
                np.mean([_floats(scores[kind][0]) for scores in of_runs], axis=0)
                for kind in ("spectrum", "analysis_spectrum")
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(analysis > 0, forecast / analysis, np.nan)
            _draw(axes, number, waves, ratio)
            ends.append(_end(waves, ratio, experiment, number))
        if not ends:
            continue
        axes.axhline(1, **REFERENCE)
        axes.set(xscale="log", yscale="log")
        # Where the analysis has next to no variance, the ratio may be anything.
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0.5 * WORST_RATIOS[0]), min(high, 2 * WORST_RATIOS[1]))
        axes.invert_xaxis()
        longest, shortest = axes.get_xlim()
        ticks = [wave for wave in (10000, 3000, 1000, 300, 100, 30) if shortest < wave < longest]
        axes.set_xticks(ticks, [f"{wave}" for wave in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        _axes(axes, "wavelength in km, short waves on the right", "variance, forecast / analysis")
        label_ends(axes, ends)
        yield Picture(
            f"spectrum-{variable['name']}", f"Variance of {variable['name']} in the LAM by wavelength", png(figure)
        )


def losses(numbers: Numbers) -> Iterator[Picture]:
    """Training and validation loss by step."""
    for column, title in ((2, "Validation loss"), (1, "Training loss")):
        named = {
            experiment: [run["losses"] for run in _runs(numbers, experiment) if run["losses"]]
            for experiment in experiments_of(numbers)
        }
        if picture := _of_steps(named, column, f"loss-{title.split()[0].lower()}", title, "loss"):
            yield picture


def rings(numbers: Numbers, region: str) -> Iterator[Picture]:
    """Validation error in a ring, one step ahead, by training step; one picture for each variable."""
    for variable in numbers["variables"]:
        name = variable["name"]
        named = {
            experiment: [
                [[step, float(np.sqrt(value))] for step, value in run["rings"][f"{region}/{name}"]]
                for run in _runs(numbers, experiment)
                if run["rings"].get(f"{region}/{name}")
            ]
            for experiment in experiments_of(numbers)
        }
        title = f"{name}: {region.replace('_', ' ')} in validation"
        if picture := _of_steps(named, 1, f"training-{region}-{name}", title, _units("RMSE", variable["units"])):
            yield picture


def _of_steps(named: dict[str, list[Any]], column: int, name: str, title: str, label: str) -> Picture | None:
    """Values against steps: a line for each training, named once for each experiment."""
    if not any(named.values()):
        return None
    figure, axes = new_panel(title)
    ends = []
    for number, (experiment, trainings) in enumerate(named.items()):
        for training in trainings:
            steps, values = np.array([[row[0] + 1, row[column]] for row in training], dtype=np.float64).T
            _draw(axes, number, steps, values)
        if trainings:
            ends.append(_end(steps, values, experiment, number))
    if all(end[1] > 0 for end in ends):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    _axes(axes, "training step", label)
    label_ends(axes, ends)
    return Picture(name, f"{title} by training step", png(figure))


def _of_leads(
    numbers: Numbers, name: str, title: str, lines: list[Floats], units: str, beside: dict[str, Floats]
) -> Picture:
    figure, axes = new_panel(title)
    leads = np.array(numbers["leads_h"], dtype=np.float64)
    ends = []
    for text, values in beside.items():
        if np.isfinite(values).any():
            axes.plot(leads, values, **REFERENCE)
            last = np.flatnonzero(np.isfinite(values))[-1]
            ends.append((float(leads[last]), float(values[last]), text, REFERENCE["color"]))
    for number, (experiment, values) in enumerate(zip(experiments_of(numbers), lines)):
        _draw(axes, number, leads, values)
        ends.append(_end(leads, values, experiment, number))
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    step = next((each for each in (6, 12, 24, 48, 120) if leads[-1] / each <= 8), 240)
    axes.set_xticks(np.arange(0, leads[-1] + 1, step))
    _axes(axes, "lead time in h", pretty(units))
    label_ends(axes, ends)
    return Picture(name, f"{title} by lead time", png(figure))


def _analyses(numbers: Numbers, variable: str, score: str) -> dict[str, Floats]:
    """The same of the analyses, at each of the boundaries."""
    boundaries: dict[int, str] = {}
    for run in numbers["runs"]:
        boundaries.setdefault(run["lam_nodes"], run["experiment"])
    return {
        f"analysis, {experiment}" if len(boundaries) > 1 else "analysis": _over_dates(
            numbers, experiment, variable, score
        )
        for experiment in boundaries.values()
    }


def _draw(axes: Axes, number: int, x: Floats, y: Floats) -> None:
    look = line_of(number)
    usable = np.isfinite(y)
    # Markers of different lines at different places, where there are many.
    every = max(1, usable.sum() // 8)
    axes.plot(
        x[usable],
        y[usable],
        **look._asdict(),
        linewidth=1.6,
        markersize=4,
        markevery=(min(number, every - 1), every),
        zorder=3,
    )


def _end(x: Floats, y: Floats, name: str, number: int) -> tuple[float, float, str, str]:
    usable = np.flatnonzero(np.isfinite(y))
    if not len(usable):
        return float("nan"), float("nan"), name, line_of(number).color
    return float(x[usable[-1]]), float(y[usable[-1]]), name, line_of(number).color


def _boundary(axes: Axes) -> None:
    axes.axvline(0, color=INK, linewidth=1.2)
    axes.axvspan(axes.get_xlim()[0], 0, color="0.94", zorder=0)
    for place, side, text in ((-6, "right", "LAM"), (6, "left", "outside")):
        axes.annotate(
            text,
            (0, 0.02),
            (place, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=side,
            fontsize=8.5,
            color=INK,
        )


def _axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)


def _units(what: str, units: str) -> str:
    return f"{what} in {pretty(units)}" if units else what


def _runs(numbers: Numbers, experiment: str) -> list[dict[str, Any]]:
    return [run for run in numbers["runs"] if run["experiment"] == experiment]


def _array(numbers: Numbers, experiment: str, variable: str, score: str) -> Floats:
    """Values of all trainings, of shape (training, lead, date)."""
    return np.stack([_floats(run["scores"][variable][score]) for run in _runs(numbers, experiment)])


def _squares(numbers: Numbers, experiment: str, variable: str, score: str) -> Floats:
    values = _array(numbers, experiment, variable, score)
    return values * np.abs(values)


def _over_dates(numbers: Numbers, experiment: str, variable: str, score: str) -> Floats:
    return _finite_mean(signed_root(_finite_mean(_squares(numbers, experiment, variable, score), 2)), 0)


def _rms(values: list[Floats]) -> Floats:
    return np.sqrt(_finite_mean(np.stack(values) ** 2, 0))


def _floats(values: Any) -> Floats:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _finite_mean(values: Floats, axis: int | tuple[int, ...]) -> Floats:
    usable = np.isfinite(values)
    count = usable.sum(axis=axis)
    return np.where(count > 0, np.where(usable, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)
