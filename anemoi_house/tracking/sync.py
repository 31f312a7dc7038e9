"""`anemoi-house sync`: the drain for one run or many; once, for as long as somebody watches, or beside a training."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anemoi_house.errors import HouseError
from anemoi_house.tracking.drain import Drain
from anemoi_house.tracking.ledger import BusyError, Ledger, SyncLock, ledger_path
from anemoi_house.tracking.pending import Pending, ended, left
from anemoi_house.tracking.servers.failures import UnavailableError, one_line
from anemoi_house.tracking.servers.mlflow import Server, check_uri, connect, shown_uri
from anemoi_house.tracking.spool import Spool, find_spools

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two attempts that fail; doubled each time."""
POLL_S = 1.0
"""Between two looks at a spool that grows."""
LOOK_AROUND_S = 5.0
"""Between two looks for new runs."""
LAST_TRY_S = 30.0
"""For how long attempts go on when a training is over and its server does not answer."""
LINGER_S = 3.0
"""For how long a training that has recorded its end may add something."""
PROGRESS_S = 30.0
"""Between two lines of progress where there is no terminal."""
SHORT_ID = 8
WIDTH = 79


def sync(paths: Sequence[Path], to: str | None = None, watch: bool = False) -> int:
    """Send runs to their servers.

    Parameters
    ----------
    paths : sequence of Path
        Folders of runs, or above them; by default HOUSE_OUTPUT, or `outputs` here.
    to : str, optional
        Address of another server than the one that each run is meant for.
    watch : bool
        Go on until Ctrl-C: with runs that are being trained, with new ones, and while a server is away.

    Returns
    -------
    int
        Exit status: 0 if everything is sent.

    Raises
    ------
    HouseError
        There is no run, or the address is none.
    """
    if to is not None and to.rstrip("/") not in ("azureml:", "azureml"):
        check_uri(to)
    _quiet()
    job = _Job(to)
    spools = find(paths, yet_to_come=watch)
    try:
        return _watch(paths, job) if watch else _once(spools, job)
    except KeyboardInterrupt:
        job.progress.end()
        _say("stopped; what is sent is noted, and the same command goes on from there")
        return 130


