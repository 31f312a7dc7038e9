"""What of a run its server does not have yet, from the files alone; no server is asked."""

from __future__ import annotations

from collections import Counter
from functools import cached_property

from anemoi_house.tracking.ledger import Ledger
from anemoi_house.tracking.records import size_of
from anemoi_house.tracking.spool import Spool


class Pending:
    """What of a run its server does not have; reads the ledger, and the records only if their numbers are asked for.

    Parameters
    ----------
    spool : Spool
    uri : str, optional
        Address of the server; by default the one that the run is meant for.

    Attributes
    ----------
    ledger : Ledger
    complete : bool
        Whether the server has everything, and the final status of the run.
    error : str or None
        Why the last attempt failed.
    attempted_at : float or None
        Time of that attempt in s.
    """

    def __init__(self, spool: Spool, uri: str | None = None) -> None:
        self._spool = spool
        self.ledger = Ledger.of(spool, uri or spool.target().get("uri") or "")
        size = spool.size
        self.complete = self.ledger.closed and (self.ledger.offset >= size or self.ledger.offset >= size - spool.torn())
        error = self.ledger.error or {"message": None, "at": None}
        self.error: str | None = error["message"]
        self.attempted_at: float | None = error["at"]

    @cached_property
    def left(self) -> Counter[str]:
        """Numbers of `records`, metric `rows` and `artifacts` to send."""
        waiting = len(self.ledger.waiting)
        return counts(self._spool, self.ledger.offset) + Counter(records=waiting, artifacts=waiting)


def counts(spool: Spool, offset: int) -> Counter[str]:
    """Count the records, metric rows and artifacts from a byte of the spool on."""
    found: Counter[str] = Counter()
    for record in spool.records(offset):
        found["records"] += 1
        if record.data is not None:
            found["rows"] += size_of(record.data) if record.data["kind"] == "metrics" else 0
            found["artifacts"] += record.data["kind"] == "artifact"
    return found
