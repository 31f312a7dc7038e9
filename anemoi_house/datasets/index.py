"""Indexes of GRIB files, which list each field and its bytes: NOAA's `.idx` files, and those made from GRIB headers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from anemoi_house.datasets.grib import FieldHeader, IndexedField, TimeRange
from anemoi_house.errors import HouseError
from anemoi_house.files import write_whole

LOG = logging.getLogger(__name__)

_REVISION = 2
_LINE = re.compile(r"\d{1,9}(?:\.\d{1,4})?:(\d{1,18}):d=(\d{10}):([^:]*):([^:]*):([^:]*)(?::.*)?")
_HOURS = {"min": 1 / 60, "hour": 1.0, "day": 24.0}
_INSTANT = re.compile(r"(\d{1,6}) (min|hour|day) fcst")
_RANGE = re.compile(r"(\d{1,6})-(\d{1,6}) (min|hour|day) (\w+) (?:fcst|anl)")


class NoIndexError(HouseError):
    """An index is invalid; the message continues a sentence that begins with its address."""


def parse_idx(text: str) -> list[IndexedField]:
    """Parse an `.idx` file.

    A message ends where the next larger offset begins: fields that share a message have the same offset.

    Raises
    ------
    NoIndexError
        If it is empty, or a line is invalid.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise NoIndexError("is empty")
    fields: list[IndexedField] = []
    for number, line in lines:
        field = _parsed(number, line)
        if fields and field.offset < fields[-1].offset:
            raise NoIndexError(f"line {number}: offset {field.offset:,} is smaller than the one before it")
        part = fields[-1].part + 1 if fields and field.offset == fields[-1].offset else 1
        fields.append(replace(field, part=part))
    offsets = sorted({field.offset for field in fields})
    lengths = {start: end - start for start, end in pairwise(offsets)}
    return [replace(field, length=lengths.get(field.offset)) for field in fields]


def _parsed(number: int, line: str) -> IndexedField:
    """Return the field of a line, as if it were alone in its message."""
    match = _LINE.fullmatch(line.strip())
    if match is None:
        kind = "a web page" if line.lstrip().startswith("<") else "not a line of a GRIB index"
        raise NoIndexError(f"line {number} is {kind}: {line.strip()[:60]!r}")
    offset, date, name, level, time_range = match.groups()
    try:
        run = datetime.strptime(date, "%Y%m%d%H")
    except ValueError:
        raise NoIndexError(f"line {number}: {date} is not a date") from None
    return IndexedField(int(offset), None, 1, run, name, level, parse_time_range(time_range))


def parse_time_range(text: str) -> TimeRange | None:
    """Parse the time of a field in wgrib2's words, such as `anl`, `6 hour fcst` or `0-6 hour acc fcst`."""
    if text == "anl":
        return TimeRange(timedelta(0), timedelta(0))
    if match := _INSTANT.fullmatch(text):
        time = timedelta(hours=int(match[1]) * _HOURS[match[2]])
        return TimeRange(time, time)
    if match := _RANGE.fullmatch(text):
        start, end = (timedelta(hours=int(match[k]) * _HOURS[match[3]]) for k in (1, 2))
        return TimeRange(start, end, match[4])
    return None


def from_headers(headers: Iterable[FieldHeader]) -> list[IndexedField]:
    """Return the index of a file that has these headers."""
    return [IndexedField(h.offset, h.length, h.part, h.run, h.name, h.level, h.time_range) for h in headers]


def find(fields: Sequence[IndexedField], name: str, level: str, time_range: TimeRange) -> IndexedField | None:
    """Return the first field of that name, level and time: GFS lists its accumulated rain twice."""
    wanted = name, level, time_range
    return next((field for field in fields if (field.name, field.level, field.time_range) == wanted), None)


class IndexCache:
    """A directory with the indexes that were made from headers, one JSON file each.

    Parameters
    ----------
    folder : Path or None
        None for one in the user's cache directory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = folder or cache / "anemoi-house" / "indexes"

    def read(self, address: str, size: int, version: str) -> list[IndexedField] | None:
        """Return the index of a file; None if there is none for this size (bytes) and version."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            cached = json.loads(self._path(address).read_text())
            if cached["file"] == _file(address, size, version):
                return [_from_json(item) for item in cached["fields"]]
        return None

    def write(self, address: str, size: int, version: str, fields: Sequence[IndexedField]) -> None:
        """Store an index. A directory that cannot be written to is only logged."""
        cached = {"file": _file(address, size, version), "fields": [_as_json(field) for field in fields]}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(address), json.dumps(cached))
        except OSError as failure:
            LOG.warning("Cannot store indexes in %s (%s); each use rebuilds them", self.folder, failure.strerror)

    def _path(self, address: str) -> Path:
        return self.folder / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _file(address: str, size: int, version: str) -> dict[str, Any]:
    return {"revision": _REVISION, "address": address, "size": size, "version": version}


def _as_json(field: IndexedField) -> dict[str, Any]:
    time = field.time_range
    seconds = time and [time.start.total_seconds(), time.end.total_seconds(), time.process]
    return asdict(field) | {"run": field.run.isoformat(), "time_range": seconds}


def _from_json(item: dict[str, Any]) -> IndexedField:
    time_range = None
    if item["time_range"] is not None:
        start, end, process = item["time_range"]
        time_range = TimeRange(timedelta(seconds=start), timedelta(seconds=end), process)
    return IndexedField(**item | {"run": datetime.fromisoformat(item["run"]), "time_range": time_range})