def until_end(path: Path) -> int:
    """Send the one run as it grows, until its end is sent; what the logger runs beside a training.

    Returns
    -------
    int
        0 if everything is sent; 1 if the training is over and the server has not answered for a while.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)
        # Linux weighs sessions against each other where it groups by them, and this process has one of its own.
        Path("/proc/self/autogroup").write_text("10")
    _quiet()
    (spool,) = find([path])[:1]
    return _Companion(spool).run()


def find(paths: Sequence[Path], yet_to_come: bool = False) -> list[Spool]:
    """Spools at the paths, the oldest run first: its children name it.

    Raises
    ------
    HouseError
        A path is no folder; or there is no run in it, unless those are `yet_to_come`.
    """
    given = list(paths) or [Path(os.environ.get("HOUSE_OUTPUT") or "outputs")]
    found: dict[Path, Spool] = {}
    for path in given:
        spools = find_spools(path)
        if not spools and not (yet_to_come and path.is_dir()):
            what = "there is no such folder" if not path.exists() else "there is no run in it: no records.jsonl"
            raise HouseError(f"{path}: {what}; give the folder of a run, outputs/logs/mlflow/spool/RUN, or one above")
        found.update({spool.folder.resolve(): spool for spool in spools})
    return sorted(found.values(), key=lambda spool: (_start(spool).get("t", 0), spool.run_id))


def label(spool: Spool) -> str:
    """A run as lines name it: its name, and its id as far as needed."""
    name = str(_start(spool).get("run_name") or "")
    short = spool.run_id[:SHORT_ID]
    return short if name in ("", spool.run_id) else f"{name[:30]} {short}"


@dataclass
class _Job:
    """What the runs of one call have in common."""

    to: str | None
    servers: dict[str, Server] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    """Servers that were given up, with the reason."""

    def __post_init__(self) -> None:
        self.progress = Progress()

    def target(self, spool: Spool) -> dict[str, Any]:
        """The server for a run, in the form of `target.json`."""
        own = spool.target()
        if self.to is None:
            if not own.get("uri"):
                raise HouseError("it names no server; give one with --to URI")
            return _checked(own)
        if urlsplit(self.to).scheme == "azureml" or self.to == "azureml":
            return _checked({"uri": self.to, "aml": own.get("aml")})
        if self.to == own.get("uri"):
            return own
        return {"uri": self.to, "authentication": _logged_in(self.to)}

    def server(self, target: dict[str, Any]) -> Server:
        """Connection to a server, the same one for all runs."""
        uri = target["uri"]
        if uri not in self.servers:
            self.servers[uri] = connect(target)
        return self.servers[uri]


def _once(spools: Sequence[Spool], job: _Job) -> int:
    status = 0
    for spool in spools:
        line, sent = _send(spool, job)
        job.progress.end()
        print(line, flush=True)
        status = status if sent else 1
    return status


def _send(spool: Spool, job: _Job) -> tuple[str, bool]:
    """Send what there is of one run now; a line about that, and whether all is sent."""
    uri = ""
    try:
        target = job.target(spool)
        uri = target["uri"]
        state = Pending(spool, uri)
        if state.complete and not state.ledger.lineage:
            return _done(spool, state.ledger), True
        if uri in job.away:
            return _left(spool, uri, job), False
        with SyncLock(spool, uri):
            drain = Drain(spool, uri, job.server(target))
            failure = _drain(drain, job.progress)
        if failure is None:
            return _done(spool, drain.ledger), True
        if isinstance(failure, UnavailableError):
            job.away[uri] = str(failure)
        return _left(spool, uri, job, failure), False
    except BusyError as busy:
        if Pending(spool, uri).complete:
            return _done(spool, Pending(spool, uri).ledger), True
        return f"{label(spool)}: {busy}; nothing to do here", False
    except HouseError as mistake:
        return f"{label(spool)}: {mistake}", False


def _drain(drain: Drain, progress: Progress) -> HouseError | None:
    """Send until nothing is left, or the server has failed too often in a row; the failure."""
    failures = 0
    progress.begin(drain)
    while True:
        try:
            more = drain.advance()
            if not more:
                drain.flush()
                return None
            failures = 0
            progress.show()
        except UnavailableError as failure:
            failures += 1
            if failures >= failure.attempts:
                return failure
            progress.note(str(failure))
            time.sleep(_pause_s(failures))
        except HouseError as failure:
            return failure
        except OSError as failure:
            return HouseError(f"{drain.path}: what is sent cannot be written down there ({failure.strerror})")


def _watch(paths: Sequence[Path], job: _Job) -> int:
    followed: dict[Path, _Followed] = {}
    told: dict[Path, str] = {}
    looked = -LOOK_AROUND_S
    try:
        while True:
            if time.monotonic() - looked >= LOOK_AROUND_S:
                looked = time.monotonic()
                for spool in find(paths, yet_to_come=True):
                    if spool.folder not in followed:
                        _follow(spool, job, followed, told)
            for folder, one in list(followed.items()):
                line = one.turn(job.progress)
                if line and told.get(folder) != line:
                    told[folder] = line
                    job.progress.end()
                    print(line, flush=True)
                if one.drain.ledger.closed and one.drain.at_end:
                    one.lock.release()
                    del followed[folder]
            time.sleep(POLL_S if not any(one.busy for one in followed.values()) else 0)
    finally:
        for one in followed.values():
            one.lock.release()


def _follow(spool: Spool, job: _Job, followed: dict[Path, _Followed], told: dict[Path, str]) -> None:
    """Take up a run, if it has something to send and nobody else is at it."""
    try:
        target = job.target(spool)
        if Pending(spool, target["uri"]).complete:
            return
        lock = SyncLock(spool, target["uri"])
        try:
            followed[spool.folder] = _Followed(spool, Drain(spool, target["uri"], job.server(target)), lock)
        except BaseException:
            lock.release()
            raise
    except (BusyError, HouseError) as reason:
        line = f"{label(spool)}: {reason}"
        if told.get(spool.folder) != line:
            told[spool.folder] = line
            print(line, flush=True)


@dataclass
class _Followed:
    """One of the runs that are watched."""

    spool: Spool
    drain: Drain
    lock: SyncLock
    failures: int = 0
    not_before: float = 0.0
    busy: bool = False

    def turn(self, progress: Progress) -> str:
        """Send for a second or so; a line when there is news."""
        self.busy = False
        if time.monotonic() < self.not_before:
            return ""
        until = time.monotonic() + POLL_S
        progress.begin(self.drain)
        try:
            while self.drain.advance():
                progress.show()
                self.failures = 0
                if time.monotonic() > until:
                    self.busy = True
                    return ""
        except (HouseError, OSError) as failure:
            self.failures += 1
            self.not_before = time.monotonic() + _pause_s(self.failures)
            return f"{label(self.spool)}: {failure}; trying again"
        self.failures = 0
        return _done(self.spool, self.drain.ledger)


class _Companion:
    """Goes along with one training."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._told = ""
        self._job = _Job(None)

    def run(self) -> int:
        """Send until the end is sent; the exit status."""
        over_since: float | None = None
        failures = 0
        with ExitStack() as held:
            drain: Drain | None = None
            while True:
                over = ended(self.spool)
                try:
                    drain = drain or self._begin(held)
                    while drain.advance():
                        failures, over_since = 0, None
                    failures, over_since = 0, None
                    self._tell("")
                    if drain.ledger.closed and self._is_over():
                        print(_done(self.spool, drain.ledger), flush=True)
                        return 0
                    time.sleep(POLL_S / 2 if drain.ledger.closed else POLL_S)
                    continue
                except BusyError as busy:
                    self._tell(str(busy))
                    time.sleep(POLL_S)
                    if over and Pending(self.spool).complete:
                        return 0
                    continue
                except Exception as failure:
                    failures += 1
                    self._note(failure, drain)
                if ended(self.spool) or not self.spool.writer_alive():
                    over_since = over_since or time.monotonic()
                    if time.monotonic() - over_since > LAST_TRY_S:
                        return 1
                self._wait(_pause_s(failures), over)

    def _begin(self, held: ExitStack) -> Drain:
        target = self._job.target(self.spool)
        held.enter_context(SyncLock(self.spool, target["uri"]))
        try:
            return Drain(self.spool, target["uri"], self._job.server(target))
        except BaseException:
            held.pop_all().close()
            raise

    def _is_over(self) -> bool:
        """Whether the training will say no more."""
        with suppress(OSError):
            silent_s = time.time() - self.spool.records_path.stat().st_mtime
            return silent_s > LINGER_S or not self.spool.writer_alive()
        return True

    def _note(self, failure: Exception, drain: Drain | None) -> None:
        """Write a failure down, where the training and `anemoi-house runs` find it."""
        message = str(failure) if isinstance(failure, HouseError) else one_line(f"{type(failure).__name__}: {failure}")
        if drain is None or not isinstance(failure, HouseError):
            with suppress(OSError):
                uri = self.spool.target().get("uri") or ""
                path = ledger_path(self.spool, uri)
                path.parent.mkdir(exist_ok=True)
                ledger = drain.ledger if drain else Ledger.read(path, uri)
                ledger.failed(message)
                ledger.write(path)
        self._tell(message)

    def _tell(self, message: str) -> None:
        if message != self._told:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message or 'the server answers again'}", flush=True)
        self._told = message

    def _wait(self, seconds: float, over: bool) -> None:
        """Wait, or go on at once when the training records its end meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and (over or not ended(self.spool)):
            time.sleep(0.2)


class Progress:
    """Lines on stderr: one that is rewritten on a terminal, or else one every now and then."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._drain: Drain | None = None
        self._total: Counter[str] = Counter()
        self._counted = 0

    def begin(self, drain: Drain) -> None:
        """Tell of this run from now on."""
        if drain is not self._drain:
            self._drain, self._counted = drain, -1

    def show(self) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._on_terminal else PROGRESS_S):
            self._shown = now
            self._put(self._text())

    def note(self, reason: str) -> None:
        """Show why it does not go on."""
        assert self._drain is not None
        if self._on_terminal:
            self._put(f"{label(self._drain.spool)}: {reason}")

    def end(self) -> None:
        """Take the line away."""
        if self._on_terminal:
            print(f"\r{'':<{WIDTH}}\r", end="", file=sys.stderr, flush=True)

    def _put(self, text: str) -> None:
        if self._on_terminal:
            print(f"\r{text[:WIDTH]:<{WIDTH}}", end="", file=sys.stderr, flush=True)
        else:
            _say(text)

    def _text(self) -> str:
        assert self._drain is not None
        ledger = self._drain.ledger
        if self._counted < ledger.offset:  # first, and when the spool has grown
            self._total = left(self._drain.spool, ledger.offset) + Counter(rows=ledger.rows, artifacts=ledger.artifacts)
            self._counted = self._drain.spool.records_path.stat().st_size
        text = f"{label(self._drain.spool)}: {ledger.rows:,} of {self._total['rows']:,} rows"
        if self._total["artifacts"]:
            text += f", {ledger.artifacts:,} of {self._total['artifacts']:,} artifacts"
        return text


