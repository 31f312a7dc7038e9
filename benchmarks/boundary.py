"""Measure synthetic fields at the boundary: noise floors, planted jumps, and the time of each measure; draw a figure.

python benchmarks/boundary.py [--json FILE] [--figure docs/images/boxes.png] [--fields 240]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.boundary.band import WIDTH, Band, cell_areas_km2
from anemoi_house.boundary.drift import lam_drift
from anemoi_house.boundary.index import artifact_index
from anemoi_house.boundary.profile import distance_bins, error_profile
from anemoi_house.boundary.spectra import lam_spectrum
from anemoi_house.geometry import EARTH_RADIUS_KM, signed_distance_km, to_cartesian
from anemoi_house.sample.grids import GRIDS
from anemoi_house.study import records

DATES = 40
PLANTED = (0.25, 0.5, 1.0, 2.0)


def cutout(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a nested grid, those of the LAM first, and which are in the LAM."""
    grid = GRIDS[name]
    lam, globe = grid.points("lam"), grid.points("global")
    x, y = grid.lam.project(*lam)
    at_x, at_y = grid.lam.project(*globe)
    outside = ((at_x < x.min()) | (at_x > x.max()) | (at_y < y.min()) | (at_y > y.max())).ravel()
    points = np.concatenate([to_cartesian(*lam), to_cartesian(*globe)[outside]])
    return points, np.arange(len(points)) < x.size


def waves(points: np.ndarray, in_lam: np.ndarray, length_km: float, number: int) -> np.ndarray:
    """Return sums of four plane waves of all directions, of variance one."""
    rng = np.random.default_rng(0)
    middle = points[in_lam].mean(axis=0)
    middle /= np.linalg.norm(middle)
    east = np.cross([0.0, 0.0, 1.0], middle)
    east /= np.linalg.norm(east)
    fields = np.zeros((number, len(points)))
    for field in fields:
        for angle, phase in zip(*rng.uniform(0, 2 * np.pi, (2, 4))):
            towards = np.cos(angle) * east + np.sin(angle) * np.cross(middle, east)
            field += np.cos(2 * np.pi * EARTH_RADIUS_KM / length_km * points @ towards + phase)
    return fields / np.sqrt(2)


def floors(name: str) -> list[dict[str, Any]]:
    """Return the jump of fields of variance one: without an artifact on one date and on ten, and with planted jumps."""
    points, in_lam = cutout(name)
    band = Band.along_border(points, in_lam, cell_areas_km2(points))
    fields = {"noise": np.random.default_rng(0).normal(size=(DATES, len(points)))}
    fields |= {f"waves of {cells} cells": waves(points, in_lam, cells * band.cell_km, DATES) for cells in (4, 6, 10)}
    records = []
    for what, field in fields.items():
        jump = artifact_index(band, field).jump
        tens = jump.squared.reshape(-1, 10).mean(axis=1)
        found = [artifact_index(band, field + size * ~in_lam).jump for size in PLANTED]
        records.append(
            {
                "grid": name,
                "cell_km": round(band.cell_km, 1),
                "sites": len(band.sites),
                "field": what,
                "one_date": round(float(np.median(np.abs(jump.value))), 3),
                "ten_dates": round(float(np.median(np.sqrt(np.abs(tens)))), 3),
                "false_alarms": round(float(jump.beyond_noise.mean()), 3),
                "planted": PLANTED,
                "found": [round(float(each.mean().value), 3) for each in found],
                "seen_in_one_date": [round(float(each.beyond_noise.mean()), 2) for each in found],
            }
        )
    return records


