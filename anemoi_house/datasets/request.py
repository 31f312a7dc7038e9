"""What a recipe asks of an archive, checked: the settings of `house-noaa`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from anemoi.utils.dates import frequency_to_timedelta

from anemoi_house.datasets import models
from anemoi_house.datasets.archive import Archive, Wanted
from anemoi_house.datasets.grib import TimeRange
from anemoi_house.datasets.model import Model
from anemoi_house.datasets.stores import PATIENCE_S, StoreSettings
from anemoi_house.datasets.variables import Variable, variable
from anemoi_house.errors import HouseError
from anemoi_house.words import counted, is_or_are, listed

KEYS = ("model", "param", "level", "lead_time", "accumulation", "roots", "shape", "patience_s", "indexes")

_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Request:
    """What a recipe asks of an archive, checked.

    Attributes
    ----------
    model : Model
    fields : tuple of Wanted
        Of one run and lead time.
    lead_hours : int
    stores : tuple of StoreSettings
        Empty for those of the model.
    shape : tuple of int
        (ny, nx) of the grid that every field must have.
    patience_s : float
        How long a failing request is retried.
    indexes : Path or None
        Directory for indexes made from headers; None for one in the user's cache.
    """

    model: Model
    fields: tuple[Wanted, ...]
    lead_hours: int
    stores: tuple[StoreSettings, ...]
    shape: tuple[int, int]
    patience_s: float
    indexes: Path | None

    @classmethod
    def of(cls, **settings: Any) -> Request:
        """Return the request of the settings that `HouseNoaaSource` describes.

        Raises
        ------
        HouseError
            For the first setting that is wrong.
        """
        if unknown := [key for key in settings if key not in KEYS]:
            raise HouseError(f"{unknown[0]!r} is not a setting of this source. Use {listed(KEYS)}.")
        if settings.get("model") is None:
            raise HouseError(f"model: missing. Use {listed(models.names(), 'or')}.")
        model = models.model(str(settings["model"]))
        patience_s = settings.get("patience_s", PATIENCE_S)
        if not isinstance(patience_s, int | float) or isinstance(patience_s, bool) or patience_s <= 0:
            raise HouseError(f"patience_s: {patience_s!r} is invalid. Give a number of seconds above 0.")
        lead_hours = _hours("lead_time", settings.get("lead_time", "0h"))
        if lead_hours > model.longest_lead_hours:
            raise HouseError(f"lead_time: {lead_hours}h: forecasts of {model.name} end at {model.longest_lead_hours}h.")
        indexes = settings.get("indexes")
        return cls(
            model=model,
            fields=_fields(model, lead_hours, settings),
            lead_hours=lead_hours,
            stores=tuple(StoreSettings.of(given) for given in _list("roots", settings.get("roots"))),
            shape=_shape(settings.get("shape")) or model.shape,
            patience_s=float(patience_s),
            indexes=None if indexes is None else Path(indexes).expanduser(),
        )

    def run(self, valid_time: datetime) -> datetime:
        """Return the start of the run for a valid time (UTC); raise a HouseError if the model has no run then."""
        run, model = valid_time - timedelta(hours=self.lead_hours), self.model
        if run < model.begins:
            raise HouseError(f"{model.name} has no archive before {model.begins:%Y-%m-%d}. Set a later dates.start.")
        if run.hour % model.cycle_hours or run.minute or run.second:
            every = counted(model.cycle_hours, "hour")
            raise HouseError(
                f"{model.name} runs every {every} from 00 UTC, not at {run:%H:%M}. Set dates.frequency or lead_time."
            )
        return run

    def archive(self) -> Archive:
        """Return the archive to ask; requests of the same stores share it."""
        return _archive(self.model, self.stores, self.patience_s, self.indexes)


_archive = lru_cache(maxsize=16)(Archive)


def _fields(model: Model, lead_hours: int, settings: Mapping[str, Any]) -> tuple[Wanted, ...]:
    """Return the fields of `param` and `level`, each with its time range."""
    variables = [variable(name, model.variables) for name in _list("param", settings.get("param"))]
    if not variables:
        raise HouseError(f"param: empty. Use some of {', '.join(model.variables)}.")
    levels = _levels(settings.get("level"), variables)
    given = settings.get("accumulation")
    period_hours = lead_hours if given is None else _hours("accumulation", given)
    fields = tuple(
        Wanted(one, level_hpa, _time_range(one, lead_hours, period_hours))
        for one in variables
        for level_hpa in (levels if one.level is None else [None])
    )
    if len(set(fields)) < len(fields):
        raise HouseError(f"param: {settings['param']!r} or level: {settings.get('level')!r} has a duplicate.")
    return fields


def _time_range(one: Variable, lead_hours: int, period_hours: int) -> TimeRange:
    end = timedelta(hours=lead_hours)
    if not one.accumulated:
        return TimeRange(end, end)
    if not 0 < period_hours <= lead_hours:
        raise HouseError(
            f"{one.param}: is a sum over {period_hours} h, but lead_time is {lead_hours}h. "
            "Give a lead_time such as 6h, and an accumulation no longer than that."
        )
    return TimeRange(end - timedelta(hours=period_hours), end, "acc")


def _list(key: str, given: Any) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, str | dict):
        return [given]
    if not isinstance(given, Sequence):
        raise HouseError(f"{key}: {given!r} is not a list.")
    return list(given)


def _levels(given: Any, variables: Sequence[Variable]) -> list[int]:
    levels = [given] if isinstance(given, int) else _list("level", given)
    wrong = [level for level in levels if not isinstance(level, int) or isinstance(level, bool) or level <= 0]
    if wrong:
        raise HouseError(f"level: {wrong[0]!r} is not a pressure in hPa, such as 500.")
    on_levels = [one.param for one in variables if one.level is None]
    if on_levels and not levels:
        raise HouseError(
            f"level: missing. {listed(on_levels)} {is_or_are(on_levels)} on pressure levels; give some in hPa."
        )
    if levels and not on_levels:
        raise HouseError(f"level: {levels} is superfluous: nothing in param is on pressure levels.")
    return levels


def _hours(key: str, given: Any) -> int:
    try:
        time = frequency_to_timedelta(given)
    except (ValueError, TypeError, AttributeError):
        raise HouseError(f"{key}: {given!r} is not a time such as 6h.") from None
    if time < timedelta(0) or time % _HOUR:
        raise HouseError(f"{key}: {given!r} must be whole hours, from 0h.")
    return time // _HOUR


def _shape(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    if not isinstance(given, Sequence) or len(given) != 2 or not all(isinstance(n, int) and n > 0 for n in given):
        raise HouseError(f"shape: {given!r} is not a pair of ny and nx.")
    return given[0], given[1]
