"""Dates and durations as users write them.

Numpy alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from anemoi_house.errors import HouseError

MOST_DATES = 10_000
"""Most initial dates in a request; a range with more is taken for a mistake."""

_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2})(?::00(?::00)?)?Z?)?", re.ASCII)
_DURATION = re.compile(r"(\d{1,6})([hd]?)", re.ASCII)
_HOURS = {"h": 1, "d": 24}


def parse_date(text: str, key: str, day_alone: timedelta | None = timedelta(0)) -> datetime:
    """Parse a date in UTC, on the hour.

    Parameters
    ----------
    text : str
        Such as `2020-01-27T00`, `2020-01-27T00:00Z` or, unless `day_alone` is None, `2020-01-27`.
    key : str
        Name of the setting, for the message.
    day_alone : timedelta or None
        Time of day that is meant by a day alone; None rejects it.

    Raises
    ------
    HouseError
        If the text is not a date, or the calendar lacks it.
    """
    found = _DATE.fullmatch(text.strip())
    way_out = "Give it as 2020-01-27T00, in UTC and on the hour."
    if not found or (found[2] is None and day_alone is None):
        raise HouseError(f"{key}: '{text}' is not a date. {way_out}")
    day, hour = found.groups()
    try:
        date = datetime.strptime(f"{day}T{hour or '00'}", "%Y-%m-%dT%H")
    except ValueError:
        raise HouseError(f"{key}: '{text}' is not in the calendar. {way_out}") from None
    return date if hour or day_alone is None else date + day_alone


def parse_dates(texts: Sequence[str], key: str = "--dates") -> list[np.datetime64]:
    """Parse initial dates, and sort them.

    Parameters
    ----------
    texts : sequence of str
        Each a date, `2020-01-27T00` (or `2020-01-27` for T00), or a range that includes both ends,
        `START/END/STEP`, such as `2020-01-26T12/2020-01-28T00/12h`.
    key : str
        Name of the setting, for the message.

    Returns
    -------
    list of datetime64[h]

    Raises
    ------
    HouseError
        If a text is neither, there are no dates or more than `MOST_DATES`, or a date is given twice.
    """
    dates = [date for text in texts for date in (_range(text, key) if "/" in text else [_date(text, key)])]
    if not dates:
        raise HouseError(f"{key}: is empty. Give one date or more, such as 2020-01-27T00.")
    if len(dates) > MOST_DATES:
        raise HouseError(f"{key}: {len(dates):,} dates, and at most {MOST_DATES:,} are allowed.")
    if twice := sorted(date for date, times in Counter(dates).items() if times > 1):
        raise HouseError(f"{key}: {', '.join(map(str, twice[:5]))} is given twice. Name each date once.")
    return sorted(dates)


def parse_hours(text: str, key: str = "--lead-time") -> int:
    """Parse a duration in hours, such as `24h` or `3d`.

    Raises
    ------
    HouseError
        If the text is not a duration, has no unit, or is 0.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found or int(found[1]) == 0:
        raise HouseError(f"{key}: '{text}' is not a duration of more than 0. Give hours or days, such as 24h or 3d.")
    number, unit = found.groups()
    if not unit:
        raise HouseError(f"{key}: '{text}' has no unit. Is it {number}h or {number}d?")
    return int(number) * _HOURS[unit]


def _range(text: str, key: str) -> list[np.datetime64]:
    parts = text.split("/")
    if len(parts) != 3:
        raise HouseError(
            f"{key}: '{text}' is not a range. Give START/END/STEP, such as 2020-01-26T12/2020-01-28T00/12h."
        )
    start, end = (_date(part, key) for part in parts[:2])
    step = parse_hours(parts[2], key)
    if end < start:
        raise HouseError(f"{key}: '{text}' ends before it starts. Give START/END/STEP.")
    count = int((end - start) // np.timedelta64(step, "h")) + 1
    if count > MOST_DATES:
        raise HouseError(f"{key}: '{text}' holds {count:,} dates, and at most {MOST_DATES:,} are allowed.")
    return [start + np.timedelta64(step * index, "h") for index in range(count)]


def _date(text: str, key: str) -> np.datetime64:
    return np.datetime64(parse_date(text, key), "h")
