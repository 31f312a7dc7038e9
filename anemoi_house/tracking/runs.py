"""`anemoi-house runs`: the recorded runs, and what of each its servers do not have yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anemoi_house.tracking.ledger import ledgers
from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.servers.mlflow import shown_uri
from anemoi_house.tracking.spool import Spool
from anemoi_house.tracking.sync import find

SHORTEST_ID = 8
WIDTH = 80


@dataclass(frozen=True)
class Sent:
    """What one server has of a run.

    Attributes
    ----------
    uri : str
    run_id : str or None
        The server's own.
    complete : bool
    records, rows, artifacts : int
        Still to be sent.
    refused : int
        What the server does not take.
    error : str or None
        Why the last attempt failed.
    attempted : float or None
        When that was, in s.
    """

    uri: str
    run_id: str | None
    complete: bool
    records: int
    rows: int
    artifacts: int
    refused: int
    error: str | None
    attempted: float | None


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes
    ----------
    run_id, name, experiment : str
    folder : str
        Of its spool.
    started, ended : int or None
        In ms.
    status : str
        `running`, `finished`, `failed` or `killed`.
    restarts : int
    rows, artifacts, damaged : int
        Metric rows, artifacts, and lines that cannot be read.
    servers : list of Sent
    """

    run_id: str
    name: str
    experiment: str
    folder: str
    started: int | None
    ended: int | None
    status: str
    restarts: int
    rows: int
    artifacts: int
    damaged: int
    servers: list[Sent]

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def runs(paths: Sequence[Path] = ()) -> list[Run]:
    """Runs at the paths, the oldest first."""
    return [_run(spool) for spool in find(paths)]


def as_text(found: Sequence[Run]) -> str:
    """Table of at most 80 columns, apart from addresses and reasons, which have lines of their own."""
    id_width = _id_width([run.run_id for run in found])
    rows_width = max([4, *(len(f"{run.rows:,}") for run in found)])
    # What the columns of a fixed width leave, for name and experiment.
    free = WIDTH - id_width - 16 - 8 - 8 - rows_width - 6 * 2
    name_width = max([4, *(len(run.name) for run in found)])
    experiment_width = max([10, *(len(run.experiment) for run in found)])
    experiment_width = min(experiment_width, max(10, free - name_width), 16)
    name_width = min(name_width, free - experiment_width)

    def line(*cells: str) -> str:
        run_id, name, experiment, started, status, restarts, rows = cells
        return (
            f"{run_id:<{id_width}}  {_fit(name, name_width):<{name_width}}  "
            f"{_fit(experiment, experiment_width):<{experiment_width}}  {started:<16}  {status:<8}  "
            f"{restarts:>8}  {rows:>{rows_width}}"
        )

    lines = [line("id", "name", "experiment", "started", "status", "restarts", "rows")]
    for run in found:
        started = _time(run.started / 1000) if run.started is not None else ""
        counts = str(run.restarts), f"{run.rows:,}"
        lines.append(line(run.run_id[:id_width], run.name, run.experiment, started, run.status, *counts))
        lines += [f"  {_told(sent)}" for sent in run.servers]
        if run.damaged:
            lines.append(f"  {run.damaged} damaged {'line' if run.damaged == 1 else 'lines'} in the record")
    return "\n".join(lines)


def _run(spool: Spool) -> Run:
    summary = spool.summary()
    gone = summary.status == "RUNNING" and not spool.writer_alive()
    return Run(
        run_id=spool.run_id,
        name=summary.name or spool.run_id,
        experiment=summary.experiment,
        folder=str(spool.folder),
        started=summary.started,
        ended=summary.ended,
        status="killed" if gone else summary.status.lower(),
        restarts=max(0, summary.sessions - 1),
        rows=summary.rows,
        artifacts=summary.artifacts,
        damaged=summary.damaged + bool(gone and spool.torn()),
        servers=[_sent(spool, ledger.uri) for ledger in ledgers(spool)],
    )


def _sent(spool: Spool, uri: str) -> Sent:
    state = Pending(spool, uri)
    return Sent(
        uri=uri,
        run_id=state.ledger.run_id,
        complete=state.complete,
        records=state.records,
        rows=state.rows,
        artifacts=state.artifacts,
        refused=state.ledger.refused_count,
        error=state.error,
        attempted=state.attempted_at,
    )


def _told(sent: Sent) -> str:
    where = shown_uri(sent.uri)
    if sent.complete:
        text = f"complete at {where}"
    elif sent.records:
        what = "1 record" if sent.records == 1 else f"{sent.records:,} records"
        text = f"{what} to send to {where}"
    else:
        text = f"up to date at {where}"
    if sent.refused:
        text += f", {sent.refused} refused there"
    if sent.error and not sent.complete:
        at = f" ({_time(sent.attempted)})" if sent.attempted else ""
        text += f": {sent.error}{at}"
    return text


def _id_width(ids: Sequence[str]) -> int:
    """Characters that tell the ids apart."""
    longest = max([SHORTEST_ID, *map(len, ids)])
    return next(
        (width for width in range(SHORTEST_ID, longest) if len({one[:width] for one in ids}) == len(set(ids))), longest
    )


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
