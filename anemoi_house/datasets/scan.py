"""Which dates of a recipe the archives cannot give, found from their indexes before a build, and written into it."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import yaml
from anemoi.datasets.create.recipe import Recipe
from anemoi.datasets.create.recipe.dates import StartEndDates
from pydantic import ValidationError

from anemoi_house.datasets.recipe import add_missing, archive_entries
from anemoi_house.datasets.sources import Request
from anemoi_house.datasets.stores import ArchiveError, UnreachableError
from anemoi_house.errors import HouseError

GIVE_UP_AFTER = 64
"""Dates one after the other that no archive answers for."""

PROGRESS_S = 30.0
"""Between two lines of progress where there is no terminal."""

REASONS = 30
"""Dates of a state that are told of one by one; the report has them all."""

_REVISION = 2


@dataclass(frozen=True)
class Asked:
    """What one `house-noaa` of a recipe asks of the archives.

    Attributes
    ----------
    request : Request
    dates : frozenset of datetime
        Those it is asked for.
    periods : str
        The recipe's words for them, where it is in a `concat`.
    """

    request: Request
    dates: frozenset[datetime]
    periods: str = ""


@dataclass(frozen=True)
class Found:
    """What the archives say about one date.

    Attributes
    ----------
    date : datetime
    state : str
        `good`; `missing`, where a file is absent or is not what it should be; or `unknown`, where none could be asked.
    reason : str
        Empty for a good one.
    size : int
        Bytes that a build will fetch for a good one.
    """

    date: datetime
    state: str
    reason: str = ""
    size: int = 0


@dataclass(frozen=True)
class Scan:
    """Result for a recipe.

    Attributes
    ----------
    recipe : Path
    listed : int
        Dates that `dates.missing` held before.
    found : list of Found
        Of the other dates, in their order; those that were not come to are `unknown`.
    seconds : float
    """

    recipe: Path
    listed: int
    found: list[Found]
    seconds: float

    def of(self, state: str) -> list[Found]:
        """Dates in a state."""
        return [found for found in self.found if found.state == state]

    @property
    def size(self) -> int:
        """Bytes that a build will fetch."""
        return sum(found.size for found in self.found)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        bad = {
            state: [{"date": found.date.isoformat(), "reason": found.reason} for found in self.of(state)]
            for state in ("missing", "unknown")
        }
        counts = {"listed": self.listed, "good": len(self.of("good")), "bytes": self.size}
        return {"recipe": str(self.recipe), **counts, **bad, "seconds": round(self.seconds, 1)}

    def as_text(self) -> str:
        """The same for people."""
        missing, unknown = self.of("missing"), self.of("unknown")
        listed = f", {self.listed:,} listed as missing before" if self.listed else ""
        lines = [
            f"{self.recipe}: {len(self.found):,} dates in {self.seconds:.0f} s{listed}",
            f"  good     {len(self.of('good')):,}, of which a build fetches {self.size / 1e9:,.2f} GB",
            f"  missing  {len(missing):,}" + (", now in dates.missing of the recipe" if missing else ""),
            *_reasons(missing),
            f"  unknown  {len(unknown):,}" + ("; the same command asks for them again" if unknown else ""),
            *_reasons(unknown),
        ]
        return "\n".join(lines)


def scan(path: Path, jobs: int = 32, report: Path | None = None) -> Scan:
    """Ask the archives for each date of a recipe, and write those that they lack into its `dates.missing`.

    What is found is kept beside the recipe, in `RECIPE.scan.jsonl`: a scan that was stopped goes on, and dates that
    were good are not asked for again.

    Parameters
    ----------
    path : Path
    jobs : int
        Dates asked for side by side.
    report : Path, optional
        File for the result as JSON; by default `RECIPE.scan.json`.

    Raises
    ------
    HouseError
        For a recipe that is none or asks nothing of the archives; where not one date is good; where it was stopped.
    """
    started = time.monotonic()
    if jobs < 1:
        raise HouseError(f"--jobs {jobs}: give 1 or more")
    dates, listed, asked = _read(path)
    state = State(path.with_suffix(".scan.jsonl"), asked)
    found = {date: one for date, one in state.good.items() if date in set(dates)}
    todo = [date for date in dates if date not in found]
    if found:
        _say(f"{state.path}: {len(found):,} dates were found good before, {len(todo):,} are left")
    progress = Progress(len(found), len(dates))
    try:
        with state:
            in_a_row = 0
            for one in _ask(todo, asked, jobs):
                found[one.date] = one
                state.add(one)
                progress.show(len(found), sum(seen.state != "good" for seen in found.values()))
                in_a_row = in_a_row + 1 if one.state == "unknown" else 0
                if in_a_row >= GIVE_UP_AFTER:
                    break
    except KeyboardInterrupt:
        progress.end()
        raise HouseError(
            f"stopped; {len(found):,} of {len(dates):,} dates are looked at. The same command goes on from there"
        ) from None
    progress.end()
    stopped = "not asked for: no archive answered for those before"
    result = Scan(
        path,
        listed,
        [found.get(date, Found(date, "unknown", stopped)) for date in dates],
        time.monotonic() - started,
    )
    _write_report(report or path.with_suffix(".scan.json"), result)
    if result.of("missing"):
        if not result.of("good"):
            reason = result.of("missing")[0].reason
            raise HouseError(f"{path}: not one date is good, so the recipe stays as it is; check its roots. {reason}")
        add_missing(path, [one.date for one in result.of("missing")])
    return result


class State:
    """What was found, in a file with a line for each date.

    Parameters
    ----------
    path : Path
    asked : sequence of Asked
        What is found belongs to these requests; a file that tells of others is begun anew.
    """

    def __init__(self, path: Path, asked: Sequence[Asked]) -> None:
        self.path = path
        self._head = {"revision": _REVISION, "requests": _fingerprint(asked)}
        self._lines = self._read()
        self._file: TextIO | None = None

    @property
    def good(self) -> dict[datetime, Found]:
        """Dates that were good when they were last asked for."""
        last = {
            line["date"]: Found(datetime.fromisoformat(line["date"]), **_without(line, "date")) for line in self._lines
        }
        return {found.date: found for found in last.values() if found.state == "good"}

    def __enter__(self) -> State:
        """Open the file to add to it."""
        try:
            # Whole lines alone: what a scan was killed at is not gone on with.
            lines = [self._head, *self._lines]
            partial = self.path.with_name(f"{self.path.name}.partial")
            partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            os.replace(partial, self.path)
            self._file = self.path.open("a")
        except OSError as failure:
            raise HouseError(f"{self.path}: cannot be written to ({failure.strerror}); make a copy elsewhere") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        assert self._file is not None
        self._file.close()

    def add(self, found: Found) -> None:
        """Add a date."""
        assert self._file is not None
        line = asdict(found) | {"date": found.date.isoformat()}
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()

    def _read(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as failure:
            raise HouseError(f"{self.path}: cannot be read ({failure.strerror})") from None
        head, *rest = [_parsed(line) for line in lines] or [{}]
        if head != self._head:
            _say(f"{self.path}: is of other requests than the recipe's; beginning anew")
            return []
        return [line for line in rest if set(line) == {field.name for field in fields(Found)}]


class Progress:
    """Lines on stderr: one that is rewritten on a terminal, or else one every now and then.

    Parameters
    ----------
    before : int
        Dates done in an earlier scan.
    total : int
    """

    def __init__(self, before: int, total: int) -> None:
        self.before, self.total = before, total
        self._on_terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()

    def show(self, done: int, bad: int) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if now - self._shown < (0.2 if self._on_terminal else PROGRESS_S):
            return
        self._shown = now
        left_s = (self.total - done) * (now - self._started) / max(1, done - self.before)
        text = f"{done:,} of {self.total:,} dates, {bad:,} not good, some {timedelta(seconds=round(left_s))} left"
        if self._on_terminal:
            print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)
        else:
            _say(text)

    def end(self) -> None:
        """Take the line away."""
        if self._on_terminal:
            print(f"\r{'':<70}\r", end="", file=sys.stderr, flush=True)


def _read(path: Path) -> tuple[list[datetime], int, list[Asked]]:
    """Dates of a recipe that are not listed as missing, how many are, and what it asks of the archives."""
    content = _load(path)
    try:
        recipe = Recipe(**content)
    except ValidationError as wrong:
        raise HouseError(f"{path}: {_first(wrong)}") from None
    except (AssertionError, TypeError, ValueError, AttributeError) as wrong:
        raise HouseError(f"{path}: is no recipe that anemoi-datasets can read ({wrong})") from None
    if not isinstance(recipe.dates, StartEndDates):
        raise HouseError(f"{path}: dates: has no start and end, which missing dates need")
    dates, listed = recipe.dates.values, len(recipe.dates.missing)
    entries = list(archive_entries(content.get("input")))
    if not entries:
        raise HouseError(f"{path}: input: has no house-noaa, so there is no archive to look into")
    asked = []
    for entry in entries:
        try:
            within = [set(StartEndDates(**period).values) for period in entry.periods]
            request = Request.of(**entry.settings)
            wanted = frozenset(set(dates).intersection(*within))
            for date in wanted:
                request.run(date)
        except (HouseError, ValidationError, TypeError) as mistake:
            told = _first(mistake) if isinstance(mistake, ValidationError) else str(mistake)
            raise HouseError(f"{path}: {entry.where}: {told}") from None
        asked.append(Asked(request, wanted, str(entry.periods)))
    return dates, listed, asked


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as failure:
        raise HouseError(f"{path}: cannot be read ({failure.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as wrong:
        raise HouseError(f"{path}: is no YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(content, dict):
        raise HouseError(f"{path}: is no recipe: there are no keys such as dates and input in it")
    return content


def _first(wrong: ValidationError) -> str:
    """First mistake that pydantic found, in one line."""
    error = wrong.errors()[0]
    return f"{'.'.join(str(part) for part in error['loc'])}: {' '.join(error['msg'].split())}"


def _ask(dates: Sequence[datetime], asked: Sequence[Asked], jobs: int) -> Iterator[Found]:
    """What the archives say, in the order in which they answer."""
    todo: queue.SimpleQueue[datetime] = queue.SimpleQueue()
    answers: queue.SimpleQueue[Found | BaseException] = queue.SimpleQueue()
    for date in dates:
        todo.put(date)

    def work() -> None:
        try:
            while True:
                answers.put(_look(todo.get_nowait(), asked))
        except queue.Empty:
            return
        except BaseException as failure:
            answers.put(failure)

    # Not a pool of concurrent.futures: one that waits for a server would keep the process after Ctrl-C.
    for _ in range(min(jobs, len(dates))):
        threading.Thread(target=work, daemon=True).start()
    for _ in dates:
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        yield answer


def _look(date: datetime, asked: Sequence[Asked]) -> Found:
    missing, unknown, size = [], [], 0
    for one in asked:
        if date not in one.dates:
            continue
        request = one.request
        try:
            size += request.archive().check(request.run(date), request.lead_hours, request.fields)
        except UnreachableError as reason:
            unknown.append(str(reason))
        except ArchiveError as reason:
            missing.append(str(reason))
    if missing:
        return Found(date, "missing", "; ".join(missing))
    return Found(date, "unknown", "; ".join(unknown)) if unknown else Found(date, "good", size=size)


def _fingerprint(asked: Sequence[Asked]) -> str:
    """Mark of all that decides whether a date is good."""
    told = [
        [one.periods, request.model.name, request.lead_hours, *map(str, request.fields), *map(repr, request.roots)]
        for one, request in ((one, one.request) for one in asked)
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _without(line: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != key}


def _parsed(line: str) -> dict[str, Any]:
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _reasons(found: Sequence[Found]) -> list[str]:
    lines = [f"    {one.date:%Y-%m-%dT%H}  {one.reason}" for one in found[:REASONS]]
    return lines if len(found) <= REASONS else [*lines, f"    and {len(found) - REASONS:,} more, which the report has"]


def _write_report(path: Path, result: Scan) -> None:
    try:
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(result.as_json(), indent=2) + "\n")
        os.replace(partial, path)
    except OSError as failure:
        raise HouseError(f"--report {path}: cannot be written to ({failure.strerror})") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr)
