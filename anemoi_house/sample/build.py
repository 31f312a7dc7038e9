"""Two sample datasets, built by the stock `anemoi-datasets create` from the source `house-sample`.

Format, statistics and metadata are those of any dataset of anemoi-datasets. Dates are 6-hourly from 2020-01-01T00;
statistics are over the first 80 % of them, the stock default, and hold the 6 h tendencies too.

The same arguments give the same bytes in every array, on one kind of processor. Two builds differ in `.zattrs` alone,
the attributes of the store: in the uuid, and in what the stock tool notes of when, where and with what it ran.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from anemoi_house.errors import HouseError
from anemoi_house.geometry import HRRR_3KM, HRRR_15KM, Floats, LambertGrid, global_grid
from anemoi_house.sample.atmosphere import EPOCH, REVISION, variable_names

FORCINGS = (
    "cos_latitude",
    "sin_latitude",
    "cos_longitude",
    "sin_longitude",
    "cos_julian_day",
    "sin_julian_day",
    "cos_local_time",
    "sin_local_time",
    "insolation",
)
"""What the stock `forcings` source adds to the variables of the atmosphere."""

STEP = timedelta(hours=6)
MINIMUM_DATES = 4
# With threads, blosc packs the blocks of a chunk in the order in which they finish, and a matrix product may round by
# the number of cores: the same values in other bytes.
ONE_THREAD = {"BLOSC_NTHREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PARTS = {"lam": "hrrr.zarr", "global": "gfs.zarr"}
"""The two parts of a nested model, and the file of each."""


@dataclass(frozen=True)
class SampleGrid:
    """A pair of grids.

    Attributes
    ----------
    lam : LambertGrid
    global_spacing : float
        Degrees.
    """

    lam: LambertGrid
    global_spacing: float

    def points(self, part: str) -> tuple[Floats, Floats]:
        """Latitudes and longitudes (degrees), each of the two-dimensional shape of the part's grid."""
        return self.lam.latlon() if part == "lam" else global_grid(self.global_spacing)

    def spacing(self, part: str) -> str:
        """Resolution as the dataset's metadata gives it."""
        return f"{self.lam.spacing_km:g}km" if part == "lam" else f"{self.global_spacing:g}deg"


GRIDS = {
    "tiny": SampleGrid(HRRR_3KM.coarsened(40), 4.0),
    "study": SampleGrid(HRRR_3KM.coarsened(20), 180 / 42),
    "published": SampleGrid(HRRR_15KM, 1.0),
}


def build_sample(directory: Path, grid: str, dates: int, *, overwrite: bool) -> tuple[Path, Path]:
    """Build `hrrr.zarr` (the LAM) and `gfs.zarr` (the globe) in a folder.

    Both are built in a temporary folder in `directory` and moved into place when both are whole.
    Datasets of the same arguments that are already there are kept.

    Parameters
    ----------
    directory : Path
        Made if it does not exist.
    grid : str
        A name of `GRIDS`.
    dates : int
        Number of 6-hourly dates from 2020-01-01T00.
    overwrite : bool
        Build both anew and replace what is there.

    Returns
    -------
    hrrr, gfs : Path

    Raises
    ------
    HouseError
        For an unknown grid, too few dates, a folder that cannot be written to, other datasets in the
        way, a disk without the space, or a failure of `anemoi-datasets create`. Nothing half-written stays.
    """
    if grid not in GRIDS:
        raise HouseError(f"--grid {grid}: there is no such sample grid; give one of {', '.join(GRIDS)}")
    if dates < MINIMUM_DATES:
        raise HouseError(f"--dates {dates}: too few to train and validate on; give {MINIMUM_DATES} or more")
    recipes = {part: recipe(grid, part, dates) for part in PARTS}
    try:
        if directory.exists() and not directory.is_dir():
            raise HouseError(f"{directory}: is a file; give a folder for the two datasets")
        missing = [part for part in PARTS if overwrite or not _is_there(directory / PARTS[part], recipes[part])]
        for part in [part for part in PARTS if part not in missing]:
            _say(f"{PARTS[part]}: kept, it holds this sample already")
        if missing:
            with _staging(directory) as staging:
                _check_space(staging, directory, grid, dates, missing)
                _create(staging, {PARTS[part]: recipes[part] for part in missing}, dates)
                _move(staging, directory, [PARTS[part] for part in missing])
    except OSError as failure:
        raise HouseError(_cause(directory, failure)) from failure
    return directory / PARTS["lam"], directory / PARTS["global"]


