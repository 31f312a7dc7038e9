"""The verdict of a report: which experiment is better at the boundary, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anemoi_house.boundary.significance import BETTER, HIGHER, LEVEL, LOWER, NOISE, WORSE
from anemoi_house.scores.artifact import ARTIFACT
from anemoi_house.words import is_or_are, listed, significant


def verdict(rows: Sequence[dict[str, Any]], lead_h: int, verified: bool) -> dict[str, Any]:
    """Return a headline, what it is about, and a sentence for each experiment.

    Parameters
    ----------
    rows : sequence of dict
        Of the summary.
    lead_h : int
        Deciding lead time.
    verified : bool
        Whether the index is that of the error, or of the forecast alone.
    """
    what = "forecast error" if verified else "forecast alone, without verification"
    cells = {row["experiment"]: row["index"][str(lead_h)] for row in rows}
    baseline, *others = cells
    sentences = [_sentence(name, cell, baseline) for name, cell in cells.items()]
    once = [name for name, cell in cells.items() if cell["trainings"] == 1]
    if once and others:
        sentences.append(
            f"Only trained once: {listed(once)}. Another seed may change the result by more than these intervals."
        )
    return {
        "headline": _headline(cells, lead_h),
        "measure": f"artifact index of the {what}, mean over variables, +{lead_h} h",
        "sentences": sentences,
    }


def _headline(cells: dict[str, dict[str, Any]], lead_h: int) -> str:
    baseline, *others = cells
    said = {name: cells[name]["difference"]["verdict"] for name in others}
    better = sorted((name for name in others if said[name] == BETTER), key=lambda name: cells[name]["value"])
    worse = [name for name in others if said[name] == WORSE]
    reasons = sorted(set(said.values()) - {BETTER, WORSE, NOISE, LOWER, HIGHER})
    if not others:
        return f"One experiment, {baseline}: nothing to compare it with"
    if not reasons and not any(cell["artifact"] == ARTIFACT for cell in cells.values()):
        return f"No experiment has an artifact at the boundary beyond noise at +{lead_h} h"
    if better:
        return f"{better[0]} is better at the boundary than {baseline}, by more than noise"
    if worse:
        return f"Nothing is better at the boundary than {baseline}; {listed(worse)} {is_or_are(worse)} worse"
    if reasons:
        return f"Which is better at the boundary cannot be said: {listed(reasons)}"
    return f"No difference at the boundary beyond noise at +{lead_h} h"


def _sentence(name: str, cell: dict[str, Any], baseline: str) -> str:
    text = f"{name}: {significant(cell['value'])}"
    if difference := cell["difference"]:
        said = difference["verdict"]
        text += {
            BETTER: f", better than {baseline}",
            WORSE: f", worse than {baseline}",
            LOWER: f", lower than {baseline}, which has no artifact",
            HIGHER: f", higher than {baseline}",
        }.get(said, f", {said} compared with {baseline}")
        if difference["low"] is not None:
            text += f" ({significant(difference['value'], signed=True)}; {LEVEL:.0%} interval "
            text += f"{_interval(difference, '')} over {difference['dates']} dates, "
            text += f"{_interval(difference, 'edge_')} along the boundary"
            if difference["seed_low"] is not None:
                text += f", {_interval(difference, 'seed_')} over trainings"
            text += ")"
    artifact = cell["artifact"]
    return f"{text}. {artifact[0].upper()}{artifact[1:]}."


def _interval(difference: dict[str, Any], kind: str) -> str:
    low, high = (significant(difference[f"{kind}{end}"], signed=True, digits=2) for end in ("low", "high"))
    return f"{low} to {high}"