def times(name: str, number: int) -> dict[str, Any]:
    """Return the seconds that the measures take."""
    points, in_lam = cutout(name)
    record: dict[str, Any] = {"grid": name, "nodes": len(points), "fields": number}

    def timed(what: str, call: Any) -> Any:
        start = time.perf_counter()
        result = call()
        record[what] = round(time.perf_counter() - start, 2)
        return result

    areas = timed("areas_s", lambda: cell_areas_km2(points))
    signed = timed("distance_s", lambda: signed_distance_km(points, in_lam, within_km=3000))
    band = timed("band_s", lambda: Band.along_border(points, in_lam, areas))
    fields = np.random.default_rng(0).normal(size=(number, len(points))).astype(np.float32)
    timed("index_s", lambda: artifact_index(band, fields))
    edges = distance_bins(signed, band.cell_km)
    timed("profile_s", lambda: error_profile(signed, fields, areas, edges))
    lam = GRIDS[name].lam
    timed("spectrum_s", lambda: lam_spectrum(fields[:, in_lam], lam.shape, lam.spacing_km))
    timed("drift_s", lambda: lam_drift(fields, in_lam, areas))
    return record


def draw(path: Path) -> None:
    """Draw the boxes at one site of the published grids, and measured against planted jumps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    points, in_lam = cutout("published")
    band = Band.along_border(points, in_lam, cell_areas_km2(points))
    latitudes, longitudes = band.latlon
    site = np.argmin(np.abs(longitudes - 262.5) + (latitudes < 40) * 360)
    east = np.array([-np.sin(np.deg2rad(longitudes[site])), np.cos(np.deg2rad(longitudes[site])), 0])
    north = np.cross(band.sites[site], east)
    near = points @ band.sites[site] > np.cos(700 / EARTH_RADIUS_KM)
    x, y = EARTH_RADIUS_KM * (points[near] @ east), EARTH_RADIUS_KM * (points[near] @ north)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for chosen, style, label in ((in_lam[near], {"s": 1, "color": "0.6"}, "LAM"),
                                 (~in_lam[near], {"s": 30, "color": "black", "marker": "+"}, "outside")):  # fmt: skip
        left.scatter(x[chosen], y[chosen], **style, label=f"nodes {'of the ' if label == 'LAM' else ''}{label}")
    blank = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    half, cell = WIDTH / 2 * band.cell_km, band.cell_km
    for box, name in zip((-4, -2, 0, 2), ("deep", "inner", "outer", "far")):
        left.add_patch(
            plt.Rectangle((-half, box * cell), 2 * half, 2 * cell, fill=False, linewidth=2, edgecolor="tab:blue")
        )
        left.annotate(name, (half + 12, (box + 1) * cell), va="center", color="tab:blue", fontsize=12, bbox=blank)
    left.axhline(0, linestyle="--", color="black")
    left.annotate("border", (-385, 0), va="center", bbox=blank)
    left.set(
        xlim=(-400, 400), ylim=(-520, 520), aspect="equal", xlabel="km along the border", ylabel="km across the border"
    )
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16))

    sizes = np.linspace(0, 2, 9)
    styles = {"noise": "o:", "waves of 6 cells": "s--", "waves of 10 cells": "^-"}
    for what, style in styles.items():
        if what == "noise":
            field = np.random.default_rng(0).normal(size=(10, len(points)))
        else:
            field = waves(points, in_lam, int(what.split()[2]) * cell, 10)
        found = [artifact_index(band, field + size * ~in_lam).jump.mean() for size in sizes]
        right.errorbar(
            sizes,
            [each.value for each in found],
            [[each.value - each.low for each in found], [each.high - each.value for each in found]],
            fmt=style,
            capsize=3,
            label=what,
        )
    right.plot(sizes, sizes, color="0.6", linewidth=1)
    right.set(xlabel="planted jump, in standard deviations of the field", ylabel="measured jump, mean of ten dates")
    right.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    records.add_option(parser)
    parser.add_argument("--fields", type=int, default=240, help="number of fields to time (default: 240)")
    parser.add_argument("--figure", type=Path, help="only draw the figure of docs/boundary.md")
    options = parser.parse_args()
    if options.figure:
        draw(options.figure)
        return
    result = records.circumstances(["numpy", "scipy"])
    result["floors"] = [record for name in GRIDS for record in floors(name)]
    result["times"] = [times(name, options.fields) for name in GRIDS]
    records.write(result, options.json)


if __name__ == "__main__":
    main()
