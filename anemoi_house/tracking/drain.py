"""Sends the record of a run to a server: in order, each thing once, from wherever an earlier attempt has come to.

The order of the spool is the order on the server, so what a server has is always the beginning of the spool; the
ledger says how long a beginning. It may say too little: after a call whose answer was lost, after a kill, in an older
copy of the folder, or in a copy without a ledger. In all these cases the drain asks the server which of the next
metric rows are there, and leaves those out; everything else can be sent again without a trace.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.ledger import BusyError, Ledger, SyncLock, ledger_path
from anemoi_house.tracking.pending import ended
from anemoi_house.tracking.servers.failures import ExistsError, GoneError, RefusedError, UnavailableError, one_line
from anemoi_house.tracking.servers.mlflow import CREATED_TAG, FORK_TAG, PARENT_TAG, RUN_TAG, RemoteRun, Row, Server
from anemoi_house.tracking.spool import Record, Spool

TERMINAL_EVERY_S = 30.0
"""Between two copies of the terminal output, on a server that overwrites the one before."""
PART_BYTES = 256 * 1024
PART_EVERY_S = 15 * 60.0
"""Size and age at which a part of the terminal output is sent, where nothing is overwritten."""
QUIET_S = 1.0
"""Silence after an end that makes it plain that nothing follows it."""
HOPELESS = 3
"""Refusals of one row alone after which others like it are no more tried one by one."""
TERMINAL, TERMINAL_PART, OVER = "terminal_log.txt", "terminal/{:03d}.txt", "over_limits.json"
_METRICS = b'{"kind":"metrics"'
_BATCHED = {"metrics", "params", "tags", "terminal", "over"}
_LARGEST_FLOAT = 1.7976931348623157e308


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
    """Time of the last of them in ms, where they tell."""

    @property
    def begin(self) -> int:
        """Byte at which the first begins."""
        return self.begins[0]


@dataclass
class _Present:
    """What a server has of a run's metrics, asked for when it is wanted."""

    server: Server
    run_id: str
    rows: dict[str, set[tuple[Any, ...]]] = field(default_factory=dict)

    @cached_property
    def newest(self) -> dict[str, tuple[int, int]] | None:
        return self.server.newest(self.run_id)

    def has(self, row: Row) -> bool:
        """Whether the server has this row. Rows that agree in all four are one, as in MLflow's database."""
        key, _, at, step = row
        if self.newest is not None and (step, at) > self.newest.get(key, (-(2**63), 0)):
            return False
        if key not in self.rows:
            self.rows[key] = set(map(_comparable, self.server.history(self.run_id, key)))
        return _comparable(row) in self.rows[key]


