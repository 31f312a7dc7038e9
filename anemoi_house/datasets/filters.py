"""Filters of anemoi-transform for recipes: `house-coarsen`, `house-rotate-winds` and `house-same-grid`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Annotated, Any, ClassVar

import numpy as np
from anemoi.transform.fields import NewDataField, NewMetadataField, new_field_from_numpy, new_fieldlist_from_list
from anemoi.transform.filter import Filter
from earthkit.data.utils.metadata.dict import UserGeography
from pydantic import BeforeValidator

from anemoi_house.datasets.regrid import (
    ConservativeCells,
    Floats,
    LambertRotation,
    block_mean,
    block_shape,
    check_cells,
)
from anemoi_house.errors import HouseError
from anemoi_house.geometry import EARTH_RADIUS_KM, LambertGrid
from anemoi_house.upstream.errors import CommandError

LAMBERT_KEYS = (
    "Nx",
    "Ny",
    "DxInMetres",
    "DyInMetres",
    "latitudeOfFirstGridPointInDegrees",
    "longitudeOfFirstGridPointInDegrees",
    "LaDInDegrees",
    "LoVInDegrees",
    "Latin1InDegrees",
    "Latin2InDegrees",
)
LATLON_KEYS = (
    "Ni",
    "Nj",
    "iDirectionIncrementInDegrees",
    "jDirectionIncrementInDegrees",
    "latitudeOfFirstGridPointInDegrees",
    "longitudeOfFirstGridPointInDegrees",
)
SCAN_KEYS = ("iScansNegatively", "jScansPositively")

DEFAULT_PAIRS = (("u", "v"), ("u10", "v10"), ("u80", "v80"))
"""Names of the wind components in the experiments' datasets."""

_PLACE = ("levtype", "typeOfLevel", "levelist", "level", "valid_datetime", "number")
"""What both components of a wind have in common."""

_SAME_POINT = 1e-6
"""Degrees, about 0.1 m."""


class HouseFilter(Filter):
    """Base of our filters: what is wrong with a recipe is said in one line, when the recipe is read."""

    NAME: ClassVar[str]
    KEYS: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the filter the schema that anemoi-datasets looks for."""
        super().__init_subclass__(**kwargs)
        cls.schema = Annotated[dict[str, Any], BeforeValidator(cls.checked)]

    @classmethod
    def checked(cls, settings: Any) -> dict[str, Any]:
        """Settings of a recipe; anemoi-datasets validates a recipe's entry with this.

        Raises
        ------
        CommandError
            For settings that the filter does not take.
        """
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping):
            raise CommandError(f"{cls.NAME}: {settings!r} are no settings; write them as {{key: value}}.")
        cls(**{str(key): value for key, value in settings.items()})
        return dict(settings)

    def __init__(self, **unknown: Any) -> None:
        for key in unknown:
            close = get_close_matches(key, self.KEYS, n=1)
            known = f"it knows {', '.join(self.KEYS)}." if self.KEYS else "it has none."
            raise CommandError(
                f"{self.NAME} has no setting '{key}'; {f'did you mean {close[0]!r}?' if close else known}"
            )

    def mistake(self, message: object) -> CommandError:
        """Error that ends the command with one line."""
        return CommandError(f"{self.NAME}: {message}")


class HouseCoarsen(HouseFilter):
    """Means over blocks of a Lambert grid, or over cells of a global lat-lon grid.

    Fields on a `lambert` grid become the means of `cells` x `cells` points, on the centres of these blocks;
    fields on a global `regular_ll` grid with points on the poles become conservative means over cells of
    `cells` times the spacing. All else in their metadata stays. Every field is read once.

    Parameters
    ----------
    cells : int
        Points along each side of a block: 5 takes HRRR from 3 to 15 km, 4 takes GFS from 0.25 to 1 degree.

    Raises
    ------
    CommandError
        For settings that will not do, and for a field on a grid that it cannot do.
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
        """Fields on the coarse grid, in the same order."""
        return new_fieldlist_from_list([self._coarse(field) for field in data])

    def _coarse(self, field: Any) -> CoarseField:
        try:
            grid = _coarse_grid(field, self.cells)
            return CoarseField(field, grid.mean(field.to_numpy()), grid)
        except HouseError as mistake:
            raise self.mistake(f"field {_described(field)}: {mistake}") from None


