"""The process that sends a run's records on while the training goes on.

It is a process, not a thread: a client of MLflow in the training's own process would hold Python's lock for
milliseconds at a time, and would be in the way of signals. It runs `anemoi-house sync RUN --until-end`, the user's own
command, and outlives a training that is killed for as long as it takes to say so at the server.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from anemoi_house.tracking.pending import Pending, pending
from anemoi_house.tracking.spool import Spool

LOOK_EVERY_S = 1.0
MOST_STARTS = 5


class Follower:
    """Starts the process, looks after it, and tells of outages.

    Parameters
    ----------
    folder : Path
        Folder of the run's spool.
    environ : mapping
        Environment of the process: that of the training before MLflow changed it.
    tell : callable
        Takes one line when the server is lost, and when it is back.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self._spool = Spool(folder)
        self._environ = dict(environ)
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._told = ""
        self._ending = threading.Event()

    def start(self) -> None:
        """Start the process, and the thread that looks after it."""
        self._launch()
        threading.Thread(target=self._look_after, name="spool-follower", daemon=True).start()

    def finish(self, wait_s: float) -> Pending:
        """Wait until everything is sent, the server is found to be away, or the time is over; then end the process.

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
        state = pending(self._spool)
        while not state.complete and time.monotonic() < deadline:
            if state.error and (state.attempted_at or 0) > asked:
                break  # tried once more since the run has ended, in vain
            if self._process is None or self._process.poll() is not None:
                break  # it could not be started: its log says why
            time.sleep(0.05)
            state = pending(self._spool)
        if self._process is not None and self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                # It ends by itself when all is sent. Its own record of what was sent survives the kill.
                self._process.wait(1.0 if state.complete else 0)
            self._process.kill()
            self._process.wait()
        self._process = None
        return pending(self._spool)

    def _launch(self) -> None:
        self._starts += 1
        # -P: modules of the user's folder are not to stand before those of the environment.
        command = [sys.executable, "-P", "-m", "anemoi_house", "sync", str(self._spool.folder), "--until-end"]
        with (self._spool.folder / "drain.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ, start_new_session=True
            )

    def _look_after(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            with suppress(
                OSError, ValueError
            ):  # a file that is being replaced, a disk that is full: the next look tells
                self._look()

    def _look(self) -> None:
        error = pending(self._spool).error or ""
        if error and not self._told:
            self._tell(f"{error}. Training goes on; what it says is kept in {self._spool.folder} and sent later.")
        elif self._told and not error:
            self._tell("The tracking server is back: what was kept is being sent.")
        self._told = error
        if self._process is not None and self._process.poll() is not None and self._starts < MOST_STARTS:
            self._launch()