class Drain:
    """Sends one run to one server.

    Whoever makes one holds the `SyncLock` of the two.

    Parameters
    ----------
    spool : Spool
    uri : str
        Address of the server, which names the ledger.
    server : Server
    """

    def __init__(self, spool: Spool, uri: str, server: Server) -> None:
        self.spool, self.uri, self.server = spool, uri, server
        self.path = ledger_path(spool, uri)
        self.ledger = Ledger.read(self.path, uri)
        if self.ledger.offset > self._size():  # of another spool, or from a later copy of this one
            self.ledger = Ledger(uri, run_id=self.ledger.run_id, experiment_id=self.ledger.experiment_id)
        self._source: Iterator[Record] | None = None
        self._held: Record | None = None
        self._run: RemoteRun | None = None
        self._present: _Present | None = None
        self._absent_in_a_row = 0
        self._terminal = bytearray()
        self._terminal_at = time.monotonic()
        self._over: list[dict[str, Any]] = []
        self._names: Counter[str] = Counter()
        self._refusals: Counter[tuple[str, bool]] = Counter()
        self._doubting = False
        self._newest: dict[str, int] = {}
        self._read_ahead()

    @property
    def at_end(self) -> bool:
        """Whether every complete record is sent; a file may still be due."""
        return self.ledger.offset >= self._size() - self.spool.torn()

    def advance(self) -> bool:
        """Send the next few records; False if there is nothing to send now.

        Raises
        ------
        UnavailableError
            The server cannot be reached, or does not answer as it should. Calling again is safe.
        GoneError
            The run was deleted on the server.
        """
        try:
            batch = self._next()
            busy = self._send(batch) if batch is not None else self._close()
        except BaseException as failure:
            self._source = self._held = None  # from the ledger on
            if isinstance(failure, HouseError):
                self.ledger.failed(one_line(str(failure)))
                self._write()
            raise
        if self.ledger.error is not None:
            self.ledger.error = None
            self._write()
        return busy

    def flush(self) -> None:
        """Send the terminal output so far, where a later copy can take its place."""
        if self._run is not None and self.server.overwrites:
            self._send_terminal(final=True)

    def ensure_run(self) -> str:
        """The server's id of the run, which is made there if it is not yet."""
        return self._at_server().run_id

    # The run

    def _at_server(self) -> RemoteRun:
        """The server's run: that of the ledger, one with our tag, or a new one."""
        if self._run is not None:
            return self._run
        start = self._first_start()
        if self.ledger.run_id:
            run = self._existing(self.server.run(self.ledger.run_id))
        else:
            run = self._adopt(start) or self._find_or_create(start)
        if self.ledger.run_id != run.run_id:
            self.ledger.run_id, self.ledger.experiment_id, self.ledger.creating = run.run_id, run.experiment_id, None
        self.ledger.status = run.status
        self._write()
        self._run = run
        return run

    def _existing(self, run: RemoteRun | None) -> RemoteRun:
        if run is None or run.deleted:
            raise GoneError(
                f"the run was deleted on {self.server.name}, and is not made again; restore it there, "
                f"or remove {self.path} and the tag {RUN_TAG} of the deleted run to send it anew"
            )
        self._doubt()
        return run

    def _adopt(self, start: Mapping[str, Any]) -> RemoteRun | None:
        """The run that the server had before the training began, such as that of a job in Azure ML."""
        if not start.get("server_run"):
            return None
        run = self.server.run(start["server_run"])
        if run is None:
            return None
        self._existing(run)
        self.server.set_tags(run.run_id, {RUN_TAG: self.spool.run_id, **self._lineage(start)})
        return run

    def _find_or_create(self, start: Mapping[str, Any]) -> RemoteRun:
        experiment_id = self.server.experiment(start["experiment"])
        if (before := self._chosen(self.server.find(self.spool.run_id, experiment_id))) is not None:
            self._doubt()
            return before
        # The mark comes first: after a kill, the run that carries it is known to be ours.
        self.ledger.creating = f"{time.time_ns() // 1_000_000}-{os.urandom(4).hex()}"
        self._write()
        tags = {RUN_TAG: self.spool.run_id, CREATED_TAG: self.ledger.creating, **self._lineage(start)}
        made = self.server.create(experiment_id, start["run_name"], start["t"], tags)
        # Somebody with a copy of the folder may have done the same meanwhile.
        found = self.server.find(self.spool.run_id, experiment_id)
        if all(run.run_id != made.run_id for run in found):
            found.append(made)
        chosen = self._chosen(found) or made
        if chosen.run_id != made.run_id or chosen.used:
            self._doubt()
        return chosen

    def _chosen(self, found: Sequence[RemoteRun]) -> RemoteRun | None:
        """The oldest run of those with our tag; further ones that are ours are taken away."""
        active = sorted((run for run in found if not run.deleted), key=_age)
        if not active:
            return self._existing(found[0]) if found else None
        for run in active[1:]:
            if self.ledger.creating and run.tags.get(CREATED_TAG) == self.ledger.creating:
                self.server.discard(run.run_id)
        return active[0]

    def _first_start(self) -> dict[str, Any]:
        """The first record that says what run this is."""
        records = (record.data for record in self.spool.records() if record.data is not None)
        for data in records:
            if data["kind"] == "start" and _is_whole(data):
                return data
        raise UnavailableError(f"{self.spool.folder}: no record says which run this is", 1)

    def _lineage(self, start: Mapping[str, Any]) -> dict[str, str]:
        """Tags for the run that this one goes on with, or begins from."""
        given = {PARENT_TAG: start.get("parent"), FORK_TAG: start.get("fork_of")}
        tags: dict[str, str] = {}
        for tag, run_id in given.items():
            if run_id:
                tags[tag], known = self._at_the_server(run_id)
                if known:
                    self.ledger.lineage.pop(tag, None)
                else:
                    self.ledger.lineage[tag] = run_id
        return tags

    def _at_the_server(self, run_id: str) -> tuple[str, bool]:
        """The server's id of another run, and whether there is one; if not, the id as it was given."""
        other = Spool(self.spool.folder.resolve().parent / run_id)
        if other.records_path.is_file() and other.run_id != self.spool.run_id:
            with suppress(BusyError, GoneError), SyncLock(other, self.uri):
                return Drain(other, self.uri, self.server).ensure_run(), True
            if sent := Ledger.read(ledger_path(other, self.uri), self.uri).run_id:
                return sent, True
        found = [run for run in self.server.find(run_id) if not run.deleted]
        if found:
            return min(found, key=_age).run_id, True
        return run_id, self.server.run(run_id) is not None

    # Records

    def _next(self) -> Batch | None:
        """The next records that can go in one piece; None at the end of the spool."""
        batch: Batch | None = None
        while (record := self._take()) is not None:
            if record.data is None:
                if batch is None:
                    batch = Batch("damaged", [], [record.begin], record.end)
                    break
                self._held = record
                break
            kind = record.data["kind"]
            size = _size_of(record.data)
            if batch is None:
                batch = Batch(kind, [], [], record.end)
            elif kind != batch.kind or batch.size + size > self._most(kind):
                self._held = record
                break
            batch.records.append(record.data)
            batch.begins.append(record.begin)
            batch.size, batch.end = batch.size + size, record.end
            batch.last = _time_of(record.data, batch.last)
            if kind not in _BATCHED:
                break
        return batch

    def _take(self) -> Record | None:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        if self._source is None:
            self._source = self.spool.records(self.ledger.offset)
        record = next(self._source, None)
        if record is None:
            self._source = None
        elif record.data is not None and not _is_whole(record.data):
            return record._replace(data=None)
        return record

    def _most(self, kind: str) -> int:
        return int(getattr(self.server.limits, kind, 100))

    def _send(self, batch: Batch) -> bool:
        run = self._at_server()
        if batch.kind == "start":
            self._restart(run, batch.records[0])
        elif batch.kind == "end":
            self._end(run, batch.records[0])
        else:
            self._goes_on(run)
            getattr(self, f"_send_{batch.kind}", self._send_unknown)(run, batch)
        self.ledger.offset = batch.end
        self.ledger.rows += batch.size if batch.kind == "metrics" else 0
        self.ledger.artifacts += batch.kind == "artifact"
        self.ledger.last = batch.last or self.ledger.last
        self._write()
        self._send_terminal(final=False)
        return True

    def _restart(self, run: RemoteRun, start: Mapping[str, Any]) -> None:
        self.ledger.session_end = None
        self._goes_on(run)
        # The first start's are set when the run is made; where its parents were away then, this is another chance.
        if start.get("session", 0) > 0 and (tags := self._lineage(start)):
            self.server.set_tags(run.run_id, tags)

    def _goes_on(self, run: RemoteRun) -> None:
        """Let the server say that the run goes on, unless its end is in the spool already."""
        self.ledger.closed = False
        if self.ledger.status != "RUNNING" and not self.ledger.session_end and not ended(self.spool):
            self.server.set_status(run.run_id, "RUNNING")
            self.ledger.status = "RUNNING"

    def _end(self, run: RemoteRun, end: Mapping[str, Any]) -> None:
        self._finish(run, end["status"], end["t"])
        self.ledger.session_end = {"status": end["status"], "t": end["t"]}

    def _finish(self, run: RemoteRun, status: str, at: int) -> None:
        """Send what waits for an end, and say how the run has ended."""
        self._send_terminal(final=True)
        self._send_over(run)
        self._send_lineage(run)
        self.server.set_status(run.run_id, status, at)
        self.ledger.status, self.ledger.closed = status, True

    def _close(self) -> bool:
        """At the end of the spool: send what is due, and bring a run to its end whose writer is gone without one."""
        if not self.ledger.offset:
            return False
        if self.ledger.closed:
            if self.ledger.lineage:
                self._send_lineage(self._at_server())
            return False
        alive = self.spool.writer_alive()
        if not self.at_end:
            return True  # written since
        run = self._at_server()
        if alive and not (self.ledger.session_end and self._quiet_s() > QUIET_S):
            self._send_terminal(final=False)
            return False
        end = self.ledger.session_end or {"status": "KILLED", "t": self.ledger.last or self._first_start()["t"]}
        self._finish(run, end["status"], end["t"])
        self._write()
        return False

    # Kinds of records

    def _send_metrics(self, run: RemoteRun, batch: Batch) -> None:
        rows = [
            (key, float(value), int(at), int(step)) for data in batch.records for key, value, at, step in data["rows"]
        ]
        most = self.server.limits.metrics
        for begin in range(0, len(rows), most):
            self._log_rows(run, rows[begin : begin + most], batch.begin)

    def _log_rows(self, run: RemoteRun, rows: list[Row], offset: int) -> None:
        absent = self._absent(rows)
        hopeless = [row for row in absent if self._refusals[_alike(row)] >= HOPELESS]
        others = [row for row in absent if self._refusals[_alike(row)] < HOPELESS]
        for part in filter(None, (others, hopeless)):
            try:
                self.server.log_metrics(run.run_id, part)
            except RefusedError as refused:
                self._doubt()
                if part is hopeless:
                    for row in part:
                        self.ledger.refuse(offset, _told_row(row), str(refused))
                    continue
                self._refusals[_alike(part[0])] += len(part) == 1
                self._part(part, refused, offset, lambda rest: self._log_rows(run, rest, offset), _told_row)
            except BaseException:
                self._doubt()
                raise

    def _send_params(self, run: RemoteRun, batch: Batch) -> None:
        pairs = [pair for data in batch.records for pair in data["values"].items()]
        self._log_pairs("parameter", self.server.log_params, self.server.limits.params, run, pairs, batch.begin)

    def _send_tags(self, run: RemoteRun, batch: Batch) -> None:
        values: dict[str, str] = {}
        for begin, data in zip(batch.begins, batch.records):
            values.update({key: value for key, value in data["values"].items() if self._is_newest(f"tag {key}", begin)})
        self._log_pairs("tag", self.server.set_tags, self.server.limits.tags, run, list(values.items()), batch.begin)

    def _log_pairs(
        self,
        what: str,
        log: Callable[[str, dict[str, str]], None],
        most: int,
        run: RemoteRun,
        pairs: list[tuple[str, str]],
        offset: int,
    ) -> None:
        def send(part: list[tuple[str, str]]) -> None:
            try:
                log(run.run_id, dict(part))
            except RefusedError as refused:
                self._part(part, refused, offset, send, lambda pair: f"{what} {pair[0]}")

        while pairs:
            part: dict[str, str] = {}
            rest = []
            for key, value in pairs:
                # A key with two values is two calls, so that the server says what it thinks of the second.
                if len(part) < most and part.get(key, value) == value:
                    part[key] = value
                else:
                    rest.append((key, value))
            send(list(part.items()))
            pairs = rest

    def _part(
        self,
        items: list[Any],
        refused: RefusedError,
        offset: int,
        send: Callable[[list[Any]], None],
        told: Callable[[Any], str],
    ) -> None:
        """Send what was refused together in two parts, down to the one thing that the server does not take."""
        self._check_alive()
        if len(items) == 1:
            self.ledger.refuse(offset, told(items[0]), str(refused))
            return
        middle = len(items) // 2
        send(items[:middle])
        send(items[middle:])

    def _check_alive(self) -> None:
        """Tell a server that does not take something from one that does not take anything for this run any more."""
        assert self._run is not None
        run_id, self._run = self._run.run_id, None
        self._run = self._existing(self.server.run(run_id))

    def _send_artifact(self, run: RemoteRun, batch: Batch) -> None:
        (data,) = batch.records
        if self.server.overwrites and not self._is_newest(f"artifact {data['path']}", batch.begin):
            return
        local = self.spool.folder / data["file"]
        if wrong := self._wrong_with(data):
            self.ledger.refuse(batch.begin, f"artifact {data['path']}", wrong)
            return
        try:
            self._upload(run, local, data["path"], data["sha256"])
        except RefusedError as refused:
            self._check_alive()
            self.ledger.refuse(batch.begin, f"artifact {data['path']}", str(refused))

    def _wrong_with(self, data: Mapping[str, Any]) -> str:
        """What is wrong with the file of an artifact; empty if nothing is."""
        try:
            size = (self.spool.folder / data["file"]).stat().st_size
        except OSError as missing:
            return f"{data['file']}: {missing.strerror}"
        return "" if size == data["size"] else f"{data['file']} is damaged"

    def _upload(self, run: RemoteRun, local: Path, path: str, digest: str) -> None:
        """Send a file; where names are never used again, under the first of its names that is free."""
        if self.server.overwrites:
            self.server.upload(run.run_id, local, path)
            return
        while True:
            name = numbered(path, self._names[path] + 1)
            try:
                self.server.upload(run.run_id, local, name)
            except ExistsError:
                content = self.server.artifact(run.run_id, name)
                if content is None or hashlib.sha256(content).hexdigest() != digest:
                    self._names[path] += 1
                    continue
            self._names[path] += 1
            return

    def _send_terminal(self, run: RemoteRun | None = None, batch: Batch | None = None, *, final: bool = False) -> None:
        """Take in what was printed, or send what of it is due."""
        if batch is not None:
            for data in batch.records:
                self._terminal += str(data["text"]).encode(errors="replace")
            return
        if self._run is None or len(self._terminal) <= self.ledger.terminal_sent:
            return
        age_s = time.monotonic() - self._terminal_at
        if self.server.overwrites:
            if final or age_s >= TERMINAL_EVERY_S:
                self._upload_bytes(self._run, bytes(self._terminal), TERMINAL)
                self.ledger.terminal_sent = len(self._terminal)
                self._terminal_at = time.monotonic()
                self._write()
            return
        while (waiting := len(self._terminal) - self.ledger.terminal_sent) > 0:
            if not (final or waiting >= PART_BYTES or age_s >= PART_EVERY_S):
                return
            self._send_part(self._run)
            self._terminal_at = time.monotonic()
            self._write()

    def _send_part(self, run: RemoteRun) -> None:
        """Send the next part of the terminal output, or take note that it is there."""
        rest = bytes(self._terminal[self.ledger.terminal_sent :])
        part = _whole_lines(rest, PART_BYTES)
        name = TERMINAL_PART.format(self.ledger.terminal_parts)
        try:
            self._put_bytes(run, part, name)
        except ExistsError:
            part = self.server.artifact(run.run_id, name) or b""
            if not rest.startswith(part):
                part = b""  # of something else: the next number
        self.ledger.terminal_parts += 1
        self.ledger.terminal_sent += len(part)

    def _send_over(self, run: RemoteRun, batch: Batch | None = None) -> None:
        """Take in what went over a limit, or send the list of it."""
        if batch is not None:
            self._over += batch.records
            return
        if len(self._over) > self.ledger.over_sent:
            listed = [{key: value for key, value in each.items() if key != "kind"} for each in self._over]
            self._upload_bytes(run, json.dumps(listed, indent=1, ensure_ascii=False).encode(), OVER)
            self.ledger.over_sent = len(self._over)

    def _send_damaged(self, run: RemoteRun, batch: Batch) -> None:
        self.ledger.damaged += 1

    def _send_unknown(self, run: RemoteRun, batch: Batch) -> None:
        """A kind of record of a later version of this package."""
        self.ledger.refuse(batch.begin, batch.kind, "this version of anemoi-house does not know such records")

    def _send_lineage(self, run: RemoteRun) -> None:
        """Name the run's parents again where the server did not have them at the start."""
        for tag, run_id in list(self.ledger.lineage.items()):
            found, known = self._at_the_server(run_id)
            if known:
                self.server.set_tags(run.run_id, {tag: found})
                del self.ledger.lineage[tag]

    def _upload_bytes(self, run: RemoteRun, content: bytes, path: str) -> None:
        with _as_file(content) as local:
            self._upload(run, local, path, hashlib.sha256(content).hexdigest())

    def _put_bytes(self, run: RemoteRun, content: bytes, name: str) -> None:
        with _as_file(content) as local:
            self.server.upload(run.run_id, local, name)

    # What is there already

    def _doubt(self) -> None:
        """From here on, ask the server what it has, until that is plain."""
        self._present, self._absent_in_a_row = None, 0
        self._doubting = True

    def _absent(self, rows: list[Row]) -> list[Row]:
        """Those of the rows that the server does not have."""
        if not self._doubting:
            return rows
        if self._present is None:
            assert self._run is not None
            self._present = _Present(self.server, self._run.run_id)
        absent = []
        for row in rows:
            if self._present.has(row):
                self._absent_in_a_row = 0
            else:
                absent.append(row)
                self._absent_in_a_row += 1
        # A call that was carried out and not noted begins where the ledger ends, and has no more rows than this.
        if self._absent_in_a_row >= self.server.limits.metrics:
            self._doubting, self._present = False, None
        return absent

    def _read_ahead(self) -> None:
        """Read what the spool has but metrics.

        Up to the ledger's end: what later files are made of, and which names were used. In all of it: where each tag
        and each file stands for the last time. What is replaced further on is not sent: it could only take the place
        of something newer that another copy of the spool has sent already.
        """
        with self.spool.records_path.open("rb") as lines:
            at = 0
            for line in lines:
                begin, at = at, at + len(line)
                if line.endswith(b"\n") and not line.startswith(_METRICS):
                    with suppress(ValueError, KeyError, TypeError, AttributeError):
                        self._take_in(json.loads(line), begin, sent=at <= self.ledger.offset)

    def _take_in(self, data: dict[str, Any], begin: int, sent: bool) -> None:
        match data["kind"]:
            case "terminal" if sent:
                self._terminal += data["text"].encode(errors="replace")
            case "over" if sent:
                self._over.append(data)
            case "tags":
                self._newest.update({f"tag {key}": begin for key in data["values"]})
            case "artifact" if _is_whole(data) and not self._wrong_with(data):
                self._newest[f"artifact {data['path']}"] = begin
                self._names[data["path"]] += sent

    def _is_newest(self, what: str, begin: int) -> bool:
        return begin >= self._newest.get(what, begin)

    def _size(self) -> int:
        return self.spool.records_path.stat().st_size

    def _quiet_s(self) -> float:
        return time.time() - self.spool.records_path.stat().st_mtime

    def _write(self) -> None:
        self.ledger.write(self.path)


