"""Numbers of a report: the dict that `report.json` holds, and that the page and its line charts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anemoi_house.boundary.significance import FEWEST_DATES, LEVEL, RESAMPLES
from anemoi_house.report.verdict import verdict
from anemoi_house.scores import SCORES
from anemoi_house.scores.runs import date_text
from anemoi_house.scores.score import Curve, finite_mean
from anemoi_house.scores.scored import RunComparison
from anemoi_house.scores.tables import by_variable, summary_rows

FORMAT = 1
DIGITS = 7


def numbers(
    comparison: RunComparison, known: Sequence[dict[str, Any]], origin: dict[str, Any], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return all numbers of a report.

    Parameters
    ----------
    comparison : RunComparison
    known : sequence of dict
        What is known of each run apart from its forecasts: coverage of its graph, losses, errors in the rings.
    origin : dict
        `versions` of packages and `arguments` of the command.
    notes : sequence of str
        What was left out before runs were compared.

    Returns
    -------
    dict
        Of plain numbers, texts, lists and dicts; None for a missing number.
    """
    frame, common = comparison.frame, comparison.common
    units = comparison.runs[0].forecasts[0].about.units
    found = {
        "format": FORMAT,
        **origin,
        "dates": [date_text(date) for date in frame.dates],
        "leads_h": frame.leads_h,
        "table_leads_h": frame.table_leads_h,
        "deciding_lead_h": frame.deciding_h,
        "variables": [{"name": name, "units": units.get(name, "")} for name in frame.variables],
        "rings_km": comparison.grids[comparison.runs[0].run_id].widths._asdict(),
        "method": {"level": LEVEL, "resamples": RESAMPLES, "fewest_dates": FEWEST_DATES},
        "notes": [*notes, *frame.notes],
        "faults": [
            {
                "run_id": fault.run_id,
                "date": date_text(fault.date),
                "variable": fault.variable,
                "lead_h": fault.lead_h,
                "missing_values": fault.count,
            }
            for fault in comparison.faults
        ],
        "unverified_dates": [date_text(date) for date in comparison.unverified],
        "places": {
            "alike": common.alike,
            "common_lam_nodes": common.lam_nodes,
            "common_nodes": len(common.nodes[0]),
            "trimmed_nodes": common.trimmed_nodes,
        },
        "experiments": [{"name": name, "runs": ids} for name, ids in comparison.experiments.items()],
        "runs": [{**each, **_of_run(comparison, run.run_id)} for run, each in zip(comparison.runs, known, strict=True)],
        "summary": summary(comparison, known),
        "by_variable": {name: by_variable(comparison, number) for number, name in enumerate(frame.variables)},
    }
    return plain(found)


def summary(comparison: RunComparison, known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first table, a row for each experiment, and the verdict above it."""
    baseline, *_ = comparison.experiments
    verified = bool(np.isfinite(comparison.stacked(baseline, "jump")).any())
    rows = summary_rows(comparison, verified)
    for row in rows:
        isolated = [
            run["coverage"]["isolated"]["lam"] + run["coverage"]["isolated"]["rim"]
            for run in known
            if run["experiment"] == row["experiment"] and run["coverage"]
        ]
        row["isolated_near_lam"] = max(isolated, default=None)
    return {
        "baseline": baseline,
        "verified": verified,
        "rows": rows,
        "verdict": verdict(rows, comparison.frame.deciding_h, verified),
    }


def _of_run(comparison: RunComparison, run_id: str) -> dict[str, Any]:
    frame, grid, kept = comparison.frame, comparison.grids[run_id], comparison.scores[run_id]
    curves = {name: score for name, score in SCORES.items() if isinstance(score, Curve)}
    axes = {score.axis_name: score.axis(grid) for score in curves.values()}
    values = {
        name: kept.values[name] if name not in curves else finite_mean(kept.values[name], axis=2)
        for name in SCORES
        if name not in curves or axes[curves[name].axis_name] is not None
    }
    return {
        "nodes": len(grid.in_lam),
        "lam_nodes": int(grid.in_lam.sum()),
        "lam_shape": grid.lam_shape,
        "edge": {"cell_km": grid.band.cell_km, "sites": len(grid.band.sites), "used": grid.band.used},
        **axes,
        "scores": {
            variable: {name: SCORES[name].in_units(each[number]) for name, each in values.items()}
            for number, variable in enumerate(frame.variables)
        },
    }


def plain(value: Any) -> Any:
    """Return numbers as JSON can hold them: of `DIGITS` digits, and None for those that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value
