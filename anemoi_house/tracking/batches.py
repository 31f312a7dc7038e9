"""Records of a spool in batches that fit into one call to a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from anemoi_house.tracking.records import Record, last_time, size_of
from anemoi_house.tracking.servers.base import Limits
from anemoi_house.tracking.spool import Spool

DAMAGED = "damaged"
"""Kind of a line that cannot be read, or that lacks a field of its kind."""
_MOST = 100


@dataclass
class Batch:
    """Records of one kind that follow each other."""

    kind: str
    records: list[dict[str, Any]]
    begins: list[int]
    """Byte at which each of them begins."""
    end: int
    size: int = 0
    """Metric rows, parameters or tags in them."""
    last: int | None = None
    """Time of the last of them in ms, if they have one."""

    @property
    def begin(self) -> int:
        """Byte at which the first begins."""
        return self.begins[0]

    def add(self, record: Record) -> None:
        """Append a record of the same kind."""
        assert record.data is not None
        self.records.append(record.data)
        self.begins.append(record.begin)
        self.end = record.end
        self.size += size_of(record.data)
        self.last = last_time(record.data, self.last)


class BatchReader:
    """Reads the next batch of a spool.

    Parameters
    ----------
    spool : Spool
    limits : Limits
        What one call may hold.
    """

    def __init__(self, spool: Spool, limits: Limits) -> None:
        self._spool = spool
        self._most = {"metrics": limits.metrics, "params": limits.params, "tags": limits.tags}
        self._most |= {"terminal": _MOST, "over": _MOST}
        self.restart()

    def restart(self) -> None:
        """Read from the offset of the next call again."""
        self._source: Iterator[Record] | None = None

    def next(self, offset: int) -> Batch | None:
        """Return the batch after the last one, or from `offset` on; None at the end of the spool."""
        first = self._take(offset)
        if first is None:
            return None
        if first.data is None:
            return Batch(DAMAGED, [], [first.begin], first.end)
        batch = Batch(first.data["kind"], [], [], first.end)
        batch.add(first)
        while batch.kind in self._most and (record := self._take(offset)) is not None:
            if not self._fits(batch, record):
                self._source = chain([record], self._source or ())
                break
            batch.add(record)
        return batch

    def _fits(self, batch: Batch, record: Record) -> bool:
        if record.data is None or record.data["kind"] != batch.kind:
            return False
        return batch.size + size_of(record.data) <= self._most[batch.kind]

    def _take(self, offset: int) -> Record | None:
        if self._source is None:
            self._source = self._spool.records(offset)
        record = next(self._source, None)
        if record is None:
            self._source = None
        return record
