"""The lock with a heartbeat, as the writer of a spool and its sender use it."""

from __future__ import annotations

import json
import os
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
def test_a_holder_on_another_host_lives_as_long_as_its_heartbeat(path: Path, silent_s: float, alive: bool) -> None:
    write_holder(path, "elsewhere", silent_s)
    assert is_held(path) == alive
    assert not is_locked(path)
    if alive:
        with pytest.raises(BusyError, match=r"^process 1 on elsewhere$"):
            HeartbeatLock(path)
    HeartbeatLock(path, trust_beat=False).release()


def test_a_holder_here_that_was_killed_leaves_the_lock(path: Path) -> None:
    import socket

    write_holder(path, socket.gethostname(), 0)
    assert not is_held(path)
    HeartbeatLock(path).release()
