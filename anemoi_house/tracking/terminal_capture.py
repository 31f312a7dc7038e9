"""Captures the terminal output of a training."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from typing import Any

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class TerminalCapture:
    """Copies standard output and error line by line.

    Progress bars redraw their line; only its last state is kept. Output of other processes, or of libraries below
    Python, is not captured.

    Parameters
    ----------
    put : callable
        Called with a text of complete lines.
    """

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._unfinished = ""
        self._streams: list[tuple[Any, Any]] = []

    def start(self) -> None:
        """Start copying."""
        for stream in (sys.stdout, sys.stderr):
            self._streams.append((stream, stream.write))
            stream.write = self._copying(stream.write)  # type: ignore[method-assign, assignment]

    def stop(self) -> None:
        """Stop copying, and pass on the last line even if it is incomplete."""
        for stream, write in self._streams:
            stream.write = write
        self._streams.clear()
        with self._lock:
            rest, self._unfinished = self._unfinished, ""
        if rest:
            self._put(_last_state(rest) + "\n")

    def _copying(self, write: Callable[[str], int]) -> Callable[[str], int]:
        def copying(text: str) -> int:
            written = write(text)
            with self._lock:
                lines, newline, self._unfinished = (self._unfinished + text).rpartition("\n")
                # A bar that is redrawn for hours never ends its line.
                self._unfinished = self._unfinished[self._unfinished[:-1].rfind("\r") + 1 :]
            if newline:
                self._put("".join(_last_state(line) + "\n" for line in lines.split("\n")))
            return written

        return copying


def _last_state(line: str) -> str:
    """Return a line as the screen shows it in the end."""
    return _ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]
