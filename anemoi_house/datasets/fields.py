"""Fields of NOAA's messages as earthkit knows them: decoded when they are read, and checked then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

# Ahead of eccodes, whose bundled libraries take the place of those that are loaded later: pyproj would end the process
# with a corrupted heap, and SQLite be too old for MLflow's stores.
import sqlite3  # noqa: F401  # isort: skip
import pyproj  # noqa: F401  # isort: skip
import eccodes
import numpy as np
from earthkit.data.core.geography import Geography
from earthkit.data.core.metadata import RawMetadata
from earthkit.data.sources.array_list import ArrayField

from anemoi_house.datasets.archive import Message
from anemoi_house.datasets.grib import GribError, check_groups
from anemoi_house.geometry import Floats
from anemoi_house.upstream.errors import CommandError

_GRID_KEYS = (
    "gridType",
    "radius",
    "Ni",
    "Nj",
    "Nx",
    "Ny",
    "DxInMetres",
    "DyInMetres",
    "LaDInDegrees",
    "LoVInDegrees",
    "Latin1InDegrees",
    "Latin2InDegrees",
    "iDirectionIncrementInDegrees",
    "jDirectionIncrementInDegrees",
    "latitudeOfFirstGridPointInDegrees",
    "longitudeOfFirstGridPointInDegrees",
    "iScansNegatively",
    "jScansPositively",
    "jPointsAreConsecutive",
    "alternativeRowScanning",
    "uvRelativeToGrid",
)

WAY_OUT = (
    "Nothing of this date was written, what was loaded stays. Go on with `anemoi-datasets load` when the archive is "
    "mended, or take the date out with `anemoi-house missing`"
)
"""What a user does about a date that cannot be had."""


class GribGrid(Geography):
    """Grid of a message: its definition at once, the coordinates of its points when they are asked for.

    Parameters
    ----------
    message : bytes
        Any message on this grid.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message
        handle = eccodes.codes_new_from_message(message)
        try:
            defined = {key: _key(handle, key) for key in _GRID_KEYS}
        finally:
            eccodes.codes_release(handle)
        self.definition: Mapping[str, Any] = {key: value for key, value in defined.items() if value is not None}
        """Keys of the grid, named as in eccodes."""

    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.definition.get("Nj", 0), self.definition.get("Ni", 0)

    def describe(self) -> str:
        """In words, for messages."""
        ny, nx = self.shape()
        return f"{self.definition.get('gridType')} grid of {ny} x {nx} points"

    @property
    def is_in_rows(self) -> bool:
        """Whether values stand row by row, all in one direction."""
        return not any(
            self.definition.get(key) for key in ("iScansNegatively", "jPointsAreConsecutive", "alternativeRowScanning")
        )

    @cached_property
    def _points(self) -> tuple[Floats, Floats]:
        handle = eccodes.codes_new_from_message(self._message)
        try:
            latitudes, longitudes = (eccodes.codes_get_array(handle, key) for key in ("latitudes", "longitudes"))
        finally:
            eccodes.codes_release(handle)
        return latitudes, longitudes % 360

    def latitudes(self, dtype: Any = None) -> Floats:
        """Of all points, in degrees."""
        return self._points[0] if dtype is None else self._points[0].astype(dtype)

    def longitudes(self, dtype: Any = None) -> Floats:
        """Of all points, in degrees from 0 to 360."""
        return self._points[1] if dtype is None else self._points[1].astype(dtype)

    def resolution(self) -> str:
        """As in the metadata of a dataset, such as `3km` or `0.25deg`."""
        if "DxInMetres" in self.definition:
            return f"{self.definition['DxInMetres'] / 1000:g}km"
        return f"{self.definition.get('iDirectionIncrementInDegrees', 0):g}deg"

    def mars_area(self) -> list[float]:
        """North, west, south and east, in degrees."""
        lat, lon = self._points
        return [float(lat.max()), float(lon.min()), float(lat.min()), float(lon.max())]

    def mars_grid(self) -> None:
        """MARS has no name for these grids."""

    def x(self, dtype: Any = None) -> Any:
        """Not known in general."""
        raise NotImplementedError

    def y(self, dtype: Any = None) -> Any:
        """Not known in general."""
        raise NotImplementedError

    def projection(self) -> None:
        """Left to the keys of the definition."""

    def bounding_box(self) -> Any:
        """Not known in general."""
        raise NotImplementedError

    def gridspec(self) -> Any:
        """Not known in general."""
        raise NotImplementedError

    def _unique_grid_id(self) -> Any:
        return tuple(self.definition.items())


