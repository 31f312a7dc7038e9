"""Progress of long work on stderr."""

from __future__ import annotations

import sys
import time

TERMINAL_EVERY_S = 0.2
LOG_EVERY_S = 60.0
"""Time between two lines if stderr is not a terminal."""
WIDTH = 79


class ProgressLine:
    """A line of progress: rewritten on a terminal, otherwise printed once in a while.

    Parameters
    ----------
    log_every_s : float
        Seconds between two lines if stderr is not a terminal; infinity prints none.
    """

    def __init__(self, log_every_s: float = LOG_EVERY_S) -> None:
        self.on_terminal = sys.stderr.isatty()
        self._every_s = TERMINAL_EVERY_S if self.on_terminal else log_every_s
        self._shown = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next line. Check it to avoid composing lines that are not shown."""
        return time.monotonic() - self._shown >= self._every_s

    def show(self, text: str) -> None:
        """Show a text now."""
        self._shown = time.monotonic()
        if self.on_terminal:
            print(f"\r{text[:WIDTH]:<{WIDTH}}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line on a terminal."""
        if self.on_terminal:
            print(f"\r{'':<{WIDTH}}\r", end="", file=sys.stderr, flush=True)
