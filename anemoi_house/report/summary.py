"""Everything that a report says in numbers, as one dict: what `report.json` holds and the page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.index import signed_root
from anemoi_house.boundary.significance import (
    BETTER,
    FEWEST_DATES,
    HIGHER,
    LEVEL,
    LOWER,
    NOISE,
    RESAMPLES,
    WORSE,
    Difference,
    Stretches,
    paired_difference,
)
from anemoi_house.scores.comparison import SQUARES, STRETCHED, RunComparison

Floats = NDArray[np.float64]

FORMAT = 1
DIGITS = 7

ARTIFACT = "the artifact is more than noise"

SCORES = {
    "jump": "jump of the error",
    "rmse_inner_ring": "RMSE, own inner ring",
    "rmse_outer_ring": "RMSE, own outer ring",
    "common_rmse_inner_ring": "RMSE, common inner ring",
    "common_rmse_lam_interior": "RMSE, common LAM interior",
}
"""Scores of the tables by variable, and how they are headed."""


def numbers(comparison: RunComparison, runs: Sequence[dict[str, Any]], said: dict[str, Any]) -> dict[str, Any]:
    """All numbers of a report.

    Parameters
    ----------
    comparison : RunComparison
    runs : sequence of dict
        What is known of each run besides its forecasts: coverage of its graph, losses, metrics by region.
    said : dict
        `versions` and `arguments` of the command.

    Returns
    -------
    dict
        Of plain numbers, texts, lists and dicts; None where there is no number.
    """
    frame, shared = comparison.frame, comparison.shared
    units = comparison.runs[0].forecasts[0].about.units
    found = {
        "format": FORMAT,
        **said,
        "dates": [_name(date) for date in frame.dates],
        "leads_h": list(frame.leads_h),
        "table_leads_h": list(frame.table_leads_h),
        "deciding_lead_h": frame.deciding_h,
        "variables": [{"name": name, "units": units.get(name, "")} for name in frame.variables],
        "rings_km": comparison.grids[comparison.runs[0].run_id].widths._asdict(),
        "method": {"level": LEVEL, "resamples": RESAMPLES, "fewest_dates": FEWEST_DATES},
        "notes": list(frame.notes),
        "faults": [
            {
                "run_id": fault.run_id,
                "date": _name(fault.date),
                "variable": fault.variable,
                "lead_h": fault.lead_h,
                "missing_values": fault.count,
            }
            for fault in comparison.faults
        ],
        "unverified_dates": [_name(date) for date in comparison.unverified],
        "places": {
            "alike": shared.alike,
            "common_lam_nodes": shared.lam_nodes,
            "common_nodes": len(shared.nodes[0]),
            "trimmed_nodes": shared.trimmed_nodes,
        },
        "experiments": [{"name": name, "runs": ids} for name, ids in comparison.experiments.items()],
        "runs": [
            {**known, **_of_run(comparison, run.run_id)} for run, known in zip(comparison.runs, runs, strict=True)
        ],
        "summary": summary(comparison, runs),
        "by_variable": {name: by_variable(comparison, place) for place, name in enumerate(frame.variables)},
    }
    return plain(found)


def _of_run(comparison: RunComparison, run_id: str) -> dict[str, Any]:
    frame, grid, scores = comparison.frame, comparison.grids[run_id], comparison.scores[run_id]
    tables = [frame.leads_h.index(lead) for lead in frame.table_leads_h]
    of_variable = {}
    for place, name in enumerate(frame.variables):
        found: dict[str, Any] = {score: signed_root(scores.squares[score][place]) for score in SQUARES}
        found |= {score: values[place] for score, values in scores.plain.items()}
        found["profile"] = np.sqrt(_mean(scores.profile[place, tables], axis=1))
        if scores.spectrum is not None and scores.analysis_spectrum is not None:
            usable = np.isfinite(scores.squares["jump"][place, tables])[:, :, None]
            found["spectrum"] = _mean(np.where(usable, scores.spectrum[place], np.nan), axis=1)
            found["analysis_spectrum"] = _mean(np.where(usable, scores.analysis_spectrum[place], np.nan), axis=1)
        of_variable[name] = found
    return {
        "nodes": len(grid.in_lam),
        "lam_nodes": int(grid.in_lam.sum()),
        "lam_shape": grid.lam_shape,
        "edge": {"cell_km": grid.band.cell_km, "sites": len(grid.band.sites), "used": grid.band.used},
        "bins_km": grid.bins_km,
        "wavelength_km": scores.wavelength_km,
        "scores": of_variable,
    }


def summary(comparison: RunComparison, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first table, one row for each experiment, and the verdict above it."""
    frame, experiments = comparison.frame, list(comparison.experiments)
    baseline = experiments[0]
    verified = bool(np.isfinite(comparison.stacked(baseline, "jump")).any())
    jump, along = ("jump", "along") if verified else ("forecast_jump", "forecast_along")
    scale = _mean(comparison.stacked(baseline, along), axis=(0, 3))  # (variable, lead)
    ring = _mean(comparison.stacked(baseline, "common_rmse_inner_ring"), axis=(0, 3))
    tables = [frame.leads_h.index(lead) for lead in frame.table_leads_h]
    decides = tables[0]

    def index_of(name: str, lead: int) -> Floats:
        return (comparison.stacked(name, jump)[:, :, lead] / scale[:, lead, None]).mean(axis=1)

    def stretches_of(name: str, lead: int) -> Floats:
        return (comparison.stretched(name, jump)[:, :, lead] / scale[:, lead, None, None]).mean(axis=1)

    def index_cell(name: str, lead: int) -> dict[str, Any]:
        stretches = Stretches(
            stretches_of(name, lead), stretches_of(baseline, lead), comparison.same_boundary(name, baseline)
        )
        found = cell(index_of(name, lead), index_of(baseline, lead), name == baseline, stretches)
        return {**found, "artifact": _artifact(_beside_nothing(index_of(name, lead), stretches.ours))}

    def ring_of(name: str, score: str) -> Floats:
        return (comparison.stacked(name, score)[:, :, decides] / ring[:, decides, None]).mean(axis=1)

    isolated = {
        name: [run["coverage"]["isolated"]["lam"] + run["coverage"]["isolated"]["rim"] for run in runs
               if run["experiment"] == name and run["coverage"]]
        for name in experiments
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name in experiments:
        index = {str(lead_h): index_cell(name, lead) for lead_h, lead in zip(frame.table_leads_h, tables)}
        rings = {
            score: cell(ring_of(name, score), ring_of(baseline, score), name == baseline)
            for score in ("common_rmse_inner_ring", "rmse_inner_ring")
        }
        deciding = index_of(name, decides)
        rows.append(
            {
                "experiment": name,
                "runs": comparison.experiments[name],
                "index": index,
                "by_date": signed_root(deciding.mean(axis=0)),
                **rings,
                "isolated_near_lam": max(isolated[name]) if isolated[name] else None,
                "artifact": index[str(frame.deciding_h)]["artifact"],
            }
        )
    for cells in (
        *([row["index"][str(lead)] for row in rows] for lead in frame.table_leads_h),
        *([row[score] for row in rows] for score in ("common_rmse_inner_ring", "rmse_inner_ring")),
    ):
        mark_lowest(cells)
    return {
        "baseline": baseline,
        "verified": verified,
        "rows": rows,
        "verdict": verdict(rows, frame.deciding_h, verified),
    }


def by_variable(comparison: RunComparison, variable: int) -> list[dict[str, Any]]:
    """Table of one variable, in its units: a row for each experiment."""
    frame, experiments = comparison.frame, list(comparison.experiments)
    rows: list[dict[str, Any]] = [{"experiment": name, "cells": {}} for name in experiments]
    for score in SCORES:
        for lead_h in frame.table_leads_h if score == "jump" else frame.table_leads_h[:1]:
            lead = frame.leads_h.index(lead_h)
            values = [comparison.stacked(name, score)[:, variable, lead] for name in experiments]
            stretches: list[Stretches | None] = [None] * len(experiments)
            if score in STRETCHED:
                by_stretch = [comparison.stretched(name, score)[:, variable, lead] for name in experiments]
                stretches = [
                    Stretches(each, by_stretch[0], comparison.same_boundary(name, experiments[0]))
                    for name, each in zip(experiments, by_stretch)
                ]
            cells = [cell(each, values[0], number == 0, stretches[number]) for number, each in enumerate(values)]
            mark_lowest(cells)
            for row, each in zip(rows, cells):
                row["cells"][f"{score} {lead_h}"] = each
    return rows


def cell(squares: Floats, baseline: Floats, is_baseline: bool, stretches: Stretches | None = None) -> dict[str, Any]:
    """A score of an experiment, its spread, and how it differs from the baseline's.

    Parameters
    ----------
    squares, baseline : ndarray, shape (training, date)
        Signed squares.
    is_baseline : bool
        Then there is no difference.
    stretches : Stretches, optional
        For a score of the boundary.
    """
    usable = squares[:, np.isfinite(squares).all(axis=0)]
    dates = usable.shape[1]
    by_date, by_training = signed_root(usable.mean(axis=0)), signed_root(_mean(usable, axis=1))
    difference = None if is_baseline else paired_difference(squares, baseline, squares=True, stretches=stretches)
    if difference and stretches is not None and difference.verdict in (BETTER, WORSE):
        # An artifact is what is better or worse; where the larger jump is none, the two are told apart all the same.
        larger = (baseline, stretches.theirs) if difference.verdict == BETTER else (squares, stretches.ours)
        if _artifact(_beside_nothing(*larger)) != ARTIFACT:
            difference = replace(difference, verdict=LOWER if difference.verdict == BETTER else HIGHER)
    return {
        "value": by_training.mean() if dates else None,
        "spread_dates": by_date.std(ddof=1) if dates > 1 else None,
        "spread_trainings": by_training.std(ddof=1) if dates and len(usable) > 1 else None,
        "dates": dates,
        "trainings": len(usable),
        "lowest": False,
        "difference": asdict(difference) if difference else None,
    }


def mark_lowest(cells: Sequence[dict[str, Any]]) -> None:
    """Mark the smallest value of a column, where there is more than one."""
    values = [each["value"] for each in cells if each["value"] is not None]
    if len(values) > 1:
        for each in cells:
            each["lowest"] = each["value"] == min(values)


def verdict(rows: Sequence[dict[str, Any]], lead_h: int, verified: bool) -> dict[str, Any]:
    """Which experiment is better at the boundary, in one sentence, and one for each of the others."""
    first, *others = rows
    key, what = str(lead_h), "forecast error" if verified else "forecast alone, without verification"
    named = {row["experiment"]: row["index"][key] for row in rows}
    said = {name: (each["difference"] or {}).get("verdict") for name, each in named.items()}
    better = sorted((name for name in said if said[name] == BETTER), key=lambda name: named[name]["value"])
    worse = [name for name in said if said[name] == WORSE]
    baseline = first["experiment"]
    known = {BETTER, WORSE, NOISE, LOWER, HIGHER, None}
    reasons = {text for text in said.values() if text not in known}
    if not others:
        headline = f"One experiment, {baseline}: nothing to compare it with"
    elif not reasons and not any(row["artifact"] == ARTIFACT for row in rows):
        headline = f"No experiment has an artifact at the boundary beyond noise at +{lead_h} h"
    elif better:
        headline = f"{better[0]} is better at the boundary than {baseline}, by more than noise"
    elif worse:
        headline = f"Nothing is better at the boundary than {baseline}; {_and(worse)} {_is(worse)} worse"
    elif reasons:
        headline = f"It cannot be told which is better at the boundary: {_and(sorted(map(str, reasons)))}"
    else:
        headline = f"No difference at the boundary beyond noise at +{lead_h} h"
    sentences = [_sentence(row["experiment"], named, baseline, row["artifact"]) for row in rows]
    once = [row["experiment"] for row in rows if named[row["experiment"]]["trainings"] == 1]
    if once and others:
        who = "Each experiment was" if len(once) == len(rows) else f"{_and(once)} {'was' if len(once) == 1 else 'were'}"
        sentences.append(f"{who} trained once: another training might come out otherwise by more than these intervals.")
    return {
        "headline": headline,
        "measure": f"artifact index of the {what}, mean over variables, +{lead_h} h",
        "sentences": sentences,
    }


def _sentence(name: str, named: dict[str, dict[str, Any]], baseline: str, artifact: str) -> str:
    found = named[name]
    text = f"{name}: {figures(found['value'])}"
    if difference := found["difference"]:
        if difference["verdict"] == LOWER:
            text += f", lower than {baseline}, which has no artifact"
        elif difference["verdict"] == HIGHER:
            text += f", higher than {baseline}"
        elif difference["verdict"] in (BETTER, WORSE):
            text += f", {difference['verdict']} than {baseline}"
        else:
            text += f", {difference['verdict']} beside {baseline}"
        if difference["low"] is not None:
            low, high, edge_low, edge_high, seed_low, seed_high = (
                figures(difference[f"{kind}{end}"], signed=True, digits=2)
                for kind in ("", "edge_", "seed_")
                for end in ("low", "high")
            )
            text += f" ({figures(difference['value'], signed=True)}; {LEVEL:.0%} interval {low} to {high}"
            text += f" over {difference['dates']} dates, {edge_low} to {edge_high} along the boundary"
            if difference["seed_low"] is not None:
                text += f", {seed_low} to {seed_high} over trainings"
            text += ")"
    return f"{text}. {artifact[0].upper()}{artifact[1:]}."


def _beside_nothing(squares: Floats, stretches: Floats) -> Difference:
    """Difference of a jump from none."""
    nothing = Stretches(stretches, np.zeros_like(stretches), same=True)
    return paired_difference(squares, np.zeros_like(squares), squares=True, stretches=nothing)


def _artifact(zero: Difference) -> str:
    intervals = [(zero.low, zero.high), (zero.edge_low, zero.edge_high)]
    if zero.dates < FEWEST_DATES:
        return "too few dates to tell whether there is an artifact"
    if all(low is not None and low > 0 for low, _ in intervals):
        return ARTIFACT
    if all(high is not None and high < 0 for _, high in intervals):
        return "smoother at the boundary than elsewhere"
    return "no artifact beyond noise"


def figures(value: float | None, signed: bool = False, digits: int = 3) -> str:
    """A number with a few significant digits, as pages and sentences show it."""
    if value is None or not np.isfinite(value):
        return "–"
    size = abs(value)
    if not size:
        return "0"
    if 1e-3 <= size < 1e5:
        places = max(0, digits - 1 - int(np.floor(np.log10(size))))
        text = f"{size:,.{places}f}"
    else:
        text = f"{size:.{digits - 1}e}"
    sign = "−" if value < 0 else "+" if signed else ""
    return sign + text


def plain(value: Any) -> Any:
    """Plain numbers of `DIGITS` digits, with None for those that are not finite: what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value


def _mean(values: Floats, axis: int | tuple[int, ...]) -> Floats:
    """Mean of what is finite; NaN where nothing is."""
    usable = np.isfinite(values)
    count = usable.sum(axis=axis)
    total = np.where(usable, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _name(date: np.datetime64) -> str:
    return str(date.astype("datetime64[h]"))