class MessageField(ArrayField):
    """One field; its message is decoded each time that its values are asked for.

    All 83 fields of a date at 3 km would take 1.3 GB as arrays, and 60 MB as messages.

    Parameters
    ----------
    message : Message
    grid : GribGrid
        Of the message.
    valid_time : datetime
        UTC.
    """

    def __init__(self, message: Message, grid: GribGrid, valid_time: datetime) -> None:
        super().__init__(None, Metadata(_description(message, grid, valid_time), grid))
        self._message, self._shape = message, grid.shape()

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self._shape

    @property
    def _array(self) -> Floats:
        return decode(self._message).reshape(self._shape)


class Metadata(RawMetadata):
    """Metadata with a geography, which earthkit's own in-memory class would copy into every field's dictionary."""

    def __init__(self, description: dict[str, Any], geography: Any) -> None:
        super().__init__(description)
        self._geography = geography

    @property
    def geography(self) -> Any:
        """Of the field's grid."""
        return self._geography

    def namespaces(self) -> list[str]:
        """Those of `as_namespace`."""
        return ["default"]

    def as_namespace(self, namespace: str | None = None) -> dict[str, Any]:
        """Keys that describe the variable; anemoi-datasets stores them as `variables_metadata[...].mars`."""
        if namespace != "default":
            return {}
        return {key: self[key] for key in ("param", "levtype", "levelist") if key in self}


def decode(message: Message) -> Floats:
    """Values of a message, checked.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    CommandError
        For a message that eccodes cannot decode, with missing values, with values that no such variable has, or that
        its own packing cannot hold: GRIB2 has no checksum, but encoders subtract the smallest value before they pack,
        and a damaged message rarely comes back to it.
    """
    try:
        check_groups(message.content)
    except GribError as wrong:
        raise _damaged(message, f"it {wrong}") from None
    try:
        handle = eccodes.codes_new_from_message(message.content)
        try:
            missing = eccodes.codes_get(handle, "numberOfMissing")
            values = eccodes.codes_get_values(handle)
        finally:
            eccodes.codes_release(handle)
    except (eccodes.CodesInternalError, ValueError) as failure:
        raise _damaged(message, f"eccodes cannot decode it ({failure})") from None
    if missing:
        raise _damaged(message, f"{missing:,} of {values.size:,} values are missing")
    low, high = message.wanted.variable.bounds
    smallest, largest = float(values.min()), float(values.max())
    if not (np.isfinite(smallest) and np.isfinite(largest) and low <= smallest <= largest <= high):
        units = message.wanted.variable.units
        raise _damaged(message, f"values from {smallest:g} to {largest:g} {units} are outside {low:g} to {high:g}")
    if abs(smallest - message.header.smallest) > 2 * message.header.quantum + 1e-9 * abs(smallest):
        told = f"its smallest value is {smallest:g}, its packing says {message.header.smallest:g}"
        raise _damaged(message, told)
    return values


def _damaged(message: Message, reason: str) -> CommandError:
    valid_time = message.header.run + message.wanted.forecast.end
    return CommandError(f"house-noaa: {valid_time:%Y-%m-%dT%H}: {message.where}: damaged: {reason}. {WAY_OUT}")


def _description(message: Message, grid: GribGrid, valid_time: datetime) -> dict[str, Any]:
    """Metadata of one field, under the names that anemoi-datasets asks for."""
    wanted = message.wanted
    common = {
        "param": wanted.variable.param,
        "units": wanted.variable.units,
        "valid_datetime": valid_time.isoformat(),
        "resolution": grid.resolution(),
        **grid.definition,
    }
    if wanted.level_hpa is not None:
        return {**common, "levtype": "pl", "levelist": wanted.level_hpa}
    surface = {**common, "levtype": "sfc"}
    if wanted.variable.accumulated:
        hour = timedelta(hours=1)
        start, end = wanted.forecast.start // hour, wanted.forecast.end // hour
        surface |= {"startStep": start, "endStep": end, "stepTypeForConversion": "accum"}
    return surface


def _key(handle: Any, key: str) -> Any:
    try:
        return eccodes.codes_get(handle, key)
    except eccodes.KeyValueNotFoundError:
        return None
