"""Forecasts on disk, and the analyses that verify them.

Reading a forecast needs its directory alone, neither the checkpoint nor the data. Verifying it needs the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anemoi_house.errors import HouseError, first_line
from anemoi_house.runs.trained import find_run

SIDECAR = "forecast.json"
FORMAT = 1
FOLDER = "forecast"
"""Directory of all forecasts below the outputs of a training; it has one directory for each run."""

SAME_POINT_DEGREES = 1e-3
"""Coordinates of one point may differ by this much: files hold them in single precision."""

MAKE = "Make forecasts with: anemoi-house forecast RUN --dates DATE --lead-time 24h."
REMAKE = "Make the forecasts again, in another directory."

Floats = NDArray[np.float32]
Dates = NDArray[np.datetime64]


@dataclass(frozen=True)
class About:
    """What all forecasts in a directory have in common.

    Attributes
    ----------
    run_id, name : str
        Id of the run, and its name in the tracker.
    checkpoint : str
        Path of the checkpoint when the forecasts were made.
    checkpoint_uuid : str or None
        Id of the checkpoint, different for each checkpoint of a run.
    step : int or None
        Optimiser steps of the checkpoint.
    timestep_h : int
        Hours between two lead times.
    lam_nodes : int or None
        Number of LAM nodes, which come first; None if the dataset is not a cutout.
    lam_shape : tuple of int or None
        (ny, nx) of the trimmed LAM; None if it has no two-dimensional grid.
    trim : tuple of int or None
        Cells trimmed off the LAM, as in anemoi-datasets' `trim_edge`.
    dataset : dict
        Arguments of `open_dataset`.
    diagnostic : tuple of str
        Variables that are outputs but not inputs, and so have no value at lead time 0.
    units : dict
        Units of the variables, from the dataset.
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
        """Return the text of the sidecar file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> About:
        """Read the sidecar file of a directory.

        Raises
        ------
        HouseError
            If it is missing, unreadable, or of another format.
        """
        path = folder / SIDECAR
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise HouseError(f"{folder}: holds no {SIDECAR}, so no forecasts. {MAKE}") from None
        except (OSError, ValueError) as error:
            raise HouseError(f"{path}: cannot be read ({error}). {REMAKE}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise HouseError(f"{path}: is not of format {FORMAT}. {REMAKE}")
        known = {each.name for each in fields(cls)}
        if lacking := sorted(known - values.keys()):
            raise HouseError(f"{path}: lacks {', '.join(lacking)}. {REMAKE}")
        for key in ("lam_shape", "trim", "diagnostic"):
            values[key] = None if values[key] is None else tuple(values[key])
        return cls(**{key: values[key] for key in known})


@dataclass(frozen=True)
class Forecast:
    """One forecast, in a NetCDF file of anemoi-inference. Fields are read from disk when asked for, and not kept.

    Attributes
    ----------
    path : Path
        The file.
    about : About
        What it has in common with the other forecasts of its directory.
    date : datetime64[s]
        Initial date.
    leads_h : tuple of int
        Lead times in hours; 0 is the initial state.
    variables : tuple of str
        Variables in the file.
    """

    path: Path
    about: About
    date: np.datetime64
    leads_h: tuple[int, ...]
    variables: tuple[str, ...]

    @property
    def valid_dates(self) -> Dates:
        """Valid time of each lead time, shape (lead,)."""
        return self.date + np.array(self.leads_h, dtype="timedelta64[h]")

    @property
    def missing_leads_h(self) -> tuple[int, ...]:
        """Lead times in hours that are missing between the first and the last one."""
        every = range(min(self.leads_h), max(self.leads_h) + 1, self.about.timestep_h)
        return tuple(sorted(set(every) - set(self.leads_h)))

    @property
    def latitudes(self) -> NDArray[np.float64]:
        """Latitudes in degrees, shape (node,)."""
        return self._read("latitude").astype(np.float64)

    @property
    def longitudes(self) -> NDArray[np.float64]:
        """Longitudes in degrees, shape (node,)."""
        return self._read("longitude").astype(np.float64)

    @property
    def in_lam(self) -> NDArray[np.bool_]:
        """Whether each node is in the LAM, shape (node,).

        Raises
        ------
        HouseError
            If the run's dataset is not a cutout.
        """
        if self.about.lam_nodes is None:
            raise HouseError(f"{self.path}: run {self.about.name} has no LAM: its dataset is not a cutout.")
        return np.arange(self.latitudes.size) < self.about.lam_nodes

    def values(self, variable: str) -> Floats:
        """Read the fields of a variable from disk.

        Returns
        -------
        ndarray of float32, shape (lead, node)
            In the dataset's units. NaN where the model gave NaN, and for a diagnostic variable at lead time 0.

        Raises
        ------
        HouseError
            If the file lacks the variable or is truncated.
        """
        if variable not in self.variables:
            raise HouseError(
                f"{self.path}: holds {', '.join(self.variables)}, but not {variable}. Make the forecasts again with "
                f"--variables {variable}, or choose another variable."
            )
        return self._read(variable)

    def _read(self, variable: str) -> Floats:
        with _opened(self.path) as file:
            return np.asarray(file[variable][:], dtype=np.float32)


class Verification:
    """Analyses on the grid of a run's forecasts, from the run's data with its trim.

    A date is read once for all variables and kept: 4 bytes for each variable, node and date. Drop the verification of
    one run before making that of the next.

    Parameters
    ----------
    forecasts : sequence of Forecast
        One or more forecasts of one run.
    variables : sequence of str
        Variables to verify.

    Attributes
    ----------
    missing : tuple of datetime64
        Valid times that the data lack, in order.

    Raises
    ------
    HouseError
        If the data cannot be opened, lack a variable, or are on another grid.
    """

    def __init__(self, forecasts: Sequence[Forecast], variables: Sequence[str]) -> None:
        self._variables = list(variables)
        self._kept: dict[np.datetime64, Floats] = {}
        whose = f"the data of run {forecasts[0].about.name}"
        self._data = data = open_data(forecasts[0].about.dataset, whose)
        self._rows = dates_of(data)
        valid = {date for forecast in forecasts for date in forecast.valid_dates}
        self.missing = tuple(sorted(valid - self._rows.keys()))
        if lacking := [name for name in variables if name not in data.name_to_index]:
            raise HouseError(f"{whose} lack {', '.join(lacking)}. Choose other --variables to verify.")
        ours = forecasts[0].latitudes, forecasts[0].longitudes
        if difference := grid_difference(ours, (data.latitudes, data.longitudes)):
            raise HouseError(
                f"{whose} are not on the grid of {forecasts[0].path}: {difference}. Verify with the data that the "
                "forecasts were made from."
            )

    def values(self, forecast: Forecast, variable: str) -> Floats:
        """Return the analyses at the valid times of a forecast.

        Returns
        -------
        ndarray of float32, shape (lead, node)
            NaN where the data lack a valid time, see `missing`.
        """
        column = self._variables.index(variable)
        absent = np.full(self._data.shape[-1], np.nan, np.float32)
        return np.stack([self._at(date)[column] if date in self._rows else absent for date in forecast.valid_dates])

    def _at(self, date: np.datetime64) -> Floats:
        if date not in self._kept:
            columns = [self._data.name_to_index[name] for name in self._variables]
            self._kept[date] = np.asarray(self._data[self._rows[date]][columns, 0], dtype=np.float32)
        return self._kept[date]


def find_forecasts(path: Path) -> Path:
    """Return the directory of forecasts: `path` itself, or that of the run at `path`.

    Raises
    ------
    HouseError
        If `path` is neither, or the run has no forecasts yet.
    """
    if (path / SIDECAR).is_file():
        return path
    run = find_run(path)
    folder = run.root / FOLDER / run.run_id
    if not (folder / SIDECAR).is_file():
        raise HouseError(f"{path}: run {run.run_id} has no forecasts in {folder}. {MAKE.replace('RUN', str(path))}")
    return folder


def forecasts_of(folder: Path) -> list[Forecast]:
    """Return all forecasts in a directory, by date.

    Raises
    ------
    HouseError
        If there is none, or a file is truncated, on another grid than the others, or without a lead time.
    """
    about = About.read(folder)
    paths = sorted(folder.glob("*.nc"))
    if not paths:
        raise HouseError(
            f"{folder}: holds no forecast (*.nc) yet. {MAKE} Or run the configs in it: anemoi-inference run FILE.yaml."
        )
    found, sizes = [], {}
    for path in paths:
        with _opened(path) as file:
            try:
                start = np.int64(file["forecast_reference_time"][...]).astype("datetime64[s]")
                leads = np.asarray(file["forecast_period"][:], dtype=np.int64) // 3600
                sizes[path] = file.dimensions["values"].size
            except (IndexError, KeyError):
                raise HouseError(f"{path}: is not a forecast of anemoi-inference. Move it elsewhere.") from None
            names = tuple(name for name, each in file.variables.items() if each.dimensions == ("time", "values"))
        if not leads.size:
            raise HouseError(f"{path}: holds no lead time. Delete it, and make it again.")
        found.append(Forecast(path, about, start, tuple(map(int, leads)), names))
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path.name} has {size:,} nodes" for path, size in sizes.items())
        raise HouseError(f"{folder}: the forecasts differ in grid: {listed}. Keep one run's forecasts in a directory.")
    return sorted(found, key=lambda forecast: forecast.date)


def open_data(arguments: Mapping[str, Any], whose: str) -> Any:
    """Open the dataset with these arguments of `open_dataset`.

    Raises
    ------
    HouseError
        If it cannot be opened; the message begins with `whose`.
    """
    from anemoi.datasets import open_dataset

    try:
        return open_dataset(**arguments)
    except Exception as error:  # zarr, fsspec and anemoi-datasets raise errors of many kinds
        reason = first_line(error)
        raise HouseError(
            f"{whose} cannot be opened ({reason}). If they have moved, give their new paths: anemoi-house forecast RUN "
            "--lam PATH --global PATH."
        ) from None


def grid_difference(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> str:
    """Return how two grids of (latitudes, longitudes) in degrees differ, or an empty text if they do not."""
    own, other = np.stack(ours), np.stack(theirs)
    if own.shape != other.shape:
        return f"{other.shape[1]:,} nodes instead of {own.shape[1]:,}"
    largest = np.abs((own - other + 180) % 360 - 180).max()
    return f"the same number of nodes, up to {largest:.2g} degrees apart" if largest > SAME_POINT_DEGREES else ""


def dates_of(data: Any) -> dict[np.datetime64, int]:
    """Return the dates that a dataset has a state of, with the index of each."""
    missing = set(data.missing)
    stamps = np.asarray(data.dates).astype("datetime64[s]")
    return {date: index for index, date in enumerate(stamps) if index not in missing}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from netCDF4 import Dataset

    try:
        file = Dataset(path)
    except OSError as error:
        raise HouseError(f"{path}: is unreadable or truncated ({error.strerror}). Make it again.") from None
    with file:
        file.set_auto_mask(False)
        yield file
