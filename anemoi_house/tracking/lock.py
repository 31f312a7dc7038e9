"""A lock on a file, with a heartbeat where locks of the file system cannot be seen: on another host, or anywhere."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

BEAT_EVERY_S = 5.0
DEAD_AFTER_S = 120.0
"""Silence after which a holder whose lock cannot be seen counts as gone."""
WATCH_S = 3 * BEAT_EVERY_S
RETRY_S = 0.1


class BusyError(Exception):
    """Another process holds the lock; the message names it."""


class HeartbeatLock(AbstractContextManager["HeartbeatLock"]):
    """Lock of one process on a file, from its making to `release` or to the end of the process.

    The file holds the host and the process id of the holder, which renews its modification time every `BEAT_EVERY_S`.

    Parameters
    ----------
    path : Path
        File of the lock. Its folder must exist.
    tries : int
        Attempts, 0.1 s apart. A reader that asks whether the lock is held takes it for an instant.
    trust_beat : bool
        Whether a recent heartbeat is enough to refuse the lock, where it cannot be seen. Otherwise the holder is
        watched for `WATCH_S`: a job that was restarted on another node must not wait for the silence of the first.

    Raises
    ------
    BusyError
        Another process holds it.
    OSError
        The file cannot be written.
    """

    def __init__(self, path: Path, tries: int = 1, trust_beat: bool = True) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            locked = self._lock(tries)
            self._check_holder(path, locked, trust_beat)
            self._sign(locked)
        except BaseException:
            os.close(self._fd)
            raise
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="lock-heartbeat", daemon=True).start()

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if not self._released.is_set():
            self._released.set()
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.release()

    def _lock(self, tries: int) -> bool:
        """Lock the file; return False where the file system has no locks."""
        while True:
            tries -= 1
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if not tries:
                    raise BusyError(_name_of(_holder(self._fd))) from None
                time.sleep(RETRY_S)
            except OSError:  # whichever way a file system says that it has none
                return False

    def _check_holder(self, path: Path, locked: bool, trust_beat: bool) -> None:
        holder = _holder(self._fd)
        if not _may_live(holder, locked) or not _beats(path):
            return
        if trust_beat or _beats_again(path):
            raise BusyError(_name_of(holder))

    def _sign(self, locked: bool) -> None:
        """Write who holds the lock; without locks, look whether another process has done so at the same moment."""
        signature = json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()
        os.pwrite(self._fd, signature, 0)
        os.ftruncate(self._fd, len(signature))  # afterwards: an empty file is a free lock
        os.utime(self._fd)
        if not locked:
            time.sleep(RETRY_S)
            if os.pread(self._fd, 1000, 0) != signature:
                raise BusyError(_name_of(_holder(self._fd)))

    def _beat(self) -> None:
        while not self._released.wait(BEAT_EVERY_S):
            with suppress(OSError):
                os.utime(self._fd)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock: by the lock on this host, by the heartbeat where it cannot be seen."""
    try:
        with path.open("rb") as lock:
            locked = _is_locked(lock.fileno())
            return bool(locked) or (_may_live(_holder(lock.fileno()), locked is not None) and _beats(path))
    except OSError:
        return False


def is_locked(path: Path) -> bool:
    """Return whether a process on this host holds the lock."""
    try:
        with path.open("rb") as lock:
            locked, holder = _is_locked(lock.fileno()), _holder(lock.fileno())
            if locked is None and holder.get("host") == socket.gethostname():
                return _may_live(holder, False) and _beats(path)
            return bool(locked)
    except OSError:
        return False


def _is_locked(descriptor: int) -> bool | None:
    """Return whether another process has locked a file; None if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as refused:
        return True if isinstance(refused, BlockingIOError) else None
    return False


def _holder(descriptor: int) -> dict[str, Any]:
    with suppress(ValueError):
        holder = json.loads(os.pread(descriptor, 1000, 0) or b"{}")
        return holder if isinstance(holder, dict) else {}
    return {}


def _name_of(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    where = "" if holder.get("host") == socket.gethostname() else f" on {holder.get('host')}"
    return f"process {holder.get('pid')}{where}"


def _may_live(holder: dict[str, Any], locks: bool) -> bool:
    """Return whether a holder can exist although its lock is not seen here."""
    if holder.get("host") == socket.gethostname():
        return not locks and _is_running(holder)
    return bool(holder)


def _is_running(holder: dict[str, Any]) -> bool:
    with suppress(ProcessLookupError, KeyError, ValueError, TypeError, OverflowError):
        with suppress(PermissionError):  # the process of another user
            os.kill(int(holder["pid"]), 0)
        return True
    return False


def _beats(path: Path) -> bool:
    return _silent_s(path, path.stat().st_mtime) < DEAD_AFTER_S


def _beats_again(path: Path) -> bool:
    """Return whether a heartbeat comes within `WATCH_S`."""
    before, until = _last_beat(path), time.monotonic() + WATCH_S
    while time.monotonic() < until:
        time.sleep(RETRY_S)
        if _last_beat(path) != before:
            return True
    return False


def _last_beat(path: Path) -> int:
    with path.open("rb") as lock:  # opened again: NFS caches the times of open files
        return os.fstat(lock.fileno()).st_mtime_ns


def _silent_s(path: Path, beat: float) -> float:
    """Return the seconds since a heartbeat, by the clock of the file server, which set its time."""
    probe = path.with_name(f".clock-{socket.gethostname()}-{os.getpid()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - beat
    except OSError:
        return time.time() - beat
    finally:
        with suppress(OSError):
            probe.unlink()
