"""Terminal output of a training as records of its spool."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from typing import Any

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Copies what is written to standard output and error, line by line.

    Progress bars redraw their line: only its last state is kept. What is printed by other processes, or by libraries
    below Python, is not seen.

    Parameters
    ----------
    put : callable
        Takes a text of complete lines.
    """

    def __init__(self, put: Callable[[str], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._unfinished = ""
        self._streams: list[tuple[Any, Any]] = []

    def start(self) -> None:
        """Begin to copy."""
        for stream in (sys.stdout, sys.stderr):
            self._streams.append((stream, stream.write))
            stream.write = self._copying(stream.write)  # type: ignore[method-assign, assignment]

    def stop(self) -> None:
        """End to copy, and let go of the line that has no end."""
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
                # A bar that is redrawn for hours has no newline.
                self._unfinished = self._unfinished[self._unfinished[:-1].rfind("\r") + 1 :]
            if newline:
                self._put("".join(_last_state(line) + "\n" for line in lines.split("\n")))
            return written

        return copying


def _last_state(line: str) -> str:
    """A line as it stands on the screen in the end."""
    return _ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]
