"""The record of a run on disk: what a training says, line by line, before any server hears of it.

One folder for each run, `SAVE_DIR/spool/RUN_ID`:

- `records.jsonl`: one JSON object a line, appended only;
- `artifacts/`: copies of the run's artifacts, which never change once their record is written;
- `target.json`: the server that the run is meant for, without any secret;
- `writer.lock`: held by the training for as long as it lives; its time is the writer's last sign of life;
- `sent/`: what each server has, kept by the drain (see `anemoi_house.tracking.ledger`).

The `kind` of a record is `start`, `metrics`, `params`, `tags`, `artifact`, `terminal`, `over` (what went over a limit)
or `end`; a restart of the run adds a further `start`. Times are milliseconds since 1970, as in MLflow. The standard
library is enough to read and to write a spool.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from anemoi_house.errors import HouseError

FOLDER = "spool"
WRITE_EVERY_S = 0.2
"""How long a record may wait for the disk: what a kill -9 can cost."""
BEAT_EVERY_S = 5.0
DEAD_AFTER_S = 120.0
"""Silence after which a writer on another host, whose lock cannot be seen from here, counts as gone."""
KEEP_IN_MEMORY_BYTES = 256 * 2**20
"""What is kept for a disk that takes nothing; then the newest records are lost, and counted."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Record(NamedTuple):
    """One line of a spool."""

    data: dict[str, Any] | None
    """The record; None where the line cannot be read, after a crash for instance."""
    begin: int
    """Byte in `records.jsonl` at which the line begins."""
    end: int
    """Byte after the line."""


