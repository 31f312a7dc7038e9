"""`anemoi-house sync`: send runs once, watch them until Ctrl-C, or send one run until its training ends."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from anemoi_house.errors import HouseError
from anemoi_house.tracking.ledger import Ledger
from anemoi_house.tracking.lines import Progress, label, left_line, sent_line
from anemoi_house.tracking.lock import BusyError
from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.servers.connect import check_uri
from anemoi_house.tracking.servers.failures import UnavailableError, problem
from anemoi_house.tracking.spool import Spool, find_spools
from anemoi_house.tracking.stepper import Job, Stepper

POLL_S = 1.0
"""Between two looks at a spool that grows."""
LOOK_AROUND_S = 5.0
"""Between two looks for new runs."""
LAST_TRY_S = 30.0
"""How long attempts continue after the training has ended, if its server does not answer."""
LINGER_S = 3.0
"""How long a training may still log after it has recorded its end."""


def sync(
    paths: Sequence[Path],
    to: str | None = None,
    watch: bool = False,
    from_start: bool = False,
    retry_refused: bool = False,
) -> int:
    """Send runs to their servers.

    Parameters
    ----------
    paths : sequence of Path
        Folders of runs, or above them; by default HOUSE_OUTPUT, or `outputs` in the working directory.
    to : str, optional
        Address of another server than the one that each run is meant for.
    watch : bool
        Continue until Ctrl-C: with runs that are being trained, with new ones, and while a server is unreachable.

    from_start : bool
        Send everything again, as a new run if the server has lost the first.
    retry_refused : bool
        Send again what was set aside.

    Returns
    -------
    int
        Exit status: 0 if everything is sent, and the server has it.

    Raises
    ------
    HouseError
        There is no run, or the address is invalid.
    """
    if to is not None:
        check_uri(to)
    logging.disable(logging.CRITICAL)  # libraries would report every failure in their own way
    job = Job(to, from_start, retry_refused)
    spools = find(paths, may_be_empty=watch)
    try:
        if watch:
            _Watch(paths, job).run()
        return max([_send_once(spool, job) for spool in spools], default=0)
    except KeyboardInterrupt:
        job.progress.end()
        print("stopped; the same command continues from here", file=sys.stderr, flush=True)
        return 130


def until_end(path: Path) -> int:
    """Send one run as it grows, until its end is sent; this is what the logger starts next to a training.

    Returns
    -------
    int
        0 if everything is sent; 1 if the training has ended and the server has not answered for a while.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)
        # Where Linux schedules sessions as groups, nice has no effect across them, and this process has its own.
        Path("/proc/self/autogroup").write_text("10")
    logging.disable(logging.CRITICAL)  # libraries would report every failure in their own way
    return _UntilEnd(find([path])[0]).run()


def find(paths: Sequence[Path], may_be_empty: bool = False) -> list[Spool]:
    """Return the spools at the paths, the oldest run first: runs forked from it name it.

    Raises
    ------
    HouseError
        A path does not exist, or holds no run unless it `may_be_empty`.
    """
    given = list(paths) or [Path(os.environ.get("HOUSE_OUTPUT") or "outputs")]
    found: dict[Path, Spool] = {}
    for path in given:
        spools = find_spools(path)
        if not spools and not (may_be_empty and path.is_dir()):
            problem = "holds no run (no records.jsonl)" if path.exists() else "does not exist"
            raise HouseError(
                f"{path}: {problem}. Give the folder of a run, outputs/logs/mlflow/spool/RUN, or one above."
            )
        found.update({spool.folder.resolve(): spool for spool in spools})
    return sorted(found.values(), key=_began)


def _began(spool: Spool) -> tuple[int, str]:
    try:
        return spool.start().get("t", 0), spool.run_id
    except OSError:  # reported once the run is read
        return 0, spool.run_id


def _send_once(spool: Spool, job: Job) -> int:
    """Send what is recorded of one run, print a line about it, and return the exit status."""
    line, sent = _outcome(spool, job)
    job.progress.end()
    print(line, flush=True)
    return 0 if sent else 1


def _outcome(spool: Spool, job: Job) -> tuple[str, bool]:
    uri = ""
    try:
        uri = job.target(spool)["uri"]
        state = Pending(spool, uri)
        if state.complete and not state.ledger.lineage and not job.is_again(state.ledger):
            return sent_line(spool, state.ledger), not state.ledger.refused_count
        if uri in job.given_up:
            return left_line(spool, uri, job.given_up[uri], job.to), False
        with closing(Stepper(spool, job)) as stepper:
            ledger = stepper.open().ledger
            failure = _send_all(stepper, job)
    except BusyError as busy:
        state = Pending(spool, uri)
        line = sent_line(spool, state.ledger) if state.complete else f"{label(spool)}: {busy}; nothing to do here"
        return line, state.complete and not state.ledger.refused_count
    except Exception as mistake:  # this run alone fails
        return f"{label(spool)}: {problem(mistake)}", False
    if failure is None:
        return sent_line(spool, ledger), not ledger.refused_count
    if isinstance(failure, UnavailableError):
        job.given_up[uri] = str(failure)
    return left_line(spool, uri, str(failure), job.to), False


