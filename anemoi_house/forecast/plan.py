"""Requested forecasts: where they are written, and a config of the stock `anemoi-inference run` for each date."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anemoi_house.errors import HouseError
from anemoi_house.files import write_whole
from anemoi_house.forecast.read import SIDECAR, About
from anemoi_house.words import counted

_SAME = ("description", "date", "lead_time", "input", "initial_state_categories")
"""Keys on which two configs agree if their forecasts do, up to the variables."""


@dataclass(frozen=True)
class Plan:
    """Forecasts that were requested and found possible.

    Attributes
    ----------
    about : About
        What the forecasts have in common.
    dates : tuple of datetime64[h]
        Initial dates.
    lead_h : int
        Longest lead time in hours.
    variables : tuple of str
        Variables to write.
    everything : bool
        Whether these are all that the model predicts.
    folder : Path
        Directory to write to.
    device : str or None
        Device, as torch names it; None leaves it to the stock runner.
    unverified : tuple of datetime64
        Valid times that the data lack.
    """

    about: About
    dates: tuple[np.datetime64, ...]
    lead_h: int
    variables: tuple[str, ...]
    everything: bool
    folder: Path
    device: str | None
    unverified: tuple[np.datetime64, ...]

    @property
    def summary(self) -> list[str]:
        """Lines to print before the forecasts start."""
        step = "" if self.about.step is None else f" at step {self.about.step}"
        dates = counted(len(self.dates), "date")
        lines = [f"run {self.about.name} ({self.about.run_id}){step}, {self.lead_h} h from {dates}"]
        if self.unverified:
            ends = dict.fromkeys(map(str, (self.unverified[0], self.unverified[-1])))
            times = counted(len(self.unverified), "valid time")
            lines.append(f"{times} ({' to '.join(ends)}) cannot be verified: the data lack them")
        return lines

    @property
    def leads(self) -> int:
        """Number of states in a file, including the initial one."""
        return self.lead_h // self.about.timestep_h + 1

    def file(self, date: np.datetime64) -> Path:
        """Return the path of a forecast."""
        return self.folder / f"{date}.nc"

    def config_file(self, date: np.datetime64) -> Path:
        """Return the path of the config of a forecast."""
        return self.folder / f"{date}.yaml"

    def config(self, date: np.datetime64, file: Path | None = None) -> dict[str, Any]:
        """Return a config for `anemoi-inference run`.

        Parameters
        ----------
        date : datetime64[h]
            Initial date.
        file : Path, optional
            File to write instead of `file(date)`.
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

    def is_done(self, date: np.datetime64) -> bool:
        """Return whether a forecast of the same checkpoint and data exists that has all that is requested."""
        if not self.file(date).exists():
            return False
        from netCDF4 import Dataset  # of an extra that writing the first configs does without

        try:
            written = dict(yaml.safe_load(self.config_file(date).read_text()))
            with Dataset(self.file(date)) as file:
                leads, names = file.dimensions["time"].size, file.variables.keys()
        except (OSError, TypeError, ValueError, KeyError, yaml.YAMLError):
            return False
        # As many lead times as its own config says: the file is whole.
        expected = self.config(date) | {"lead_time": f"{(leads - 1) * self.about.timestep_h}h"}
        same = all(written.get(key) == expected[key] for key in _SAME)
        return same and leads >= self.leads and set(self.variables) <= names

    def check_folder(self, nodes: int) -> None:
        """Check that the directory is writable and has room for fields of this many nodes.

        Raises
        ------
        HouseError
            If not.
        """
        todo = [date for date in self.dates if not self.is_done(date)]
        needed = len(todo) * self.leads * len(self.variables) * nodes * 4  # bytes of a value in the stock output
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise HouseError(
                f"{self.folder}: {counted(len(todo), 'forecast')} of {counted(len(self.variables), 'variable')} need "
                f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free. Free some space, choose another "
                "directory (-o DIR), or fewer --variables."
            )

    def write_about(self) -> None:
        """Write the sidecar file.

        Raises
        ------
        HouseError
            If the directory is not writable, or holds forecasts of another run or checkpoint.
        """
        path = self.folder / SIDECAR
        if path.exists():
            found = About.read(self.folder)
            same_run = found.run_id == self.about.run_id
            if not same_run or found.checkpoint_uuid != self.about.checkpoint_uuid:
                whose = f"another checkpoint of the run, at step {found.step}" if same_run else f"run {found.run_id}"
                raise HouseError(
                    f"{self.folder}: holds forecasts of {whose}. Move it, or choose another directory: -o DIR."
                )
        with _writing(self.folder):
            write_whole(path, self.about.as_json())

    def write_config(self, date: np.datetime64) -> Path:
        """Write the config of a forecast, and return its path."""
        path = self.config_file(date)
        text = yaml.safe_dump(self.config(date), sort_keys=False, default_flow_style=None, width=100)
        with _writing(self.folder):
            write_whole(
                path, f"# Written by anemoi-house forecast. To run it alone: anemoi-inference run {path.name}\n{text}"
            )
        return path


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HouseError(f"{folder}: is not writable ({error.strerror}). Choose another directory: -o DIR.") from None
