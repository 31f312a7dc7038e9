"""The record of a run on disk, to read.

One folder for each run, `SAVE_DIR/spool/RUN_ID`:

- `records.jsonl`: one JSON object a line, appended only (see `anemoi_house.tracking.records`);
- `artifacts/`: copies of the run's artifacts, which never change once their record is written;
- `target.json`: the server that the run is meant for, without any secret;
- `writer.lock`: held by the training while it runs (see `anemoi_house.tracking.lock`);
- `sent/`: what each server has (see `anemoi_house.tracking.ledger`).

The standard library is enough to read and to write a spool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from anemoi_house.tracking.lock import is_held, is_locked
from anemoi_house.tracking.records import Record, last_time, parsed

FOLDER = "spool"
SCHEME = "house-spool"
"""Scheme of the address under which MLflow finds a spool: `house-spool:///FOLDER`."""


@dataclass
class Summary:
    """Totals and last values of a run's records."""

    run_id: str
    name: str = ""
    experiment: str = ""
    sessions: int = 0
    """Number of starts: one, and one more for each restart."""
    started: int | None = None
    """Time of the first start in ms."""
    ended: int | None = None
    """Time of the last end in ms; None while the run continues, or if its training was killed."""
    status: str = "RUNNING"
    last: int | None = None
    """Time of the last record in ms."""
    rows: int = 0
    """Metric rows."""
    artifacts: int = 0
    damaged: int = 0
    """Lines that cannot be read, or that lack a field."""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of each metric."""

    def add(self, data: dict[str, Any] | None) -> None:
        """Count one more record."""
        if data is None:
            self.damaged += 1
            return
        self.last = last_time(data, self.last)
        match data["kind"]:
            case "start":
                self.sessions += 1
                self.started = data["t"] if self.started is None else self.started
                self.name, self.experiment = data["run_name"], data["experiment"]
                self.ended, self.status = None, "RUNNING"
            case "metrics":
                self.rows += len(data["rows"])
                keys, values = map(itemgetter(0), data["rows"]), map(itemgetter(1), data["rows"])
                self.metrics.update(zip(keys, map(float, values)))
            case "params":
                self.params.update(data["values"])
            case "tags":
                self.tags.update(data["values"])
            case "artifact":
                self.artifacts += 1
            case "end":
                self.ended, self.status = data["t"], data["status"]


class Spool:
    """The record of one run, to read.

    Parameters
    ----------
    folder : Path
        Folder of the run's spool.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records_path = folder / "records.jsonl"
        self.lock_path = folder / "writer.lock"

    @property
    def run_id(self) -> str:
        """Id of the run: the name of the folder."""
        return self.folder.resolve().name

    @property
    def size(self) -> int:
        """Bytes of `records.jsonl`."""
        return self.records_path.stat().st_size

    def records(self, offset: int = 0) -> Iterator[Record]:
        """Yield the complete lines from a byte on; a last line that is still being written is left out."""
        with self.records_path.open("rb") as lines:
            lines.seek(offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                begin, offset = offset, offset + len(line)
                yield Record(parsed(line), begin, offset)

    def torn(self) -> int:
        """Return the number of bytes after the last complete line: a record that was cut off."""
        with self.records_path.open("rb") as lines:
            size = lines.seek(0, os.SEEK_END)
            step, tail = 2**16, b""
            while len(tail) < size and b"\n" not in tail:
                lines.seek(max(0, size - len(tail) - step))
                tail = lines.read(min(step, size - len(tail))) + tail
        return len(tail) - (tail.rfind(b"\n") + 1)

    def ended(self) -> bool:
        """Return whether the last record is an `end`."""
        with self.records_path.open("rb") as lines:
            lines.seek(max(0, lines.seek(0, os.SEEK_END) - 4096))
            tail = lines.read()
        last = parsed(tail[: tail.rfind(b"\n") + 1].rstrip(b"\n").rpartition(b"\n")[2])
        return last is not None and last["kind"] == "end"

    def start(self) -> dict[str, Any]:
        """Return the first valid `start` record; an empty one if there is none yet."""
        records = (record.data for record in self.records() if record.data is not None)
        return next((data for data in records if data["kind"] == "start"), {})

    def writer_alive(self) -> bool:
        """Return whether a training still writes here."""
        return is_held(self.lock_path)

    def is_locked(self) -> bool:
        """Return whether a new training would be refused here because another one holds the lock."""
        return is_locked(self.lock_path)

    def target(self) -> dict[str, Any]:
        """Return the server that the run is meant for; empty if none is named, or the file is damaged."""
        try:
            target = json.loads((self.folder / "target.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return target if isinstance(target, dict) and isinstance(target.get("uri"), str) else {}

    def summary(self) -> Summary:
        """Read all records and return their summary."""
        summary = Summary(self.run_id)
        for record in self.records():
            summary.add(record.data)
        return summary

    def metrics(self, *keys: str) -> dict[str, list[tuple[float, int, int]]]:
        """Return the rows of some metrics in the order in which they were logged: value, time in ms and step."""
        found: dict[str, list[tuple[float, int, int]]] = {key: [] for key in keys}
        for record in self.records():
            if record.data is not None and record.data["kind"] == "metrics":
                for key, value, at, step in record.data["rows"]:
                    if key in found:
                        found[key].append((float(value), at, step))
        return found


def find_spools(path: Path) -> list[Spool]:
    """Find the spools at a path.

    Parameters
    ----------
    path : Path
        Folder of a spool, checkpoint folder of a run, or a folder above several runs.

    Returns
    -------
    list of Spool
        Sorted by name; empty if there are none.
    """
    if (path / "records.jsonl").is_file():
        return [Spool(path)]
    for named in dict.fromkeys((path.absolute(), path.resolve())):  # `checkpoint` may be a link to another disk
        for parent in named.parents[:3]:  # outputs/checkpoint/RUN_ID: its spool is in outputs/logs/mlflow
            of_checkpoints = sorted(parent.glob(f"logs/*/{FOLDER}/{named.name}/records.jsonl"))
            if of_checkpoints:
                return [Spool(found.parent) for found in of_checkpoints]
    return [Spool(found.parent) for folder in _folders(path) for found in sorted(folder.glob("*/records.jsonl"))]


def _folders(path: Path) -> Iterator[Path]:
    """Yield the folders of spools below a path, each once; links are followed, since `logs` may be one."""
    seen = set()
    for root, folders, _ in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or os.path.basename(root) == FOLDER:
            folders.clear()
        if real not in seen and os.path.basename(root) == FOLDER:
            yield Path(root)
        seen.add(real)
        folders.sort()
