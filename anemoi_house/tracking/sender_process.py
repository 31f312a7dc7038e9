"""The process that sends a run's records during the training.

It is a process, not a thread: MLflow's client would hold Python's lock for milliseconds at a time, and would get in the
way of signals. It runs `anemoi-house sync RUN --until-end`, and outlives a training that is killed until it has sent
that to the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.spool import Spool

LOOK_EVERY_S = 1.0
MOST_STARTS = 5


class SenderProcess:
    """Starts the process, restarts it if it dies, and reports outages of the server.

    Parameters
    ----------
    folder : Path
        Folder of the run's spool.
    environ : mapping
        Environment of the process: that of the training before MLflow changed it.
    report : callable
        Called with one line when the server becomes unreachable, and when it has recovered.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], report: Callable[[str], None]) -> None:
        self._spool = Spool(folder)
        self._environ = dict(environ)
        self._report = report
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._reported = ""
        self._ending = threading.Event()

    def start(self) -> None:
        """Start the process, and the thread that supervises it."""
        self._launch()
        threading.Thread(target=self._supervise, name="sender-process", daemon=True).start()

    def finish(self, wait_s: float) -> Pending:
        """Wait until everything is sent, the server turns out to be unreachable, or time is up; then end the process.

        Parameters
        ----------
        wait_s : float
            Longest wait in seconds.

        Returns
        -------
        Pending
            What is still to be sent.
        """
        asked = time.time()
        deadline = time.monotonic() + wait_s
        self._ending.set()
        state = Pending(self._spool)
        while not state.complete and time.monotonic() < deadline:
            if state.error and (state.attempted_at or 0) > asked:
                break  # an attempt since the end of the run has failed
            if not self._is_running():
                break  # it could not be started; its log has the reason
            time.sleep(0.05)
            state = Pending(self._spool)
        if self._process is not None and self._is_running():
            with suppress(subprocess.TimeoutExpired):
                # It exits once everything is sent. Its ledger survives a kill.
                self._process.wait(1.0 if state.complete else 0)
            self._process.kill()
            self._process.wait()
        self._process = None
        return Pending(self._spool)

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _launch(self) -> None:
        self._starts += 1
        # -P: modules in the working directory must not hide those of the environment.
        command = [sys.executable, "-P", "-m", "anemoi_house", "sync", str(self._spool.folder), "--until-end"]
        # For this user alone: what libraries print in a process that crashes is not searched for secrets.
        with open(
            self._spool.folder / "sender.log", "ab", opener=lambda path, flags: os.open(path, flags, 0o600)
        ) as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ, start_new_session=True
            )

    def _supervise(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            with suppress(OSError, ValueError):  # a full disk, for instance: the next look may succeed
                self._look()

    def _look(self) -> None:
        error = Pending(self._spool).error or ""
        if error and not self._reported:
            self._report(f"{error}. Training continues; its records are kept in {self._spool.folder} and sent later.")
        elif self._reported and not error:
            self._report("The tracking server is back; the kept records are being sent.")
        self._reported = error
        if self._process is not None and self._process.poll() is not None and self._starts < MOST_STARTS:
            self._launch()
