"""Build the study's data, train its runs and make their forecasts; finished parts are kept."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.files import write_whole
from anemoi_house.sample.grids import GRIDS
from anemoi_house.study.fault import write_faulty
from anemoi_house.study.plan import BIN, DATES, EXPERIMENTS, GRID, LEAD_TIME, SAMPLE_DATES, VARIABLES, Run
from anemoi_house.upstream.compose import composed

_COMPOSE = threading.Lock()


def build_samples(study: Path) -> None:
    """Build the sample data, and a copy whose LAM has a fault.

    Raises
    ------
    HouseError
        If the sample command fails.
    """
    command = [f"{BIN}/anemoi-house", "sample", f"{study}/sample", "--grid", GRID, "--dates", str(SAMPLE_DATES)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise HouseError("the sample data could not be built.")
    write_faulty(study / "sample", study / "faulty", GRIDS[GRID].lam)


def make(runs: Sequence[Run], side_by_side: int, prefix: list[str]) -> None:
    """Train runs and make their forecasts, some in parallel; after a failure no other run starts.

    Parameters
    ----------
    runs : sequence of Run
    side_by_side : int
        Number of parallel processes.
    prefix : list of str
        Words to put before each command, such as `nice`.

    Raises
    ------
    HouseError
        If a command fails, with the last lines of its log.
    """
    failed, done = threading.Event(), itertools.count(1)

    def one(run: Run) -> None:
        if failed.is_set():
            return
        try:
            line = f"{run.name}: {_train(run, prefix)}, {_forecast(run, prefix)}"
        except BaseException:
            failed.set()
            raise
        print(f"[{next(done)}/{len(runs)}] {line}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(side_by_side) as pool:
        list(pool.map(one, runs))


def _train(run: Run, prefix: list[str]) -> str:
    wanted = {"arguments": run.arguments, "seed": run.seed, "settings": _settings(run.experiment), "fault": run.fault}
    if run.record.is_file():
        found = json.loads(run.record.read_text())
        if {key: found.get(key) for key in wanted} == wanted:
            return "trained already"
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    spent = _execute([*prefix, f"{BIN}/anemoi-training", "train", *run.arguments], run, "training.log")
    write_whole(run.record, json.dumps(wanted | spent, indent=2) + "\n")
    return f"trained in {spent['wall_s']:.0f} s, {spent['cpu_s']:.0f} s of CPU time"


def _forecast(run: Run, prefix: list[str]) -> str:
    arguments = [str(run.folder), "--dates", DATES, "--lead-time", LEAD_TIME, "--variables", *VARIABLES]
    spent = _execute([*prefix, f"{BIN}/anemoi-house", "forecast", *arguments], run, "forecast.log")
    return f"forecasts made in {spent['wall_s']:.0f} s"


def _execute(command: list[str], run: Run, log_name: str) -> dict[str, float]:
    """Run a command to its end; return its wall-clock and CPU time."""
    start, log = time.monotonic(), run.folder / log_name
    with log.open("wb") as file:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=run.folder, env=os.environ | run.environment, **streams)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise HouseError("\n".join([f"{run.name} ended with status {process.returncode}; {log} ends:", *last]))
    return {"wall_s": time.monotonic() - start, "cpu_s": usage.ru_utime + usage.ru_stime}


@cache
def _settings(experiment: str) -> str:
    """Return a digest of everything that determines the result of an experiment's training."""
    from omegaconf import OmegaConf

    name, *overrides = EXPERIMENTS[experiment]
    with _COMPOSE:  # Hydra composes one config at a time
        config = composed(name.removeprefix("--config-name="), None, [*overrides, "+sample=house_study"])
    sections = ("data", "dataloader", "graph", "model", "task", "training")
    parts = {key: OmegaConf.to_container(config[key], resolve=False) for key in sections}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
