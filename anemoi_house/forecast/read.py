"""Forecasts as they lie on the disk, and the analyses that they are verified with.

A forecast needs nothing but its folder: neither the checkpoint nor the data. A verification needs the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anemoi_house.errors import HouseError
from anemoi_house.runs.trained import find_run

SIDECAR = "forecast.json"
FORMAT = 1
FOLDER = "forecast"
"""Of all forecasts, below the outputs of a training; in it one folder for each run."""

SAME_PLACE_DEGREES = 1e-3
"""Coordinates that differ by less are those of the same point: files hold them in single precision."""

Floats = NDArray[np.float32]
Dates = NDArray[np.datetime64]


@dataclass(frozen=True)
class About:
    """What all forecasts of a folder have in common.

    Attributes
    ----------
    run_id, name : str
        Of the run, and its name for a person.
    checkpoint : str
        Where it lay.
    checkpoint_uuid : str or None
        Its own id: another one for each checkpoint of a run.
    step : int or None
        Optimiser steps behind it.
    timestep_h : int
        Hours between two lead times.
    lam_nodes : int or None
        Nodes of the LAM, which come first; None where the dataset is no cutout.
    lam_shape : tuple of int or None
        (ny, nx) of the LAM as trimmed; None where it has no two-dimensional grid.
    trim : tuple of int or None
        Cells taken off the LAM, as in anemoi-datasets' `trim_edge`.
    dataset : dict
        Arguments of `open_dataset`.
    diagnostic : tuple of str
        Variables that are outputs and no inputs, hence without a value at the start.
    units : dict
        Of the variables, as the dataset says.
    """

    run_id: str
    name: str
    checkpoint: str
    checkpoint_uuid: str | None
    step: int | None
    timestep_h: int
    lam_nodes: int | None
    lam_shape: tuple[int, int] | None
    trim: tuple[int, int, int, int] | None
    dataset: Mapping[str, Any]
    diagnostic: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        """Text of the sidecar."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> About:
        """From the sidecar of a folder.

        Raises
        ------
        HouseError
            Where there is none, or it is not one that this version understands.
        """
        path = folder / SIDECAR
        try:
            said = json.loads(path.read_text())
        except FileNotFoundError:
            raise HouseError(
                f"{folder}: holds no {SIDECAR}, so no forecasts. Make some: anemoi-house forecast RUN --dates DATE "
                "--lead-time 24h."
            ) from None
        except (OSError, ValueError) as error:
            raise HouseError(f"{path}: cannot be read ({error}). Make the forecasts anew in another folder.") from None
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            raise HouseError(f"{path}: is not of format {FORMAT}. Make the forecasts anew in another folder.")
        known = {each.name for each in fields(cls)}
        if lacking := sorted(known - said.keys()):
            raise HouseError(f"{path}: lacks {', '.join(lacking)}. Make the forecasts anew in another folder.")
        lists = {key: tuple(said[key]) if said[key] is not None else None for key in ("lam_shape", "trim")}
        return cls(**{key: said[key] for key in known} | lists | {"diagnostic": tuple(said["diagnostic"])})


