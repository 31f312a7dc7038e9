"""What stands where in a GRIB file: NOAA's `.idx` files, and the same made from the messages' headers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from anemoi_house.datasets.grib import FieldHeader, Forecast
from anemoi_house.errors import HouseError

LOG = logging.getLogger(__name__)

_REVISION = 1
_LINE = re.compile(r"(\d{1,9})(?:\.(\d{1,4}))?:(\d{1,18}):d=(\d{10}):([^:]*):([^:]*):([^:]*)(?::.*)?")
_UNITS = {"min": 1 / 60, "hour": 1.0, "day": 24.0}
_INSTANT = re.compile(r"(\d{1,6}) (min|hour|day) fcst")
_RANGE = re.compile(r"(\d{1,6})-(\d{1,6}) (min|hour|day) (\w+) (?:fcst|anl)")


class NoIndexError(HouseError):
    """What is wrong with an index, as the end of a sentence that begins with its address."""


@dataclass(frozen=True)
class Entry:
    """One field, as an index lists it.

    Attributes
    ----------
    offset : int
        First byte of its message.
    length : int or None
        Bytes of the message; None for the last one of an `.idx`, which does not say.
    part : int
        Place among the fields of a shared message, from 1.
    run : datetime
        Reference time, UTC.
    name, level : str
    forecast : Forecast or None
        None where it is something that no variable of the experiments is.
    """

    offset: int
    length: int | None
    part: int
    run: datetime
    name: str
    level: str
    forecast: Forecast | None

    def __str__(self) -> str:
        """As messages name it."""
        return f"{self.name} {self.level} {self.forecast or '(another product)'}"


def parse_idx(text: str) -> list[Entry]:
    """Fields that an `.idx` file lists.

    A message ends where the next different offset begins: fields that share a message have the same one.

    Raises
    ------
    NoIndexError
        For anything that is no such file, with the line that is wrong.
    """
    lines = text.splitlines()
    parsed = [_parsed(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not parsed:
        raise NoIndexError("is empty")
    offsets = [offset for offset, *_ in parsed]
    for number, (before, after) in enumerate(pairwise(offsets), 2):
        if after < before:
            raise NoIndexError(f"line {number}: its offset {after:,} is before that of the line above")
    entries: list[Entry] = []
    ends = _ends(offsets)
    part = 0
    for position, (offset, run, name, level, forecast) in enumerate(parsed):
        part = part + 1 if position and offsets[position - 1] == offset else 1
        end = ends[position]
        entries.append(Entry(offset, None if end is None else end - offset, part, run, name, level, forecast))
    return entries


def from_headers(headers: Iterable[FieldHeader]) -> list[Entry]:
    """The same from the headers of a file."""
    return [
        Entry(header.offset, header.length, header.part, header.run, header.name, header.level, header.forecast)
        for header in headers
    ]


def find(entries: Sequence[Entry], name: str, level: str, forecast: Forecast) -> Entry | None:
    """First field of that name, level and time; GFS lists its accumulated rain twice."""
    for entry in entries:
        if entry.name == name and entry.level == level and entry.forecast == forecast:
            return entry
    return None


def _ends(offsets: Sequence[int]) -> list[int | None]:
    ends: list[int | None] = [None] * len(offsets)
    for position in range(len(offsets) - 2, -1, -1):
        following = offsets[position + 1]
        ends[position] = following if following != offsets[position] else ends[position + 1]
    return ends


def _parsed(number: int, line: str) -> tuple[int, datetime, str, str, Forecast | None]:
    match = _LINE.fullmatch(line.strip())
    if match is None:
        kind = "a web page" if line.lstrip().startswith("<") else "no line of a GRIB index"
        raise NoIndexError(f"line {number} is {kind}: {line.strip()[:60]!r}")
    _, _, offset, date, name, level, forecast = match.groups()
    try:
        run = datetime.strptime(date, "%Y%m%d%H")
    except ValueError:
        raise NoIndexError(f"line {number}: {date} is no date") from None
    return int(offset), run, name, level, parse_forecast(forecast)


def parse_forecast(text: str) -> Forecast | None:
    """Time of a field from wgrib2's words, such as `anl`, `6 hour fcst` or `0-6 hour acc fcst`."""
    if text == "anl":
        return Forecast(timedelta(0), timedelta(0))
    if match := _INSTANT.fullmatch(text):
        time = timedelta(hours=int(match[1]) * _UNITS[match[2]])
        return Forecast(time, time)
    if match := _RANGE.fullmatch(text):
        start, end = (timedelta(hours=int(match[k]) * _UNITS[match[3]]) for k in (1, 2))
        return Forecast(start, end, match[4])
    return None


class KeptIndexes:
    """Indexes that were made from headers, one JSON file each.

    Parameters
    ----------
    folder : Path or None
        None for one in the user's cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = folder or cache / "anemoi-house" / "indexes"

    def read(self, address: str, size: int, version: str) -> list[Entry] | None:
        """Index of the file at an address, if one is kept of the same size (bytes) and version."""
        try:
            kept = json.loads(self._path(address).read_text())
            return [_entry(item) for item in kept["entries"]] if kept["file"] == _file(address, size, version) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, address: str, size: int, version: str, entries: Sequence[Entry]) -> None:
        """Keep an index; a folder that cannot be written to is told of in the log."""
        kept = {"file": _file(address, size, version), "entries": [_item(entry) for entry in entries]}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".", delete=False) as temporary:
                json.dump(kept, temporary)
            os.replace(temporary.name, self._path(address))
        except OSError as failure:
            LOG.warning("No index can be kept in %s (%s): it is made anew each time", self.folder, failure.strerror)

    def _path(self, address: str) -> Path:
        return self.folder / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _file(address: str, size: int, version: str) -> dict[str, Any]:
    return {"revision": _REVISION, "address": address, "size": size, "version": version}


def _item(entry: Entry) -> dict[str, Any]:
    item = asdict(entry) | {"run": entry.run.isoformat()}
    if entry.forecast is not None:
        seconds = [time.total_seconds() for time in (entry.forecast.start, entry.forecast.end)]
        item["forecast"] = [*seconds, entry.forecast.process]
    return item


def _entry(item: dict[str, Any]) -> Entry:
    forecast = None
    if item["forecast"] is not None:
        start, end, process = item["forecast"]
        forecast = Forecast(timedelta(seconds=start), timedelta(seconds=end), process)
    return Entry(**item | {"run": datetime.fromisoformat(item["run"]), "forecast": forecast})
