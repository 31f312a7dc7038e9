"""Forecasts by the stock runner, all dates of a run in one process: starting it takes longer than a forecast.

The files are those that `anemoi-inference run` writes from the config of each date.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.errors import HouseError
from anemoi_house.forecast.plan import Plan


def run(plan: Plan) -> list[Path]:
    """Make the forecasts that are not done yet, and print a line on stderr for each.

    A file gets its name once it is whole, so after any interruption the same command continues.

    Returns
    -------
    list of Path
        The files, one for each date.

    Raises
    ------
    HouseError
        If the device is unavailable, the directory cannot be written, or the run was interrupted.
    """
    check_runner(plan.device)
    plan.write_about()
    todo = [date for date in plan.dates if not plan.is_done(date)]
    total = len(plan.dates)
    if kept := total - len(todo):
        _print(f"{plan.folder}: {kept} of {total} forecasts exist and are kept")
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=plan.folder) as folder, warnings.catch_warnings():
            # From torch with each step, on single precision on a CPU.
            warnings.filterwarnings("ignore", message="In CPU autocast")
            runner = None
            for finished, date in enumerate(todo, kept + 1):
                started = time.monotonic()
                file = Path(folder, plan.file(date).name)
                runner = _execute(runner, plan, date, file)
                os.replace(file, plan.file(date))
                plan.write_config(date)
                spent_s = time.monotonic() - started
                _print(f"{date}: {plan.lead_h} h ahead, in {spent_s:.0f} s ({finished} of {total})")
    except KeyboardInterrupt:
        raise HouseError(
            f"interrupted with {_existing(plan)} of {total} forecasts in {plan.folder}. Run the same command to "
            "continue."
        ) from None
    except OSError as error:
        raise HouseError(
            f"{plan.folder}: is not writable ({error.strerror or error}); {_existing(plan)} of {total} forecasts are "
            "complete. Free some space, and run the same command to continue."
        ) from error
    return [plan.file(date) for date in plan.dates]


def _existing(plan: Plan) -> int:
    """Count the forecasts that have their names; an interruption may come just after one got its name."""
    return sum(plan.file(date).exists() for date in plan.dates)


def write_configs(plan: Plan) -> list[Path]:
    """Write only the configs for `anemoi-inference run`, and return their paths.

    Raises
    ------
    HouseError
        If the forecast of a date exists, made from another config.
    """
    for date in plan.dates:
        if plan.file(date).exists() and not plan.is_done(date):
            raise HouseError(
                f"{plan.file(date)}: was made from another config. Delete it, or choose another directory: -o DIR."
            )
    plan.write_about()
    return [plan.write_config(date) for date in plan.dates]


def check_runner(device: str | None) -> None:
    """Check that the stock runner is installed, and that it can use the device.

    Raises
    ------
    ModuleNotFoundError
        If anemoi-inference is not installed.
    HouseError
        If the device is unavailable.
    """
    import anemoi.inference  # noqa: F401

    if device is None:
        return
    import torch

    try:
        kind = torch.device(device)
    except RuntimeError:
        raise HouseError(f"--device: '{device}' is not a torch device. Give cpu, cuda or cuda:0.") from None
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (kind.index or 0) >= available.get(kind.type, 0):
        raise HouseError(f"--device: {device} is not available on this machine. Omit it, or give cpu.")


def _execute(runner: Any, plan: Plan, date: np.datetime64, file: Path) -> Any:
    """Make one forecast, and return the runner, which keeps the model and the data open for the next one."""
    from anemoi.inference.config.run import RunConfiguration
    from anemoi.inference.runners import create_runner

    config = plan.config(date, file)
    if runner is None:
        runner = create_runner(RunConfiguration.load(config))
    else:
        runner.config.output = config["output"]
        runner.reference_date = date.astype(datetime)
        for name, metadata in runner.checkpoint.multi_dataset_metadata.items():
            runner.outputs[name] = runner.create_output(name, metadata)
    runner.execute()
    return runner


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
