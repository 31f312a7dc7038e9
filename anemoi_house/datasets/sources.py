"""The source `house-noaa` of anemoi-datasets: fields of GFS, HRRR and other models from NOAA's archives."""

from __future__ import annotations

import ctypes
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, ClassVar

from anemoi.datasets.create.source import Source
from anemoi.utils.dates import as_datetime
from earthkit.data.indexing.fieldlist import SimpleFieldList
from pydantic import AfterValidator

from anemoi_house.datasets.archive import Message
from anemoi_house.datasets.fields import WAY_OUT, GribGrid, MessageField
from anemoi_house.datasets.request import Request
from anemoi_house.datasets.stores import AbsentError, ArchiveError
from anemoi_house.errors import HouseError
from anemoi_house.upstream.errors import CommandError, explain_disk_errors

PARALLEL_DATES = 4
"""Dates fetched in parallel, some 60 MB each for HRRR: the next ones arrive while one is decoded."""


MEMORY_LIMIT = 200_000_000
"""Bytes of messages after which memory is returned to the system, which takes a fifth of a second."""


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe unchanged, or raise a CommandError, before anything is written."""
    explain_disk_errors()
    try:
        Request.of(**settings)
    except HouseError as mistake:
        raise CommandError(f"house-noaa: {mistake}") from None
    return settings


class HouseNoaaSource(Source):
    """Read analyses and short forecasts of GFS (0.25 degree) and HRRR (3 km).

    Parameters
    ----------
    context : Any
        Context of anemoi-datasets.
    model : str
        A module of `anemoi_house.datasets.models`: `gfs` or `hrrr`.
    param : list of str
        Names from `anemoi_house.datasets.variables.VARIABLES`.
    level : list of int
        Pressure levels in hPa, for the upper-air variables in `param`.
    lead_time : str
        From the start of the run to the date, such as `6h`. The dates of the recipe are valid times.
    accumulation : str
        Length of the range that a sum covers; by default from the start of the run.
    roots : list
        Stores to read, tried in this order; by default the public archives. Each is `s3://bucket`,
        `https://host/folder`, a local directory, or a mapping with `url` and, as needed, `files` (patterns of file
        names), `region` and `anonymous`.
    shape : list of int
        (ny, nx) of the grid, if it is not the model's usual one.
    patience_s : float
        How long a failing request is retried.
    indexes : str
        Directory for indexes of files without one; by default in the user's cache.
    """

    schema = Annotated[dict[str, Any], AfterValidator(_checked)]
    taken: ClassVar[int] = 0  # bytes of messages of all sources since memory was last returned

    def __init__(self, context: Any, **settings: Any) -> None:
        super().__init__(context)
        _checked(settings)
        self.request = Request.of(**settings)

    def execute_valid_dates(self, argument: Any) -> SimpleFieldList:
        """Return the fields of all dates. Their values are decoded when they are read."""
        if HouseNoaaSource.taken >= MEMORY_LIMIT:
            _give_memory_back()
            HouseNoaaSource.taken = 0
        dates = [as_datetime(date) for date in argument]
        with ThreadPoolExecutor(PARALLEL_DATES) as pool:
            fetched = list(pool.map(self._fetch, dates))
        HouseNoaaSource.taken += sum(len(message.content) for messages in fetched for message in messages)
        return SimpleFieldList(
            [self.field(message, date) for date, messages in zip(dates, fetched) for message in messages]
        )

    def _fetch(self, date: datetime) -> list[Message]:
        request = self.request
        try:
            return request.archive().fetch(request.run(date), request.lead_hours, request.fields)
        except AbsentError as absent:
            reason = (
                f"{absent}. Before a build, `anemoi-house scan RECIPE` writes all absent dates into dates.missing. In "
                f"an unfinished dataset, `anemoi-house missing DATASET {date:%Y-%m-%dT%H}` declares this one missing."
            )
        except ArchiveError as failure:
            reason = f"{failure}. {WAY_OUT}"
        except HouseError as mistake:
            reason = str(mistake)
        raise CommandError(f"house-noaa: {date:%Y-%m-%dT%H}: {reason}")

    def field(self, message: Message, date: datetime) -> MessageField:
        """Return a message as a field; raise a CommandError if its grid is not the expected one."""
        grid = _grid(message.header.grid, message.content)
        if grid.shape() != self.request.shape or not grid.is_in_rows:
            ny, nx = self.request.shape
            raise CommandError(
                f"house-noaa: {date:%Y-%m-%dT%H}: {message.where}: on a {grid.describe()}, expected {ny} x {nx}. Set "
                "shape if this is the grid you want; else correct roots."
            )
        return MessageField(message, grid, date)


def _give_memory_back() -> None:
    """Return the memory of earlier messages to the system; otherwise a load grows by 20 MB a date.

    Results of anemoi-datasets are in reference cycles, which Python collects late, and glibc keeps freed memory.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


_GRIDS: dict[bytes, GribGrid] = {}


def _grid(section: bytes, message: bytes) -> GribGrid:
    """Return the grid of a message, one object for all fields on it."""
    if section not in _GRIDS:
        _GRIDS[section] = GribGrid(message)
    return _GRIDS[section]
