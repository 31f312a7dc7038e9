"""The record of a run on disk, to write: what a training logs, line by line, before it is sent to any server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.copies import Clean, Copier, Failed
from anemoi_house.tracking.lock import BusyError, HeartbeatLock
from anemoi_house.tracking.records import encoded
from anemoi_house.tracking.spool import Spool
from anemoi_house.upstream import keys
from anemoi_house.words import counted

WRITE_EVERY_S = 0.2
"""Longest wait of a record for the system: what a kill -9 can lose."""
SYNC_EVERY_S = 5.0
"""Longest wait of a record for the disk itself: what a node that fails can lose."""
KEEP_IN_MEMORY_BYTES = 256 * 2**20
"""Records kept in memory while the disk refuses them; beyond that, the newest are lost, and counted."""
_LOCK_TRIES = 5


class SpoolWriter:
    """Appends the records of a run; its methods neither wait for the disk nor raise.

    A thread writes, and another copies artifacts. Records that the disk refuses are kept in memory and tried again.

    Parameters
    ----------
    folder : Path
        Folder of the run's spool; created if it is missing.
    report : callable
        Called with one line when the disk fails, when it has recovered, and when a record is lost.

    Raises
    ------
    HouseError
        The folder cannot be written to, or another process writes to it.
    """

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.folder = folder
        self._report = report
        self._pid = os.getpid()
        self._queue: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._unwritten = b""
        self._unwritten_records = 0
        self._lost = 0
        self._unsynced = False
        self._why_lost = ""
        self._disk_error = ""
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._closing = False
        try:
            (folder / "artifacts").mkdir(parents=True, exist_ok=True)
            # The heartbeat alone must not stop a job that SLURM has restarted on another node.
            self._lock = HeartbeatLock(Spool(folder).lock_path, tries=_LOCK_TRIES, trust_beat=False)
            self._file = os.open(folder / "records.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            if Spool(folder).torn():
                self._unwritten = b"\n"  # end the record that was cut off: the next one needs a line of its own
            self._copier = Copier(folder, self.put)
        except BusyError as busy:
            raise HouseError(
                f"{folder}: {busy}, another training, writes to the record of this run. Wait until it ends, or "
                f"set {keys.RUN_ID} to another run."
            ) from None
        except OSError as refused:
            raise HouseError(
                f"{folder}: the record of the run cannot be written ({refused.strerror}). Set {keys.OUTPUT} or "
                f"HOUSE_OUTPUT to another folder, or train without tracking: {keys.TRACKED}=False."
            ) from None
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()
        self._closed = threading.Event()
        self._syncing = threading.Thread(target=self._sync, name="spool-sync", daemon=True)
        self._syncing.start()

    def put(self, record: dict[str, Any]) -> None:
        """Append a record."""
        if os.getpid() == self._pid:  # workers of a data loader are forks without the writing thread
            self._queue.put(record)

    def put_artifact(self, local: Path, path: str, clean: Clean = iter, failed: Failed = lambda why: None) -> None:
        """Copy a file into the spool, and record it under `path`, its name on the server; see `Copier.add`."""
        if os.getpid() == self._pid:
            self._copier.add(local, path, clean, failed)

    def flush(self, wait_s: float) -> bool:
        """Wait up to `wait_s` for copies, and for the records; return whether all are on disk."""
        if self._closing:
            return not self._unwritten
        copied = self._copier.wait(wait_s)
        return self._written(wait_s) and copied

    def close(self, wait_s: float) -> None:
        """Write the remaining records, for `wait_s` at most, and release the spool."""
        if self._closing:
            return
        self._copier.close(wait_s)
        if not self._written(wait_s):
            self._lost += self._unwritten_records
        self._closing = True
        self._wake.set()
        self._thread.join(1.0)
        self._closed.set()
        self._syncing.join(wait_s)
        if self._lost:
            self._report(f"{self.folder}: {self._lost} records could not be written and are lost ({self._why_lost}).")
        if not (self._thread.is_alive() or self._syncing.is_alive()):  # a disk that hangs keeps the file open
            with suppress(OSError):
                os.close(self._file)
        self._lock.release()

    def _written(self, wait_s: float) -> bool:
        self._idle.clear()
        self._wake.set()
        return self._idle.wait(wait_s) and not self._unwritten

    def _work(self) -> None:
        while not self._closing:
            self._wake.wait(WRITE_EVERY_S)
            flushing = self._wake.is_set()
            self._wake.clear()
            self._collect()
            self._write()
            if flushing:
                self._idle.set()

    def _sync(self) -> None:
        """Bring what is written to the disk itself; in a thread of its own, since a busy disk takes its time."""
        closed = False
        while not closed:
            closed = self._closed.wait(SYNC_EVERY_S)
            if self._unsynced:
                self._unsynced = False
                with suppress(OSError):  # the next write reports what is wrong
                    os.fsync(self._file)

    def _collect(self) -> None:
        records: list[dict[str, Any]] = []
        with suppress(Empty):
            while True:
                record = self._queue.get_nowait()
                if record["kind"] == "terminal" and records and records[-1]["kind"] == "terminal":
                    record = {**record, "text": records.pop()["text"] + record["text"]}
                records.append(record)
        lines = [line for record in records if (line := self._line(record))]
        if len(self._unwritten) > KEEP_IN_MEMORY_BYTES:
            self._lost += len(lines)
            return
        self._unwritten += b"".join(lines)
        self._unwritten_records += len(lines)

    def _line(self, record: dict[str, Any]) -> bytes:
        """Return the line of a record; count and report one that JSON cannot hold."""
        try:
            return encoded(record)
        except Exception as failure:  # it must not end this thread: all later records would be lost
            if not self._lost:
                self._report(f"{self.folder}: a record of {record['kind']} cannot be written and is lost ({failure}).")
            self._lost += 1
            self._why_lost = str(failure)
            return b""

    def _write(self) -> None:
        try:
            while self._unwritten:  # a full disk takes a part before it refuses the rest
                self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]
                self._unsynced = True
        except OSError as refused:
            if not self._disk_error:
                self._report(
                    f"{self.folder}: cannot be written to ({refused.strerror or refused}). Records are kept in memory "
                    "until it can; training continues."
                )
            self._disk_error = self._why_lost = refused.strerror or str(refused)
            return
        self._unwritten_records = 0
        if self._disk_error:
            self._disk_error = ""
            lost = [(self._lost, "record"), (self._copier.lost, "artifact")]
            what = " and ".join(counted(number, thing) for number, thing in lost if number)
            said = f"lost so far: {what}" if what else "no record was lost"
            self._report(f"{self.folder}: can be written to again; {said}.")
