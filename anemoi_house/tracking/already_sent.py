"""Which metric points a server already has, for a sender whose ledger may say too little."""

from __future__ import annotations

from typing import Any

from anemoi_house.tracking.servers.base import MetricPoint, Server

_LARGEST_FLOAT = 1.7976931348623157e308


class AlreadySent:
    """Leaves out the points that a server already has; it is asked only while in doubt.

    Parameters
    ----------
    server : Server
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._doubting = self._throughout = False
        self._newest: dict[str, tuple[int, int]] | None = None
        self._newest_asked = False
        self._histories: dict[str, set[tuple[Any, ...]]] = {}
        self._missing_in_a_row = 0

    def doubt(self, throughout: bool = False) -> None:
        """Ask the server from here on: until it is clear that it has no more of the next points, or `throughout`."""
        self._doubting, self._throughout = True, self._throughout or throughout
        self._newest_asked = False
        self._histories = {}
        self._missing_in_a_row = 0

    def missing(self, run_id: str, points: list[MetricPoint]) -> list[MetricPoint]:
        """Return those of the points that the server does not have."""
        if not self._doubting:
            return points
        missing = []
        for point in points:
            if self._has(run_id, point):
                self._missing_in_a_row = 0
            else:
                missing.append(point)
                self._missing_in_a_row += 1
        # A call that the ledger misses starts where the ledger ends, and has no more points than this.
        if self._missing_in_a_row >= self._server.limits.metrics and not self._throughout:
            self._doubting = False
        return missing

    def _has(self, run_id: str, point: MetricPoint) -> bool:
        """Return whether the server has a point. Equal points are one, as in MLflow's database."""
        if not self._newest_asked:
            self._newest, self._newest_asked = self._server.newest(run_id), True
        if self._newest is not None and (point.step, point.time) > self._newest.get(point.key, (-(2**63), 0)):
            return False
        if point.key not in self._histories:
            self._histories[point.key] = set(map(comparable, self._server.history(run_id, point.key)))
        return comparable(point) in self._histories[point.key]


def comparable(point: MetricPoint) -> tuple[Any, ...]:
    """Return a point as servers keep it: their databases have no infinity, and NaN is equal to nothing."""
    if point.value != point.value:
        return point._replace(value=0.0), "NaN"
    return point._replace(value=max(-_LARGEST_FLOAT, min(_LARGEST_FLOAT, point.value))), ""
