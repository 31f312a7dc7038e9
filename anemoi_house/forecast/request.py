"""Requests of forecasts: everything is checked before the model is loaded."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anemoi_house.errors import HouseError
from anemoi_house.forecast.plan import Plan
from anemoi_house.forecast.read import FOLDER, About, dates_of, grid_difference, open_data
from anemoi_house.runs.trained import Run
from anemoi_house.shipped import config_folder
from anemoi_house.upstream import keys

PLOTTED = "diagnostics/plot/house_nested.yaml"
"""Config with the variables that are written for a run without plots."""


def plan(
    run: Run,
    dates: Sequence[np.datetime64],
    lead_h: int,
    output: Path | None = None,
    variables: Sequence[str] = (),
    lam: Path | None = None,
    globe: Path | None = None,
    device: str | None = None,
) -> Plan:
    """Check a request for forecasts, without loading the model.

    Parameters
    ----------
    run : Run
        Run whose model is used.
    dates : sequence of datetime64[h]
        Initial dates.
    lead_h : int
        Longest lead time in hours.
    output : Path, optional
        Directory to write to; default `forecast/RUN_ID` below the run's outputs.
    variables : sequence of str
        Variables to write, or `all`; default those in the run's plots and metrics.
    lam, globe : Path, optional
        Paths of the two datasets, if they have moved since the training.
    device : str, optional
        Device, as torch names it.

    Raises
    ------
    HouseError
        If the request cannot be met; the message says what to change.
    """
    from anemoi.utils.dates import as_timedelta

    run.check_whole()
    step_h = as_timedelta(run.inference["timesteps"]["timestep"]) // timedelta(hours=1)
    if lead_h % step_h:
        raise HouseError(
            f"--lead-time: {lead_h}h is not a multiple of the model's step, {step_h}h. Give "
            f"{max(lead_h // step_h, 1) * step_h}h or {(lead_h // step_h + 1) * step_h}h."
        )
    chosen, everything = _variables(run, variables)
    arguments = _moved(_dataset_of(run), lam, globe)
    _check_paths(arguments)
    data = open_data(arguments, f"the data of run {run.name}")
    _check_data(run, data)
    unverified = _check_dates(run, data, dates, lead_h, step_h)
    folder = (output or run.root / FOLDER / run.run_id).absolute()
    about = _about(run, data, arguments, step_h)
    planned = Plan(about, tuple(dates), lead_h, chosen, everything, folder, device, unverified)
    planned.check_folder(data.shape[-1])
    return planned


def _variables(run: Run, asked: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Return the variables to write, and whether they are all that the model predicts."""
    predicted = list(run.inference["data_indices"]["output"])
    if list(asked) == ["all"]:
        return tuple(predicted), True
    if unknown := [name for name in asked if name not in predicted]:
        near = difflib.get_close_matches(unknown[0], predicted, 1)
        hint = f"Did you mean {near[0]}?" if near else f"It predicts {', '.join(predicted)}."
        raise HouseError(f"--variables: the model does not predict {', '.join(unknown)}. {hint}")
    names = dict.fromkeys(asked or [name for name in _looked_at(run) if name in predicted])
    return (tuple(names), False) if names else (tuple(predicted), True)


def _looked_at(run: Run) -> list[str]:
    """Return the variables in the run's plots and metrics; for a run without plots, those of our plots."""
    plotted = [name for each in keys.get(run.config, keys.PLOTS, []) for name in each.get("parameters") or []]
    if not plotted:
        plotted = yaml.safe_load((config_folder() / PLOTTED).read_text())["parameters"]
    return [*plotted, *(keys.get(run.config, keys.METRICS, {}).get(run.dataset_name) or [])]


def _dataset_of(run: Run) -> dict[str, Any]:
    """Return the arguments of `open_dataset` that the run was trained with, without its periods."""
    return next(found for stage in (keys.TEST, keys.VALIDATION, keys.TRAINING) if (found := run.dataset_of(stage)))


