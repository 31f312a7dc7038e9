"""Draw the figures of the study from its result: `python -m anemoi_house.study.figures RESULT.json -o DIR`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from anemoi_house.study.tables import ROWS

# Okabe and Ito's colours suit colour-blind readers; lines and marks differ in black and white too.
STYLES = {
    "mmgt": ("#000000", "-", "o"),
    "nbd": ("#0072B2", "--", "s"),
    "nbd_covering": ("#56B4E9", "--", "D"),
    "tnbd": ("#D55E00", "-.", "^"),
    "tnbd_covering": ("#E69F00", "-.", "v"),
    "tnbd_wide": ("#CC79A7", ":", "X"),
    "nbd_fault": ("#009E73", ":", "P"),
}
LEADS_H = (24, 48)
SHOWN = [score for score in ROWS if score not in ("error ripple", "forecast jump")]
CONTRASTS = ("nbd - mmgt", "nbd_covering - mmgt", "tnbd - nbd", "nbd_fault - nbd", "tnbd - nbd_fault")


def main() -> None:
    """Draw the figures of a result."""
    parser = argparse.ArgumentParser("python -m anemoi_house.study.figures", description=__doc__)
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("-o", dest="folder", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    for name, draw in (("study-distance.png", by_distance), ("study-differences.png", differences)):
        figure = draw(result)
        figure.savefig(arguments.folder / name, dpi=110)
        print(arguments.folder / name)


def by_distance(result: dict[str, Any]) -> plt.Figure:
    """Plot the error of each experiment over that of mmgt by distance from HRRR's border, averaged over variables."""
    figure, panels = plt.subplots(1, len(LEADS_H), figsize=(9, 3.6), sharey=True, layout="constrained")
    limits = np.array(result["profile_km"])
    centres, base = (limits[1:] + limits[:-1]) / 2, result["scores"]["mmgt"]
    for panel, lead in zip(panels, LEADS_H):
        at = result["leads_h"].index(lead)
        for name in result["experiments"]:
            ours, look = result["scores"][name], dict(zip(("color", "linestyle", "marker"), STYLES[name]))
            ratios = [np.divide(ours[each]["profile_rmse"][at], base[each]["profile_rmse"][at]) for each in base]
            panel.plot(centres, np.mean(ratios, axis=0), **look, markersize=4, label=name)
        panel.axvline(0, color="0.4", linewidth=0.8)
        panel.axvspan(-225, 0, color="0.9", zorder=0)
        panel.set(title=f"{lead} h", xlabel="km from HRRR's border (inside < 0)")
        panel.grid(color="0.9")
    panels[0].set_ylabel("root-mean-square error\nover that of mmgt")
    panels[-1].legend(fontsize=8, ncols=2)
    return figure


def differences(result: dict[str, Any]) -> plt.Figure:
    """Plot differences with their intervals, filled where they are beyond noise."""
    shown = [name for name in CONTRASTS if name in result["differences"]]
    size = (2.0 * len(shown) + 1.6, 3.0 * len(LEADS_H))
    figure, panels = plt.subplots(len(LEADS_H), len(shown), figsize=size, sharey=True, layout="constrained")
    for row, lead in zip(np.atleast_2d(panels), LEADS_H):
        for panel, contrast in zip(row, shown):
            _intervals(panel, result["differences"][contrast], str(lead))
            panel.set_title(f"{contrast.replace(' - ', ' less ')}\n{lead} h", fontsize=8)
        row[0].set_yticks(range(len(SHOWN)), [ROWS[score].replace("`", "") for score in SHOWN], fontsize=7)
    figure.supxlabel("difference in percent (of the error; of the error's own change along the border)", fontsize=8)
    return figure


def _intervals(panel: Axes, contrast: dict[str, Any], lead: str) -> None:
    panel.axvline(0, color="0.4", linewidth=0.8)
    for row, score in enumerate(SHOWN):
        found = contrast.get(score, {}).get(lead, {}).get("all")
        if found is None or None in found:
            continue
        value, low, high = (100 * number for number in found)
        panel.plot([low, high], [row, row], color="black", linewidth=1)
        face = "white" if low <= 0 <= high else "black"
        panel.plot([value], [row], "o", color="black", markerfacecolor=face, markersize=5)
    panel.set_ylim(len(SHOWN) - 0.5, -0.5)
    panel.tick_params(axis="x", labelsize=7)
    panel.grid(axis="x", color="0.9")


if __name__ == "__main__":
    main()
