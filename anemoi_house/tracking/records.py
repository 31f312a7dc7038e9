"""The lines of `records.jsonl`: how they are written, read and checked.

The `kind` of a record is `start`, `metrics`, `params`, `tags`, `artifact`, `terminal`, `over` (what went over a limit)
or `end`; a restart of the run adds another `start`. Times are milliseconds since 1970, as in MLflow.
"""

from __future__ import annotations

import json
import math
from pathlib import PurePosixPath
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One line of a spool."""

    data: dict[str, Any] | None
    """The record; None if the line cannot be read, after a crash for instance."""
    begin: int
    """Byte in `records.jsonl` at which the line begins."""
    end: int
    """Byte after the line."""


def encoded(record: dict[str, Any]) -> bytes:
    """Return the line of a record."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def parsed(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if there is none in it, or one that lacks a field of its kind."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("kind"), str) and is_valid(data) else None


def metric_value(value: Any) -> float | str:
    """Return the value of a metric as a record holds it; JSON has no NaN and no infinity: they become texts.

    Parameters
    ----------
    value : Any
        A number, or what holds one: a scalar, array or tensor.
    """
    number = value if type(value) is float else float(value.item() if hasattr(value, "item") else value)
    return number if math.isfinite(number) else json.dumps(number)


def whole_number(value: Any) -> int:
    """Return a step or a time as a record holds it; a ValueError if it has more than 64 bits, as in MLflow."""
    number = value if type(value) is int else int(value.item() if hasattr(value, "item") else value)
    if not -(2**63) <= number < 2**63:
        raise ValueError("has more than 64 bits")
    return number


def is_valid(data: dict[str, Any]) -> bool:
    """Return whether a record has the fields of its kind; a failing disk may return other bytes than it was given."""
    try:
        if not isinstance(data.get("t", 0), int):
            return False
        match data["kind"]:
            case "metrics":
                return all(map(_is_row, data["rows"]))
            case "params" | "tags":
                return all(isinstance(value, str) for value in data["values"].values())
            case "artifact":
                # A spool copied from elsewhere must not name other files of this machine.
                folder, name = PurePosixPath(data["file"]).parts
                texts = data["path"], data["sha256"]
                whole = all(text and isinstance(text, str) for text in texts) and isinstance(data["size"], int)
                return whole and folder == "artifacts" and name != ".."
            case "start":
                names = data["run_name"], data["experiment"]
                return "t" in data and all(name and isinstance(name, str) for name in names)
            case "end":
                return "t" in data and data["status"] in ("FINISHED", "FAILED", "KILLED")
            case "terminal":
                return isinstance(data["text"], str)
            case _:
                return True
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False


def size_of(data: dict[str, Any]) -> int:
    """Return the number of metric rows, parameters or tags in a record."""
    field = {"metrics": "rows", "params": "values", "tags": "values"}.get(data["kind"])
    return len(data[field]) if field else 0


def last_time(data: dict[str, Any], before: int | None) -> int | None:
    """Return the last time in a record in ms, or `before` if it has none."""
    if data["kind"] == "metrics":
        return max((int(row[2]) for row in data["rows"]), default=before)
    return data.get("t", before)


def _is_row(row: Any) -> bool:
    key, value, at, step = row
    float(value), int(at), int(step)
    return isinstance(key, str)