def _send_all(stepper: Stepper, job: Job) -> HouseError | None:
    """Send until nothing is left, or the server has failed too often in a row; return the failure."""
    while True:
        try:
            stepper.step(flush=True)
            return None
        except UnavailableError as failure:
            if stepper.failures >= failure.attempts:
                return failure
            job.progress.note(stepper.spool, str(failure))
            time.sleep(stepper.pause_s)
        except HouseError as failure:
            return failure


class _Watch:
    """Sends runs in turn, and new ones as they appear."""

    def __init__(self, paths: Sequence[Path], job: Job) -> None:
        self._paths, self._job = paths, job
        self._watched: dict[Path, Stepper] = {}
        self._printed: dict[Path, str] = {}
        self._looked_at = -math.inf

    def run(self) -> None:
        """Send until Ctrl-C."""
        try:
            while True:
                if time.monotonic() - self._looked_at >= LOOK_AROUND_S:
                    self._look_around()
                busy = [self._step(stepper) for stepper in list(self._watched.values()) if not stepper.resting]
                time.sleep(0 if any(busy) else POLL_S)
        finally:
            for stepper in self._watched.values():
                stepper.close()

    def _look_around(self) -> None:
        """Watch the runs that have something to send and that no other process is sending."""
        self._looked_at = time.monotonic()
        for spool in find(self._paths, may_be_empty=True):
            if spool.folder in self._watched:
                continue
            stepper = Stepper(spool, self._job)
            try:
                if not Pending(spool, self._job.target(spool)["uri"]).complete:
                    stepper.open()
                    self._watched[spool.folder] = stepper
            except BusyError as busy:
                self._print(spool, f"{label(spool)}: {busy}")
            except Exception as failure:  # this run alone fails
                self._print(spool, f"{label(spool)}: {problem(failure)}")

    def _step(self, stepper: Stepper) -> bool:
        """Send for a second; return whether more is left."""
        spool = stepper.spool
        try:
            if stepper.step(for_s=POLL_S):
                return True
            sender = stepper.open()
        except Exception as failure:  # this run alone fails
            if not spool.folder.exists():
                self._print(spool, f"{label(spool)}: its folder was removed")
                self._forget(stepper)
                return False
            self._print(spool, f"{label(spool)}: {problem(failure)}; trying again")
            return False
        self._print(spool, sent_line(spool, sender.ledger))
        if sender.ledger.closed and sender.at_end:
            self._forget(stepper)
        return False

    def _forget(self, stepper: Stepper) -> None:
        stepper.close()
        del self._watched[stepper.spool.folder]

    def _print(self, spool: Spool, line: str) -> None:
        """Print a line, unless it is the last one about this run."""
        if self._printed.get(spool.folder) != line:
            self._printed[spool.folder] = line
            self._job.progress.end()
            print(line, flush=True)


class _UntilEnd:
    """Sends the run of one training until its end is sent."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._stepper = Stepper(spool, Job(progress=Progress(log_every_s=math.inf)))
        self._error = ""

    def run(self) -> int:
        """Send until the end is sent, and return the exit status."""
        failing_since: float | None = None
        with closing(self._stepper) as stepper:
            while True:
                ended = self._spool.ended()
                try:
                    stepper.step()
                except BusyError as busy:
                    self._print(str(busy))
                    time.sleep(POLL_S)
                    if ended and Pending(self._spool).complete:
                        return 0
                    continue
                except Exception as failure:
                    self._note(failure)
                else:
                    self._print("")
                    ledger = stepper.open().ledger
                    if ledger.closed and self._is_over():
                        print(sent_line(self._spool, ledger), flush=True)
                        return 0
                    time.sleep(POLL_S / 2 if ledger.closed else POLL_S)
                    continue
                if stepper.failures == 1:  # the first since something was sent
                    failing_since = None
                if self._spool.ended() or not self._spool.writer_alive():
                    failing_since = failing_since or time.monotonic()
                    if time.monotonic() - failing_since > LAST_TRY_S:
                        return 1
                self._pause(ended)

    def _is_over(self) -> bool:
        """Return whether the training will log nothing more."""
        with suppress(OSError):
            silent_s = time.time() - self._spool.records_path.stat().st_mtime
            return silent_s > LINGER_S or not self._spool.writer_alive()
        return True

    def _note(self, failure: Exception) -> None:
        """Write a failure to the ledger, where the training and `anemoi-house runs` find it."""
        expected, message = isinstance(failure, HouseError), problem(failure)
        sender = self._stepper.sender
        if sender is None or not expected:  # the sender has noted its own
            with suppress(OSError):
                ledger = sender.ledger if sender else Ledger.of(self._spool, self._spool.target().get("uri") or "")
                ledger.path.parent.mkdir(exist_ok=True)
                ledger.fail(message)
        self._print(message)

    def _print(self, error: str) -> None:
        """Print the error of the last attempt, or that there is none, if that has changed."""
        if error != self._error:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {error or 'the server answers again'}", flush=True)
        self._error = error

    def _pause(self, ended: bool) -> None:
        """Wait until the next attempt, or until the training records its end."""
        while self._stepper.resting and (ended or not self._spool.ended()):
            time.sleep(0.2)
