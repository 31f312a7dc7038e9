"""A tracking server in memory, which also keeps what is sent twice; and spools to send."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anemoi_house.tracking.servers.base import Limits, MetricPoint, RemoteRun, Server
from anemoi_house.tracking.servers.failures import ExistsError, GoneError, RefusedError, UnavailableError
from anemoi_house.tracking.spool import Spool

T0 = 1_700_000_000_000


class KilledError(BaseException):
    """The process ends here; nothing catches this."""


@dataclass
class StoredRun:
    """What the server has of a run."""

    experiment_id: str
    name: str
    start_time: int
    tags: dict[str, str]
    status: str = "RUNNING"
    end_time: int | None = None
    deleted: bool = False
    params: dict[str, str] = field(default_factory=dict)
    rows: list[MetricPoint] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Memory:
    """The server's database."""

    experiments: list[str] = field(default_factory=list)
    runs: dict[str, StoredRun] = field(default_factory=dict)
    reserved: set[tuple[str, str]] = field(default_factory=set)

    def active(self) -> list[StoredRun]:
        return [run for run in self.runs.values() if not run.deleted]


class MemoryServer(Server):
    """A client of it.

    Parameters
    ----------
    memory : Memory
    overwrites : bool
    fault : callable, optional
        Called with the name of each call, before and after it is carried out; raises what should happen there.
    refuses : callable, optional
        Returns whether the server refuses a row, a parameter or a tag, given its key.
    """

    limits = Limits(metrics=8, params=3, tags=3)

    def __init__(
        self,
        memory: Memory,
        overwrites: bool = True,
        fault: Callable[[str, bool], None] = lambda name, done: None,
        refuses: Callable[[str], bool] = lambda key: False,
    ) -> None:
        super().__init__("http://memory", "http://memory")
        self.memory, self.fault, self.refuses = memory, fault, refuses
        self.overwrites = overwrites
        self.calls: Counter[str] = Counter()

    def _call(self, name: str, work: Callable[[], Any]) -> Any:
        self.calls[name] += 1
        self.fault(name, False)
        result = work()
        self.fault(name, True)
        return result

    def _stored(self, run_id: str) -> StoredRun:
        run = self.memory.runs[run_id]
        if run.deleted:
            raise RefusedError("The run must be in the 'active' state.")
        return run

    def _seen(self, run_id: str) -> RemoteRun:
        run = self.memory.runs[run_id]
        used = bool(run.rows or run.params) or run.status != "RUNNING"
        return RemoteRun(run_id, run.experiment_id, run.status, run.deleted, used, dict(run.tags))

    def experiment(self, name: str) -> str:
        def work() -> str:
            if f"deleted:{name}" in self.memory.experiments:
                raise GoneError(f"the experiment {name!r} was deleted")
            if name not in self.memory.experiments:
                self.memory.experiments.append(name)
            return name

        return self._call("experiment", work)

    def find(self, run_id: str, experiment_id: str | None = None) -> list[RemoteRun]:
        def work() -> list[RemoteRun]:
            found = [one for one, run in self.memory.runs.items() if run.tags.get("house.run_id") == run_id]
            return [self._seen(one) for one in found if experiment_id in (None, self.memory.runs[one].experiment_id)]

        return self._call("find", work)

    def run(self, run_id: str) -> RemoteRun | None:
        return self._call("run", lambda: self._seen(run_id) if run_id in self.memory.runs else None)

    def create(self, experiment_id: str, name: str, start_time: int, tags: dict[str, str]) -> RemoteRun:
        def work() -> RemoteRun:
            run_id = os.urandom(8).hex()
            self.memory.runs[run_id] = StoredRun(experiment_id, name, start_time, dict(tags))
            return self._seen(run_id)

        return self._call("create", work)

    def discard(self, run_id: str) -> None:
        def work() -> None:
            self.memory.runs[run_id].tags["house.run_id"] = "-"
            self.memory.runs[run_id].deleted = True

        self._call("discard", work)

    def set_status(self, run_id: str, status: str, end_time: int | None = None) -> None:
        def work() -> None:
            run = self._stored(run_id)
            run.status, run.end_time = status, end_time

        self._call("set_status", work)

    def log_metrics(self, run_id: str, rows: Sequence[MetricPoint]) -> None:
        def work() -> None:
            run = self._stored(run_id)
            assert 0 < len(rows) <= self.limits.metrics
            if any(self.refuses(row[0]) for row in rows):
                raise RefusedError("refused by the server")
            run.rows += [row._replace(value=_kept(row.value)) for row in rows]

        self._call("log_metrics", work)

    def log_params(self, run_id: str, params: dict[str, str]) -> None:
        def work() -> None:
            run = self._stored(run_id)
            assert 0 < len(params) <= self.limits.params
            if any(self.refuses(key) or run.params.get(key, value) != value for key, value in params.items()):
                raise RefusedError("Changing param values is not allowed.")
            run.params.update(params)

        self._call("log_params", work)

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        def work() -> None:
            run = self._stored(run_id)
            assert 0 < len(tags) <= self.limits.tags
            if any(map(self.refuses, tags)):
                raise RefusedError("refused by the server")
            run.tags.update(tags)

        self._call("set_tags", work)

    def newest(self, run_id: str) -> dict[str, tuple[int, int]] | None:
        def work() -> dict[str, tuple[int, int]] | None:
            if not self.overwrites:
                return None
            found: dict[str, tuple[int, int]] = {}
            for key, _, at, step in self.memory.runs[run_id].rows:
                found[key] = max(found.get(key, (step, at)), (step, at))
            return found

        return self._call("newest", work)

    def history(self, run_id: str, key: str) -> list[MetricPoint]:
        return self._call("history", lambda: [row for row in self.memory.runs[run_id].rows if row[0] == key])

    def upload(self, run_id: str, local: Path, name: str) -> None:
        def work() -> None:
            run, content = self._stored(run_id), local.read_bytes()
            if not self.overwrites:
                if (run_id, name) in self.memory.reserved:
                    raise ExistsError(name)
                self.memory.reserved.add((run_id, name))
                self.fault("reserved", True)
            run.artifacts[name] = content

        self._call("upload", work)

    def has_rows(self, run_id: str, key: str, count: int) -> bool:
        return self._call("has_rows", lambda: sum(row[0] == key for row in self.memory.runs[run_id].rows) >= count)

    def sizes(self, run_id: str, folder: str) -> dict[str, int]:
        def work() -> dict[str, int]:
            found = self.memory.runs[run_id].artifacts
            return {name: len(found[name]) for name in found if name.rpartition("/")[0] == folder}

        return self._call("sizes", work)

    def artifact(self, run_id: str, name: str) -> bytes | None:
        return self._call("artifact", lambda: self.memory.runs[run_id].artifacts.get(name))


