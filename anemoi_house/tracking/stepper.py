"""One run on its way to one server, step by step; `sync` says when to take the steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking import lines
from anemoi_house.tracking.ledger import Ledger, sender_lock
from anemoi_house.tracking.lock import BusyError, HeartbeatLock
from anemoi_house.tracking.sender import Sender
from anemoi_house.tracking.servers import connect as servers
from anemoi_house.tracking.servers.base import Server
from anemoi_house.tracking.spool import Spool

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two attempts that fail; doubled each time."""


@dataclass
class Job:
    """What the runs of one command share.

    Parameters
    ----------
    to : str, optional
        Address of another server than the one that each run is meant for.
    from_start, retry_refused : bool
        Whether to send everything again, as a new run if the server has lost the first; what was set aside again.
    """

    to: str | None = None
    from_start: bool = False
    retry_refused: bool = False
    servers: dict[str, Server] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    """Servers that were given up, with the reason."""
    progress: lines.Progress = field(default_factory=lines.Progress)

    def target(self, spool: Spool) -> dict[str, Any]:
        """Return the server of a run, in the form of its `target.json`."""
        given = spool.target()
        uri = self.to or given.get("uri")
        if not uri:
            raise HouseError("it names no server; give one with --to URI")
        return servers.target(uri, given)

    def is_again(self, ledger: Ledger) -> bool:
        """Return whether the run of a ledger is to be sent again."""
        return self.from_start or (self.retry_refused and ledger.refused_count > 0)

    def server(self, target: dict[str, Any]) -> Server:
        """Return the connection to a server, the same one for all runs."""
        uri = target["uri"]
        if uri not in self.servers:
            self.servers[uri] = servers.connect(target)
        return self.servers[uri]


class Stepper:
    """Sends one run, and counts the failures in a row.

    Parameters
    ----------
    spool : Spool
    job : Job

    Attributes
    ----------
    sender : Sender or None
        None until the lock of the run is held.
    failures : int
        Failed steps since something was last sent.
    """

    def __init__(self, spool: Spool, job: Job) -> None:
        self.spool = spool
        self.sender: Sender | None = None
        self.failures = 0
        self._job = job
        self._lock: HeartbeatLock | None = None
        self._failed_at = -math.inf

    @property
    def pause_s(self) -> float:
        """Seconds between the last failure and the next attempt."""
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.failures - 1, 10)) if self.failures else 0.0

    @property
    def resting(self) -> bool:
        """Whether it is too early for the next attempt."""
        return time.monotonic() - self._failed_at < self.pause_s

    def open(self) -> Sender:
        """Return the sender, once the lock of the run is held; raise a BusyError while another process holds it."""
        if self.sender is None:
            target = self._job.target(self.spool)
            self._lock = sender_lock(self.spool, target["uri"])
            try:
                ledger = Ledger.of(self.spool, target["uri"])
                if self._job.is_again(ledger):
                    ledger.again(from_start=self._job.from_start).write()
                self.sender = Sender(self.spool, target["uri"], self._job.server(target))
            except BaseException:
                self.close()
                raise
        return self.sender

    def step(self, for_s: float = math.inf, flush: bool = False) -> bool:
        """Send until nothing is left, or for some time; return whether more is left.

        Parameters
        ----------
        for_s : float
        flush : bool
            Whether to end with the terminal output so far.

        Raises
        ------
        BusyError
            Another process is sending the run.
        HouseError, OSError
            The server failed, or the ledger cannot be written.
        """
        until = time.monotonic() + for_s
        try:
            sender = self.open()
            while sender.advance():
                self.failures = 0
                self._job.progress.show_sent(sender)
                if time.monotonic() > until:
                    return True
            if flush:
                sender.flush()
        except BusyError:
            raise
        except Exception:
            if self.sender is not None and self.sender.outdated:
                self.sender = Sender(self.spool, self.sender.ledger.uri, self.sender.server)
            self.failures += 1
            self._failed_at = time.monotonic()
            raise
        self.failures = 0
        return False

    def close(self) -> None:
        """Release the lock of the run."""
        if self._lock is not None:
            self._lock.release()
