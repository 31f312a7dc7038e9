"""Measure time and memory of the report over four runs on the published grids, for five and for ten starting dates.

Nothing is trained: forecasts of 72 h, with ten variables each as `anemoi-house forecast` writes them, are made from the
analyses of the published sample, smooth growing errors and a jump along the boundary. The report reads its four default
variables and verifies them with the 92-variable datasets of the sample. Each report runs in its own process, on two
cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.study import records

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from forecasts.fabricate import fabricate  # noqa: E402

PACKAGES = ("anemoi-datasets", "matplotlib", "netCDF4", "numpy", "scipy")
TRIM = (15, 16, 15, 16)
RUNS = {"mmgt": None, "nbd": None, "tnbd": TRIM, "tnbd_covering": TRIM}
VARIABLES = ("gh_500", "t_850", "u_850", "v_850", "t2m", "sh2", "u10", "v10", "sp", "t_500")
LEADS_H = tuple(range(0, 73, 6))
APART_H = 12
NUMBERS_OF_DATES = (5, 10)
CORES = 2
TIMES = 2
"""Number of reports for each number of dates; the fastest counts."""


def dates_needed(dates: int) -> int:
    """Return the number of six-hourly analyses from the first start to the last lead time."""
    return ((dates - 1) * APART_H + LEADS_H[-1]) // 6 + 1


def make_forecasts(folder: Path, sample: Path, dates: int) -> None:
    """Write a folder of forecasts for each run."""
    from anemoi.datasets import open_dataset

    from anemoi_house.geometry import signed_distance_km, to_cartesian

    random = np.random.default_rng(0)
    for number, (name, trim) in enumerate(RUNS.items()):
        lam: dict[str, Any] = {"dataset": str(sample / "hrrr.zarr")}
        if trim:
            lam["trim_edge"] = list(trim)
        dataset = {
            "cutout": [lam, {"dataset": str(sample / "gfs.zarr")}],
            "adjust": "all",
            "min_distance_km": 0,
        }
        data = open_dataset(**dataset)
        columns = [data.name_to_index[variable] for variable in VARIABLES]
        in_lam = np.arange(data.shape[-1]) < data.grids[0]
        points = to_cartesian(data.latitudes, data.longitudes)
        near = np.exp(-((signed_distance_km(points, in_lam, within_km=2000) / 300) ** 2)) * np.where(in_lam, 1, -1)
        shape = open_dataset(**lam).field_shape
        scale = np.array([data.statistics["stdev"][column] for column in columns], dtype=np.float32)[:, None, None] / 10
        for date in range(dates):
            first = date * APART_H // 6
            truth = np.stack([data[first + lead // 6][columns, 0] for lead in LEADS_H], axis=1)
            wave = np.sin(points @ random.normal(0, 8, size=(3, len(LEADS_H))) + random.uniform(0, 6, len(LEADS_H))).T
            grown = np.sqrt(np.array(LEADS_H, dtype=np.float32) / 72)[:, None]
            error = scale * (grown * (wave + (0.1 + 0.1 * number) * near)).astype(np.float32)
            fabricate(
                folder / name,
                date=str(data.dates[first]),
                leads_h=LEADS_H,
                fields=dict(zip(VARIABLES, truth + error)),
                latitudes=data.latitudes,
                longitudes=data.longitudes,
                lam_shape=tuple(shape),
                run_id=name,
                name=name,
                trim=trim,
                dataset=dataset,
            )


def measure(folder: Path, output: Path) -> dict[str, Any]:
    """Make one report as a user does, and measure it."""
    command = [sys.executable, "-m", "anemoi_house", "report", *(str(folder / name) for name in RUNS), "-o", output]
    limited = {"OMP_NUM_THREADS": str(CORES), "BLOSC_NTHREADS": str(CORES), "MPLBACKEND": "Agg"}
    begun = time.perf_counter()
    child = subprocess.Popen(command, env=os.environ | limited, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             preexec_fn=lambda: os.sched_setaffinity(0, range(CORES)))  # fmt: skip
    _, status, used = os.wait4(child.pid, 0)
    took = time.perf_counter() - begun
    if status:
        raise SystemExit(f"the report failed: {command}")
    return {
        "seconds": took,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_memory_gb": used.ru_maxrss * 1024 / 1e9,
        "page_mb": (output / "index.html").stat().st_size / 1e6,
        "pictures": len(list((output / "figures").iterdir())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    records.add_option(parser)
    parser.add_argument("--folder", type=Path, help="keep sample and forecasts there, and use existing ones")
    arguments = parser.parse_args()
    kept = arguments.folder is not None
    folder = arguments.folder or Path(tempfile.mkdtemp())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sample, needed = folder / "sample", dates_needed(max(NUMBERS_OF_DATES))
        subprocess.run(
            [sys.executable, "-m", "anemoi_house", "sample", sample, "--grid", "published", "--dates", str(needed)],
            check=True,
            stdout=sys.stderr,
        )
        result: dict[str, Any] = records.circumstances(PACKAGES) | {
            "runs": len(RUNS),
            "leads": len(LEADS_H),
            "by_dates": {},
        }
        for dates in NUMBERS_OF_DATES:
            made = folder / f"{dates}"
            if not made.exists():
                make_forecasts(made, sample, dates)
            found = [measure(made, folder / f"report-{dates}") for _ in range(TIMES)]
            result["by_dates"][str(dates)] = min(found, key=lambda each: each["seconds"])
            print(json.dumps(result["by_dates"][str(dates)]), file=sys.stderr)
        # CPU time: on a shared machine, elapsed time depends on the others.
        few, many = (result["by_dates"][str(dates)]["cpu_seconds"] for dates in NUMBERS_OF_DATES)
        added = NUMBERS_OF_DATES[1] - NUMBERS_OF_DATES[0]
        result["cpu_seconds_per_date"] = (many - few) / added
        result["cpu_seconds_without_dates"] = few - NUMBERS_OF_DATES[0] * (many - few) / added
        records.write(result, arguments.json)
    finally:
        if not kept:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
