"""Tables of experiments: each against the first, by variable and in summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from anemoi_house.boundary.significance import Stretches
from anemoi_house.geometry import Floats
from anemoi_house.scores import SCORES
from anemoi_house.scores.artifact import artifact
from anemoi_house.scores.score import Score, finite_mean
from anemoi_house.scores.scored import RunComparison

Cell = dict[str, Any]

RING_SCORES = ("common_rmse_inner_ring", "rmse_inner_ring")
"""Scores of the summary next to the artifact index."""


def by_variable(comparison: RunComparison, variable: int) -> list[dict[str, Any]]:
    """Return the table of one variable, in its units: a row for each experiment."""
    frame = comparison.frame
    rows: list[dict[str, Any]] = [{"experiment": name, "cells": {}} for name in comparison.experiments]
    for score in SCORES.values():
        leads_h = {"": (), "first": frame.table_leads_h[:1], "all": frame.table_leads_h}[score.table_leads]
        for lead_h in leads_h:
            for row, cell in zip(rows, _column(comparison, score, np.s_[:, variable, frame.leads_h.index(lead_h)])):
                row["cells"][f"{score.name} {lead_h}"] = cell
    return rows


def summary_rows(comparison: RunComparison, verified: bool) -> list[dict[str, Any]]:
    """Return the rows of the summary, one for each experiment: artifact index, and errors in the inner ring.

    Both are means over variables of squares, in units of the first experiment: the index in those of what its error, or
    its forecast without verification, does along the boundary; the errors in those of its error in the inner ring.
    """
    frame, experiments = comparison.frame, comparison.experiments
    jump, along = ("jump", "along") if verified else ("forecast_jump", "forecast_along")
    first = next(iter(experiments))
    units = {name: finite_mean(comparison.stacked(first, name), (0, 3)) for name in (along, RING_SCORES[0])}
    rows: list[dict[str, Any]] = [{"experiment": name, "runs": ids, "index": {}} for name, ids in experiments.items()]

    for lead_h in frame.table_leads_h:
        lead = frame.leads_h.index(lead_h)
        at, unit = np.s_[:, :, lead], units[along][:, lead]
        for row, cell in zip(rows, _column(comparison, SCORES[jump], at, unit)):
            values, stretches = (
                _mean_over_variables(of(row["experiment"], jump)[at], unit)
                for of in (comparison.stacked, comparison.stretches)
            )
            cell["artifact"] = artifact(values, stretches)
            row["index"][str(lead_h)] = cell
            if lead_h == frame.deciding_h:
                row |= {"by_date": SCORES[jump].in_units(values.mean(axis=0)), "artifact": cell["artifact"]}
    deciding = frame.leads_h.index(frame.deciding_h)
    for score in RING_SCORES:
        column = _column(comparison, SCORES[score], np.s_[:, :, deciding], units[RING_SCORES[0]][:, deciding])
        for row, cell in zip(rows, column):
            row[score] = cell
    return rows


def _column(comparison: RunComparison, score: Score, at: Any, unit: Floats | None = None) -> list[Cell]:
    """Return the cells of one score, one for each experiment.

    Parameters
    ----------
    comparison : RunComparison
    score : Score
    at : index
        Variable and lead time in arrays of shape (trainings, variables, lead times, dates).
    unit : ndarray, shape (variables,), optional
        Values of all variables are divided by these and averaged.
    """
    first, *_ = comparison.experiments
    cells = []
    for name in comparison.experiments:
        ours, theirs = (_mean_over_variables(comparison.stacked(each, score.name)[at], unit) for each in (name, first))
        cell = _summarised(score, ours)
        if name != first:
            difference = score.compare(ours, theirs, _stretches(comparison, name, score, at, unit))
            cell["difference"] = asdict(difference) if difference else None
        cells.append(cell)
    _mark_lowest(score, cells)
    return cells


def _stretches(
    comparison: RunComparison, experiment: str, score: Score, at: Any, unit: Floats | None
) -> Stretches | None:
    """Return a score of an experiment and of the first by stretches of the boundary; None if it has none."""
    if not score.has_stretches:
        return None
    both = experiment, next(iter(comparison.experiments))
    ours, theirs = (_mean_over_variables(comparison.stretches(each, score.name)[at], unit) for each in both)
    return Stretches(ours, theirs, same=comparison.on_one_grid(*both))


def _mean_over_variables(values: Floats, unit: Floats | None) -> Floats:
    """Return values over their units, of shape (trainings, variables, ...), averaged over variables."""
    if unit is None:
        return values
    return (values / unit.reshape(-1, *[1] * (values.ndim - 2))).mean(axis=1)


def _summarised(score: Score, values: Floats) -> Cell:
    """Return a score of an experiment and its spread, from values of shape (trainings, dates)."""
    usable = values[:, np.isfinite(values).all(axis=0)]
    trainings, dates = usable.shape
    by_date = score.in_units(usable.mean(axis=0))
    by_training = score.in_units(finite_mean(usable, axis=1))
    return {
        "value": by_training.mean() if dates else None,
        "spread_dates": by_date.std(ddof=1) if dates > 1 else None,
        "spread_trainings": by_training.std(ddof=1) if dates and trainings > 1 else None,
        "dates": dates,
        "trainings": trainings,
        "lowest": False,
        "difference": None,
    }


def _mark_lowest(score: Score, cells: Sequence[Cell]) -> None:
    """Mark the smallest value of a column that has more than one; of signed means, the one closest to 0."""
    known = [cell for cell in cells if cell["value"] is not None]
    sizes = [cell["value"] if score.squares else abs(cell["value"]) for cell in known]
    for cell, size in zip(known, sizes):
        cell["lowest"] = len(known) > 1 and size == min(sizes)
