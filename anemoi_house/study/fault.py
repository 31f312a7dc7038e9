"""A fault at the border of HRRR's domain, like the errors that boundary conditions leave in a regional analysis.

The sample atmosphere is as accurate at the border of the LAM as elsewhere. `write_faulty` copies it and adds an error
to the outer rows of the LAM's cells, exactly those that a trim of 225 km removes: a LAM trimmed by that much is the
same with and without the fault.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import zarr

from anemoi_house.geometry import Floats, LambertGrid
from anemoi_house.sample.grids import PARTS

SIZES = {"gh_500": 10.0, "t_850": 1.0, "u_850": 2.0, "v_850": 2.0}
"""Root mean square of the fault in the outermost row: metres, kelvin, metres per second."""

WEIGHTS = (1.0, 0.75, 0.5, 0.25)
"""Fraction of that in each row, from the border inwards."""

WAVES_KM = (240.0, 1000.0)
_WAVES = 24
_SEED = 0  # of everything random

SETTINGS = {"rms_of_outermost_row": SIZES, "share_by_row": list(WEIGHTS), "waves_km": list(WAVES_KM)}
_RECORD = "fault.json"


class Fault:
    """The fault on a LAM: half of its variance is the same at all dates, the other half is drawn for each date.

    Parameters
    ----------
    grid : LambertGrid
    """

    def __init__(self, grid: LambertGrid) -> None:
        rows, columns = np.indices(grid.shape)
        from_border = np.minimum.reduce([rows, grid.ny - 1 - rows, columns, grid.nx - 1 - columns])
        self._weights = np.append(WEIGHTS, 0.0)[np.minimum(from_border, len(WEIGHTS))].ravel()
        lengths = np.geomspace(*WAVES_KM, _WAVES)
        directions = np.random.default_rng(_SEED).uniform(0, 2 * np.pi, _WAVES)
        wave = 2 * np.pi / lengths * np.stack([np.cos(directions), np.sin(directions)])
        positions = grid.spacing_km * np.stack([columns.ravel(), rows.ravel()])
        self._angles = wave.T @ positions
        self._always = {name: self._pattern(1, number) for number, name in enumerate(SIZES)}

    def at(self, date: int) -> dict[str, Floats]:
        """Return the error by variable at a date, given by its index; each of shape (cells,), in its units."""
        return {
            name: size * self._weights * (self._always[name] + self._pattern(2, number, date)) / 2**0.5
            for number, (name, size) in enumerate(SIZES.items())
        }

    def _pattern(self, *which: int) -> Floats:
        """Return a sum of waves with random phases, of variance 1 in the mean over phases."""
        phases = np.random.default_rng([_SEED, *which]).uniform(0, 2 * np.pi, _WAVES)
        return (2 / _WAVES) ** 0.5 * np.cos(self._angles + phases[:, None]).sum(axis=0)


def write_faulty(sample: Path, target: Path, grid: LambertGrid) -> None:
    """Copy both datasets of a sample and add the fault to the LAM; statistics stay those of the sample.

    Parameters
    ----------
    sample : Path
        Folder of the two datasets.
    target : Path
        Folder to write, whole or not at all; kept if it already holds the same fault.
    grid : LambertGrid
        Grid of the LAM.
    """
    record = target / _RECORD
    if record.is_file() and json.loads(record.read_text()) == SETTINGS:
        return
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as partial:
        folder = Path(partial) / target.name
        folder.mkdir()
        (folder / PARTS["global"]).symlink_to((sample / PARTS["global"]).absolute())
        shutil.copytree(sample / PARTS["lam"], folder / PARTS["lam"])
        lam = zarr.open(str(folder / PARTS["lam"]), mode="r+")
        rows = {name: lam.attrs["variables"].index(name) for name in SIZES}
        fault = Fault(grid)
        for date in range(lam["data"].shape[0]):
            state = lam["data"][date]
            for name, error in fault.at(date).items():
                state[rows[name], 0] += error.astype(state.dtype)
            lam["data"][date] = state
        (folder / _RECORD).write_text(json.dumps(SETTINGS) + "\n")
        folder.rename(target)
