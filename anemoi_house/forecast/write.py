"""Configs for the stock `anemoi-inference run`, one for each starting date, and the checks of what was asked for."""

from __future__ import annotations

import copy
import difflib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anemoi_house.errors import HouseError
from anemoi_house.forecast.read import FOLDER, SIDECAR, About, dates_of, grid_difference, open_data
from anemoi_house.runs.trained import Run
from anemoi_house.shipped import config_folder

ALL = "all"
BYTES = 4
"""Of a value in the stock NetCDF output."""

_SAME = ("description", "date", "input", "initial_state_categories")
"""What two configs have in common whose forecasts are the same, as far as both go."""

PLOTTED = "diagnostics/plot/house_nested.yaml"
"""Config that names the variables which a person looks at."""


@dataclass(frozen=True)
class Plan:
    """Forecasts that were asked for, and found possible.

    Attributes
    ----------
    run : Run
        Whose model.
    about : About
        What the forecasts have in common.
    dates : tuple of datetime64[h]
        Where they start.
    lead_h : int
        How far they go, in hours.
    variables : tuple of str
        What is written.
    everything : bool
        Whether that is all that the model predicts.
    folder : Path
        Where they are written.
    device : str or None
        As torch names it; None leaves it to the stock runner.
    unverified : tuple of datetime64
        Times that they are for and the data lack.
    """

    run: Run
    about: About
    dates: tuple[np.datetime64, ...]
    lead_h: int
    variables: tuple[str, ...]
    everything: bool
    folder: Path
    device: str | None
    unverified: tuple[np.datetime64, ...]

    @property
    def told(self) -> list[str]:
        """What a person should know of it before it starts, in lines."""
        step = "" if self.about.step is None else f" at step {self.about.step}"
        dates = f"{len(self.dates)} date{'s' if len(self.dates) > 1 else ''}"
        lines = [f"run {self.about.name} ({self.about.run_id}){step}, {self.lead_h} h from {dates}"]
        if self.unverified:
            ends = dict.fromkeys(map(str, (self.unverified[0], self.unverified[-1])))
            lines.append(
                f"the data lack {len(self.unverified)} of the dates that the forecasts are for, {' to '.join(ends)}: "
                "not to be verified"
            )
        return lines

    @property
    def leads(self) -> int:
        """Number of states in a file, the first one included."""
        return self.lead_h // self.about.timestep_h + 1

    def file(self, date: np.datetime64) -> Path:
        """Where a forecast is written."""
        return self.folder / f"{date}.nc"

    def config_file(self, date: np.datetime64) -> Path:
        """Where the config of a forecast is written."""
        return self.folder / f"{date}.yaml"

    def config(self, date: np.datetime64, file: Path | None = None) -> dict[str, Any]:
        """Config for `anemoi-inference run`.

        Parameters
        ----------
        date : datetime64[h]
            Where the forecast starts.
        file : Path, optional
            Where it is written, if not where it belongs.
        """
        output: dict[str, Any] = {"path": str(file or self.file(date))}
        if not self.everything:
            output["variables"] = list(self.variables)
        return {
            "description": f"{self.about.name}, run {self.about.run_id}, checkpoint {self.about.checkpoint_uuid}",
            "checkpoint": self.about.checkpoint,
            "date": str(date),
            "lead_time": f"{self.lead_h}h",
            "runner": "forecaster",
            **({"device": self.device} if self.device else {}),
            "input": {"dataset": copy.deepcopy(dict(self.about.dataset))},
            "initial_state_categories": ["prognostics"],
            "output": {"netcdf": output},
        }

    def config_text(self, date: np.datetime64) -> str:
        """Text of the config file."""
        said = yaml.safe_dump(self.config(date), sort_keys=False, default_flow_style=None, width=100)
        return f"# Written by anemoi-house forecast. By itself: anemoi-inference run {date}.yaml\n{said}"

    def is_done(self, date: np.datetime64) -> bool:
        """Whether the forecast is there, whole, of the same checkpoint and data, with all that is asked for."""
        try:
            there = yaml.safe_load(self.config_file(date).read_text())
        except (OSError, ValueError, yaml.YAMLError):
            return False
        ours = self.config(date)
        if not isinstance(there, dict) or any(there.get(key) != ours[key] for key in _SAME):
            return False
        from netCDF4 import Dataset

        try:
            with Dataset(self.file(date)) as file:
                leads, names = file.dimensions["time"].size, file.variables.keys()
        except (OSError, KeyError):
            return False
        return there.get("lead_time") == f"{(leads - 1) * self.about.timestep_h}h" and (
            leads >= self.leads and set(self.variables) <= names
        )

    def write_about(self) -> None:
        """Write the sidecar.

        Raises
        ------
        HouseError
            Where the folder cannot be written to, or holds forecasts of another run or another checkpoint.
        """
        path = self.folder / SIDECAR
        if path.exists():
            there = About.read(self.folder)
            if (there.run_id, there.checkpoint_uuid) != (self.about.run_id, self.about.checkpoint_uuid):
                other = there.run_id != self.about.run_id
                whose = f"run {there.run_id}" if other else f"another checkpoint of the run, at step {there.step}"
                raise HouseError(
                    f"{self.folder}: holds forecasts of {whose}. Move or delete that folder, or give another one: "
                    "-o DIR."
                )
        _replace(path, self.about.as_json())

    def write_config(self, date: np.datetime64) -> Path:
        """Write the config of a forecast."""
        path = self.config_file(date)
        _replace(path, self.config_text(date))
        return path


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
    """Check what was asked for, as far as that can be done without the model.

    Parameters
    ----------
    run : Run
        Whose model.
    dates : sequence of datetime64[h]
        Where the forecasts start.
    lead_h : int
        How far they go, in hours.
    output : Path, optional
        Folder to write to; else `forecast/RUN_ID` beside the run's checkpoints.
    variables : sequence of str
        What to write: `all`, or names; else what the run's plots and metrics look at.
    lam, globe : Path, optional
        Where the two datasets lie, if not where the training read them.
    device : str, optional
        As torch names it.

    Raises
    ------
    HouseError
        Where something does not fit, with the way out.
    """
    run.check_whole()
    step_h = _timestep_h(run)
    if lead_h % step_h:
        raise HouseError(
            f"--lead-time: {lead_h}h is no multiple of the model's step, {step_h}h. Give "
            f"{max(lead_h // step_h, 1) * step_h}h or {(lead_h // step_h + 1) * step_h}h."
        )
    chosen, everything = _variables(run, variables)
    arguments = _elsewhere(_dataset_of(run), lam, globe)
    _check_there(arguments)
    data = open_data(arguments, f"the data of run {run.name}")
    _check_grid(run, data)
    unverified = _check_dates(run, data, dates, lead_h, step_h)
    folder = (output or run.root / FOLDER / run.run_id).absolute()
    made = Plan(
        run,
        _about(run, data, arguments, step_h),
        tuple(dates),
        lead_h,
        chosen,
        everything,
        folder,
        device,
        unverified,
    )
    _check_folder(made, data.shape[-1])
    return made


