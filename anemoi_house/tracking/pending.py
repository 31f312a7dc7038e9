"""What of a run its server does not have yet; asks no server."""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import cached_property

from anemoi_house.tracking.ledger import Ledger, ledger_path
from anemoi_house.tracking.spool import Spool


class Pending:
    """What of a run its server does not have; reads the ledger alone, until the records are asked for.

    Parameters
    ----------
    spool : Spool
    uri : str, optional
        Address of the server; by default the one that the run is meant for.

    Attributes
    ----------
    ledger : Ledger
    complete : bool
        Whether the server has everything, and says how the run ended.
    error : str or None
        Why the last attempt failed.
    attempted_at : float or None
        When that was, in s.
    """

    def __init__(self, spool: Spool, uri: str | None = None) -> None:
        self._spool = spool
        uri = uri or spool.target().get("uri") or ""
        self.ledger = Ledger.read(ledger_path(spool, uri), uri)
        size = spool.records_path.stat().st_size
        behind = self.ledger.offset < size
        self.complete = self.ledger.closed and (not behind or self.ledger.offset >= size - spool.torn())
        self.error: str | None = self.ledger.error["message"] if self.ledger.error else None
        self.attempted_at: float | None = self.ledger.error["at"] if self.ledger.error else None

    @property
    def records(self) -> int:
        """Records to send."""
        return self._left["records"]

    @property
    def rows(self) -> int:
        """Metric rows in them."""
        return self._left["rows"]

    @property
    def artifacts(self) -> int:
        """Artifacts among them."""
        return self._left["artifacts"]

    @cached_property
    def _left(self) -> Counter[str]:
        return left(self._spool, self.ledger.offset)


def pending(spool: Spool) -> Pending:
    """What the server that a run is meant for does not have yet."""
    return Pending(spool)


def left(spool: Spool, offset: int) -> Counter[str]:
    """Numbers of records, metric rows and artifacts from a byte of the spool on."""
    found: Counter[str] = Counter()
    for record in spool.records(offset):
        found["records"] += 1
        if record.data is not None:
            found["rows"] += len(record.data["rows"]) if record.data["kind"] == "metrics" else 0
            found["artifacts"] += record.data["kind"] == "artifact"
    return found


def ended(spool: Spool) -> bool:
    """Whether the last record of a spool is an end."""
    with spool.records_path.open("rb") as lines:
        size = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, size - 4096))
        tail = lines.read()
    last = tail[: tail.rfind(b"\n") + 1].rstrip(b"\n").rpartition(b"\n")[2]
    try:
        data = json.loads(last)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("kind") == "end"
