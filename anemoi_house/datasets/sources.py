"""The source `house-noaa` of anemoi-datasets: GFS and HRRR from NOAA's archives."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from anemoi.datasets.create.source import Source
from anemoi.utils.dates import as_datetime, frequency_to_timedelta
from earthkit.data.indexing.fieldlist import SimpleFieldList
from pydantic import AfterValidator

from anemoi_house.datasets.archive import Archive, Message, Model, Wanted, model
from anemoi_house.datasets.fields import WAY_OUT, GribGrid, MessageField
from anemoi_house.datasets.grib import Forecast
from anemoi_house.datasets.stores import PATIENCE_S, AbsentError, ArchiveError, Root
from anemoi_house.datasets.variables import VARIABLES, Variable, variable
from anemoi_house.errors import HouseError
from anemoi_house.upstream.errors import CommandError, explain_disk_errors

DATES_AT_ONCE = 4
"""Dates whose messages are fetched side by side, some 60 MB each for HRRR: the next come while one is decoded."""

_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Request:
    """What a recipe asks of the archives, checked.

    Attributes
    ----------
    model : Model
    fields : tuple of Wanted
        Of one run and lead time.
    lead_hours : int
    roots : tuple of Root
        Empty for those of the model.
    shape : tuple of int
        (ny, nx) of the grid that every field must have.
    patience_s : float
    indexes : Path or None
    """

    model: Model
    fields: tuple[Wanted, ...]
    lead_hours: int
    roots: tuple[Root, ...]
    shape: tuple[int, int]
    patience_s: float
    indexes: Path | None

    @classmethod
    def of(
        cls,
        *,
        model: Any = None,
        param: Any = None,
        level: Any = None,
        lead_time: Any = "0h",
        accumulation: Any = None,
        roots: Any = (),
        shape: Any = None,
        patience_s: Any = PATIENCE_S,
        indexes: Any = None,
        **unknown: Any,
    ) -> Request:
        """Request from the keys of a recipe, as `HouseNoaaSource` describes them; a HouseError names the wrong one."""
        if unknown:
            keys = "model, param, level, lead_time, accumulation, roots, shape, patience_s, indexes"
            raise HouseError(f"{next(iter(unknown))!r} is no key of this source; there are {keys}")
        chosen = _model(model)
        variables = [variable(name) for name in _listed("param", param)]
        if not variables:
            raise HouseError("param: is empty; give some of " + ", ".join(VARIABLES))
        levels = _levels(level, variables)
        lead = _hours("lead_time", lead_time)
        period = lead if accumulation is None else _hours("accumulation", accumulation)
        fields = tuple(
            Wanted(one, level_hpa, _forecast(one, lead, period))
            for one in variables
            for level_hpa in (levels if one.level is None else [None])
        )
        if len(set(fields)) < len(fields):
            raise HouseError(f"param: {param!r} or level: {level!r} names something twice")
        if not isinstance(patience_s, int | float) or isinstance(patience_s, bool) or patience_s <= 0:
            raise HouseError(f"patience_s: {patience_s!r} is no number of seconds above 0")
        return cls(
            chosen,
            fields,
            lead,
            tuple(Root.of(given) for given in _listed("roots", roots)),
            _shape(shape) or chosen.shape,
            float(patience_s),
            None if indexes is None else Path(indexes).expanduser(),
        )

    @property
    def lead_time(self) -> timedelta:
        """From the start of the run to the valid time."""
        return timedelta(hours=self.lead_hours)

    def run(self, valid_time: datetime) -> datetime:
        """Start of the run of a valid time (UTC); a HouseError for one that the model has no run for."""
        run = valid_time - self.lead_time
        if run < self.model.begins:
            raise HouseError(f"{self.model.name} has no archive before {self.model.begins:%Y-%m-%d}; set dates.start")
        if run.hour % self.model.cycle_hours or run.minute or run.second:
            every = f"every {self.model.cycle_hours} hours from 00 UTC"
            raise HouseError(f"{self.model.name} runs {every}, not at {run:%H:%M}; set dates.frequency or lead_time")
        return run

    def archive(self) -> Archive:
        """Archive of this request; requests of the same places share it."""
        return _archive(self.model.name, self.roots, self.patience_s, self.indexes)


@lru_cache(maxsize=16)
def _archive(name: str, roots: tuple[Root, ...], patience_s: float, indexes: Path | None) -> Archive:
    return Archive(model(name), roots, patience_s, indexes)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe as they are, once they are known to be right: before anything is written."""
    explain_disk_errors()
    try:
        Request.of(**settings)
    except HouseError as mistake:
        raise CommandError(f"house-noaa: {mistake}") from None
    return settings


