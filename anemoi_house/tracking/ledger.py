"""What a server has of a run: `sent/SLUG.json` in the run's spool, one file for each server."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.files import write_whole
from anemoi_house.tracking.lock import BusyError, HeartbeatLock
from anemoi_house.tracking.spool import Spool

FOLDER = "sent"
MOST_REFUSED = 100
"""Refused records that are listed one by one."""


@dataclass
class Ledger:
    """How much of a spool a server has.

    A ledger that is lost, or older than what the server has, costs some questions to the server; no row is sent twice.

    Attributes
    ----------
    path : Path
        File of the ledger.
    uri : str
        Address of the server.
    run_id, experiment_id : str or None
        The server's own ids.
    creating : str or None
        Mark of the run that is being created, by which an unfinished attempt is known to be ours.
    offset : int
        Byte of `records.jsonl` up to which the server has everything.
    rows : int
        Metric rows before that byte.
    artifacts : int
        Artifact records before that byte.
    terminal_sent, terminal_parts : int
        Bytes of the terminal output that are sent, and the number of files that hold them.
    over_sent : int
        Records of what went over a limit that are in an artifact.
    status : str or None
        Of the run on the server.
    session_end : dict or None
        Time and status of the last `end`, unless another `start` follows it.
    closed : bool
        Whether everything up to `offset` is sent and the server has the final status of the run.
    last : int or None
        Time of the last record before `offset`, in ms.
    lineage : dict
        Tags for the run's parents that hold a local id because the server has no run of that id yet.
    refused_at : list of int
        Bytes at which the artifacts begin that the server refused.
    refused : list of dict
        The first records that the server refused for good, with its reason.
    refused_count, damaged : int
        Number of refused records, and of lines of the spool that cannot be read.
    refused_rows : dict
        Number of refused rows of each metric.
    waiting : list of int
        Bytes at which the records of artifacts begin that could not be sent, while what follows them was.
    from_start : bool
        Whether the run is sent again from its start: to a new run, if the server has lost the first or deleted it.
    in_doubt : bool
        Whether the server may lack anything before `offset`, so that it is asked about each row.
    error : dict or None
        The last failure: `message`, `since`, `at` (times in s). None if the last call succeeded.
    updated : float
        Time in s.
    """

    path: Path
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
    refused_at: list[int] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    refused_count: int = 0
    damaged: int = 0
    refused_rows: dict[str, int] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    from_start: bool = False
    in_doubt: bool = False
    error: dict[str, Any] | None = None
    updated: float = 0.0

    @classmethod
    def of(cls, spool: Spool, uri: str) -> Ledger:
        """Read the ledger of a run for a server; an empty one if there is none, or none that can be read."""
        path = ledger_path(spool, uri)
        known = {one.name for one in fields(cls)}
        try:
            found = json.loads(path.read_bytes())
            return cls(**{key: value for key, value in found.items() if key in known} | {"path": path, "uri": uri})
        except (FileNotFoundError, ValueError, AttributeError, TypeError):
            return cls(path, uri)

    def write(self) -> None:
        """Write the ledger to its file, whole or not at all."""
        self.updated = time.time()
        content = asdict(self)
        del content["path"]
        write_whole(self.path, json.dumps(content))

    def refuse(self, offset: int, what: str, reason: str) -> None:
        """Note a record that the server refuses for good."""
        self.refused_count += 1
        if len(self.refused) < MOST_REFUSED:
            self.refused.append({"offset": offset, "what": what, "reason": reason})

    def again(self, from_start: bool = False) -> Ledger:
        """Return the ledger with which everything is sent again; what the server has is asked for, and left out."""
        kept = (
            {} if from_start else {"run_id": self.run_id, "experiment_id": self.experiment_id, "lineage": self.lineage}
        )
        return Ledger(self.path, self.uri, from_start=from_start, in_doubt=True, **kept)  # type: ignore[arg-type]

    def fail(self, message: str) -> None:
        """Write a failure down."""
        now = time.time()
        self.error = {"message": message, "since": self.error["since"] if self.error else now, "at": now}
        self.write()


def ledger_path(spool: Spool, uri: str) -> Path:
    """Return the file of the ledger of a run for a server."""
    return spool.folder / FOLDER / f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"


def ledgers(spool: Spool) -> list[Ledger]:
    """Read the ledgers of all servers that a run was sent to, or is meant for."""
    uris = []
    for path in sorted((spool.folder / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            uris.append(json.loads(path.read_bytes())["uri"])
    uris += filter(None, [spool.target().get("uri")])
    return [Ledger.of(spool, uri) for uri in dict.fromkeys(uris)]


def sender_lock(spool: Spool, uri: str) -> HeartbeatLock:
    """Take the lock that keeps other processes from sending the same run to the same server.

    Raises
    ------
    BusyError
        Another process is sending it; the message names it.
    HouseError
        The folder of the ledger cannot be written to.
    """
    path = ledger_path(spool, uri).with_suffix(".lock")
    try:
        path.parent.mkdir(exist_ok=True)
        return HeartbeatLock(path)
    except BusyError as busy:
        raise BusyError(f"{busy} is sending it") from None
    except OSError as refused:
        raise HouseError(
            f"{path.parent}: cannot be written to ({refused.strerror}), so what is sent cannot be noted. Copy the "
            "run's folder to where you may write, and sync the copy."
        ) from None