def recipe(grid: str, part: str, dates: int) -> dict[str, Any]:
    """Recipe of one dataset, as `anemoi-datasets create` reads it."""
    lat, _ = GRIDS[grid].points(part)
    source = {"house-sample": {"grid": grid, "part": part}}
    return {
        "description": f"sample atmosphere {REVISION}, {grid} grid, {part} part, {dates} dates",
        "dates": {
            "start": EPOCH.isoformat(),
            "end": (EPOCH + (dates - 1) * STEP).isoformat(),
            "frequency": f"{STEP // timedelta(hours=1)}h",
        },
        "input": {
            "join": [source, {"forcings": {"template": "${input.join.0.house-sample}", "param": list(FORCINGS)}}],
        },
        "output": {"dtype": "float32", "chunking": {"dates": 1, "ensembles": 1}},
        "statistics": {"tendencies": ["6h"]},
        # Fields of a group of dates are held in memory together: some 200 MB.
        "build": {"allow_nans": False, "group_by": max(1, 500_000 // lat.size)},
    }


def _is_there(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a dataset of the same arguments is at `path`; anything else there is an error."""
    if not path.exists():
        return False
    try:
        found = json.loads((path / ".zattrs").read_text())["description"]
    except (OSError, ValueError, KeyError, TypeError):
        found = "something else than a sample"
    if found == wanted["description"]:
        return True
    raise HouseError(
        f"{path}: in the way; it holds '{found}', wanted is '{wanted['description']}'; "
        "give --overwrite to replace it, or another folder"
    )


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """Temporary folder in `directory`, hence on its file system; folders made for it go if they stay empty."""
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".anemoi-house-sample-", dir=directory) as staging:
            yield Path(staging)
    finally:
        for folder in made:
            try:
                folder.rmdir()
            except OSError:
                break


def _check_space(staging: Path, directory: Path, grid: str, dates: int, parts: list[str]) -> None:
    variables = len(variable_names()) + len(FORCINGS)
    points = sum(GRIDS[grid].points(part)[0].size for part in parts)
    needed, free = dates * variables * points * 4, shutil.disk_usage(staging).free
    if needed > free:
        raise HouseError(
            f"{directory}: {dates} dates on the {grid} grid need up to {needed / 1e9:.1f} GB, "
            f"free are {free / 1e9:.1f} GB; give fewer --dates or another folder"
        )


def _create(staging: Path, recipes: dict[str, dict[str, Any]], dates: int) -> None:
    """Run one `anemoi-datasets create` a dataset, side by side; its log is shown only where it fails."""
    running: dict[str, subprocess.Popen] = {}
    logs = {name: staging / f"{name}.log" for name in recipes}
    try:
        for name, content in recipes.items():
            _say(f"{name}: {content['description']}")
            path = staging / f"{name}.yaml"
            path.write_text(yaml.safe_dump(content, sort_keys=False))
            with logs[name].open("wb") as log:
                running[name] = subprocess.Popen(
                    _command(path, staging / name),
                    env=os.environ | ONE_THREAD,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        while any(process.poll() is None for process in running.values()):
            _check_running(running, logs)
            _show_progress(sum(_dates_in(staging / name) for name in recipes), dates * len(recipes))
            time.sleep(0.2)
        _check_running(running, logs)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        _show_progress(None, 0)


def _command(path: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "anemoi.datasets", "create", str(path), str(target)]


def _check_running(running: dict[str, subprocess.Popen], logs: dict[str, Path]) -> None:
    for name, process in running.items():
        if process.poll():
            lines = logs[name].read_text(errors="replace").strip().splitlines()
            if any(os.strerror(errno.ENOSPC) in line for line in lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            told = "\n".join(lines[-8:]) or f"exit status {process.returncode}"
            raise HouseError(f"{name}: anemoi-datasets create failed; nothing was kept. It said last:\n{told}")


def _move(staging: Path, directory: Path, names: list[str]) -> None:
    """Put the finished datasets in place; what they replace leaves with the temporary folder."""
    for name in names:
        if (directory / name).exists():
            (directory / name).rename(staging / f"{name}.old")
        (staging / name).rename(directory / name)


def _cause(directory: Path, failure: OSError) -> str:
    if failure.errno == errno.ENOSPC:
        return f"{directory}: the disk is full; nothing was kept. Free some space, or give another folder"
    return f"{directory}: cannot be written to ({failure.strerror}); give another folder"


def _dates_in(dataset: Path) -> int:
    """Dates that `anemoi-datasets` has written so far: files of the first chunk of the grid."""
    try:
        return sum(name.endswith(".0.0.0") for name in os.listdir(dataset / "data"))
    except OSError:
        return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _show_progress(done: int | None, total: int) -> None:
    """Rewrite the one line of progress; without a terminal there is none."""
    if sys.stderr.isatty():
        text = "" if done is None else f"{done} of {total} dates written"
        print(f"\r{text:<40}\r{text}", end="", file=sys.stderr, flush=True)