def _done(spool: Spool, ledger: Ledger) -> str:
    """A line about a run that has been sent as far as it goes."""
    where = shown_uri(ledger.uri)
    line = f"{label(spool)}: complete at {where}"
    if not ledger.closed:
        line = f"{label(spool)}: up to date at {where}; the run goes on"
    if ledger.refused_count:
        first = ledger.refused[0]
        line += f"; {ledger.refused_count} refused there: {first['what']}: {first['reason']}"
        line += " ..." if ledger.refused_count > 1 else ""
    damaged = ledger.damaged + bool(ledger.closed and spool.torn())
    if damaged:
        line += f"; {damaged} damaged {'line' if damaged == 1 else 'lines'} in the record left out"
    return line


def _left(spool: Spool, uri: str, job: _Job, failure: HouseError | None = None) -> str:
    """A line about a run that could not be sent."""
    count = Pending(spool, uri).records
    what = f"{count:,} records still to send" if count != 1 else "1 record still to send"
    reason = str(failure) if failure else job.away[uri]
    to = f" --to {job.to}" if job.to else ""
    return f"{label(spool)}: {what}: {reason}; run again: anemoi-house sync {spool.folder}{to}"


def _checked(target: dict[str, Any]) -> dict[str, Any]:
    """The target; for Azure ML, with what this environment has for it."""
    uri = target["uri"]
    if urlsplit(uri).scheme != "azureml" and uri != "azureml":
        return target
    from anemoi_house.tracking.servers.azure import check_settings

    return check_settings(uri if "/subscriptions/" in uri else None, target.get("aml"), os.environ)


def _logged_in(uri: str) -> bool:
    """Whether the user has logged in to this server with `anemoi-training mlflow login`."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return False
    from anemoi.utils.config import config_path
    from anemoi.utils.mlflow.auth import TokenAuth

    if not os.path.exists(config_path(TokenAuth._config_file)):
        return False
    return uri.rstrip("/") in (url for url, _ in TokenAuth.get_servers())


def _start(spool: Spool) -> dict[str, Any]:
    """The first record that says what run this is."""
    for record in spool.records():
        if record.data is not None and record.data["kind"] == "start":
            return record.data
    return {}


def _pause_s(failures: int) -> float:
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures - 1, 10))


def _quiet() -> None:
    """Leave what is told to the lines of this module: libraries have a way of their own to tell of every failure."""
    logging.disable(logging.CRITICAL)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
