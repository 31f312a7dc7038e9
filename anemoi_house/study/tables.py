"""Print the tables of docs/study.md from the study's result: `python -m anemoi_house.study.tables RESULT.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

LEADS_H = (6, 24, 48)
ROWS = {
    "rmse isolated_rim": "nodes of the rim that `mmgt` isolates",
    "rmse rim": "outside, within 1000 km",
    "rmse strip": "HRRR's outer 225 km",
    "rmse shallow_interior": "LAM, 225 to 455 km inside",
    "rmse deep_interior": "LAM, farther inside",
    "rmse globe": "globe, to 60 degrees",
    "rmse poles": "poles",
    "rmse isolated_poles": "nodes of the poles that `mmgt` isolates",
    "error jump": "jump of the error",
    "error kink": "kink of the error",
    "error ripple": "ripple of the error",
    "forecast jump": "jump of the forecast alone",
}
OMITTED = ("nbd_covering - nbd", "tnbd - mmgt")
"""Contrasts of the result without a table."""

_IN_DOMAIN = ("deep_interior", "shallow_interior", "strip")
_COLUMNS = {
    "data nodes": ("nodes", (*_IN_DOMAIN, "rim", "globe", "poles")),
    "in HRRR's domain": ("nodes", _IN_DOMAIN),
    "isolated, rim": ("isolated", ("rim",)),
    "isolated, poles": ("isolated", ("poles",)),
}


def graphs(result: dict[str, Any]) -> str:
    """Tabulate nodes and isolated nodes of each experiment."""
    rows = [
        [f"`{name}`", *(f"{sum(result[key][name][each] for each in regions):,}" for key, regions in _COLUMNS.values())]
        for name in result["experiments"]
    ]
    return _table(["experiment", *_COLUMNS], rows)


def skill(result: dict[str, Any], region: str, lead: int) -> str:
    """Tabulate errors of each experiment, mean and standard deviation over seeds, and of persistence."""
    at = result["leads_h"].index(lead)
    variables = list(result["mesh_use"]["mmgt"])
    rows = []
    for name in result["experiments"]:
        scores = [np.array(result["scores"][name][each]["score"][f"rmse {region}"])[:, at] for each in variables]
        rows.append([f"`{name}`", *(f"{score.mean():.3g} ± {score.std(ddof=1):.1g}" for score in scores)])
    persistence = [result["scores"]["mmgt"][each]["persistence"][region][at] for each in variables]
    return _table(["experiment", *variables], [*rows, ["persistence", *(f"{value:.3g}" for value in persistence)]])


def mesh(result: dict[str, Any]) -> str:
    """Tabulate errors one step ahead, with the right mesh and with that of another date, over those of persistence."""
    rows = []
    for name, errors in result["mesh_use"].items():
        ratios = [[each[key] / each["persistence"] for key in ("model", "another_mesh")] for each in errors.values()]
        rows.append([f"`{name}`", *(f"{right:.2f}, {other:.2f}" for right, other in ratios)])
    return _table(["experiment", *result["mesh_use"]["mmgt"]], rows)


def differences(result: dict[str, Any], contrast: str) -> str:
    """Tabulate all scores of a contrast in percent, with the interval; bold where it is beyond noise."""
    rows = [
        [name, *(_cell(found[str(lead)]["all"]) for lead in LEADS_H)]
        for score, name in ROWS.items()
        if (found := result["differences"][contrast].get(score))
    ]
    return _table([contrast.replace(" - ", " less "), *(f"{lead} h" for lead in LEADS_H)], rows)


def _cell(found: list[float]) -> str:
    value, low, high = (100 * number for number in found)
    text = f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
    return text if low <= 0 <= high else f"**{text}**"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def tables(result: dict[str, Any]) -> list[str]:
    """Return every table of the page."""
    return [
        graphs(result),
        skill(result, "deep_interior", 24),
        skill(result, "rim", 24),
        mesh(result),
        *(differences(result, contrast) for contrast in result["differences"] if contrast not in OMITTED),
    ]


if __name__ == "__main__":
    print("\n\n".join(tables(json.loads(Path(sys.argv[1]).read_text()))))