@dataclass
class Summary:
    """What the records of a run come to."""

    run_id: str
    name: str = ""
    experiment: str = ""
    sessions: int = 0
    """Starts: one, and one more for each restart."""
    started: int | None = None
    """Time of the first start in ms."""
    ended: int | None = None
    """Time of the last end in ms; None while the run goes on, or when its writer was killed."""
    status: str = "RUNNING"
    last: int | None = None
    """Time of the last record in ms."""
    rows: int = 0
    """Metric rows."""
    artifacts: int = 0
    damaged: int = 0
    """Lines that cannot be read."""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of each metric."""

    def add(self, data: dict[str, Any] | None) -> None:
        """Take one more record into account."""
        if data is None:
            self.damaged += 1
            return
        self.last = data.get("t", self.last)
        match data["kind"]:
            case "start":
                self.sessions += 1
                self.started = data["t"] if self.started is None else self.started
                self.name, self.experiment = data["run_name"], data["experiment"]
                self.ended, self.status = None, "RUNNING"
            case "metrics":
                self.rows += len(data["rows"])
                self.metrics.update((key, float(value)) for key, value, _, _ in data["rows"])
                self.last = max((row[2] for row in data["rows"]), default=self.last)
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

    @property
    def run_id(self) -> str:
        """The run's id: the name of the folder."""
        return self.folder.resolve().name

    def records(self, offset: int = 0) -> Iterator[Record]:
        """Complete lines from a byte on; a last line that is still being written is left out."""
        with self.records_path.open("rb") as lines:
            lines.seek(offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                begin, offset = offset, offset + len(line)
                yield Record(_parsed(line), begin, offset)

    def torn(self) -> int:
        """Bytes after the last complete line: a record that its writer had no time to end."""
        with self.records_path.open("rb") as lines:
            size = lines.seek(0, os.SEEK_END)
            step, tail = 2**16, b""
            while len(tail) < size and b"\n" not in tail:
                lines.seek(max(0, size - len(tail) - step))
                tail = lines.read(min(step, size - len(tail))) + tail
        return len(tail) - (tail.rfind(b"\n") + 1)

    def writer_alive(self) -> bool:
        """Whether a training still writes here."""
        path = self.folder / "writer.lock"
        try:
            with path.open("rb") as lock:
                holder = json.loads(lock.read() or b"{}")
                if holder.get("host") == socket.gethostname():
                    return _is_locked(lock.fileno())
                return self._now() - path.stat().st_mtime < DEAD_AFTER_S
        except (OSError, ValueError):
            return False

    def is_locked(self) -> bool:
        """Whether a training would be refused here, since another one has the lock."""
        try:
            with (self.folder / "writer.lock").open("rb") as lock:
                return _is_locked(lock.fileno())
        except FileNotFoundError:
            return False

    def target(self) -> dict[str, Any]:
        """The server that the run is meant for; empty where there is none."""
        try:
            return json.loads((self.folder / "target.json").read_bytes())
        except FileNotFoundError:
            return {}

    def summary(self) -> Summary:
        """Read everything, and tell what it comes to."""
        summary = Summary(self.run_id)
        for record in self.records():
            summary.add(record.data)
        return summary

    def metrics(self, *keys: str) -> dict[str, list[tuple[float, int, int]]]:
        """Rows of some metrics, in the order in which they were logged: value, time in ms and step."""
        found: dict[str, list[tuple[float, int, int]]] = {key: [] for key in keys}
        for record in self.records():
            if record.data is not None and record.data["kind"] == "metrics":
                for key, value, at, step in record.data["rows"]:
                    if key in found:
                        found[key].append((float(value), at, step))
        return found

    def _now(self) -> float:
        """Time by the clock of the file server, which has set the beat's time too."""
        probe = self.folder / f".clock-{socket.gethostname()}-{os.getpid()}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with suppress(OSError):
                probe.unlink()


def find_spools(path: Path) -> list[Spool]:
    """Spools at a path.

    Parameters
    ----------
    path : Path
        Folder of a spool, checkpoint folder of a run, or a folder above several runs.

    Returns
    -------
    list of Spool
        In the order of their names; empty where there is none.
    """
    if (path / "records.jsonl").is_file():
        return [Spool(path)]
    for parent in path.resolve().parents[:3]:  # outputs/checkpoint/RUN_ID: its spool is in outputs/logs/mlflow
        beside = sorted(parent.glob(f"logs/*/{FOLDER}/{path.resolve().name}/records.jsonl"))
        if beside:
            return [Spool(found.parent) for found in beside]
    return [Spool(found.parent) for found in sorted(path.glob(f"**/{FOLDER}/*/records.jsonl"))]


class SpoolWriter:
    """Appends the records of a run; its methods neither wait for the disk nor fail.

    A thread does the writing. What a disk refuses is kept in memory and tried again.

    Parameters
    ----------
    folder : Path
        Folder of the run's spool; made where it is missing.
    tell : callable
        Takes one line about trouble with the disk, and about its end.

    Raises
    ------
    HouseError
        The folder cannot be written to, or another process writes to it.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self._tell = tell
        self._pid = os.getpid()
        self._queue: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._unwritten = b""
        self._unwritten_records = 0
        self._lost = 0
        self._trouble = ""
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._closing = False
        self._lock_fd = -1
        try:
            (folder / "artifacts").mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._file = os.open(folder / "records.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            if Spool(folder).torn():
                self._unwritten = b"\n"  # a record that was cut off: what follows begins on a line of its own
            self._artifacts = max((int(path.name[:6]) for path in (folder / "artifacts").glob("[0-9]*")), default=0)
        except OSError as refused:
            raise HouseError(
                f"The record of the run cannot be written to {folder} ({refused.strerror}); give another place with "
                "system.output.root=FOLDER or HOUSE_OUTPUT, or train without: diagnostics.log.mlflow.enabled=False."
            ) from None
        self._artifact_lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    def put(self, record: dict[str, Any]) -> None:
        """Append a record."""
        if os.getpid() == self._pid:  # not in the workers of a data loader, which have no writing thread
            self._queue.put(record)

    def put_artifact(self, local: Path, path: str) -> None:
        """Copy a file into the spool, and record it under `path`, its name on the server.

        Raises
        ------
        OSError
            The file cannot be read, or copied.
        """
        with self._artifact_lock:
            self._artifacts += 1
            name = f"artifacts/{self._artifacts:06d}{Path(path).suffix}"
        temporary = self.folder / f"{name}.part"
        try:
            digest = hashlib.sha256()
            with local.open("rb") as source, temporary.open("wb") as copy:
                while chunk := source.read(2**20):
                    digest.update(chunk)
                    copy.write(chunk)
            size = temporary.stat().st_size
            os.replace(temporary, self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        self.put({"kind": "artifact", "path": path, "file": name, "size": size, "sha256": digest.hexdigest()})

    def flush(self, wait_s: float) -> bool:
        """Wait until all is on disk, for a while; whether it is."""
        if self._closing:
            return not self._unwritten
        self._idle.clear()
        self._wake.set()
        return self._idle.wait(wait_s) and not self._unwritten

    def close(self, wait_s: float) -> None:
        """Write what is left, for a while, and let go of the spool."""
        if self._closing:
            return
        written = self.flush(wait_s)
        self._closing = True
        self._wake.set()
        self._thread.join(1.0)
        lost = self._lost + (0 if written else self._unwritten_records)
        if lost:
            self._tell(f"{lost} records of the run could not be written to {self.folder} and are lost: {self._trouble}")
        for descriptor in (self._file, self._lock_fd):
            with suppress(OSError):
                os.close(descriptor)

    def _take_lock(self) -> None:
        self._lock_fd = os.open(self.folder / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for _ in range(5):  # whoever asks whether a training writes here holds the lock for an instant
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
            except OSError as unsupported:
                if unsupported.errno not in _NO_LOCKS:
                    raise
                break
        else:
            holder = os.pread(self._lock_fd, 1000, 0).decode(errors="replace")
            raise HouseError(
                f"Another training writes to the record of this run, {self.folder}: {holder}. Wait for its end, or "
                "give training.run_id another run."
            )
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)

    def _work(self) -> None:
        beat = 0.0
        while not self._closing:
            self._wake.wait(WRITE_EVERY_S)
            flushing = self._wake.is_set()
            self._wake.clear()
            self._collect()
            self._write()
            if flushing:
                self._idle.set()
            if time.monotonic() - beat > BEAT_EVERY_S:
                beat = time.monotonic()
                with suppress(OSError):
                    os.utime(self.folder / "writer.lock")

    def _collect(self) -> None:
        records: list[dict[str, Any]] = []
        with suppress(Empty):
            while True:
                record = self._queue.get_nowait()
                if record["kind"] == "terminal" and records and records[-1]["kind"] == "terminal":
                    record = {**record, "text": records.pop()["text"] + record["text"]}
                records.append(record)
        lines = [_encoded(record) for record in records]
        if len(self._unwritten) > KEEP_IN_MEMORY_BYTES:
            self._lost += len(lines)
            return
        self._unwritten += b"".join(lines)
        self._unwritten_records += len(lines)

    def _write(self) -> None:
        if not self._unwritten:
            return
        try:
            self._unwritten = self._attempt(self._unwritten)
        except OSError as refused:
            trouble = refused.strerror or str(refused)
            if not self._trouble:
                self._tell(
                    f"Nothing can be written to {self.folder} ({trouble}): the record of the run is kept in memory "
                    "until that is mended, and then written; training goes on."
                )
            self._trouble = trouble
            return
        if not self._unwritten:
            self._unwritten_records = 0
            if self._trouble:
                self._trouble = ""
                self._tell(f"The record of the run is written to {self.folder} again; nothing was lost.")

    def _attempt(self, data: bytes) -> bytes:
        """Write, and return what was not taken: a full disk takes a part before it refuses the rest."""
        while data:
            try:
                taken = os.write(self._file, data)
            except InterruptedError:
                continue
            data = data[taken:]
            self._unwritten = data
        return data


def metric_value(value: float) -> float | str:
    """Value of a metric as it stands in a record: JSON has no word for what is not finite."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except ValueError:
        return None
    return data if isinstance(data, dict) and isinstance(data.get("kind"), str) else None


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
