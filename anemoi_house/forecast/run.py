"""Forecasts by the stock runner: all dates of a run in one process, since a start of it takes longer than a forecast.

What it writes is what `anemoi-inference run` writes from the config of each date.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.errors import HouseError
from anemoi_house.forecast.write import Plan


def run(plan: Plan) -> list[Path]:
    """Make the forecasts that are not there yet, and tell of each on stderr.

    A forecast is under its name when it is whole, and not before; so the same command goes on after any end.

    Returns
    -------
    list of Path
        The files, one for each date.

    Raises
    ------
    HouseError
        Where anemoi-inference is not installed, the device is not there, or it was interrupted.
    """
    check_runner(plan.device)
    plan.write_about()
    done = [date for date in plan.dates if plan.is_done(date)]
    todo = [date for date in plan.dates if date not in done]
    if done:
        _say(f"{plan.folder}: {len(done)} of {len(plan.dates)} forecasts are there already")
    finished = len(done)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=plan.folder) as unfinished, _quiet():
            runner = None
            for date in todo:
                started = time.monotonic()
                file = Path(unfinished, plan.file(date).name)
                runner = _execute(runner, plan, date, file)
                os.replace(file, plan.file(date))
                plan.write_config(date)
                finished += 1
                spent = time.monotonic() - started
                _say(f"{date}: {plan.lead_h} h ahead, in {spent:.0f} s ({finished} of {len(plan.dates)})")
    except KeyboardInterrupt:
        raise HouseError(
            f"stopped; {_there(plan)} of {len(plan.dates)} forecasts are in {plan.folder}. The same command goes on."
        ) from None
    except OSError as error:
        raise HouseError(
            f"{plan.folder}: cannot be written to ({error.strerror or error}); {_there(plan)} of {len(plan.dates)} "
            "forecasts are there. Give it room, and start the same command again."
        ) from error
    return [plan.file(date) for date in plan.dates]


def _there(plan: Plan) -> int:
    """Forecasts that are under their names, also where it ended just after one of them was put there."""
    return sum(plan.file(date).exists() for date in plan.dates)


def write_configs(plan: Plan) -> list[Path]:
    """Write the configs alone, for `anemoi-inference run`.

    Raises
    ------
    HouseError
        Where a forecast of that date is there, made from another config.
    """
    for date in plan.dates:
        if plan.file(date).exists() and not plan.is_done(date):
            raise HouseError(
                f"{plan.file(date)} is there, and was made from another config. Delete it, or give another folder: "
                "-o DIR."
            )
    plan.write_about()
    return [plan.write_config(date) for date in plan.dates]


def check_runner(device: str | None) -> None:
    """Whether the stock runner is installed, and has the device.

    Raises
    ------
    HouseError
        Where not.
    """
    if importlib.util.find_spec("anemoi.inference") is None:
        raise HouseError("anemoi-inference is not installed. Install it: pip install 'anemoi-inference>=0.13,<0.14'.")
    if device is None:
        return
    import torch

    try:
        kind = torch.device(device)
    except RuntimeError:
        raise HouseError(f"--device: '{device}' is no device of torch. Give cpu, cuda or cuda:0.") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (kind.index or 0) >= there.get(kind.type, 0):
        raise HouseError(f"--device: this machine has no {device}. Leave it out, or give cpu.")


def _execute(runner: Any, plan: Plan, date: np.datetime64, file: Path) -> Any:
    """One forecast. The runner of the first one is used again: it has the model and the data open."""
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of each step in single precision on a CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="In CPU autocast")
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