def _timestep_h(run: Run) -> int:
    from anemoi.utils.dates import as_timedelta

    return int(as_timedelta(run.inference["timesteps"]["timestep"]).total_seconds() // 3600)


def _variables(run: Run, asked: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """What is written, and whether that is all that the model predicts."""
    predicted = list(run.inference["data_indices"]["output"])
    if list(asked) == [ALL]:
        return tuple(predicted), True
    if unknown := [name for name in asked if name not in predicted]:
        near = difflib.get_close_matches(unknown[0], predicted, 1)
        hint = f"; did you mean {near[0]}?" if near else f". It predicts {', '.join(predicted)}."
        raise HouseError(f"--variables: the model predicts no {', '.join(unknown)}{hint}")
    names = dict.fromkeys(asked or [name for name in _looked_at(run) if name in predicted])
    return (tuple(names), False) if names else (tuple(predicted), True)


def _looked_at(run: Run) -> list[str]:
    """Variables that the run's plots and metrics look at; those of our plots where it has none."""
    config = run.metadata["config"]
    plots = [each.get("parameters") or [] for each in config["diagnostics"]["plot"].get("callbacks") or []]
    plotted = [name for parameters in plots for name in parameters]
    if not plotted:
        plotted = yaml.safe_load((config_folder() / PLOTTED).read_text())["parameters"]
    metrics = (config["training"].get("metrics") or {}).get("datasets") or {}
    return [*plotted, *(metrics.get(run.dataset_name) or [])]


def _dataset_of(run: Run) -> dict[str, Any]:
    """Arguments of `open_dataset` that the run was trained with, without its periods."""
    dataloader = run.metadata["config"]["dataloader"]
    said = next(
        dataloader[part]["datasets"][run.dataset_name]["dataset_config"]
        for part in ("test", "validation", "training")
        if dataloader.get(part)
    )
    arguments = {"dataset": said} if isinstance(said, str) else said
    return {key: copy.deepcopy(value) for key, value in arguments.items() if value is not None}


def _parts(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parts of the cutout, the LAM first; none where the dataset is no cutout."""
    dataset = arguments["dataset"]
    return dataset["cutout"] if isinstance(dataset, dict) and "cutout" in dataset else []


def _elsewhere(arguments: dict[str, Any], lam: Path | None, globe: Path | None) -> dict[str, Any]:
    """The arguments with other places of the two datasets."""
    parts = _parts(arguments)
    for option, place, path in (("--lam", 0, lam), ("--global", -1, globe)):
        if path is None:
            continue
        if not parts:
            raise HouseError(f"{option}: the run's dataset is no cutout of a limited-area and a global one.")
        parts[place] = (parts[place] if isinstance(parts[place], dict) else {}) | {"dataset": _absolute(path)}
    return arguments


def _absolute(path: Path) -> str:
    return str(path.absolute()) if path.exists() else str(path)


def _check_there(arguments: Mapping[str, Any]) -> None:
    parts = _parts(arguments)
    for place, part in enumerate(parts):
        path = part["dataset"] if isinstance(part, dict) else part
        local = isinstance(path, str) and "://" not in path and (os.sep in path or path.endswith(".zarr"))
        if local and not Path(path).exists():
            option = "--lam" if place == 0 else "--global"
            raise HouseError(f"{path} does not exist. Where the data lie elsewhere now, say so: {option} PATH.")


def _check_grid(run: Run, data: Any) -> None:
    if difference := grid_difference(run.coordinates, (data.latitudes, data.longitudes)):
        raise HouseError(
            f"the data have another grid than run {run.name} was trained on: {difference}. Give the datasets of that "
            "grid: --lam PATH --global PATH."
        )
    needed = run.inference["data_indices"]["input"]
    if lacking := sorted(set(needed) - set(data.variables)):
        raise HouseError(f"the data hold no {', '.join(lacking)}, an input of the model. Give other data: --lam PATH.")


def _check_dates(
    run: Run, data: Any, dates: Sequence[np.datetime64], lead_h: int, step_h: int
) -> tuple[np.datetime64, ...]:
    """Times that the forecasts are for and the data lack; an error where one lacks what it needs to start or go on."""
    there = dates_of(data)
    has = (
        f"the data have {len(there):,} dates from {min(there):.13} to {max(there):.13}"
        if there
        else "the data are empty"
    )
    places = run.inference["timesteps"]["input_relative_date_indices"]
    back_h = [(max(places) - place) * step_h for place in places]
    forced = _read_ahead(run)
    unverified = set()
    for date in dates:
        if _s(date) not in there:
            raise HouseError(f"--dates: {date} is not in the data; {has}.")
        needed = [date - np.timedelta64(hours, "h") for hours in back_h]
        if lacking := [each for each in needed if _s(each) not in there]:
            raise HouseError(
                f"--dates: {date} cannot be started from: the model begins with {len(back_h)} states, and that of "
                f"{', '.join(map(str, lacking))} is not in the data; {has}."
            )
        for hours in range(step_h, lead_h + 1, step_h):
            valid = date + np.timedelta64(hours, "h")
            if _s(valid) in there:
                continue
            if forced and hours < lead_h:
                raise HouseError(
                    f"--lead-time: {lead_h}h from {date} needs {', '.join(forced)} of {valid}, which the data lack; "
                    f"{has}. Ask for {hours}h or less."
                )
            unverified.add(valid)
    return tuple(sorted(unverified))


def _read_ahead(run: Run) -> list[str]:
    """Forcings that change in time and are read from the data, so that a forecast needs them at each step."""
    said = run.dataset_metadata.get("variables_metadata") or {}
    forcings = run.inference["variable_types"].get("forcing") or []
    free = ("computed_forcing", "constant_in_time")
    return [name for name in forcings if not any((said.get(name) or {}).get(key) for key in free)]


def _s(date: np.datetime64) -> np.datetime64:
    return date.astype("datetime64[s]")


def _about(run: Run, data: Any, arguments: dict[str, Any], step_h: int) -> About:
    parts = _parts(arguments)
    lam_nodes = int(np.asarray(data.grids)[0]) if parts else None
    shape = tuple(map(int, data.field_shape)) if parts else ()
    first = parts[0] if parts and isinstance(parts[0], dict) else {}
    trim = first.get("trim_edge")
    said = run.dataset_metadata.get("variables_metadata") or {}
    predicted = run.inference["data_indices"]["output"]
    return About(
        run_id=run.run_id,
        name=run.name,
        checkpoint=str(run.checkpoint.absolute()),
        checkpoint_uuid=run.metadata.get("uuid"),
        step=run.step,
        timestep_h=step_h,
        lam_nodes=lam_nodes,
        lam_shape=shape if len(shape) == 2 and shape[0] * shape[1] == lam_nodes else None,  # type: ignore[arg-type]
        trim=tuple(trim) if trim else None,  # type: ignore[arg-type]
        dataset=arguments,
        diagnostic=tuple(run.inference["variable_types"].get("diagnostic") or ()),
        units={name: said[name]["units"] for name in predicted if (said.get(name) or {}).get("units")},
    )


def _check_folder(made: Plan, nodes: int) -> None:
    """Whether the folder can be written to, and has room."""
    todo = [date for date in made.dates if not made.is_done(date)]
    needed = len(todo) * made.leads * len(made.variables) * nodes * BYTES
    with _writing(made.folder):
        made.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=made.folder):
            free = shutil.disk_usage(made.folder).free
    if free < needed:
        raise HouseError(
            f"{made.folder}: {free / 2**30:.1f} GiB are free, and {len(todo)} forecasts of {len(made.variables)} "
            f"variables need {needed / 2**30:.1f}. Make room, give another folder (-o DIR), or fewer --variables."
        )


def _replace(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _writing(path.parent):
        try:
            unfinished.write_text(text)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HouseError(f"{folder}: cannot be written to ({error.strerror}). Give another folder: -o DIR.") from None
