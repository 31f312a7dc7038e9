"""`anemoi-house runs`: the recorded runs, and what of each its servers do not have yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anemoi_house.tracking.ledger import ledgers
from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.servers.connect import shown_uri
from anemoi_house.tracking.servers.failures import problem as describe
from anemoi_house.tracking.spool import Spool, Summary
from anemoi_house.tracking.sync import find
from anemoi_house.words import counted

SHORTEST_ID = 8
WIDTH = 80
_HEADINGS = ("id", "name", "experiment", "started", "status", "restarts", "rows")


def recorded_runs(paths: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """Return the runs at the paths, the oldest first, as `runs --json` prints them."""
    return [_recorded_run(spool) for spool in find(paths)]


def as_text(found: Sequence[dict[str, Any]]) -> str:
    """Return a table of at most 80 columns; addresses and errors have longer lines of their own."""
    id_width = _id_width([run["run_id"] for run in found])
    table = [list(_HEADINGS), *(_cells(run, id_width) for run in found)]
    widths = [max(map(len, column)) for column in zip(*table)]
    widths[3:5] = 16, 10  # of a time, and of the longest status
    # Name and experiment share what the other columns and the gaps leave.
    free = WIDTH - sum(widths) + widths[1] + widths[2] - 2 * (len(widths) - 1)
    widths[2] = min(widths[2], max(10, free - widths[1]), 16)
    widths[1] = min(widths[1], free - widths[2])
    lines = [_line(table[0], widths)]
    for run, cells in zip(found, table[1:]):
        lines += [_line(cells, widths), *(f"  {_state_line(state)}" for state in run["servers"])]
        if run["damaged"]:
            lines.append(f"  {counted(run['damaged'], 'damaged line')} in the record")
        if run["problem"]:
            lines.append(f"  cannot be read: {run['problem']}")
    return "\n".join(lines)


def _cells(run: dict[str, Any], id_width: int) -> list[str]:
    """Return the cells of a run in the table."""
    started = "" if run["started"] is None else _time(run["started"] / 1000)
    numbers = str(run["restarts"]), f"{run['rows']:,}"
    return [run["run_id"][:id_width], run["name"], run["experiment"], started, run["status"], *numbers]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line of the table: text on the left of its column, the last two columns, numbers, on the right."""
    fitting = [cell if len(cell) <= width else f"{cell[: width - 2]}.." for cell, width in zip(cells, widths)]
    return "  ".join(f"{cell:{'<' if at < 5 else '>'}{widths[at]}}" for at, cell in enumerate(fitting))


def _recorded_run(spool: Spool) -> dict[str, Any]:
    try:
        summary, problem = spool.summary(), ""
        killed = summary.status == "RUNNING" and not spool.writer_alive()
        damaged = summary.damaged + bool(killed and spool.torn())
        servers = [_server_state(Pending(spool, ledger.uri)) for ledger in ledgers(spool)]
    except Exception as failure:  # the other runs are listed
        summary, problem = Summary(spool.run_id, status="unreadable"), describe(failure)
        killed, damaged, servers = False, 0, []
    return {
        "run_id": spool.run_id,
        "name": summary.name or spool.run_id,
        "experiment": summary.experiment,
        "folder": str(spool.folder),
        "started": summary.started,  # times of the run in ms
        "ended": summary.ended,
        "status": "killed" if killed else summary.status.lower(),
        "restarts": max(0, summary.sessions - 1),
        "rows": summary.rows,
        "artifacts": summary.artifacts,
        "damaged": damaged,
        "problem": problem,
        "servers": servers,
    }


def _server_state(state: Pending) -> dict[str, Any]:
    """Return what a server has of a run, and the numbers that it does not have yet."""
    return {
        "uri": state.ledger.uri,
        "run_id": state.ledger.run_id,
        "complete": state.complete,
        **{what: state.left[what] for what in ("records", "rows", "artifacts")},
        "refused": state.ledger.refused_count,
        "error": state.error,
        "attempted": state.attempted_at,  # in s
    }


def _state_line(state: dict[str, Any]) -> str:
    where = shown_uri(state["uri"])
    if state["complete"]:
        text = f"complete at {where}"
    elif state["records"]:
        text = f"{counted(state['records'], 'record')} to send to {where}"
    else:
        text = f"up to date at {where}"
    if state["refused"]:
        text += f", {state['refused']} refused there"
    if state["error"] and not state["complete"]:
        at = f" ({_time(state['attempted'])})" if state["attempted"] else ""
        text += f": {state['error']}{at}"
    return text


def _id_width(ids: Sequence[str]) -> int:
    """Return the number of characters that tell the ids apart."""
    longest = max([SHORTEST_ID, *map(len, ids)])
    return next(
        (width for width in range(SHORTEST_ID, longest) if len({one[:width] for one in ids}) == len(set(ids))), longest
    )


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
