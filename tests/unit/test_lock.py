"""The lock with a heartbeat, as the writer of a spool and its sender use it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anemoi_house.tracking import lock
from anemoi_house.tracking.lock import DEAD_AFTER_S, BusyError, HeartbeatLock, is_held, is_locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.lock"


def write_holder(path: Path, host: str, silent_s: float) -> None:
    path.write_text(json.dumps({"host": host, "pid": 1}))
    os.utime(path, (time.time() - silent_s,) * 2)


def test_it_is_held_until_it_is_released(path: Path) -> None:
    assert not is_held(path)
    assert not is_locked(path)
    with HeartbeatLock(path) as held:
        assert is_held(path)
        assert is_locked(path)
        with pytest.raises(BusyError, match=rf"^process {os.getpid()}$"):
            HeartbeatLock(path)
    held.release()  # a second time
    assert not is_held(path)
    HeartbeatLock(path).release()


def test_the_heartbeat_renews_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_EVERY_S", 0.01)
    with HeartbeatLock(path):
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:
            time.sleep(0.01)


@pytest.mark.parametrize(("silent_s", "alive"), [(DEAD_AFTER_S / 2, True), (2 * DEAD_AFTER_S, False)])
def test_a_holder_on_another_host_lives_as_long_as_its_heartbeat(
    path: Path, silent_s: float, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_holder(path, "elsewhere", silent_s)
    assert is_held(path) == alive
    assert not is_locked(path)
    if alive:
        with pytest.raises(BusyError, match=r"^process 1 on elsewhere$"):
            HeartbeatLock(path)
    monkeypatch.setattr(lock, "WATCH_S", 0.02)  # nobody renews this file
    HeartbeatLock(path, trust_beat=False).release()


def test_a_holder_on_another_host_that_beats_while_it_is_watched_keeps_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_holder(path, "elsewhere", DEAD_AFTER_S / 2)
    looks = []

    def beating(of: Path) -> int:
        looks.append(of)
        return len(looks) // 3  # the third look finds a new beat

    monkeypatch.setattr(lock, "_last_beat", beating)
    with pytest.raises(BusyError, match=r"^process 1 on elsewhere$"):
        HeartbeatLock(path, trust_beat=False)
    assert len(looks) == 3


def test_a_holder_here_that_was_killed_leaves_the_lock(path: Path) -> None:
    write_holder(path, socket.gethostname(), 0)
    assert not is_held(path)
    HeartbeatLock(path).release()


# File systems without locks


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: object, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize("trust_beat", [True, False])
def test_without_locks_a_live_holder_is_seen_and_nobody_else_let_in(
    path: Path, trust_beat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_EVERY_S", 0.05)
    assert not is_held(path)
    with HeartbeatLock(path, trust_beat=trust_beat):
        assert is_held(path)
        assert is_locked(path)
        with pytest.raises(BusyError, match=rf"^process {os.getpid()}$"):
            HeartbeatLock(path, trust_beat=trust_beat)
        assert is_held(path)
    assert not is_held(path)
    assert not is_locked(path)
    HeartbeatLock(path, trust_beat=trust_beat).release()


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_holder_that_was_killed_leaves_the_lock(path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    assert not is_held(path)
    HeartbeatLock(path, trust_beat=False).release()


@pytest.mark.usefixtures("without_locks")
def test_without_locks_one_of_two_that_start_together_gives_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = time.sleep

    def sleep(seconds: float) -> None:
        write_holder(path, "elsewhere", 0)  # between the signature and the look at it
        really(0)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(BusyError, match="process 1 on elsewhere"):
        HeartbeatLock(path)
    assert is_held(path)