def _parts(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the options of the parts of the cutout, the LAM first; none if the dataset is not a cutout."""
    dataset = arguments["dataset"]
    cutout = dataset.get("cutout", []) if isinstance(dataset, dict) else []
    return [part if isinstance(part, dict) else {"dataset": part} for part in cutout]


def _moved(arguments: dict[str, Any], lam: Path | None, globe: Path | None) -> dict[str, Any]:
    """Return the arguments with new paths of the two datasets."""
    parts = _parts(arguments)
    for option, index, path in (("--lam", 0, lam), ("--global", -1, globe)):
        if path is None:
            continue
        if not parts:
            raise HouseError(f"{option}: the run's dataset is not a cutout of a limited-area and a global one.")
        moved = {"dataset": str(path.absolute() if path.exists() else path)}
        arguments["dataset"]["cutout"][index] = parts[index] | moved
    return arguments


def _check_paths(arguments: Mapping[str, Any]) -> None:
    for index, part in enumerate(_parts(arguments)):
        path = part.get("dataset", "")
        local = isinstance(path, str) and "://" not in path and (os.sep in path or path.endswith(".zarr"))
        if local and not Path(path).exists():
            option = "--global" if index else "--lam"
            raise HouseError(f"{path} does not exist. If the data have moved, give their new path: {option} PATH.")


def _check_data(run: Run, data: Any) -> None:
    if difference := grid_difference(run.coordinates, (data.latitudes, data.longitudes)):
        raise HouseError(
            f"the data are not on the grid that run {run.name} was trained on: {difference}. Give datasets on that "
            "grid: --lam PATH --global PATH."
        )
    needed = run.inference["data_indices"]["input"]
    if lacking := sorted(set(needed) - set(data.variables)):
        raise HouseError(f"the data lack {', '.join(lacking)}, an input of the model. Give other data: --lam PATH.")


def _check_dates(
    run: Run, data: Any, dates: Sequence[np.datetime64], lead_h: int, step_h: int
) -> tuple[np.datetime64, ...]:
    """Return the valid times that the data lack; raise if a forecast cannot start or continue without them."""
    available = {date.astype(datetime) for date in dates_of(data)}
    extent = "the data are empty"
    if available:
        first, last = (f"{date:%Y-%m-%dT%H}" for date in (min(available), max(available)))
        extent = f"the data have {len(available):,} dates from {first} to {last}"
    indices = run.inference["timesteps"]["input_relative_date_indices"]
    back = (max(indices) - np.array(indices)) * np.timedelta64(step_h, "h")
    ahead = np.arange(step_h, lead_h + 1, step_h) * np.timedelta64(1, "h")
    forcings = _forcings_of_each_step(run)
    unverified: set[np.datetime64] = set()
    for date in dates:
        if date.astype(datetime) not in available:
            raise HouseError(f"--dates: {date} is not in the data; {extent}.")
        if lacking := [each for each in date - back if each.astype(datetime) not in available]:
            raise HouseError(
                f"--dates: {date} cannot be an initial date: the model starts from {len(back)} states, and "
                f"{', '.join(map(str, lacking))} is not in the data; {extent}."
            )
        lacking = [each for each in date + ahead if each.astype(datetime) not in available]
        if forcings and lacking and lacking[0] < date + ahead[-1]:
            raise HouseError(
                f"--lead-time: {lead_h}h from {date} needs {', '.join(forcings)} of {lacking[0]}, which the data lack; "
                f"{extent}. Give {(lacking[0] - date).astype(int)}h or less."
            )
        unverified.update(lacking)
    return tuple(sorted(unverified))


def _forcings_of_each_step(run: Run) -> list[str]:
    """Return the forcings that change in time and are read from the data at each step."""
    known = run.dataset_metadata.get("variables_metadata") or {}
    forcings = run.inference["variable_types"].get("forcing") or []
    free = ("computed_forcing", "constant_in_time")
    return [name for name in forcings if not any((known.get(name) or {}).get(key) for key in free)]


def _about(run: Run, data: Any, arguments: dict[str, Any], step_h: int) -> About:
    parts = _parts(arguments)
    lam_nodes = int(np.asarray(data.grids)[0]) if parts else None
    shape = tuple(map(int, data.field_shape)) if parts else ()
    trim = parts[0].get("trim_edge") if parts else None
    known = run.dataset_metadata.get("variables_metadata") or {}
    predicted = run.inference["data_indices"]["output"]
    return About(
        run_id=run.run_id,
        name=run.name,
        checkpoint=str(run.checkpoint.absolute()),
        checkpoint_uuid=run.uuid,
        step=run.step,
        timestep_h=step_h,
        lam_nodes=lam_nodes,
        lam_shape=shape if len(shape) == 2 and shape[0] * shape[1] == lam_nodes else None,  # type: ignore[arg-type]
        trim=tuple(trim) if trim else None,  # type: ignore[arg-type]
        dataset=arguments,
        diagnostic=tuple(run.inference["variable_types"].get("diagnostic") or ()),
        units={name: known[name]["units"] for name in predicted if (known.get(name) or {}).get("units")},
    )
