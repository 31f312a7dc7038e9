"""Sends the record of a run to a server: in order, each thing once, from wherever an earlier attempt ended.

The order of the spool is the order on the server, so the server always has a beginning of the spool; the ledger says
how long it is. The ledger may say too little: after a call whose answer was lost, after a kill, in an older copy of the
folder, or in a copy without a ledger. The sender then asks the server which of the next metric points it has, and
leaves those out; everything else can be sent again without a trace.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.already_sent import AlreadySent
from anemoi_house.tracking.batches import DAMAGED, Batch, BatchReader
from anemoi_house.tracking.confirm import lacking_artifacts, lacking_rows
from anemoi_house.tracking.ledger import Ledger
from anemoi_house.tracking.records import is_valid
from anemoi_house.tracking.server_run import ServerRun
from anemoi_house.tracking.servers.base import RUN_TAG, MetricPoint, Server
from anemoi_house.tracking.servers.failures import RefusedError, ServerError, UnavailableError, one_line
from anemoi_house.tracking.spool import Spool
from anemoi_house.tracking.terminal_log import WHOLE, TerminalLog
from anemoi_house.tracking.uploads import Uploads, fitting, problem_with

QUIET_S = 1.0
"""Silence after an `end` that shows that nothing follows it."""
HOPELESS = 3
"""Refusals of single points after which others like them are no longer tried one by one."""
OVER = "over_limits.json"
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 600.0
"""Pauses between attempts to send artifacts that wait, while a training still runs: each is twice the one before."""
_METRICS = b'{"kind":"metrics"'


class Sender:
    """Sends one run to one server.

    The caller must hold the lock for both (`ledger.sender_lock`).

    Parameters
    ----------
    spool : Spool
    uri : str
        Address of the server, which names the ledger.
    server : Server
    """

    def __init__(self, spool: Spool, uri: str, server: Server) -> None:
        self.spool, self.server = spool, server
        self.ledger = Ledger.of(spool, uri)
        if self.ledger.offset > spool.size:  # of another spool, or of a later copy of this one
            before = self.ledger
            self.ledger = Ledger(before.path, uri, run_id=before.run_id, experiment_id=before.experiment_id)
        self._already = AlreadySent(server)
        if self.ledger.in_doubt:
            self._already.doubt(throughout=True)
        self.outdated = False
        """Whether the ledger was set back, so that another sender has to read it."""
        self._run = ServerRun(spool, server, self.ledger, on_existing=self._already.doubt)
        self._batches = BatchReader(spool, server.limits)
        self._uploads = Uploads(server)
        self._terminal = TerminalLog(server, self.ledger)
        self._over: list[dict[str, Any]] = []
        self._refusals: Counter[tuple[str, bool]] = Counter()
        self._suspected: set[tuple[int, str]] = set()
        self._newest: dict[str, int] = {}
        self._lacking: UnavailableError | None = None
        self._waiting_until, self._waiting_pause_s = 0.0, FIRST_WAIT_S
        self._send_kind: dict[str, Callable[[Batch], None]] = {
            "start": self._send_start,
            "metrics": self._send_metrics,
            "params": self._send_params,
            "tags": self._send_tags,
            "artifact": self._send_artifact,
            "terminal": self._collect_terminal,
            "over": self._collect_over,
            "end": self._send_end,
            DAMAGED: self._count_damaged,
        }
        self._read_ahead()

    @property
    def at_end(self) -> bool:
        """Whether every complete record is sent; a file may still be due."""
        return self.ledger.offset >= self.spool.size - self.spool.torn()

    def advance(self) -> bool:
        """Send the next few records; return False if there is nothing to send now.

        Raises
        ------
        UnavailableError
            The server cannot be reached, or does not answer as it should. Calling again is safe.
        GoneError
            The run was deleted on the server.
        """
        try:
            batch = self._batches.next(self.ledger.offset)
            if batch is None:
                busy = self._close()
            else:
                self._send(batch)
                busy = True
        except BaseException as failure:
            self._batches.restart()
            if isinstance(failure, HouseError) and failure is not self._lacking:
                self.ledger.fail(one_line(str(failure)))
            raise
        if self.ledger.error is not None and not self.ledger.waiting:
            self.ledger.error = None
            self.ledger.write()
        return busy

    def flush(self) -> None:
        """Send the terminal output so far, if a later copy can replace it."""
        if self.server.overwrites:
            self._send_terminal(final=True)

    def _send(self, batch: Batch) -> None:
        self._run.id()
        if batch.kind == "start":
            self.ledger.session_end = None
        if batch.kind != "end":
            self._run.set_running()
        self._send_kind.get(batch.kind, self._refuse_unknown)(batch)
        self.ledger.offset = batch.end
        self.ledger.rows += batch.size if batch.kind == "metrics" else 0
        self.ledger.artifacts += batch.kind == "artifact"
        self.ledger.last = batch.last or self.ledger.last
        self.ledger.write()
        self._send_terminal(final=False)

    def _close(self) -> bool:
        """At the end of the spool, send what is due; end a run whose writer has gone without an `end`."""
        if not self.ledger.offset:
            return False
        if self.ledger.closed:
            self._run.name_missing_parents()
            return False
        alive = self.spool.writer_alive()
        if not self.at_end:
            return True  # written in the meantime
        self._run.id()
        quiet = time.time() - self.spool.records_path.stat().st_mtime > QUIET_S
        if alive and not (self.ledger.session_end and quiet):
            self._send_terminal(final=False)
            if time.monotonic() >= self._waiting_until:
                self._send_waiting()
            return False
        end = self.ledger.session_end or {"status": "KILLED", "t": self.ledger.last or self.spool.start()["t"]}
        self._finish(end["status"], end["t"], self.ledger.offset)
        self.ledger.write()
        return False

    def _finish(self, status: str, time_ms: int, offset: int) -> None:
        """Send the final status of the run and what waits for its end; ask whether the server has everything."""
        if self.ledger.session_end is None or self.ledger.status != status:
            self._run.set_ended(status, time_ms)
        self._send_terminal(final=True)
        self._send_over()
        self._send_waiting()
        self._run.name_missing_parents()
        if offset >= self.spool.size - self.spool.torn():
            self._confirm()
        self.ledger.closed, self.ledger.in_doubt = True, False

    def _confirm(self) -> None:
        """Ask the server whether it has all rows and artifacts; if it does not, set the ledger back."""
        run_id = self._run.id()
        lacking = lacking_rows(self.spool, self.server, run_id, self.ledger.refused_rows)
        lacking = f"metric {lacking}" if lacking else ""
        if not lacking and self.server.overwrites:
            lacking = ", ".join(lacking_artifacts(self.server, run_id, self._sizes()))
        if not lacking:
            return
        failure = UnavailableError(
            f"{self.server.name} accepted everything, but does not have all of it ({lacking})",
            attempts=1 if self.ledger.in_doubt else 2,
        )
        self.outdated = not self.ledger.in_doubt  # this process sends everything again once, the next one too
        self._lacking = failure
        self.ledger.again().fail(str(failure))
        raise failure

    def _sizes(self) -> dict[str, int]:
        """Return the size of each artifact that the server should have, by its name."""
        found: dict[str, int] = {}
        for record in self.spool.records():
            data = record.data
            if data and data["kind"] == "artifact" and is_valid(data) and not problem_with(self.spool.folder, data):
                found[fitting(data["path"])] = data["size"]
                if record.begin in self.ledger.refused_at:
                    del found[fitting(data["path"])]
        for own in (OVER, WHOLE):  # ours replaces a file of the same name
            found.pop(own, None)
        return found

    # Kinds of records

    def _send_start(self, batch: Batch) -> None:
        (start,) = batch.records
        # Creating the run has named the parents of the first start; a restart may know others.
        if start.get("session", 0) > 0:
            self._run.name_parents(start)

    def _send_end(self, batch: Batch) -> None:
        (end,) = batch.records
        try:
            self._finish(end["status"], end["t"], batch.end)
        except UnavailableError:
            if self.outdated:
                raise
            self._run.check()  # what waits is tried again at the end of the spool
        self.ledger.session_end = {"status": end["status"], "t": end["t"]}

    def _send_metrics(self, batch: Batch) -> None:
        rows = [row for data in batch.records for row in data["rows"]]
        points = [MetricPoint(key, float(value), int(at), int(step)) for key, value, at, step in rows]
        most = self.server.limits.metrics
        for begin in range(0, len(points), most):
            self._log_points(points[begin : begin + most], batch.begin)

    def _log_points(self, points: list[MetricPoint], offset: int) -> None:
        missing = self._already.missing(self._run.id(), points)
        hopeless = [point for point in missing if self._refusals[_likeness(point)] >= HOPELESS]
        others = [point for point in missing if self._refusals[_likeness(point)] < HOPELESS]
        for part in filter(None, (others, hopeless)):
            try:
                self.server.log_metrics(self._run.id(), part)
            except ServerError as failure:
                self._already.doubt()
                refused = self._as_refusal(failure)
                if part is hopeless and not refused.suspected:
                    for point in part:
                        self._refuse(offset, point, _label(point), refused)
                    continue
                self._refusals[_likeness(part[0])] += len(part) == 1 and not refused.suspected
                self._bisect(part, refused, offset, lambda half: self._log_points(half, offset), _label)
            except BaseException:
                self._already.doubt()
                raise

    def _send_params(self, batch: Batch) -> None:
        pairs = [pair for data in batch.records for pair in data["values"].items()]
        self._log_pairs("parameter", self.server.log_params, self.server.limits.params, pairs, batch.begin)

    def _send_tags(self, batch: Batch) -> None:
        values: dict[str, str] = {}
        for begin, data in zip(batch.begins, batch.records):
            values |= {key: value for key, value in data["values"].items() if self._is_newest(f"tag {key}", begin)}
        self._log_pairs("tag", self.server.set_tags, self.server.limits.tags, list(values.items()), batch.begin)

    def _log_pairs(
        self,
        what: str,
        log: Callable[[str, dict[str, str]], None],
        most: int,
        pairs: list[tuple[str, str]],
        offset: int,
    ) -> None:
        def send(part: list[tuple[str, str]]) -> None:
            try:
                log(self._run.id(), dict(part))
            except ServerError as failure:
                self._bisect(part, self._as_refusal(failure), offset, send, lambda pair: f"{what} {pair[0]}")

        while pairs:
            part: dict[str, str] = {}
            rest = []
            for key, value in pairs:
                # A key with two values needs two calls, so that the server answers to the second.
                if len(part) < most and part.get(key, value) == value:
                    part[key] = value
                else:
                    rest.append((key, value))
            send(list(part.items()))
            pairs = rest

    def _bisect(
        self,
        items: list[Any],
        refused: RefusedError,
        offset: int,
        send: Callable[[list[Any]], None],
        label: Callable[[Any], str],
    ) -> None:
        """Send refused items in two halves, down to the single item that the server refuses."""
        self._run.check()
        if len(items) == 1:
            what = label(items[0])
            if refused.suspected and (offset, what) not in self._suspected:
                self._suspected.add((offset, what))
                send(items)
            else:
                self._refuse(offset, items[0], what, refused)
            return
        middle = len(items) // 2
        send(items[:middle])
        send(items[middle:])

    def _as_refusal(self, failure: ServerError) -> RefusedError:
        """Return a failure that is due to what was sent as a refusal; raise any other."""
        if isinstance(failure, RefusedError):
            return failure
        if not (isinstance(failure, UnavailableError) and failure.own):
            raise failure
        self.server.set_tags(self._run.id(), {RUN_TAG: self.spool.run_id})  # fails if the server takes nothing
        return RefusedError(str(failure), suspected=True)

    def _refuse(self, offset: int, item: Any, what: str, refused: RefusedError) -> None:
        self.ledger.refuse(offset, what, str(refused))
        if isinstance(item, MetricPoint):
            self.ledger.refused_rows[item.key] = self.ledger.refused_rows.get(item.key, 0) + 1

    def _send_artifact(self, batch: Batch) -> None:
        (data,) = batch.records
        if not self.ledger.waiting:  # otherwise it waits behind them: they may be versions of it
            try:
                self._upload(data, batch.begin)
                return
            except UnavailableError:
                self._run.check()  # fails if the server takes nothing
        if not problem_with(self.spool.folder, data):
            self._newest[f"artifact {data['path']}"] = batch.begin
        self.ledger.waiting.append(batch.begin)

    def _send_waiting(self) -> None:
        """Try the artifacts that wait again; those that fail wait behind the others."""
        failure, failed = None, 0
        for begin in list(self.ledger.waiting):
            record = next(iter(self.spool.records(begin)), None)
            self.ledger.waiting.remove(begin)
            try:
                if record is not None and record.data is not None:
                    self._upload(record.data, begin)
                failed = 0
            except UnavailableError as unavailable:
                self.ledger.waiting.append(begin)
                failure, failed = unavailable, failed + 1
            self.ledger.write()
            if failed == HOPELESS:
                break
        self._waiting_pause_s = min(2 * self._waiting_pause_s, LONGEST_WAIT_S) if failure else FIRST_WAIT_S
        if failure is not None:
            self._waiting_until = time.monotonic() + self._waiting_pause_s
            raise failure

    def _upload(self, data: Mapping[str, Any], begin: int) -> None:
        label = f"artifact {data['path']}"
        if self.server.overwrites and not self._is_newest(label, begin):
            return
        if problem := problem_with(self.spool.folder, data):
            self.ledger.refuse(begin, label, problem)
            return
        try:
            self._uploads.send(self._run.id(), self.spool.folder / data["file"], fitting(data["path"]), data["sha256"])
        except RefusedError as refused:
            self._run.check()
            self.ledger.refuse(begin, label, str(refused))
            self.ledger.refused_at.append(begin)

    def _collect_terminal(self, batch: Batch) -> None:
        for data in batch.records:
            self._terminal.add(data["text"])

    def _send_terminal(self, final: bool) -> None:
        if (run_id := self._run.known_id) is None:
            return
        try:
            self._terminal.send(run_id, final)
        except RefusedError as refused:
            self.ledger.refuse(self.ledger.offset, "terminal output", str(refused))
            self._terminal.give_up()
        except UnavailableError:
            if final:
                raise
            self._run.check()  # fails if the server takes nothing
            self._terminal.postpone()

    def _collect_over(self, batch: Batch) -> None:
        self._over += batch.records

    def _send_over(self) -> None:
        if len(self._over) > self.ledger.over_sent:
            listed = [{key: value for key, value in each.items() if key != "kind"} for each in self._over]
            content = json.dumps(listed, indent=1, ensure_ascii=False).encode()
            try:
                self._uploads.send_bytes(self._run.id(), content, OVER)
            except RefusedError as refused:
                self.ledger.refuse(self.ledger.offset, OVER, str(refused))
            self.ledger.over_sent = len(self._over)

    def _count_damaged(self, batch: Batch) -> None:
        self.ledger.damaged += 1

    def _refuse_unknown(self, batch: Batch) -> None:
        """Set aside a kind of record of a later version of this package."""
        self.ledger.refuse(batch.begin, batch.kind, "this version of anemoi-house does not know such records")

    # Records before and after the offset

    def _read_ahead(self) -> None:
        """Read all records of the spool except metrics.

        Those before the ledger's offset give the content of files that are still to be sent, and the names in use.
        All of them give the last record of each tag and file: an earlier one is not sent, as it could only replace
        something newer that another copy of the spool has sent already.
        """
        with self.spool.records_path.open("rb") as lines:
            at = 0
            for line in lines:
                begin, at = at, at + len(line)
                if line.endswith(b"\n") and not line.startswith(_METRICS):
                    with suppress(ValueError, KeyError, TypeError, AttributeError):
                        self._note(json.loads(line), begin, sent=at <= self.ledger.offset)

    def _note(self, data: dict[str, Any], begin: int, sent: bool) -> None:
        match data["kind"]:
            case "terminal" if sent:
                self._terminal.add(data["text"])
            case "over" if sent:
                self._over.append(data)
            case "tags":
                self._newest.update({f"tag {key}": begin for key in data["values"]})
            case "artifact" if is_valid(data) and not problem_with(self.spool.folder, data):
                self._newest[f"artifact {data['path']}"] = begin
                self._uploads.versions[fitting(data["path"])] += sent

    def _is_newest(self, what: str, begin: int) -> bool:
        return begin >= self._newest.get(what, begin)


def _label(point: MetricPoint) -> str:
    return f"metric {point.key} at step {point.step}"


def _likeness(point: MetricPoint) -> tuple[str, bool]:
    """Return why a server may refuse a point: its name, or a value that is not finite."""
    return point.key, math.isfinite(point.value)
