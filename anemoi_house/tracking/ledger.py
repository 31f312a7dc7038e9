"""What a server has of a run: `sent/SLUG.json` in the run's spool, one file for each server."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.spool import BEAT_EVERY_S, DEAD_AFTER_S, Spool, write_whole

FOLDER = "sent"
MOST_REFUSED = 100
"""Refused records that are told of one by one."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class BusyError(Exception):
    """Another process sends this run to this server; the message says which."""


@dataclass
class Ledger:
    """How much of a spool a server has.

    Nothing rests on it alone: a ledger that is lost, or older than what the server has, costs some questions to the
    server, and no row is sent twice.

    Attributes
    ----------
    uri : str
        Address of the server.
    run_id, experiment_id : str or None
        The server's own.
    creating : str or None
        Mark of the run that is being created; it tells an unfinished attempt of ours from that of somebody else.
    offset : int
        Byte of `records.jsonl` up to which the server has everything.
    rows : int
        Metric rows before that byte.
    artifacts : int
        Artifact records before that byte.
    terminal_sent, terminal_parts : int
        Bytes of the terminal output that are sent, and the files that they are in.
    over_sent : int
        Records of what went over a limit that are in an artifact.
    status : str or None
        Of the run on the server.
    session_end : dict or None
        Time and status of an `end` that no further `start` has followed.
    closed : bool
        Whether everything up to `offset` is sent, and the server says how the run ended.
    last : int or None
        Time of the last record before `offset`, in ms.
    lineage : dict
        Tags for the run's parent that hold a local id, because the server has no run of that id yet.
    refused : list of dict
        What the server takes under no circumstances, with its reason; the first ones.
    refused_count, damaged : int
        How many were refused; lines of the spool that cannot be read.
    error : dict or None
        The last failure: `message`, `since`, `at` (times in s). None when the last call went well.
    updated : float
        Time in s.
    """

    uri: str
    run_id: str | None = None
    experiment_id: str | None = None
    creating: str | None = None
    offset: int = 0
    rows: int = 0
    artifacts: int = 0
    terminal_sent: int = 0
    terminal_parts: int = 0
    over_sent: int = 0
    status: str | None = None
    session_end: dict[str, Any] | None = None
    closed: bool = False
    last: int | None = None
    lineage: dict[str, str] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    refused_count: int = 0
    damaged: int = 0
    error: dict[str, Any] | None = None
    updated: float = 0.0

    @classmethod
    def read(cls, path: Path, uri: str) -> Ledger:
        """Ledger in a file; an empty one where there is none, or where the file cannot be made out."""
        try:
            found = json.loads(path.read_bytes())
            known = {one.name for one in fields(cls)}
            return cls(**{key: value for key, value in found.items() if key in known} | {"uri": uri})
        except (FileNotFoundError, ValueError, AttributeError, TypeError):
            return cls(uri)

    def write(self, path: Path) -> None:
        """Put the ledger into its file, whole or not at all."""
        self.updated = time.time()
        write_whole(path, json.dumps(asdict(self)).encode())

    def refuse(self, offset: int, what: str, reason: str) -> None:
        """Set something aside that the server does not take."""
        self.refused_count += 1
        if len(self.refused) < MOST_REFUSED:
            self.refused.append({"offset": offset, "what": what, "reason": reason})

    def failed(self, message: str) -> None:
        """Note a failure."""
        now = time.time()
        self.error = {"message": message, "since": self.error["since"] if self.error else now, "at": now}


def slug(uri: str) -> str:
    """Name of the files that belong to a server."""
    return hashlib.sha256(uri.encode()).hexdigest()[:12]


def ledger_path(spool: Spool, uri: str) -> Path:
    """File of the ledger."""
    return spool.folder / FOLDER / f"{slug(uri)}.json"


def ledgers(spool: Spool) -> list[Ledger]:
    """Of all servers that the run was sent to, or is meant for."""
    found = {}
    for path in sorted((spool.folder / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            uri = json.loads(path.read_bytes())["uri"]
            found[uri] = Ledger.read(path, uri)
    uri = spool.target().get("uri")
    if uri and uri not in found:
        found[uri] = Ledger(uri)
    return list(found.values())


class SyncLock:
    """Keeps other processes from sending the same run to the same server.

    A lock of the file system, which goes with the process that holds it. Another host may not see it: there, the
    holder's name and the time of the file, which the holder renews, stand for it.

    Parameters
    ----------
    spool : Spool
    uri : str
        Address of the server.

    Raises
    ------
    BusyError
        Another process holds it.
    HouseError
        Nothing can be written beside the spool.
    """

    def __init__(self, spool: Spool, uri: str) -> None:
        self.path = ledger_path(spool, uri).with_suffix(".lock")
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as refused:
            raise HouseError(
                f"{self.path.parent}: what is sent cannot be written down there ({refused.strerror}); "
                "make a copy of the run's folder where you may write, and sync that"
            ) from None
        try:
            self._take()
        except BaseException:
            os.close(self._fd)
            raise
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="sync-lock", daemon=True).start()

    def release(self) -> None:
        """Let go of it."""
        if not self._released.is_set():
            self._released.set()
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)

    def __enter__(self) -> SyncLock:
        """The lock is held from its making on."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self.release()

    def _take(self) -> None:
        here = socket.gethostname()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise BusyError(_told(self._holder())) from None
        except OSError as unsupported:
            if unsupported.errno not in _NO_LOCKS:
                raise
            locked = False
        holder = self._holder()
        if holder:
            silent_s = self._now() - os.fstat(self._fd).st_mtime
            elsewhere = holder.get("host") != here
            if (elsewhere or (not locked and _is_running(holder))) and silent_s < DEAD_AFTER_S:
                raise BusyError(_told(holder))
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps({"host": here, "pid": os.getpid()}).encode(), 0)

    def _holder(self) -> dict[str, Any]:
        with suppress(ValueError):
            holder = json.loads(os.pread(self._fd, 1000, 0) or b"{}")
            return holder if isinstance(holder, dict) else {}
        return {}

    def _now(self) -> float:
        """Time by the clock of the file server, which the beats are of."""
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".clock-") as probe:
            return os.fstat(probe.fileno()).st_mtime

    def _beat(self) -> None:
        while not self._released.wait(BEAT_EVERY_S):
            with suppress(OSError):
                os.utime(self._fd)


def _told(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process is sending it"
    where = "" if holder.get("host") == socket.gethostname() else f" on {holder.get('host')}"
    return f"process {holder.get('pid')}{where} is sending it"


def _is_running(holder: dict[str, Any]) -> bool:
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError):
        return False
    except PermissionError:
        return True
    return True