@dataclass(frozen=True)
class Forecast:
    """One forecast, in a NetCDF file of anemoi-inference. Its fields are read when they are asked for, and not kept.

    Attributes
    ----------
    path : Path
        The file.
    about : About
        What it has in common with the others of its folder.
    date : datetime64[s]
        Where it starts.
    leads_h : tuple of int
        Lead times in hours; 0 is the state that it starts from.
    variables : tuple of str
        What it holds.
    """

    path: Path
    about: About
    date: np.datetime64
    leads_h: tuple[int, ...]
    variables: tuple[str, ...]

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.about.run_id

    @property
    def name(self) -> str:
        """Name of the run, for a person."""
        return self.about.name

    @property
    def timestep_h(self) -> int:
        """Hours between two lead times."""
        return self.about.timestep_h

    @property
    def lam_shape(self) -> tuple[int, int] | None:
        """(ny, nx) of the LAM; None where it has no two-dimensional grid."""
        return self.about.lam_shape

    @property
    def valid_dates(self) -> Dates:
        """The time that each lead is for, of shape (lead,)."""
        return self.date + np.array(self.leads_h, dtype="timedelta64[h]")

    @property
    def missing_leads_h(self) -> tuple[int, ...]:
        """Lead times in hours that the file lacks between its first and its last one."""
        every = range(min(self.leads_h), max(self.leads_h) + 1, self.timestep_h)
        return tuple(sorted(set(every) - set(self.leads_h)))

    @property
    def latitudes(self) -> NDArray[np.float64]:
        """Degrees, of shape (node,)."""
        return self._read("latitude").astype(np.float64)

    @property
    def longitudes(self) -> NDArray[np.float64]:
        """Degrees, of shape (node,)."""
        return self._read("longitude").astype(np.float64)

    @property
    def in_lam(self) -> NDArray[np.bool_]:
        """Whether each node is one of the LAM, of shape (node,).

        Raises
        ------
        HouseError
            Where the run's dataset is no cutout.
        """
        if self.about.lam_nodes is None:
            raise HouseError(f"{self.path}: run {self.name} has no LAM; its dataset is no cutout.")
        with _opened(self.path) as file:
            return np.arange(file.dimensions["values"].size) < self.about.lam_nodes

    def values(self, variable: str) -> Floats:
        """Fields of a variable, read from the disk at each call.

        Returns
        -------
        ndarray of float32, shape (lead, node)
            In the dataset's units. NaN where the model gave NaN, and for a diagnostic variable at the start.

        Raises
        ------
        HouseError
            Where the file lacks the variable, or was cut short since.
        """
        if variable not in self.variables:
            raise HouseError(
                f"{self.path}: holds no {variable} but {', '.join(self.variables)}. Make the forecasts with "
                f"--variables {variable}, or ask for another one."
            )
        return self._read(variable)

    def _read(self, variable: str) -> Floats:
        with _opened(self.path) as file:
            return np.asarray(file[variable][:], dtype=np.float32)


class Verification:
    """Analyses on the grid of a run's forecasts, from the data of the run with its own trim.

    A date is read once for all variables, and kept: 4 bytes for each variable, node and date. Make one for a run, and
    let it go before that of the next.

    Parameters
    ----------
    forecasts : sequence of Forecast
        Of one run, one or more.
    variables : sequence of str
        What is verified.

    Raises
    ------
    HouseError
        Where the data cannot be opened, lack a variable, or have another grid.
    """

    def __init__(self, forecasts: Sequence[Forecast], variables: Sequence[str]) -> None:
        self._about = forecasts[0].about
        self._variables = list(variables)
        self._kept: dict[np.datetime64, Floats | None] = {}
        self._asked = sorted({date for forecast in forecasts for date in forecast.valid_dates})
        data = self._data
        whose = f"the data of run {self._about.name}"
        if lacking := [name for name in variables if name not in data.name_to_index]:
            raise HouseError(f"{whose} hold no {', '.join(lacking)}, so that it cannot be verified.")
        ours = forecasts[0].latitudes, forecasts[0].longitudes
        if difference := grid_difference(ours, (data.latitudes, data.longitudes)):
            raise HouseError(
                f"{whose} have another grid than {forecasts[0].path}: {difference}. Verify with the data that the "
                "forecasts were made from."
            )

    @property
    def missing(self) -> tuple[np.datetime64, ...]:
        """Dates that the forecasts are for and the data lack, in order."""
        return tuple(date for date in self._asked if date not in self._rows)

    def values(self, forecast: Forecast, variable: str) -> Floats:
        """Analyses at the times that a forecast is for.

        Returns
        -------
        ndarray of float32, shape (lead, node)
            NaN where the data lack a date, see `missing`.
        """
        column = self._variables.index(variable)
        nodes = self._data.shape[-1]
        rows = (self._at(date) for date in forecast.valid_dates)
        return np.stack([np.full(nodes, np.nan, np.float32) if row is None else row[column] for row in rows])

    @cached_property
    def _data(self) -> Any:
        return open_data(self._about.dataset, f"the data of run {self._about.name}")

    @cached_property
    def _rows(self) -> dict[np.datetime64, int]:
        return dates_of(self._data)

    def _at(self, date: np.datetime64) -> Floats | None:
        if date not in self._kept:
            row = self._rows.get(date)
            columns = [self._data.name_to_index[name] for name in self._variables]
            self._kept[date] = None if row is None else np.asarray(self._data[row][columns, 0], dtype=np.float32)
        return self._kept[date]