@dataclass(frozen=True, eq=False)
class CoarseGrid:
    """A coarse grid, and the way there; one for all fields and dates.

    Attributes
    ----------
    mean : callable
        Values on the fine grid, (ny, nx), to values on the coarse one.
    geography : UserGeography
        Coordinates, of two dimensions.
    points : tuple of ndarray
        The same latitudes and longitudes in a row: one object for all fields, so that equality is seen at once.
    resolution : str
        For the dataset's metadata, such as `15km`.
    proj_string : str or None
        Projection, for the dataset's metadata.
    metadata : dict
        GRIB keys of the grid that differ from the fine grid's.
    """

    mean: Callable[[Any], Floats]
    geography: UserGeography
    points: tuple[Floats, Floats]
    resolution: str
    proj_string: str | None
    metadata: dict[str, Any]


class CoarseField(NewMetadataField):
    """A field on a coarse grid, with all metadata of the fine field but the grid's.

    The stock way, `new_field_from_latitudes_longitudes`, gives a geography of one dimension: what the stock
    `forcings` make from such a template would have another shape than the template.
    """

    def __init__(self, template: Any, values: Floats, grid: CoarseGrid) -> None:
        super().__init__(NewDataField(template, values), resolution=grid.resolution, **grid.metadata)
        self.shape = values.shape
        self.resolution = grid.resolution
        self.proj_string = grid.proj_string
        self._grid = grid

    def metadata(self, *args: Any, **kwargs: Any) -> Any:
        """As earthkit's: one value, several, a namespace or all."""
        metadata = super().metadata(*args, **kwargs)
        if not args and not kwargs:
            metadata.geography = self._grid.geography
        return metadata

    def grid_points(self) -> tuple[Floats, Floats]:
        """Latitudes and longitudes in degrees, each of one dimension."""
        return self._grid.points

    def to_latlon(self, flatten: bool = False) -> dict[str, Floats]:
        """Latitudes and longitudes in degrees, of two dimensions or of one."""
        lat, lon = self._grid.points
        return {"lat": lat, "lon": lon} if flatten else {"lat": lat.reshape(self.shape), "lon": lon.reshape(self.shape)}

    @property
    def mars_area(self) -> list[float]:
        """North, west, south and east, in degrees."""
        return list(self._grid.geography.mars_area())

    @property
    def mars_grid(self) -> None:
        """Not known for a grid that is not MARS's."""


def _coarse_grid(field: Any, cells: int) -> CoarseGrid:
    kind = field.metadata("gridType", default=None)
    if kind not in ("lambert", "regular_ll"):
        raise HouseError(f"gridType: {kind!r} cannot be coarsened; it must be 'lambert' or 'regular_ll'.")
    westward, northward = _numbers(field, SCAN_KEYS)
    if westward:
        raise HouseError("iScansNegatively: 1: rows that run westward are not supported.")
    if kind == "lambert":
        if not northward:
            raise HouseError("jScansPositively: 0: Lambert grids whose rows run north to south are not supported.")
        radius = field.metadata("radius", default=None)
        if radius is not None and not np.isclose(float(radius) / 1000, EARTH_RADIUS_KM, rtol=1e-6):
            raise HouseError(f"radius: {radius}: only grids on a sphere of {EARTH_RADIUS_KM} km are supported.")
        return _blocks(cells, *_numbers(field, LAMBERT_KEYS))
    return _cells(cells, bool(northward), *_numbers(field, LATLON_KEYS))


def _numbers(field: Any, keys: Sequence[str]) -> tuple[Any, ...]:
    values = field.metadata(*keys, default=None)
    for key, value in zip(keys, values):
        if value is None:
            raise HouseError(f"its metadata have no '{key}', which is needed for its grid.")
    return values