def _kept(value: float) -> float:
    largest = 1.7976931348623157e308
    return value if value != value else max(-largest, min(largest, value))


def away(name: str, done: bool) -> None:
    """Fail every call: a fault of a server that cannot be reached."""
    raise UnavailableError("cannot connect to memory (connection refused)")


def write_spool(folder: Path, records: Sequence[dict[str, Any]], uri: str = "http://memory") -> Spool:
    """Write records to a spool, new or existing.

    The `content` of an `artifact` becomes a file.
    """
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    (folder / "target.json").write_text(json.dumps({"uri": uri, "authentication": False, "aml": None}))
    with (folder / "records.jsonl").open("a") as lines:
        for record in records:
            if "content" in record:
                content = record["content"].encode()
                name = f"artifacts/{len(list((folder / 'artifacts').iterdir())) + 1:06d}.txt"
                (folder / name).write_bytes(content)
                record = {key: value for key, value in record.items() if key != "content"}
                record |= {"file": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            lines.write(json.dumps(record, separators=(",", ":")) + "\n")
    return Spool(folder)


def start(run_id: str = "run", session: int = 0, **more: Any) -> dict[str, Any]:
    """Return a start."""
    about = {"run_name": "tnbd_sample", "experiment": "nested", "parent": None, "fork_of": None, "server_run": None}
    return {"kind": "start", "t": T0 + session, "session": session, "run_id": run_id, **about, **more}


def metrics(*rows: tuple[str, float | str, int]) -> dict[str, Any]:
    """Return rows of key, value and step."""
    return {"kind": "metrics", "rows": [[key, value, T0 + step * 100, step] for key, value, step in rows]}


def artifact(path: str, content: str) -> dict[str, Any]:
    """Return an artifact."""
    return {"kind": "artifact", "path": path, "content": content}


def end(status: str = "FINISHED", at: int = 10_000) -> dict[str, Any]:
    """Return an end."""
    return {"kind": "end", "t": T0 + at, "status": status}


def wanted_rows(spool: Spool) -> Counter[tuple[Any, ...]]:
    """Return the metric rows that a server should have."""
    return Counter(
        (key, str(_kept(float(value))), at, step)
        for record in spool.records()
        if record.data is not None and record.data["kind"] == "metrics"
        for key, value, at, step in record.data["rows"]
    )


def had_rows(run: StoredRun) -> Counter[tuple[Any, ...]]:
    """Return the metric rows that the server has."""
    return Counter((key, str(value), at, step) for key, value, at, step in run.rows)