def numbered(path: str, number: int) -> str:
    """The path for the first time, `plots/a.2.png` for the second."""
    if number == 1:
        return path
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{pure.stem}.{number}{pure.suffix}"))


def _is_whole(data: dict[str, Any]) -> bool:
    """Whether a record has what belongs to its kind; a disk may give back something else than it was given."""
    try:
        match data["kind"]:
            case "metrics":
                return all(
                    len(row) == 4 and (str(row[0]), float(row[1]), int(row[2]), int(row[3])) for row in data["rows"]
                )
            case "params" | "tags":
                return all(isinstance(value, str) for value in data["values"].values())
            case "artifact":
                # Files of the spool alone: one that comes from elsewhere is not to name others of this machine.
                folder, name = PurePosixPath(data["file"]).parts
                return folder == "artifacts" and name != ".." and all(map(data.get, ("path", "sha256")))
            case "start":
                return isinstance(data["t"], int) and all(map(data.get, ("run_name", "experiment")))
            case "end":
                return isinstance(data["t"], int) and data["status"] in ("FINISHED", "FAILED", "KILLED")
            case "terminal":
                return isinstance(data["text"], str)
            case _:
                return True
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _size_of(data: dict[str, Any]) -> int:
    match data["kind"]:
        case "metrics":
            return len(data["rows"])
        case "params" | "tags":
            return len(data["values"])
        case _:
            return 0