class HouseNoaaSource(Source):
    """Analyses and short forecasts of GFS (0.25 degree) and HRRR (3 km).

    Parameters
    ----------
    context : Any
        Of anemoi-datasets.
    model : str
        `gfs` or `hrrr`.
    param : list of str
        Names of `anemoi_house.datasets.variables.VARIABLES`.
    level : list of int
        Pressure levels in hPa, for those of `param` that are on levels.
    lead_time : str
        From the start of the run to the date, such as `6h`. The dates of the recipe are valid times.
    accumulation : str
        Length of the range that a sum is over; by default from the start of the run.
    roots : list
        Where to look, in this order: `s3://bucket`, `https://host/folder`, a local folder, or a mapping with `url`
        and `files` (patterns of file names), `region`, `anonymous`. By default the public archives.
    shape : list of int
        (ny, nx) of the grid, where it is not the model's usual one.
    patience_s : float
        For how long a server that fails is asked again.
    indexes : str
        Folder for indexes of files that come without one; by default in the user's cache.
    """

    schema = Annotated[dict[str, Any], AfterValidator(_checked)]

    def __init__(self, context: Any, **settings: Any) -> None:
        super().__init__(context)
        _checked(settings)
        self.request = Request.of(**settings)

    def execute_valid_dates(self, argument: Any) -> SimpleFieldList:
        """Fields of all dates; their values are decoded when they are read."""
        _MEMORY.give_back()
        dates = [as_datetime(date) for date in argument]
        with ThreadPoolExecutor(DATES_AT_ONCE) as pool:
            fetched = list(pool.map(self._fetch, dates))
        _MEMORY.taken += sum(len(message.content) for messages in fetched for message in messages)
        return SimpleFieldList(
            [self.field(message, date) for date, messages in zip(dates, fetched) for message in messages]
        )

    def _fetch(self, date: datetime) -> list[Message]:
        request = self.request
        try:
            return request.archive().fetch(request.run(date), request.lead_hours, request.fields)
        except AbsentError as absent:
            raise CommandError(
                f"house-noaa: {date:%Y-%m-%dT%H}: {absent}. Before a build, `anemoi-house scan RECIPE` writes all such "
                "dates into dates.missing; from one that has begun, `anemoi-house missing DATASET DATE` takes this one"
            ) from None
        except ArchiveError as failure:
            raise CommandError(f"house-noaa: {date:%Y-%m-%dT%H}: {failure}. {WAY_OUT}") from None
        except HouseError as mistake:
            raise CommandError(f"house-noaa: {date:%Y-%m-%dT%H}: {mistake}") from None

    def field(self, message: Message, date: datetime) -> MessageField:
        """Field of a message; a CommandError if it is on another grid than expected."""
        grid = _grid(message.header.grid, message.content)
        if grid.shape() != self.request.shape or not grid.is_in_rows:
            ny, nx = self.request.shape
            raise CommandError(
                f"house-noaa: {date:%Y-%m-%dT%H}: {message.where}: is on a {grid.describe()}, expected is one of "
                f"{ny} x {nx}; set shape if you mean this grid, or mend the root"
            )
        return MessageField(message, grid, date)


class _Memory:
    """Memory that messages took, and that Python and glibc would keep: without this a load grows by 20 MB a date.

    Results of anemoi-datasets are held in circles, which Python is slow to find; what is freed between them stays with
    the process until it is trimmed.
    """

    LIMIT = 200_000_000

    def __init__(self) -> None:
        self.taken = 0

    def give_back(self) -> None:
        """Return what earlier dates took to the system, if it is much: the search takes a fifth of a second."""
        if self.taken < self.LIMIT:
            return
        self.taken = 0
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


_MEMORY = _Memory()

_GRIDS: dict[bytes, GribGrid] = {}


def _grid(section: bytes, message: bytes) -> GribGrid:
    """Grid of a message; fields of one grid share it."""
    if section not in _GRIDS:
        _GRIDS[section] = GribGrid(message)
    return _GRIDS[section]


def _model(name: Any) -> Model:
    if name is None:
        raise HouseError("model: is missing; give gfs or hrrr")
    return model(str(name))


def _listed(key: str, given: Any) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, str | dict):
        return [given]
    if not isinstance(given, Sequence):
        raise HouseError(f"{key}: {given!r} is no list")
    return list(given)


def _levels(given: Any, variables: Sequence[Variable]) -> list[int]:
    listed = [given] if isinstance(given, int) else _listed("level", given)
    wrong = [level for level in listed if not isinstance(level, int) or isinstance(level, bool) or level <= 0]
    if wrong:
        raise HouseError(f"level: {wrong[0]!r} is no pressure in hPa, such as 500")
    on_levels = [one.param for one in variables if one.level is None]
    if on_levels and not listed:
        raise HouseError(f"level: is missing; {', '.join(on_levels)} are on pressure levels: give some in hPa")
    if listed and not on_levels:
        raise HouseError(f"level: {listed} has nothing to select: none of param is on pressure levels")
    return listed


def _hours(key: str, given: Any) -> int:
    try:
        time = frequency_to_timedelta(given)
    except (ValueError, TypeError, AttributeError):
        raise HouseError(f"{key}: {given!r} is no time, such as 6h") from None
    if time < timedelta(0) or time % _HOUR:
        raise HouseError(f"{key}: {given!r} is not in whole hours from 0")
    return time // _HOUR


def _forecast(one: Variable, lead: int, period: int) -> Forecast:
    end = timedelta(hours=lead)
    if not one.accumulated:
        return Forecast(end, end)
    if not 0 < period <= lead:
        raise HouseError(
            f"{one.param}: is a sum over {period} h, and lead_time is {lead}h; "
            "give a lead_time such as 6h, and an accumulation no longer than that"
        )
    return Forecast(end - timedelta(hours=period), end, "acc")


def _shape(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    if not isinstance(given, Sequence) or len(given) != 2 or not all(isinstance(n, int) and n > 0 for n in given):
        raise HouseError(f"shape: {given!r} is no pair of ny and nx")
    return given[0], given[1]
