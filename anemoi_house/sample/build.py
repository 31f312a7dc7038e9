"""Build the two sample datasets by the stock `anemoi-datasets create` from the source `house-sample`.

Format, statistics and metadata are those of any anemoi dataset. Dates are 6-hourly from 2020-01-01T00; statistics are
over the first 80 % of them, the stock default, and include the 6 h tendencies.

The same arguments give the same bytes in every array, on one kind of processor. Two builds differ only in `.zattrs`,
the attributes of the store: in the uuid, and in the stock tool's record of its run.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from anemoi_house.errors import HouseError
from anemoi_house.progress import ProgressLine
from anemoi_house.sample.atmosphere import EPOCH, REVISION, variable_names
from anemoi_house.sample.grids import GRIDS, PARTS

_ANGLES = ("latitude", "longitude", "julian_day", "local_time")
FORCINGS = (*(f"{function}_{angle}" for angle in _ANGLES for function in ("cos", "sin")), "insolation")
"""Variables that the stock `forcings` source adds to those of the atmosphere."""

STEP = timedelta(hours=6)
MINIMUM_DATES = 4
# With threads, blosc stores the blocks of a chunk in order of completion and matrix products round differently: the
# same values in different bytes.
ONE_THREAD = {"BLOSC_NTHREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def build_sample(directory: Path, grid: str, dates: int, *, overwrite: bool) -> tuple[Path, Path]:
    """Build `hrrr.zarr` (the LAM) and `gfs.zarr` (the globe) in a directory.

    Both are built in a temporary folder in `directory` and moved into place once both are complete. Existing datasets
    of the same arguments are kept.

    Parameters
    ----------
    directory : Path
        Created if missing.
    grid : str
        A name of `GRIDS`.
    dates : int
        Number of 6-hourly dates from 2020-01-01T00.
    overwrite : bool
        Rebuild and replace existing datasets.

    Returns
    -------
    hrrr, gfs : Path

    Raises
    ------
    HouseError
        For an unknown grid, too few dates, a directory that is not writable, different datasets in it, too little disk
        space, or a failure of `anemoi-datasets create`. No partial dataset is left.
    """
    if grid not in GRIDS:
        raise HouseError(f"--grid {grid}: unknown sample grid. Give one of {', '.join(GRIDS)}.")
    if dates < MINIMUM_DATES:
        raise HouseError(f"--dates {dates}: too few to train and validate on. Give {MINIMUM_DATES} or more.")
    recipes = {}
    try:
        if directory.exists() and not directory.is_dir():
            raise HouseError(f"{directory} is a file. Give a directory for the two datasets.")
        for part, name in PARTS.items():
            wanted = recipe(grid, part, dates)
            if overwrite or not _exists(directory / name, wanted["description"]):
                recipes[name] = wanted
            else:
                print(f"{name}: kept, it holds this sample already", file=sys.stderr)
        if recipes:
            with _staging(directory) as staging:
                _check_space(staging, directory, grid, dates, recipes)
                _create(staging, recipes, dates)
                _move(staging, directory, recipes)
    except OSError as failure:
        if failure.errno == errno.ENOSPC:
            reason = "the disk is full; nothing was kept. Free some space, or give another directory."
            raise HouseError(f"{directory}: {reason}") from failure
        raise HouseError(f"{directory} is not writable ({failure.strerror}). Give another directory.") from failure
    return directory / PARTS["lam"], directory / PARTS["global"]


def recipe(grid: str, part: str, dates: int) -> dict[str, Any]:
    """Return the recipe of one dataset for `anemoi-datasets create`."""
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
        # All fields of a group are in memory at the same time: some 200 MB.
        "build": {"allow_nans": False, "group_by": max(1, 500_000 // lat.size)},
    }


def _exists(path: Path, description: str) -> bool:
    """Return whether a dataset of this description is at `path`; raise for anything else there."""
    if not path.exists():
        return False
    try:
        found = json.loads((path / ".zattrs").read_text())["description"]
    except (OSError, ValueError, KeyError, TypeError):
        found = "not a sample"
    if found == description:
        return True
    raise HouseError(
        f"{path} already holds something else: '{found}', not '{description}'. "
        "Give --overwrite to replace it, or another directory."
    )


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """Yield a temporary folder in `directory`, on the same file system; remove folders made for it if still empty."""
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


def _check_space(staging: Path, directory: Path, grid: str, dates: int, names: Container[str]) -> None:
    variables = len(variable_names()) + len(FORCINGS)
    points = sum(GRIDS[grid].points(part)[0].size for part, name in PARTS.items() if name in names)
    needed, free = dates * variables * points * 4, shutil.disk_usage(staging).free
    if needed > free:
        raise HouseError(
            f"{directory}: {dates} dates on the {grid} grid need up to {needed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free. Give fewer --dates or another directory."
        )


def _create(staging: Path, recipes: dict[str, dict[str, Any]], dates: int) -> None:
    """Run `anemoi-datasets create` for all datasets in parallel; show the log of one that fails."""
    running: dict[str, subprocess.Popen] = {}
    logs = {name: staging / f"{name}.log" for name in recipes}
    progress = ProgressLine(log_every_s=math.inf)
    try:
        for name, content in recipes.items():
            print(f"{name}: {content['description']}", file=sys.stderr)
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
            if progress.due:
                # Files of the first chunk of the grid, one for each date.
                done = sum(1 for name in recipes for _ in (staging / name / "data").glob("*.0.0.0"))
                progress.show(f"{done} of {dates * len(recipes)} dates written")
            time.sleep(0.1)
        _check_running(running, logs)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        progress.end()


def _command(path: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "anemoi.datasets", "create", str(path), str(target)]


def _check_running(running: dict[str, subprocess.Popen], logs: dict[str, Path]) -> None:
    for name, process in running.items():
        if process.poll():
            lines = logs[name].read_text(errors="replace").strip().splitlines()
            if any(os.strerror(errno.ENOSPC) in line for line in lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            last = "\n".join(lines[-8:]) or f"exit status {process.returncode}"
            raise HouseError(f"{name}: anemoi-datasets create failed; nothing was kept. Its last lines:\n{last}")


def _move(staging: Path, directory: Path, names: Iterable[str]) -> None:
    """Move finished datasets into place; what they replace is deleted with the temporary folder."""
    for name in names:
        if (directory / name).exists():
            (directory / name).rename(staging / f"{name}.old")
        (staging / name).rename(directory / name)
