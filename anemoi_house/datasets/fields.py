"""NOAA's messages as fields of earthkit: decoded each time they are read, and checked then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

# Before eccodes, whose bundled libraries replace those loaded later: pyproj would crash the process with a corrupted
# heap, and SQLite would be too old for MLflow's stores.
import sqlite3  # noqa: F401  # isort: skip
import pyproj  # noqa: F401  # isort: skip
import eccodes
import numpy as np
from earthkit.data.core.metadata import RawMetadata
from earthkit.data.sources.array_list import ArrayField
from earthkit.data.utils.metadata.dict import UserGeography

from anemoi_house.datasets.archive import Message
from anemoi_house.datasets.grib import check_values
from anemoi_house.datasets.grid_keys import GRID_KEYS, UNSUPPORTED_SCAN_KEYS
from anemoi_house.datasets.packing import GribError
from anemoi_house.geometry import Floats
from anemoi_house.upstream.errors import CommandError

WAY_OUT = (
    "Nothing of this date was written; loaded dates are kept. Run `anemoi-datasets load` again once the archive is "
    "fixed, or declare the date missing with `anemoi-house missing`."
)
"""What to do about a date that cannot be read."""


class GribGrid(UserGeography):
    """Grid of a message. Its definition is read immediately, the coordinates of its points on demand.

    Parameters
    ----------
    message : bytes
        Any message on this grid.
    """

    def __init__(self, message: bytes) -> None:
        self._message = message
        with _handle(message) as handle:
            defined = {key: _key(handle, key) for key in GRID_KEYS}
        self.definition: Mapping[str, Any] = {key: value for key, value in defined.items() if value is not None}
        """Keys of the grid, named as in eccodes."""
        super().__init__(self.definition)

    def shape(self) -> tuple[int, int]:
        """Return (ny, nx)."""
        return self.definition.get("Nj", 0), self.definition.get("Ni", 0)

    def describe(self) -> str:
        """Return a description for messages."""
        ny, nx = self.shape()
        return f"{self.definition.get('gridType')} grid of {ny} x {nx} points"

    @property
    def is_in_rows(self) -> bool:
        """Whether values are stored row by row, all eastward."""
        return not any(self.definition.get(key) for key in UNSUPPORTED_SCAN_KEYS)

    @cached_property
    def _points(self) -> tuple[Floats, Floats]:
        with _handle(self._message) as handle:
            latitudes, longitudes = (eccodes.codes_get_array(handle, key) for key in ("latitudes", "longitudes"))
        return latitudes, longitudes % 360

    def latitudes(self, dtype: Any = None) -> Floats:
        """Return the latitudes of all points in degrees."""
        return self._points[0] if dtype is None else self._points[0].astype(dtype)

    def longitudes(self, dtype: Any = None) -> Floats:
        """Return the longitudes of all points in degrees, from 0 to 360."""
        return self._points[1] if dtype is None else self._points[1].astype(dtype)

    def resolution(self) -> str:
        """Return the spacing as a dataset's metadata give it, such as `3km` or `0.25deg`."""
        if "DxInMetres" in self.definition:
            return f"{self.definition['DxInMetres'] / 1000:g}km"
        return f"{self.definition.get('iDirectionIncrementInDegrees', 0):g}deg"

    def mars_grid(self) -> None:
        """Return None: MARS has no name for these grids."""

    def projection(self) -> None:
        """Return None: the keys of the definition give it."""

    def _unique_grid_id(self) -> Any:
        return tuple(self.definition.items())


class MessageField(ArrayField):
    """A field whose message is decoded each time its values are read.

    All 83 fields of a date at 3 km take 1.3 GB as arrays, but 60 MB as messages.

    Parameters
    ----------
    message : Message
    grid : GribGrid
        Grid of the message.
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
    """Metadata with a shared geography; earthkit's own in-memory class copies it into every field's dictionary."""

    def __init__(self, description: dict[str, Any], geography: Any) -> None:
        super().__init__(description)
        self._geography = geography

    @property
    def geography(self) -> Any:
        """Grid of the field."""
        return self._geography

    def namespaces(self) -> list[str]:
        """Return the namespaces of `as_namespace`."""
        return ["default"]

    def as_namespace(self, namespace: str | None = None) -> dict[str, Any]:
        """Return the keys that describe the variable; anemoi-datasets stores them as `variables_metadata[...].mars`."""
        if namespace != "default":
            return {}
        return {key: self[key] for key in ("param", "levtype", "levelist") if key in self}


def decode(message: Message) -> Floats:
    """Decode a message, and check its values.

    GRIB2 has no checksum. But an encoder subtracts the smallest value before it packs, and a damaged message rarely
    decodes to that value.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    CommandError
        If eccodes cannot decode it, values are missing or impossible for the variable, or the smallest value is not
        that of the packing.
    """
    try:
        check_values(message.content)
        with _handle(message.content) as handle:
            missing = eccodes.codes_get(handle, "numberOfMissing")
            values = eccodes.codes_get_values(handle)
    except GribError as wrong:
        raise _damaged(message, f"it {wrong}") from None
    except (eccodes.CodesInternalError, ValueError) as failure:
        raise _damaged(message, f"eccodes cannot decode it ({failure})") from None
    if missing:
        raise _damaged(message, f"{missing:,} of {values.size:,} values are missing")
    variable, header = message.wanted.variable, message.header
    low, high = variable.bounds
    smallest, largest = float(values.min()), float(values.max())
    if not (np.isfinite(smallest) and np.isfinite(largest) and low <= smallest <= largest <= high):
        raise _damaged(
            message, f"values from {smallest:g} to {largest:g} {variable.units} are outside {low:g} to {high:g}"
        )
    if abs(smallest - header.smallest) > 2 * header.quantum + 1e-9 * abs(smallest):
        raise _damaged(message, f"its smallest value is {smallest:g}, but its packing gives {header.smallest:g}")
    return values


def _damaged(message: Message, reason: str) -> CommandError:
    valid_time = message.header.run + message.wanted.time_range.end
    return CommandError(f"house-noaa: {valid_time:%Y-%m-%dT%H}: {message.where}: damaged: {reason}. {WAY_OUT}")


def _description(message: Message, grid: GribGrid, valid_time: datetime) -> dict[str, Any]:
    """Return the metadata of a field under the names that anemoi-datasets reads."""
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
        start, end = wanted.time_range.start // hour, wanted.time_range.end // hour
        surface |= {"startStep": start, "endStep": end, "stepTypeForConversion": "accum"}
    return surface


@contextmanager
def _handle(message: bytes) -> Iterator[Any]:
    """Yield an eccodes handle of a message, and release it."""
    handle = eccodes.codes_new_from_message(message)
    try:
        yield handle
    finally:
        eccodes.codes_release(handle)


def _key(handle: Any, key: str) -> Any:
    try:
        return eccodes.codes_get(handle, key)
    except eccodes.KeyValueNotFoundError:
        return None