@lru_cache(maxsize=8)
def _blocks(
    cells: int,
    nx: int,
    ny: int,
    dx: float,
    dy: float,
    latitude: float,
    longitude: float,
    parallel: float,
    meridian: float,
    first_parallel: float,
    second_parallel: float,
) -> CoarseGrid:
    """Blocks of a Lambert grid, from the values of `LAMBERT_KEYS`."""
    if not parallel == first_parallel == second_parallel or not 0 < parallel < 90:
        raise HouseError(
            f"LaD, Latin1, Latin2: {parallel:g}, {first_parallel:g}, {second_parallel:g}: only Lambert grids with "
            f"one standard parallel, north of the equator, are supported."
        )
    if dx != dy:
        raise HouseError(f"DxInMetres: {dx:g}, DyInMetres: {dy:g}: only Lambert grids of square cells are supported.")
    shape = block_shape((ny, nx), cells)
    coarse = LambertGrid(nx, ny, dx / 1000, latitude, longitude, parallel, meridian).coarsened(cells)
    lat, lon = coarse.latlon()
    size, first = coarse.spacing_km * 1000, (coarse.first_latitude, coarse.first_longitude)
    return CoarseGrid(
        mean=partial(_shaped, (ny, nx), partial(block_mean, cells=cells)),
        geography=_geography(lat, lon),
        points=(lat.ravel(), lon.ravel()),
        resolution=f"{coarse.spacing_km:g}km",
        proj_string=(
            f"+proj=lcc +lat_1={parallel:g} +lat_2={parallel:g} +lat_0={parallel:g} +lon_0={meridian:g} "
            f"+R={EARTH_RADIUS_KM * 1000:.0f}"
        ),
        metadata={"Ni": shape[1], "Nj": shape[0]} | dict(zip(LAMBERT_KEYS, (shape[1], shape[0], size, size, *first))),
    )


@lru_cache(maxsize=8)
def _cells(
    cells: int, northward: bool, ni: int, nj: int, di: float, dj: float, latitude: float, longitude: float
) -> CoarseGrid:
    """Cells of a global grid, from the values of `LATLON_KEYS`."""
    nodes = latitude + (dj if northward else -dj) * np.arange(nj), longitude + di * np.arange(ni)
    operator = ConservativeCells(*nodes, cells)
    lat, lon = operator.points()
    spacing = operator.spacing
    grid = (lon.shape[1], lat.shape[0], spacing, spacing, float(lat[0, 0]), float(lon[0, 0]))
    return CoarseGrid(
        mean=partial(_shaped, (nj, ni), operator),
        geography=_geography(lat, lon),
        points=(lat.ravel(), lon.ravel()),
        resolution=f"{spacing:g}deg",
        proj_string=None,
        metadata={"Nx": grid[0], "Ny": grid[1], "jScansPositively": 0} | dict(zip(LATLON_KEYS, grid)),
    )


def _shaped(shape: tuple[int, int], mean: Callable[[Any], Floats], values: Any) -> Floats:
    if values.shape != shape:
        raise HouseError(f"its values have the shape {values.shape}, but its metadata say {shape[0]} x {shape[1]}.")
    return mean(values)


def _geography(latitudes: Floats, longitudes: Floats) -> UserGeography:
    latitudes.flags.writeable = longitudes.flags.writeable = False
    return UserGeography({"latitudes": latitudes, "longitudes": longitudes}, shape=latitudes.shape)


class HouseRotateWinds(HouseFilter):
    """Turns winds along the axes of a Lambert grid to eastward and northward.

    Only where the file says that it is needed, `uvRelativeToGrid: 1`; the results say 0. Everything else
    passes as it is, in the same order. Rotating block means rather than the fine fields is 25 times less
    work; over the width of a block the angle hardly changes.

    Parameters
    ----------
    pairs : list of pairs of str
        Names of the components along x and y, by default `u` and `v`, `u10` and `v10`, `u80` and `v80`.

    Raises
    ------
    CommandError
        For settings that will not do, a component without the other, and a grid that is not Lambert.
    """

    NAME = "house-rotate-winds"
    KEYS = ("pairs",)

    def __init__(self, pairs: Any = DEFAULT_PAIRS, **unknown: Any) -> None:
        super().__init__(**unknown)
        pairs = DEFAULT_PAIRS if pairs is None else pairs
        if not _is_list(pairs) or not all(_is_list(pair) and len(pair) == 2 for pair in pairs):
            raise self.mistake(f"pairs: {pairs!r} must be a list of pairs of names, such as [[u, v], [u10, v10]].")
        names = [name for pair in pairs for name in pair]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise self.mistake(f"pairs: {pairs!r} must name each component once, such as [[u, v], [u10, v10]].")
        self._component = {name: (tuple(pair), axis) for pair in pairs for axis, name in enumerate(pair)}

    def forward(self, data: Any) -> Any:
        """Fields in the same order, the winds among them turned."""
        fields = list(data)
        winds: dict[tuple[Any, ...], dict[int, int]] = {}
        for index, field in enumerate(fields):
            pair, axis = self._component.get(field.metadata("param"), (None, 0))
            if pair is None or field.metadata("uvRelativeToGrid", default=0) != 1:
                continue
            positions = winds.setdefault((pair, *field.metadata(*_PLACE, default=None)), {})
            if axis in positions:
                raise self.mistake(f"field {_described(field)} is there twice.")
            positions[axis] = index
        rotation = _LastRotation()
        for (pair, *_), positions in winds.items():
            if len(positions) == 1:
                ((axis, index),) = positions.items()
                raise self.mistake(
                    f"field {_described(fields[index])} is relative to its grid, and '{pair[1 - axis]}' of the same "
                    f"level and time, also relative to it, is missing: ask the source for both."
                )
            u, v = fields[positions[0]], fields[positions[1]]
            try:
                turned = rotation.of(u)(u.to_numpy(), v.to_numpy())
            except HouseError as mistake:
                raise self.mistake(f"field {_described(u)}: {mistake}") from None
            for axis, template in enumerate((u, v)):
                fields[positions[axis]] = new_field_from_numpy(turned[axis], template=template, uvRelativeToGrid=0)
        return new_fieldlist_from_list(fields)


