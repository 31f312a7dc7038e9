"""The trim of a LAM: cells taken off each side, or a width in km.

Numpy alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from numpy.typing import ArrayLike

from anemoi_house.errors import HouseError
from anemoi_house.geometry import spacing_km

Cells = tuple[int, int, int, int]
"""Cells removed at the low and high end of y (rows), then of x (columns), as in anemoi-datasets' `trim_edge`."""

SMALLEST_DOMAIN = 8
"""Fewest cells along y and x of a trimmed LAM; a smaller one has no interior."""

_WIDTH = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")
_WAY_OUT = "Give cells as [y0, y1, x0, x1], a width such as '225 km', or null for no trim."


def parse_trim(value: object, key: str = "trim") -> Cells | float | None:
    """Parse a trim as a user writes it.

    Parameters
    ----------
    value : object
        Four integers (cells), a text such as `225 km`, or None.
    key : str
        Name of the setting, for messages.

    Returns
    -------
    tuple of 4 int, float or None
        Cells, a width in km, or no trim.

    Raises
    ------
    HouseError
        For anything else, such as a negative number, the wrong length, or a width without its unit.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _parse_width(value, key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise HouseError(f"{key}: {value} has no unit; is it '{value} km', or cells? {_WAY_OUT}")
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise HouseError(f"{key}: {value!r} is not a valid trim. {_WAY_OUT}")
    cells = list(value)
    if len(cells) != 4:
        raise HouseError(f"{key}: {cells} has {len(cells)} numbers, not 4. {_WAY_OUT}")
    if not all(isinstance(cell, int) and not isinstance(cell, bool) and cell >= 0 for cell in cells):
        raise HouseError(f"{key}: {cells} must be whole numbers of cells, 0 or more. {_WAY_OUT}")
    return tuple(cells)  # type: ignore[return-value]


def _parse_width(text: str, key: str) -> float:
    if not (found := _WIDTH.fullmatch(text)):
        raise HouseError(f"{key}: '{text}' is not a valid trim. {_WAY_OUT}")
    number, unit = found.groups()
    if unit != "km":
        problem = f"is in '{unit}', not km" if unit else "has no unit"
        raise HouseError(f"{key}: '{text}' {problem}; is it '{number} km'? {_WAY_OUT}")
    if not 0 <= float(number) < float("inf"):
        raise HouseError(f"{key}: '{text}' must be a finite width, 0 km or more. {_WAY_OUT}")
    return float(number)


def width_to_cells(width_km: float, latitudes: ArrayLike, longitudes: ArrayLike) -> Cells:
    """Convert a width to cells by the spacing of the grid.

    Parameters
    ----------
    width_km : float
        Width to remove on every side.
    latitudes, longitudes : array_like, shape (ny, nx)
        Degrees.
    """
    dy, dx = spacing_km(latitudes, longitudes)
    rows, columns = round(width_km / dy), round(width_km / dx)
    return rows, rows, columns, columns


def check_domain(cells: Cells, shape: tuple[int, int], key: str = "trim") -> tuple[int, int]:
    """Return the shape (ny, nx) that the trim leaves.

    Raises
    ------
    HouseError
        If fewer than `SMALLEST_DOMAIN` rows or columns are left.
    """
    y0, y1, x0, x1 = cells
    left = shape[0] - y0 - y1, shape[1] - x0 - x1
    if min(left) < SMALLEST_DOMAIN:
        raise HouseError(
            f"{key}: {list(cells)} removes too much of a LAM of {shape[0]} rows x {shape[1]} columns: at least "
            f"{SMALLEST_DOMAIN} of each must remain. Trim less."
        )
    return left
