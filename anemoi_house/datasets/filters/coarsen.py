"""The filter `house-coarsen`: means over blocks of a Lambert grid, or over cells of a global one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from anemoi.transform.fields import NewDataField, NewMetadataField, new_fieldlist_from_list
from earthkit.data.utils.metadata.dict import UserGeography

from anemoi_house.datasets.filters.base import HouseFilter, required
from anemoi_house.datasets.grid_keys import LAMBERT_KEYS, LATLON_KEYS, SCAN_KEYS
from anemoi_house.datasets.regrid import ConservativeCells, block_mean, block_shape, check_cells
from anemoi_house.errors import HouseError
from anemoi_house.geometry import EARTH_RADIUS_KM, Floats, LambertGrid


class HouseCoarsen(HouseFilter):
    """Averages fields over blocks of a Lambert grid, or over cells of a global lat-lon grid.

    Fields on a `lambert` grid become means of `cells` x `cells` points, at the centres of these blocks. Fields on a
    global `regular_ll` grid with points on the poles become conservative means over cells of `cells` times the spacing.
    Other metadata are kept. Each field is read once.

    Parameters
    ----------
    cells : int
        Points along each side of a block: 5 takes HRRR from 3 to 15 km, 4 takes GFS from 0.25 to 1 degree.

    Raises
    ------
    CommandError
        For invalid settings, and for a field on an unsupported grid.
    """

    NAME = "house-coarsen"
    KEYS = ("cells",)

    def __init__(self, cells: Any = None, **unknown: Any) -> None:
        super().__init__(**unknown)
        try:
            self.cells = check_cells(cells)
        except HouseError as mistake:
            raise self.mistake(mistake) from None

    def forward(self, data: Any) -> Any:
        """Return the fields on the coarse grid, in the same order."""
        return new_fieldlist_from_list([self._coarse(field) for field in data])

    def _coarse(self, field: Any) -> CoarseField:
        try:
            grid = coarse_grid(field, self.cells)
            return CoarseField(field, grid.mean(field.to_numpy()), grid)
        except HouseError as mistake:
            raise self.mistake(mistake, field) from None


@dataclass(frozen=True, eq=False)
class CoarseGrid:
    """A coarse grid and the operator onto it, shared by all fields and dates.

    Attributes
    ----------
    operator : callable
        Values on the fine grid to values on the coarse one.
    fine_shape : tuple of int
        (ny, nx) of the fine grid.
    latitudes, longitudes : ndarray, shape (ny, nx)
        Degrees.
    resolution : str
        For the dataset's metadata, such as `15km`.
    proj_string : str or None
        Projection, for the dataset's metadata.
    metadata : dict
        GRIB keys of the grid that differ from the fine grid's.
    """

    operator: Callable[[Any], Floats]
    fine_shape: tuple[int, int]
    latitudes: Floats
    longitudes: Floats
    resolution: str
    proj_string: str | None
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        """Protect the coordinates, which all fields share."""
        self.latitudes.flags.writeable = self.longitudes.flags.writeable = False

    def mean(self, values: Floats) -> Floats:
        """Return values on the fine grid as means on this one; raise a HouseError for another shape."""
        if values.shape != self.fine_shape:
            ny, nx = self.fine_shape
            raise HouseError(f"its values have shape {values.shape}, but its metadata give {ny} x {nx}.")
        return self.operator(values)

    @cached_property
    def points(self) -> tuple[Floats, Floats]:
        """Flat latitudes and longitudes: the same objects for all fields, so that comparing grids costs nothing."""
        return self.latitudes.ravel(), self.longitudes.ravel()

    @cached_property
    def geography(self) -> UserGeography:
        """Coordinates for earthkit, of two dimensions."""
        points = {"latitudes": self.latitudes, "longitudes": self.longitudes}
        return UserGeography(points, shape=self.latitudes.shape)


class CoarseField(NewMetadataField):
    """A field on a coarse grid, with all metadata of the fine field but the grid's.

    The stock `new_field_from_latitudes_longitudes` makes a geography of one dimension, so that the stock `forcings`
    would have another shape than such a template.
    """

    def __init__(self, template: Any, values: Floats, grid: CoarseGrid) -> None:
        super().__init__(NewDataField(template, values), resolution=grid.resolution, **grid.metadata)
        self.shape = values.shape
        self.resolution = grid.resolution
        self.proj_string = grid.proj_string
        self._grid = grid

    def metadata(self, *args: Any, **kwargs: Any) -> Any:
        """Return metadata as earthkit does: one value, several, a namespace or all."""
        metadata = super().metadata(*args, **kwargs)
        if not args and not kwargs:
            metadata.geography = self._grid.geography
        return metadata

    def grid_points(self) -> tuple[Floats, Floats]:
        """Return flat latitudes and longitudes in degrees."""
        return self._grid.points

    def to_latlon(self, flatten: bool = False) -> dict[str, Floats]:
        """Return latitudes and longitudes in degrees, of two dimensions or flat."""
        lat, lon = self._grid.points
        return {"lat": lat, "lon": lon} if flatten else {"lat": lat.reshape(self.shape), "lon": lon.reshape(self.shape)}

    @property
    def mars_area(self) -> list[float]:
        """North, west, south and east, in degrees."""
        return list(self._grid.geography.mars_area())

    @property
    def mars_grid(self) -> None:
        """None: MARS has no name for these grids."""


def coarse_grid(field: Any, cells: int) -> CoarseGrid:
    """Return the coarse grid of a field; raise a HouseError if its grid is not supported."""
    kind = field.metadata("gridType", default=None)
    if kind not in ("lambert", "regular_ll"):
        raise HouseError(f"gridType: {kind!r} is not supported. It must be 'lambert' or 'regular_ll'.")
    westward, northward = required(field, SCAN_KEYS)
    if westward:
        raise HouseError("iScansNegatively: 1: westward rows are not supported.")
    if kind == "regular_ll":
        return _cells(cells, bool(northward), required(field, LATLON_KEYS))
    if not northward:
        raise HouseError("jScansPositively: 0: Lambert grids with southward columns are not supported.")
    radius = field.metadata("radius", default=None)
    if radius is not None and not np.isclose(float(radius) / 1000, EARTH_RADIUS_KM, rtol=1e-6):
        raise HouseError(f"radius: {radius}: only grids on a sphere of {EARTH_RADIUS_KM} km are supported.")
    return _blocks(cells, required(field, LAMBERT_KEYS))


@lru_cache(maxsize=8)
def _blocks(cells: int, definition: tuple[Any, ...]) -> CoarseGrid:
    """Return the grid of blocks of a Lambert grid with these values of `LAMBERT_KEYS`."""
    nx, ny, dx, dy, latitude, longitude, parallel, meridian, *parallels = definition
    if parallels != [parallel, parallel] or not 0 < parallel < 90:
        raise HouseError(
            f"LaD, Latin1, Latin2: {parallel:g}, {parallels[0]:g}, {parallels[1]:g}: only Lambert grids with one "
            "standard parallel, north of the equator, are supported."
        )
    if dx != dy:
        raise HouseError(f"DxInMetres: {dx:g}, DyInMetres: {dy:g}: only Lambert grids of square cells are supported.")
    rows, columns = block_shape((ny, nx), cells)
    coarse = LambertGrid(nx, ny, dx / 1000, latitude, longitude, parallel, meridian).coarsened(cells)
    size, first = coarse.spacing_km * 1000, (coarse.first_latitude, coarse.first_longitude)
    lat, lon = coarse.latlon()
    return CoarseGrid(
        operator=partial(block_mean, cells=cells),
        fine_shape=(ny, nx),
        latitudes=lat,
        longitudes=lon,
        resolution=f"{coarse.spacing_km:g}km",
        proj_string=(
            f"+proj=lcc +lat_1={parallel:g} +lat_2={parallel:g} +lat_0={parallel:g} +lon_0={meridian:g} "
            f"+R={EARTH_RADIUS_KM * 1000:.0f}"
        ),
        metadata={"Ni": columns, "Nj": rows} | dict(zip(LAMBERT_KEYS, (columns, rows, size, size, *first))),
    )


@lru_cache(maxsize=8)
def _cells(cells: int, northward: bool, definition: tuple[Any, ...]) -> CoarseGrid:
    """Return the grid of cells of a global grid with these values of `LATLON_KEYS`."""
    ni, nj, di, dj, latitude, longitude = definition
    nodes = latitude + (dj if northward else -dj) * np.arange(nj), longitude + di * np.arange(ni)
    operator = ConservativeCells(*nodes, cells)
    lat, lon = operator.points()
    (rows, columns), spacing = lat.shape, operator.spacing
    keys = dict(zip(LATLON_KEYS, (columns, rows, spacing, spacing, float(lat[0, 0]), float(lon[0, 0]))))
    metadata = {"Nx": columns, "Ny": rows, "jScansPositively": 0} | keys
    return CoarseGrid(operator, (nj, ni), lat, lon, f"{spacing:g}deg", None, metadata)
