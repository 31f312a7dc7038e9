"""Operators on arrays: means over blocks and cells, and winds from grid to earth. Numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from anemoi_house.errors import HouseError
from anemoi_house.geometry import Floats, global_grid

_ROUNDING = 1e-3
"""Tolerance of nodes in degrees: GRIB2 rounds an increment to 1e-6, and a row sums up to 1440 of them."""


def check_cells(cells: object) -> int:
    """Return the number of points along each side of a block; raise a HouseError for an invalid one."""
    if not isinstance(cells, int) or isinstance(cells, bool) or cells < 1:
        raise HouseError(f"cells: {cells!r} must be a whole number, 1 or more, such as 5 for blocks of 5 x 5 points.")
    return cells


def block_mean(values: ArrayLike, cells: int) -> Floats:
    """Average each block of `cells` x `cells` points. Last rows and columns that do not fill a block are dropped.

    On a projected grid, whose cells differ little in area, this is nearly conservative: 3 to 15 km on the HRRR grid
    agrees with area weights to 1e-4 of a standard deviation.

    Parameters
    ----------
    values : array_like, shape (ny, nx)
        Any unit. A NaN makes its block NaN.
    cells : int
        Points along each side of a block.

    Returns
    -------
    ndarray of float64, shape (ny // cells, nx // cells)

    Raises
    ------
    HouseError
        If the grid is smaller than one block.
    """
    values = np.asarray(values)
    ny, nx = block_shape(values.shape, cells)
    blocks = values[: ny * cells, : nx * cells].reshape(ny, cells, nx, cells)
    # Rows first, which are contiguous.
    return np.asarray(blocks.sum(axis=1, dtype=np.float64).sum(axis=2)) / cells**2


def block_shape(shape: tuple[int, ...], cells: int) -> tuple[int, int]:
    """Return the rows and columns of blocks in a grid of `shape` (ny, nx); see `block_mean`."""
    check_cells(cells)
    if len(shape) != 2:
        raise HouseError(f"blocks need rows and columns, but the values have shape {shape}.")
    if min(shape) < cells:
        raise HouseError(f"cells: {cells}: a grid of {shape[0]} x {shape[1]} points has no block of that size.")
    return shape[0] // cells, shape[1] // cells


class ConservativeCells:
    """First-order conservative means over `cells` x `cells` cells of a global grid with nodes on the poles.

    The source cell of a node extends half a spacing to each side, cut off at the poles. A target cell extends from one
    node to the next but `cells`, so that its rim halves source cells. The weights are the shared areas, which separate
    into differences of the sine of latitude and overlaps in longitude, divided by their sum: a constant field stays
    constant, also in the polar rows.

    Parameters
    ----------
    latitudes : array_like, shape (nj,)
        Degrees, equally spaced from pole to pole in either direction.
    longitudes : array_like, shape (ni,)
        Degrees, equally spaced eastward from 0, by the spacing of the latitudes.
    cells : int
        Spacings along each side of a target cell; must divide nj - 1.

    Attributes
    ----------
    shape : tuple of int
        (nj, ni) of the source fields.
    spacing : float
        Degrees between the centres of target cells: its results lie on `geometry.global_grid(spacing)`.

    Raises
    ------
    HouseError
        If the grid is not such a grid.
    """

    def __init__(self, latitudes: ArrayLike, longitudes: ArrayLike, cells: int) -> None:
        lat, lon = np.asarray(latitudes, dtype=np.float64), np.asarray(longitudes, dtype=np.float64)
        check_cells(cells)
        _check_global(lat, lon, cells)
        self.cells = cells
        self.shape = lat.size, lon.size
        self.spacing = 180 * cells / (lat.size - 1)
        self._north_first = bool(lat[0] > lat[-1])
        self._weights = _latitude_weights(lat.size - 1, cells)

    def points(self) -> tuple[Floats, Floats]:
        """Return the latitudes (north to south) and longitudes of the results in degrees, each of two dimensions."""
        return global_grid(self.spacing)

    def __call__(self, values: ArrayLike) -> Floats:
        """Average over the target cells.

        Parameters
        ----------
        values : array_like, shape (nj, ni)
            Any unit. A NaN makes the cells it touches NaN.

        Returns
        -------
        ndarray of float64, shape ((nj - 1) / cells, ni / cells)
            North to south.

        Raises
        ------
        HouseError
            For values of another shape.
        """
        values = np.asarray(values)
        if values.shape != self.shape:
            raise HouseError(f"values have shape {values.shape}, but the grid has {self.shape}.")
        if not self._north_first:
            values = values[::-1]
        cells, last = self.cells, values.shape[0] - 1
        # Both outer nodes of a target cell contribute half their cells.
        rows = sum(weights * values[row : last + row : cells] for row, weights in enumerate(self._weights))
        rims = rows[:, ::cells]
        inner = sum(rows[:, column::cells] for column in range(1, cells))
        return np.asarray(((rims + np.roll(rims, -1, axis=1)) / 2 + inner) / cells)


def _latitude_weights(intervals: int, cells: int) -> Floats:
    """Return the weights of the source rows of each target row, north to south: shape (cells + 1, rows, 1)."""
    nodes = np.linspace(90, -90, intervals + 1)
    rims = nodes[::cells]
    half = 90 / intervals
    rows = np.arange(cells + 1)[:, None] + cells * np.arange(rims.size - 1)[None, :]
    north = np.minimum(nodes[rows] + half, rims[:-1])
    south = np.maximum(nodes[rows] - half, rims[1:])
    weights = np.sin(np.deg2rad(north)) - np.sin(np.deg2rad(south))
    return np.asarray(weights / weights.sum(axis=0))[:, :, None]


def _check_global(lat: Floats, lon: Floats, cells: int) -> None:
    """Raise a HouseError unless these are the axes of a global grid that cells of this size divide."""
    if lat.ndim != 1 or lon.ndim != 1:
        raise HouseError(f"latitudes and longitudes must have one axis, not {lat.ndim} and {lon.ndim}.")
    if lat.size < cells + 1 or lon.size < max(cells, 2):
        raise HouseError(f"cells: {cells}: a grid of {lat.size} x {lon.size} points has no cell of that size.")
    for name, values in (("latitudes", lat), ("longitudes", lon)):
        even = np.linspace(values[0], values[-1], values.size)
        if not np.allclose(values, even, rtol=0, atol=_ROUNDING):
            raise HouseError(f"the {name} are not equally spaced. Only regular global grids are supported.")
    if not np.allclose(sorted((lat[0], lat[-1])), (-90, 90), rtol=0, atol=_ROUNDING):
        raise HouseError(f"the latitudes run from {lat[0]:g} to {lat[-1]:g}. The grid must have points on both poles.")
    spacing = 360 / lon.size
    if not np.allclose((lon[0], lon[-1]), (0, 360 - spacing), rtol=0, atol=_ROUNDING):
        raise HouseError(
            f"the longitudes run from {lon[0]:g} to {lon[-1]:g}. They must go once around, eastward from 0."
        )
    if 2 * (lat.size - 1) != lon.size:
        raise HouseError(
            f"the spacing is {180 / (lat.size - 1):g} degrees in latitude and {spacing:g} in longitude. "
            "Both must be equal."
        )
    if (lat.size - 1) % cells:
        raise HouseError(f"cells: {cells} does not divide the {lat.size - 1} spacings from pole to pole.")


def cone_constant(first_parallel: float, second_parallel: float) -> float:
    """Return the share of a full turn to which a Lambert cone with these standard parallels (degrees) unrolls.

    Snyder, Map Projections, 1987, p. 107, eq. 15-3.
    """
    one, two = np.deg2rad(first_parallel), np.deg2rad(second_parallel)
    if abs(first_parallel - second_parallel) < 1e-9:
        return float(np.sin(one))
    stretched = np.log(np.tan(np.pi / 4 + two / 2) / np.tan(np.pi / 4 + one / 2))
    return float(np.log(np.cos(one) / np.cos(two)) / stretched)


class LambertRotation:
    """Rotation of winds along the axes of a Lambert conformal grid to eastward and northward winds.

    The angle from north to the grid's y axis is the cone constant times the distance from the meridian.

    Parameters
    ----------
    longitudes : array_like
        Degrees, of the points; any shape.
    parallels : tuple of float
        The two standard parallels in degrees, which may be equal.
    meridian : float
        Longitude in degrees along which y points north.
    """

    def __init__(self, longitudes: ArrayLike, parallels: tuple[float, float], meridian: float) -> None:
        away = (np.asarray(longitudes, dtype=np.float64) - meridian + 180) % 360 - 180
        angle = np.deg2rad(cone_constant(*parallels) * away)
        self._cos, self._sin = np.cos(angle), np.sin(angle)

    def __call__(self, u: ArrayLike, v: ArrayLike) -> tuple[Floats, Floats]:
        """Return the eastward and northward wind for a wind along x and y, in any unit.

        Parameters
        ----------
        u, v : array_like
            Same shape as the longitudes.

        Raises
        ------
        HouseError
            If a shape differs.
        """
        u, v = np.asarray(u), np.asarray(v)
        if not u.shape == v.shape == self._cos.shape:
            raise HouseError(f"the components have shapes {u.shape} and {v.shape}, but the grid has {self._cos.shape}.")
        return self._cos * u + self._sin * v, self._cos * v - self._sin * u