def find_forecasts(path: Path) -> Path:
    """Folder of forecasts: `path` itself, or where those of the run at `path` are written to.

    Raises
    ------
    HouseError
        Where `path` is neither, or nothing was forecast yet.
    """
    if (path / SIDECAR).is_file():
        return path
    run = find_run(path)
    folder = run.root / FOLDER / run.run_id
    if not (folder / SIDECAR).is_file():
        raise HouseError(
            f"{path}: no forecasts of run {run.run_id} are in {folder}. Make some: anemoi-house forecast {path} "
            "--dates DATE --lead-time 24h."
        )
    return folder


def forecasts_of(folder: Path) -> list[Forecast]:
    """All forecasts of a folder, by date.

    Raises
    ------
    HouseError
        Where there is none, or a file is cut short, of another grid than the others, or without a lead time.
    """
    about = About.read(folder)
    paths = sorted(folder.glob("*.nc"))
    if not paths:
        raise HouseError(
            f"{folder}: holds no forecast (*.nc) yet. Make some: anemoi-house forecast RUN --dates DATE --lead-time "
            "24h, or run the configs beside it: anemoi-inference run FILE.yaml."
        )
    found, sizes = [], {}
    for path in paths:
        with _opened(path) as file:
            try:
                start = np.int64(file["forecast_reference_time"][...]).astype("datetime64[s]")
                leads = np.asarray(file["forecast_period"][:], dtype=np.int64) // 3600
                sizes[path] = file.dimensions["values"].size
            except (IndexError, KeyError):
                raise HouseError(f"{path}: is no forecast of anemoi-inference. Take it out of the folder.") from None
            names = tuple(name for name, each in file.variables.items() if each.dimensions == ("time", "values"))
        if not leads.size:
            raise HouseError(f"{path}: holds no lead time. Delete it, and make it anew.")
        found.append(Forecast(path, about, start, tuple(map(int, leads)), names))
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{path.name} has {size:,} nodes" for path, size in sizes.items())
        raise HouseError(f"{folder}: the forecasts differ in grid: {said}. Keep those of one run in a folder.")
    return sorted(found, key=lambda forecast: forecast.date)


def open_data(arguments: Mapping[str, Any], whose: str) -> Any:
    """Dataset from the arguments of `open_dataset`.

    Raises
    ------
    HouseError
        Where it cannot be opened; `whose` begins the message.
    """
    from anemoi.datasets import open_dataset

    try:
        return open_dataset(**arguments)
    except Exception as error:  # zarr, fsspec and anemoi-datasets raise whatever they come across
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HouseError(
            f"{whose} cannot be opened ({reason}). Where they lie elsewhere now, say so: anemoi-house forecast RUN "
            "--lam PATH --global PATH."
        ) from None


def grid_difference(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> str:
    """How two grids, each of latitudes and longitudes in degrees, differ; empty where they do not."""
    own, other = np.stack(ours), np.stack(theirs)
    if own.shape != other.shape:
        return f"{other.shape[1]:,} nodes against {own.shape[1]:,}"
    away = np.abs((own - other + 180) % 360 - 180).max()
    return f"as many nodes, but up to {away:.2g} degrees away" if away > SAME_PLACE_DEGREES else ""


def dates_of(data: Any) -> dict[np.datetime64, int]:
    """Dates that a dataset has a state of, each with its place."""
    missing = set(data.missing)
    stamps = np.asarray(data.dates).astype("datetime64[s]")
    return {date: place for place, date in enumerate(stamps) if place not in missing}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from netCDF4 import Dataset

    try:
        file = Dataset(path)
    except OSError as error:
        raise HouseError(f"{path}: cannot be read, or was cut short ({error.strerror}). Make it anew.") from None
    with file:
        file.set_auto_mask(False)
        yield file