class _LastRotation:
    """The rotation for one field after the other: made anew only where the points or the cone change."""

    def __init__(self) -> None:
        self._cone: tuple[float, ...] = ()
        self._longitudes: Any = None
        self._rotation: LambertRotation | None = None

    def of(self, field: Any) -> LambertRotation:
        kind = field.metadata("gridType", default=None)
        if kind != "lambert":
            raise HouseError(f"uvRelativeToGrid: 1 on gridType: {kind!r}: only winds on 'lambert' can be rotated.")
        first, second, meridian = _numbers(field, ("Latin1InDegrees", "Latin2InDegrees", "LoVInDegrees"))
        cone = (first, second, meridian)
        longitudes = field.grid_points()[1]
        if self._rotation is None or longitudes is not self._longitudes or cone != self._cone:
            self._cone, self._longitudes = cone, longitudes
            self._rotation = LambertRotation(longitudes.reshape(field.shape), (first, second), meridian)
        return self._rotation


class HouseSameGrid(HouseFilter):
    """Passes fields that all have rows and columns and lie on the same points.

    anemoi-datasets takes shape and coordinates of a dataset from its first field alone, and only a dataset
    with rows and columns can be trimmed.

    Raises
    ------
    CommandError
        For a field of one dimension, of another shape or on other points than the first.
    """

    NAME = "house-same-grid"

    def forward(self, data: Any) -> Any:
        """The fields as they are."""
        fields = list(data)
        for field in fields:
            self._check(fields[0], field)
        return data

    def _check(self, first: Any, field: Any) -> None:
        shape, expected = tuple(field.shape), tuple(first.shape)
        if len(shape) != 2:
            raise self.mistake(
                f"field {_described(field)} has no rows and columns but {shape[0]} points in a row: a dataset of it "
                f"cannot be trimmed. Take it through filters that keep the shape, such as house-coarsen and "
                f"house-rotate-winds, or build a dataset of its own from it."
            )
        if shape != expected:
            raise self.mistake(
                f"field {_described(field)} has {shape[0]} x {shape[1]} points, and the first field, "
                f"{_described(first)}, {expected[0]} x {expected[1]}: anemoi-datasets takes the shape from the first "
                f"field alone. Bring the parts of the join to one grid, for example with house-coarsen."
            )
        if field.metadata().geography is first.metadata().geography:  # forcings would be computed for their points
            return
        for mine, others in zip(first.grid_points(), field.grid_points()):
            if mine is not others and not np.all(np.abs((mine - others + 180) % 360 - 180) <= _SAME_POINT):
                raise self.mistake(
                    f"field {_described(field)} lies on other points than the first field, {_described(first)}: "
                    f"anemoi-datasets takes the points from the first field alone. Bring the parts of the join to "
                    f"one grid, for example with house-coarsen."
                )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _described(field: Any) -> str:
    """Name, level and valid time of a field, for messages."""
    param, level, valid = field.metadata("param", "levelist", "valid_datetime", default=None)
    return f"'{param}'{'' if level is None else f' at level {level}'} of {valid}"
