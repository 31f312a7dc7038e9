"""The run on a server to which the record of a run is sent: found again, adopted or created."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.ledger import Ledger, sender_lock
from anemoi_house.tracking.lock import BusyError
from anemoi_house.tracking.servers.base import CREATED_TAG, FORK_TAG, PARENT_TAG, RUN_TAG, RemoteRun, Server
from anemoi_house.tracking.servers.failures import GoneError
from anemoi_house.tracking.spool import Spool


class ServerRun:
    """The run on the server that belongs to a spool.

    The caller must hold the lock for both (`ledger.sender_lock`).

    Parameters
    ----------
    spool : Spool
    server : Server
    ledger : Ledger
    on_existing : callable
        Called when the run may have more than the ledger says.
    """

    def __init__(
        self, spool: Spool, server: Server, ledger: Ledger, on_existing: Callable[[], None] = lambda: None
    ) -> None:
        self._spool, self._server, self._ledger = spool, server, ledger
        self._on_existing = on_existing
        self._run: RemoteRun | None = None

    @property
    def known_id(self) -> str | None:
        """The server's id of the run, if it was asked for before."""
        return self._run.run_id if self._run else None

    def id(self) -> str:
        """Return the server's id of the run: that of the ledger, of a run with our tag, or of a new run."""
        if self._run is None:
            self._run = self._look_up()
        return self._run.run_id

    def check(self) -> None:
        """Raise a GoneError if the run was deleted; otherwise the server refused only the record itself."""
        run_id, self._run = self.id(), None
        self._run = self._existing(self._server.run(run_id))

    def set_running(self) -> None:
        """Set the status of the run to RUNNING, unless the spool already has its end."""
        run_id = self.id()
        self._ledger.closed = False
        if self._ledger.status != "RUNNING" and not self._ledger.session_end and not self._spool.ended():
            self._server.set_status(run_id, "RUNNING")
            self._ledger.status = "RUNNING"

    def set_ended(self, status: str, time_ms: int) -> None:
        """Set the final status of the run."""
        self._server.set_status(self.id(), status, time_ms)
        self._ledger.status = status

    def name_parents(self, start: Mapping[str, Any]) -> None:
        """Set the tags of the parents that a restart names."""
        if tags := self._lineage(start):
            self._server.set_tags(self.id(), tags)

    def name_missing_parents(self) -> None:
        """Name the run's parents again if the server did not have them at the start."""
        for tag, run_id in list(self._ledger.lineage.items()):
            found, known = self._id_of(run_id)
            if known:
                self._server.set_tags(self.id(), {tag: found})
                del self._ledger.lineage[tag]

    def _look_up(self) -> RemoteRun:
        ledger, start = self._ledger, self._spool.start()
        if not start:
            raise HouseError(
                f"{self._spool.folder}: cannot be sent, as no record of its start can be read. Restore "
                "records.jsonl from a copy."
            )
        if ledger.run_id:
            run = self._existing(self._server.run(ledger.run_id))
        else:
            run = self._adopt(start) or self._find_or_create(start)
        if ledger.run_id != run.run_id:
            ledger.run_id, ledger.experiment_id, ledger.creating = run.run_id, run.experiment_id, None
        ledger.status = run.status
        ledger.write()
        return run

    def _existing(self, run: RemoteRun | None) -> RemoteRun:
        if run is None or run.deleted:
            raise GoneError(
                f"the run was deleted on {self._server.name} and is not created again; restore it there, or send it as "
                f"a new run: anemoi-house sync --from-start {self._spool.folder}"
            )
        self._on_existing()
        return run

    def _adopt(self, start: Mapping[str, Any]) -> RemoteRun | None:
        """Return the run that the server had before the training began, such as that of a job in Azure ML."""
        run = self._server.run(start["server_run"]) if start.get("server_run") else None
        if run is not None and run.deleted and self._ledger.from_start:
            return None
        if run is not None:
            self._existing(run)
            self._server.set_tags(run.run_id, {RUN_TAG: self._spool.run_id, **self._lineage(start)})
        return run

    def _find_or_create(self, start: Mapping[str, Any]) -> RemoteRun:
        run_id = self._spool.run_id
        experiment_id = self._server.experiment(start["experiment"])
        if (before := self._choose(self._server.find(run_id, experiment_id))) is not None:
            self._on_existing()
            return before
        # The mark is written first: after a kill, the run that carries it is known to be ours.
        self._ledger.creating = f"{time.time_ns() // 1_000_000}-{os.urandom(4).hex()}"
        self._ledger.write()
        tags = {RUN_TAG: run_id, CREATED_TAG: self._ledger.creating, **self._lineage(start)}
        created = self._server.create(experiment_id, start["run_name"], start["t"], tags)
        # Another process with a copy of the folder may have created one in the meantime.
        found = self._server.find(run_id, experiment_id)
        if all(run.run_id != created.run_id for run in found):
            found.append(created)
        chosen = self._choose(found) or created
        if chosen.run_id != created.run_id or chosen.used:
            self._on_existing()
        return chosen

    def _choose(self, found: Sequence[RemoteRun]) -> RemoteRun | None:
        """Return the first of the runs with our tag, and discard further ones that we have created."""
        active = sorted((run for run in found if not run.deleted), key=_precedence)
        if not active:
            return self._existing(found[0]) if found and not self._ledger.from_start else None
        for run in active[1:]:
            if self._ledger.creating and run.tags.get(CREATED_TAG) == self._ledger.creating:
                self._server.discard(run.run_id)
        return active[0]

    def _lineage(self, start: Mapping[str, Any]) -> dict[str, str]:
        """Return tags for the runs that this one continues, or was forked from."""
        tags: dict[str, str] = {}
        for tag, run_id in ((PARENT_TAG, start.get("parent")), (FORK_TAG, start.get("fork_of"))):
            if run_id:
                tags[tag], known = self._id_of(run_id)
                if known:
                    self._ledger.lineage.pop(tag, None)
                else:
                    self._ledger.lineage[tag] = run_id
        return tags

    def _id_of(self, run_id: str) -> tuple[str, bool]:
        """Return the server's id of another run and True; if the server has no such run, the given id and False."""
        other, uri = Spool(self._spool.folder.resolve().parent / run_id), self._ledger.uri
        if other.records_path.is_file() and other.run_id != self._spool.run_id:
            with suppress(BusyError, GoneError), sender_lock(other, uri):
                return ServerRun(other, self._server, Ledger.of(other, uri)).id(), True
            if sent := Ledger.of(other, uri).run_id:
                return sent, True
        found = [run for run in self._server.find(run_id) if not run.deleted]
        if found:
            return min(found, key=_precedence).run_id, True
        return run_id, self._server.run(run_id) is not None


def _precedence(run: RemoteRun) -> tuple[bool, int, str]:
    """Return the key that sorts the runs of one spool: one that is in use comes first, then the oldest.

    One that we did not create counts as the oldest. The mark alone is not enough: between its mark and its creation, a
    run may be overtaken by that of another process, which has used it since.
    """
    created = run.tags.get(CREATED_TAG, "0").partition("-")[0]
    return not run.used, int(created) if created.isdigit() else 0, run.run_id
