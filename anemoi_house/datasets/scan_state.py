"""What a scan has found so far, in a file with one line a date, so that an interrupted scan can continue."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from anemoi_house.datasets.request import Request
from anemoi_house.errors import HouseError
from anemoi_house.files import write_whole

_REVISION = 3


@dataclass(frozen=True)
class Asked:
    """What one `house-noaa` of a recipe asks of the archives.

    Attributes
    ----------
    request : Request
    dates : frozenset of datetime
        Dates of the recipe that it gives fields of.
    periods : str
        The recipe's words for these dates, if it is in a `concat`.
    """

    request: Request
    dates: frozenset[datetime]
    periods: str = ""


@dataclass(frozen=True)
class Found:
    """What the archives have of one date.

    Attributes
    ----------
    date : datetime
    state : str
        `good`; `missing` if a file is absent or invalid; `unknown` if no archive answers.
    reason : str
        Empty for a good one.
    size : int
        Bytes that a build will fetch of a good one.
    """

    date: datetime
    state: str
    reason: str = ""
    size: int = 0

    def as_line(self) -> str:
        """Return it as a line of JSON."""
        return f"{json.dumps(asdict(self) | {'date': self.date.isoformat()})}\n"


class ScanState:
    """The file of a scan.

    Parameters
    ----------
    path : Path
    asked : sequence of Asked
        The requests that the results belong to. A file of other requests is started again.

    Raises
    ------
    HouseError
        If the file cannot be read, or on opening, cannot be written.
    """

    def __init__(self, path: Path, asked: Sequence[Asked]) -> None:
        self.path = path
        self._head = {"revision": _REVISION, "requests": _fingerprint(asked)}
        self._lines = self._read()

    @property
    def good(self) -> dict[datetime, Found]:
        """Dates that were good when last asked for."""
        last = {date: line for line in self._lines for date in [datetime.fromisoformat(line["date"])]}
        return {date: Found(**line | {"date": date}) for date, line in last.items() if line["state"] == "good"}

    def open(self) -> TextIO:
        """Open the file for appending, line by line, without the partial line that a killed scan may have left."""
        try:
            write_whole(self.path, "".join(f"{json.dumps(line)}\n" for line in [self._head, *self._lines]))
            return self.path.open("a", buffering=1)
        except OSError as failure:
            raise HouseError(
                f"{self.path}: cannot be written ({failure.strerror}). Scan a copy of the recipe in another directory."
            ) from None

    def _read(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as failure:
            raise HouseError(f"{self.path}: cannot be read ({failure.strerror}).") from None
        head, *rest = [_parsed(line) for line in lines] or [{}]
        if head != self._head:
            print(f"{self.path}: is of other requests than the recipe's; starting again", file=sys.stderr)
            return []
        return [line for line in rest if set(line) == {field.name for field in fields(Found)}]


def _fingerprint(asked: Sequence[Asked]) -> str:
    """Return a hash of everything that decides which dates are good."""
    parts = [
        [one.periods, request.model.name, request.lead_hours, *map(str, request.fields), *map(repr, request.stores)]
        for one, request in ((one, one.request) for one in asked)
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
