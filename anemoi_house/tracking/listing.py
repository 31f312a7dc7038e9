"""`anemoi-house runs`: the recorded runs, and what of each its servers do not have yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anemoi_house.tracking.ledger import ledgers
from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.servers.connect import shown_uri
from anemoi_house.tracking.spool import Spool
from anemoi_house.tracking.sync import find
from anemoi_house.words import counted

SHORTEST_ID = 8
WIDTH = 80


@dataclass(frozen=True)
class ServerState:
    """What one server has of a run.

    Attributes
    ----------
    uri : str
    run_id : str or None
        The server's own id.
    complete : bool
    records, rows, artifacts : int
        Still to be sent.
    refused : int
        Records that the server refuses.
    error : str or None
        Why the last attempt failed.
    attempted : float or None
        Time of that attempt in s.
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
class RecordedRun:
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
    servers : list of ServerState
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
    servers: list[ServerState]

    def as_json(self) -> dict[str, Any]:
        """Return the run as plain dictionaries and lists."""
        return asdict(self)


def recorded_runs(paths: Sequence[Path] = ()) -> list[RecordedRun]:
    """Return the runs at the paths, the oldest first."""
    return [_recorded_run(spool) for spool in find(paths)]


def as_text(found: Sequence[RecordedRun]) -> str:
    """Return a table of at most 80 columns; addresses and errors have longer lines of their own."""
    id_width = _id_width([run.run_id for run in found])
    rows_width = max([4, *(len(f"{run.rows:,}") for run in found)])
    # Name and experiment share what the columns of a fixed width leave.
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
        numbers = str(run.restarts), f"{run.rows:,}"
        lines.append(line(run.run_id[:id_width], run.name, run.experiment, started, run.status, *numbers))
        lines += [f"  {_state_line(state)}" for state in run.servers]
        if run.damaged:
            lines.append(f"  {counted(run.damaged, 'damaged line')} in the record")
    return "\n".join(lines)


def _recorded_run(spool: Spool) -> RecordedRun:
    summary = spool.summary()
    killed = summary.status == "RUNNING" and not spool.writer_alive()
    return RecordedRun(
        run_id=spool.run_id,
        name=summary.name or spool.run_id,
        experiment=summary.experiment,
        folder=str(spool.folder),
        started=summary.started,
        ended=summary.ended,
        status="killed" if killed else summary.status.lower(),
        restarts=max(0, summary.sessions - 1),
        rows=summary.rows,
        artifacts=summary.artifacts,
        damaged=summary.damaged + bool(killed and spool.torn()),
        servers=[_server_state(spool, ledger.uri) for ledger in ledgers(spool)],
    )


def _server_state(spool: Spool, uri: str) -> ServerState:
    state = Pending(spool, uri)
    return ServerState(
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


def _state_line(state: ServerState) -> str:
    where = shown_uri(state.uri)
    if state.complete:
        text = f"complete at {where}"
    elif state.records:
        text = f"{counted(state.records, 'record')} to send to {where}"
    else:
        text = f"up to date at {where}"
    if state.refused:
        text += f", {state.refused} refused there"
    if state.error and not state.complete:
        at = f" ({_time(state.attempted)})" if state.attempted else ""
        text += f": {state.error}{at}"
    return text


def _id_width(ids: Sequence[str]) -> int:
    """Return the number of characters that tell the ids apart."""
    longest = max([SHORTEST_ID, *map(len, ids)])
    return next(
        (width for width in range(SHORTEST_ID, longest) if len({one[:width] for one in ids}) == len(set(ids))), longest
    )


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
