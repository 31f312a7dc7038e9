"""Whether a server has what was sent to it: asked before a run is called complete."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from anemoi_house.tracking.already_sent import comparable
from anemoi_house.tracking.records import is_valid
from anemoi_house.tracking.servers.base import MetricPoint, Server
from anemoi_house.tracking.spool import Spool


def lacking_rows(spool: Spool, server: Server, run_id: str, refused: Mapping[str, int]) -> str:
    """Return the first metric of which the server has fewer rows than the record; empty if there is none.

    Parameters
    ----------
    refused : mapping
        Rows of each metric that were set aside.
    """
    newest: dict[str, tuple[int, int]] = {}
    later: Counter[str] = Counter()
    others: defaultdict[str, set[object]] = defaultdict(set)
    for point in _points(spool):
        at = (point.step, point.time)
        if at > newest.get(point.key, (-(2**63), 0)):
            newest[point.key] = at
            later[point.key] += 1
        else:  # it may equal an earlier one, and equal rows are one
            others[point.key].add(comparable(point))
    for key, count in later.items():
        if key in others and not refused.get(key):
            had = {comparable(point) for point in server.history(run_id, key)}
            complete = len(had) >= count and others[key] <= had
        else:
            count -= refused.get(key, 0)
            complete = count <= 0 or server.has_rows(run_id, key, count)
        if not complete:
            return key
    return ""


def lacking_artifacts(server: Server, run_id: str, sizes: Mapping[str, int]) -> list[str]:
    """Return the artifacts that the server does not have, or not in this size."""
    lacking = []
    for folder in sorted({name.rpartition("/")[0] for name in sizes}):
        had = server.sizes(run_id, folder)
        if had is not None:
            ours = {name: size for name, size in sizes.items() if name.rpartition("/")[0] == folder}
            # Some stores do not say how large a file is.
            lacking += [name for name, size in ours.items() if name not in had or had[name] not in (size, None)]
    return lacking


def _points(spool: Spool) -> Iterable[MetricPoint]:
    for record in spool.records():
        data = record.data
        if data is not None and data["kind"] == "metrics" and is_valid(data):
            for key, value, at, step in data["rows"]:
                yield MetricPoint(key, float(value), int(at), int(step))
