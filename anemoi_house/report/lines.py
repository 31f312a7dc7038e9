"""Line charts of a report, drawn from the numbers of `report.json` alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from anemoi_house.figures.lines import LineChart, dot_chart
from anemoi_house.figures.style import pretty
from anemoi_house.geometry import Floats
from anemoi_house.scores import SCORES
from anemoi_house.scores.score import finite_mean

Numbers = dict[str, Any]

WORST_RATIOS = 0.01, 100.0
"""Bounds of the drawn ratios of variances: where the analysis has next to none, the ratio may be anything."""


class Picture(NamedTuple):
    """A picture of the page."""

    name: str
    """Of its file, without the suffix."""
    text: str
    """Description for readers who cannot see it."""
    data: bytes
    """PNG."""


def by_lead(numbers: Numbers, score: str, reference: str | None = None) -> Iterator[Picture]:
    """Draw a score against lead time: one picture for each variable.

    Parameters
    ----------
    numbers : dict
    score : str
        Its name.
    reference : str, optional
        Name of the score of the analysis that it is compared with.
    """
    label, per = SCORES[score].label, SCORES[score].per
    for variable in numbers["variables"]:
        name, units = variable["name"], f"{variable['units']} per {per}" if per else variable["units"]
        lines = {experiment: _over_dates(runs, name, score) for experiment, runs in _experiments(numbers)}
        references = _of_analyses(numbers, name, reference) if reference else {}
        yield _against_lead(numbers, f"{score}-{name}", f"{name}: {label}", lines, units, references)


def index_by_lead(numbers: Numbers) -> Picture:
    """Draw the artifact index, mean over variables, against lead time."""
    verified = numbers["summary"]["verified"]
    jump, along = ("jump", "along") if verified else ("forecast_jump", "forecast_along")
    experiments = _experiments(numbers)
    names = [variable["name"] for variable in numbers["variables"]]
    units = [finite_mean(_values(experiments[0][1], name, along), (0, 2))[None, :, None] for name in names]
    lines = {}
    for experiment, runs in experiments:
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = [_values(runs, name, jump) / unit for name, unit in zip(names, units)]
        lines[experiment] = finite_mean(SCORES[jump].in_units(finite_mean(np.mean(parts, axis=0), 2)), 0)
    return _against_lead(numbers, "index", "Artifact index, all variables", lines, "", {})


def by_date(numbers: Numbers) -> Picture:
    """Draw the index of each experiment on each date, dates linked: does a difference hold on all of them."""
    rows, lead = numbers["summary"]["rows"], numbers["deciding_lead_h"]
    picture = dot_chart(
        f"Artifact index, +{lead} h, of each date and of all",
        "thin lines: the same date in all experiments",
        [row["experiment"] for row in rows],
        np.stack([_floats(row["by_date"]) for row in rows]),
        _floats([row["index"][str(lead)]["value"] for row in rows]),
    )
    return Picture("by-date", "Artifact index of each experiment on each date", picture)


def profiles(numbers: Numbers) -> Iterator[Picture]:
    """Draw the error against distance from the boundary at the deciding lead time, for each variable."""
    for variable in numbers["variables"]:
        name, lead = variable["name"], numbers["deciding_lead_h"]
        label, units = "km from the run's own boundary", _units("RMSE", variable["units"])
        chart = LineChart(f"{name}: error by distance, +{lead} h", label, units)
        for number, (experiment, runs) in enumerate(_experiments(numbers)):
            bins = np.array(runs[0]["bins_km"])
            chart.line(number, (bins[1:] + bins[:-1]) / 2, np.sqrt(_curve(runs, name, "profile")), experiment)
        chart.boundary()
        yield Picture(f"profile-{name}", f"Error of {name} by distance from the boundary", chart.png())


def spectra(numbers: Numbers) -> Iterator[Picture]:
    """Draw variance in the LAM by wavelength, forecast over analysis, for each variable."""
    for variable in numbers["variables"]:
        name, title = variable["name"], f"{variable['name']}: spectrum in the LAM, +{numbers['deciding_lead_h']} h"
        chart = LineChart(title, "wavelength in km, short waves on the right", "variance, forecast / analysis")
        for number, (experiment, runs) in enumerate(_experiments(numbers)):
            if runs[0]["wavelength_km"] is None:
                continue
            forecast, analysis = (_curve(runs, name, score) for score in ("spectrum", "analysis_spectrum"))
            ratio = np.divide(forecast, analysis, out=np.full_like(forecast, np.nan), where=analysis > 0)
            chart.line(number, runs[0]["wavelength_km"], ratio, experiment)
        if chart.axes.lines:
            chart.wavelengths(0.5 * WORST_RATIOS[0], 2 * WORST_RATIOS[1])
            yield Picture(f"spectrum-{name}", f"Variance of {name} in the LAM by wavelength", chart.png())


def losses(numbers: Numbers) -> Iterator[Picture]:
    """Draw validation and training loss by step."""
    for column, title in ((2, "Validation loss"), (1, "Training loss")):
        trainings = {
            experiment: [[(row[0], row[column]) for row in run["losses"]] for run in runs if run["losses"]]
            for experiment, runs in _experiments(numbers)
        }
        yield from _against_step(trainings, f"loss-{title.split()[0].lower()}", title, "loss")


def rings(numbers: Numbers, region: str) -> Iterator[Picture]:
    """Draw the validation error in a ring, one step ahead, by training step, for each variable."""
    for variable in numbers["variables"]:
        name = variable["name"]
        trainings = {}
        for experiment, runs in _experiments(numbers):
            squares = [run["rings"].get(f"{region}/{name}") for run in runs]
            trainings[experiment] = [[(step, value**0.5) for step, value in rows] for rows in squares if rows]
        title = f"{name}: {region.replace('_', ' ')} in validation"
        yield from _against_step(trainings, f"training-{region}-{name}", title, _units("RMSE", variable["units"]))


def _against_step(trainings: dict[str, list[Any]], name: str, title: str, label: str) -> Iterator[Picture]:
    """Draw a line for each training, named once for each experiment; nothing without any training."""
    if not any(trainings.values()):
        return
    chart = LineChart(title, "training step", label)
    for number, (experiment, lines) in enumerate(trainings.items()):
        for line in lines:
            steps, values = np.array(line, dtype=np.float64).T
            chart.line(number, steps + 1, values, experiment if line is lines[-1] else "")
    chart.logarithmic()
    yield Picture(name, f"{title} by training step", chart.png())


def _against_lead(
    numbers: Numbers, name: str, title: str, lines: dict[str, Floats], units: str, references: dict[str, Floats]
) -> Picture:
    chart = LineChart(title, "lead time in h", pretty(units))
    for text, values in references.items():
        chart.reference(numbers["leads_h"], values, text)
    for number, (experiment, values) in enumerate(lines.items()):
        chart.line(number, numbers["leads_h"], values, experiment)
    chart.lead_axis(numbers["leads_h"][-1])
    return Picture(name, f"{title} by lead time", chart.png())


def _of_analyses(numbers: Numbers, variable: str, score: str) -> dict[str, Floats]:
    """Return a score of the analyses at each of the boundaries."""
    boundaries: dict[int, str] = {}
    for run in numbers["runs"]:
        boundaries.setdefault(run["lam_nodes"], run["experiment"])
    runs = dict(_experiments(numbers))
    return {
        f"analysis, {experiment}" if len(boundaries) > 1 else "analysis": _over_dates(runs[experiment], variable, score)
        for experiment in boundaries.values()
    }


def _experiments(numbers: Numbers) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the names of the experiments, each with its runs."""
    names = [each["name"] for each in numbers["experiments"]]
    return [(name, [run for run in numbers["runs"] if run["experiment"] == name]) for name in names]


def _values(runs: list[dict[str, Any]], variable: str, score: str) -> Floats:
    """Return a score of all trainings as it is averaged over dates, of shape (trainings, lead times, dates)."""
    values = np.stack([_floats(run["scores"][variable][score]) for run in runs])
    return values * np.abs(values) if SCORES[score].squares else values


def _over_dates(runs: list[dict[str, Any]], variable: str, score: str) -> Floats:
    return finite_mean(SCORES[score].in_units(finite_mean(_values(runs, variable, score), 2)), 0)


def _curve(runs: list[dict[str, Any]], variable: str, score: str) -> Floats:
    """Return a curve at the deciding lead time as it is averaged over trainings."""
    curves = np.stack([_floats(run["scores"][variable][score][0]) for run in runs])
    return finite_mean(curves**2 if SCORES[score].squares else curves, 0)


def _units(what: str, units: str) -> str:
    return f"{what} in {pretty(units)}" if units else what


def _floats(values: Any) -> Floats:
    return np.array(values, dtype=np.float64)  # None becomes NaN
