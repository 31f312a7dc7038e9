"""Find the dates of a recipe that the archives lack, from their indexes before a build, and write them into it."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from anemoi.datasets.create.recipe import Recipe
from anemoi.datasets.create.recipe.dates import StartEndDates
from pydantic import ValidationError

from anemoi_house.datasets.recipe import add_missing, archive_entries
from anemoi_house.datasets.request import Request
from anemoi_house.datasets.scan_state import Asked, Found, ScanState
from anemoi_house.datasets.stores import ArchiveError, UnreachableError
from anemoi_house.errors import HouseError
from anemoi_house.files import write_whole
from anemoi_house.progress import ProgressLine

GIVE_UP_AFTER = 64
"""Consecutive dates that no archive answers for."""

LOG_EVERY_S = 30.0
"""Seconds between two lines of progress without a terminal."""

REASONS = 30
"""Dates that are printed with their reason; the report has all."""


@dataclass(frozen=True)
class Scan:
    """Result of a scan.

    Attributes
    ----------
    recipe : Path
    listed : int
        Dates that were in `dates.missing` before.
    found : list of Found
        The other dates in order. Those that were not asked for are `unknown`.
    seconds : float
    """

    recipe: Path
    listed: int
    found: list[Found]
    seconds: float

    def of(self, state: str) -> list[Found]:
        """Return the dates in a state."""
        return [found for found in self.found if found.state == state]

    @property
    def size(self) -> int:
        """Bytes that a build will fetch."""
        return sum(found.size for found in self.found)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        bad = {
            state: [{"date": found.date.isoformat(), "reason": found.reason} for found in self.of(state)]
            for state in ("missing", "unknown")
        }
        counts = {"listed": self.listed, "good": len(self.of("good")), "bytes": self.size}
        return {"recipe": str(self.recipe), **counts, **bad, "seconds": round(self.seconds, 1)}

    def as_text(self) -> str:
        """Return it for people."""
        missing, unknown = self.of("missing"), self.of("unknown")
        listed = f", {self.listed:,} already listed as missing" if self.listed else ""
        lines = [
            f"{self.recipe}: {len(self.found):,} dates in {self.seconds:.0f} s{listed}",
            f"  good     {len(self.of('good')):,}; a build fetches {self.size / 1e9:,.2f} GB",
            f"  missing  {len(missing):,}" + ("; now in dates.missing of the recipe" if missing else ""),
            *_reasons(missing),
            f"  unknown  {len(unknown):,}" + ("; run the same command again to ask for them" if unknown else ""),
            *_reasons(unknown),
        ]
        return "\n".join(lines)


def _reasons(found: Sequence[Found]) -> list[str]:
    lines = [f"    {one.date:%Y-%m-%dT%H}  {one.reason}" for one in found[:REASONS]]
    return lines if len(found) <= REASONS else [*lines, f"    and {len(found) - REASONS:,} more, see the report"]


def scan(path: Path, jobs: int = 32, report: Path | None = None) -> Scan:
    """Ask the archives for each date of a recipe, and add those that they lack to its `dates.missing`.

    Results are also stored in `RECIPE.scan.jsonl` next to the recipe, so that an interrupted scan continues, and good
    dates are not asked for again.

    Parameters
    ----------
    path : Path
    jobs : int
        Dates asked for in parallel.
    report : Path, optional
        File for the result as JSON; by default `RECIPE.scan.json`.

    Raises
    ------
    HouseError
        For an invalid recipe or one without `house-noaa`, if no date is good, or if the scan is interrupted.
    """
    started = time.monotonic()
    if jobs < 1:
        raise HouseError(f"--jobs {jobs}: invalid. Give 1 or more.")
    dates, listed, asked = _read(path)
    found = _found(dates, asked, jobs, ScanState(path.with_suffix(".scan.jsonl"), asked))
    not_asked = "not asked for: no archive answered for the dates before"
    in_order = [found.get(date, Found(date, "unknown", not_asked)) for date in dates]
    result = Scan(path, listed, in_order, time.monotonic() - started)
    _write_report(report or path.with_suffix(".scan.json"), result)
    if missing := result.of("missing"):
        if not result.of("good"):
            raise HouseError(
                f"{path}: no date is good, so the recipe is unchanged. Check its roots. {missing[0].reason}"
            )
        add_missing(path, [one.date for one in missing])
    return result


def _found(dates: Sequence[datetime], asked: Sequence[Asked], jobs: int, state: ScanState) -> dict[datetime, Found]:
    """Return what is known of the dates: from an earlier scan, else from the archives, until none answers."""
    good = state.good
    found = {date: good[date] for date in dates if date in good}
    todo = [date for date in dates if date not in found]
    if found:
        known = f"{len(found):,} dates are already known to be good, {len(todo):,} are left"
        print(f"{state.path}: {known}", file=sys.stderr)
    progress = ProgressLine(LOG_EVERY_S)
    started, bad, in_a_row = time.monotonic(), 0, 0
    try:
        with state.open() as file:
            for done, one in enumerate(_ask(todo, asked, jobs), 1):
                found[one.date] = one
                file.write(one.as_line())
                bad += one.state != "good"
                if progress.due:
                    left = timedelta(seconds=round((len(todo) - done) * (time.monotonic() - started) / done))
                    progress.show(f"{len(found):,} of {len(dates):,} dates, {bad:,} not good, about {left} left")
                in_a_row = in_a_row + 1 if one.state == "unknown" else 0
                if in_a_row >= GIVE_UP_AFTER:
                    break
    except KeyboardInterrupt:
        raise HouseError(
            f"interrupted after {len(found):,} of {len(dates):,} dates. Run the same command to continue."
        ) from None
    finally:
        progress.end()
    return found


def _read(path: Path) -> tuple[list[datetime], int, list[Asked]]:
    """Return the dates of a recipe that are not listed as missing, how many are, and what it asks of the archives."""
    content = _load(path)
    try:
        recipe = Recipe(**content)
    except ValidationError as wrong:
        raise HouseError(f"{path}: {_first(wrong)}") from None
    except (AssertionError, TypeError, ValueError, AttributeError) as wrong:
        raise HouseError(f"{path}: not a recipe of anemoi-datasets ({wrong}).") from None
    if not isinstance(recipe.dates, StartEndDates):
        raise HouseError(f"{path}: dates: has no start and end, which missing dates need.")
    dates = recipe.dates.values
    asked = []
    for entry in archive_entries(content.get("input")):
        try:
            within = [set(StartEndDates(**period).values) for period in entry.periods]
            request = Request.of(**entry.settings)
            wanted = frozenset(set(dates).intersection(*within))
            for date in wanted:
                request.run(date)
        except ValidationError as wrong:
            raise HouseError(f"{path}: {entry.where}: {_first(wrong)}") from None
        except (HouseError, TypeError) as mistake:
            raise HouseError(f"{path}: {entry.where}: {mistake}") from None
        asked.append(Asked(request, wanted, str(entry.periods)))
    if not asked:
        raise HouseError(f"{path}: input: has no house-noaa, so that there is no archive to scan.")
    return dates, len(recipe.dates.missing), asked


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as failure:
        raise HouseError(f"{path}: cannot be read ({failure.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as wrong:
        raise HouseError(f"{path}: not valid YAML: {' '.join(str(wrong).split())}") from None
    if not isinstance(content, dict):
        raise HouseError(f"{path}: not a recipe: it has no keys such as dates and input.")
    return content


def _first(wrong: ValidationError) -> str:
    """Return the first mistake that pydantic found, in one line."""
    error = wrong.errors()[0]
    return f"{'.'.join(str(part) for part in error['loc'])}: {' '.join(error['msg'].split())}"


def _ask(dates: Sequence[datetime], asked: Sequence[Asked], jobs: int) -> Iterator[Found]:
    """Yield what the archives have, in the order of their answers."""
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

    # Not concurrent.futures: its threads would keep the process alive after Ctrl-C while a server hangs.
    for _ in range(min(jobs, len(dates))):
        threading.Thread(target=work, daemon=True).start()
    for _ in dates:
        answer = answers.get()
        if isinstance(answer, BaseException):
            raise answer
        yield answer


def _look(date: datetime, asked: Sequence[Asked]) -> Found:
    """Return what the archives have of a date."""
    missing, unknown, size = [], [], 0
    for request in (one.request for one in asked if date in one.dates):
        try:
            size += request.archive().check(request.run(date), request.lead_hours, request.fields)
        except UnreachableError as reason:
            unknown.append(str(reason))
        except ArchiveError as reason:
            missing.append(str(reason))
    if missing:
        return Found(date, "missing", "; ".join(missing))
    return Found(date, "unknown", "; ".join(unknown)) if unknown else Found(date, "good", size=size)


def _write_report(path: Path, result: Scan) -> None:
    try:
        write_whole(path, json.dumps(result.as_json(), indent=2) + "\n")
    except OSError as failure:
        raise HouseError(f"--report {path}: cannot be written ({failure.strerror}).") from None
