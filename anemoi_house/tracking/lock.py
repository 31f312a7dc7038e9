"""A lock on a file, with a heartbeat for the hosts that cannot see locks of the file system."""

from __future__ import annotations

import errno
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
"""Silence after which a holder on another host, whose lock cannot be seen from here, counts as gone."""
RETRY_S = 0.1
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


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
        Whether the heartbeat of a holder on another host is enough to refuse the lock.

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
            if trust_beat:
                self._check_holder(path, locked)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
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
            except OSError as unsupported:
                if unsupported.errno not in _NO_LOCKS:
                    raise
                return False

    def _check_holder(self, path: Path, locked: bool) -> None:
        holder = _holder(self._fd)
        if not holder:
            return
        elsewhere = holder.get("host") != socket.gethostname()
        possible = elsewhere or (not locked and _is_running(holder))
        if possible and _silent_s(path, os.fstat(self._fd).st_mtime) < DEAD_AFTER_S:
            raise BusyError(_name_of(holder))

    def _beat(self) -> None:
        while not self._released.wait(BEAT_EVERY_S):
            with suppress(OSError):
                os.utime(self._fd)


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock: by the lock on this host, by the heartbeat on another."""
    try:
        with path.open("rb") as lock:
            if _holder(lock.fileno()).get("host") in (None, socket.gethostname()):
                return is_locked(path)
            return _silent_s(path, path.stat().st_mtime) < DEAD_AFTER_S
    except OSError:
        return False


def is_locked(path: Path) -> bool:
    """Return whether any process on this host holds the lock."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as refused:  # a file system without locks, or no file
        return isinstance(refused, BlockingIOError)
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


def _is_running(holder: dict[str, Any]) -> bool:
    with suppress(ProcessLookupError, KeyError, ValueError):
        with suppress(PermissionError):  # the process of another user
            os.kill(int(holder["pid"]), 0)
        return True
    return False


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