def _time_of(data: dict[str, Any], before: int | None) -> int | None:
    if data["kind"] == "metrics":
        return max((int(row[2]) for row in data["rows"]), default=before)
    return data.get("t", before)


def _comparable(row: Row) -> tuple[Any, ...]:
    """A row as servers keep it: their databases have no infinity, and NaN is equal to nothing."""
    key, value, at, step = row
    if value != value:
        return key, "NaN", at, step
    return key, max(-_LARGEST_FLOAT, min(_LARGEST_FLOAT, value)), at, step


def _told_row(row: Row) -> str:
    return f"metric {row[0]} at step {row[3]}"


def _alike(row: Row) -> tuple[str, bool]:
    """What a server may have against a row: its name, or a value that is not finite."""
    return row[0], math.isfinite(row[1])


def _age(run: RemoteRun) -> tuple[bool, int, str]:
    """Order in which runs of one spool are to be taken: one that is in use, then the oldest.

    One that is not made here is the oldest. Marks alone would not do: between its mark and its making, a run may be
    overtaken by that of somebody else, who has gone on with it since.
    """
    made = run.tags.get(CREATED_TAG, "0").partition("-")[0]
    return not run.used, int(made) if made.isdigit() else 0, run.run_id


def _whole_lines(text: bytes, most: int) -> bytes:
    """Beginning of a text that is not too long, and ends with a line where that can be."""
    if len(text) <= most:
        return text
    end = text.rfind(b"\n", 0, most) + 1
    if not end:
        end = most
        while end > 1 and text[end] & 0xC0 == 0x80:  # not within a character
            end -= 1
    return text[:end]


@contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield Path(file.name)
