r"""An error at the edge of the LAM, such as a regional model's own boundary conditions leave in its analyses.

The sample atmosphere is one on all grids, so that its LAM is as good at the edge as anywhere. Where that should not be
so, this is added to the LAM: waves of 250 to 500 km, whose phases are other ones at each date, so that nothing tells
them beforehand, under

.. math:: \exp(-(d / 120\,\mathrm{km})^2)

with the distance :math:`d` from the edge on the map. A trim of 225 km leaves 3 % of it.

numpy alone: nothing here knows of datasets or of anemoi.
"""

from __future__ import annotations

import math
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from anemoi_house.geometry import LambertGrid
from anemoi_house.sample.atmosphere import EPOCH

Floats = NDArray[np.float64]

SIZES = {"gh": 10.0, "t": 0.8, "u": 2.0, "v": 2.0}
"""Standard deviations on the edge itself, alike on all levels: metres, kelvin, metres per second."""

DEPTH_KM = 120.0
SHORTEST_KM, LONGEST_KM = 250.0, 500.0

_WAVES = 24
_GOLDEN = (math.sqrt(5) - 1) / 2


class EdgeError:
    """The error on a LAM.

    Parameters
    ----------
    grid : LambertGrid
    """

    def __init__(self, grid: LambertGrid) -> None:
        rows, columns = np.meshgrid(np.arange(grid.ny), np.arange(grid.nx), indexing="ij")
        cells = np.minimum.reduce([rows, grid.ny - 1 - rows, columns, grid.nx - 1 - columns])
        self._window = np.exp(-((cells * grid.spacing_km / DEPTH_KM) ** 2))
        places = (np.arange(_WAVES) + 0.5) / _WAVES
        wavenumbers = 2 * math.pi / (SHORTEST_KM + (LONGEST_KM - SHORTEST_KM) * places)
        directions = 2 * math.pi * (np.arange(_WAVES) * _GOLDEN % 1)
        east = (wavenumbers * np.cos(directions))[:, None, None] * columns * grid.spacing_km
        north = (wavenumbers * np.sin(directions))[:, None, None] * rows * grid.spacing_km
        self._phases = east + north

    def at(self, valid_time: datetime) -> dict[str, Floats]:
        """Error at one time, by the name of the parameter, each of shape (ny, nx)."""
        hours = int((valid_time - EPOCH).total_seconds()) // 3600
        fields = {}
        for row, (name, size) in enumerate(SIZES.items()):
            drawn = [_mixed((hours * len(SIZES) + row) * _WAVES + wave) for wave in range(_WAVES)]
            waves = np.cos(self._phases + 2 * math.pi * np.array(drawn)[:, None, None])
            fields[name] = size * math.sqrt(2 / _WAVES) * self._window * waves.sum(axis=0)
        return fields


def _mixed(number: int) -> float:
    """A number from 0 to 1 that has nothing in common with that of the next integer.

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): fixed for ever, as no library's generator is.
    """
    mask = (1 << 64) - 1
    mixed = (number + 1) * 0x9E3779B97F4A7C15 & mask
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
    return (mixed ^ mixed >> 31) / 2**64
