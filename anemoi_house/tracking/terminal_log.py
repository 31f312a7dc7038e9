"""The terminal output of a run as an artifact of the server."""

from __future__ import annotations

import time

from anemoi_house.tracking.ledger import Ledger
from anemoi_house.tracking.servers.base import Server
from anemoi_house.tracking.servers.failures import ExistsError
from anemoi_house.tracking.uploads import as_file

EVERY_S = 30.0
"""Between two copies of the output, on a server that overwrites the one before."""
PART_BYTES = 256 * 1024
PART_EVERY_S = 15 * 60.0
"""Size and age at which a part of the output is sent, if nothing can be overwritten."""
WHOLE, PART = "terminal_log.txt", "terminal/{:03d}.txt"


class TerminalLog:
    """Collects the terminal output, and sends it as one file or, if the server never overwrites, in parts.

    Parameters
    ----------
    server : Server
    ledger : Ledger
        Holds how much of the output is sent.
    """

    def __init__(self, server: Server, ledger: Ledger) -> None:
        self._server, self._ledger = server, ledger
        self._output = bytearray()
        self._sent_at = time.monotonic()

    def add(self, text: str) -> None:
        """Append output."""
        self._output += text.encode(errors="replace")

    def send(self, run_id: str, final: bool) -> None:
        """Send what is due; everything if it is `final`."""
        if self._server.overwrites:
            if self._waiting and (final or self._age_s >= EVERY_S):
                with as_file(bytes(self._output)) as local:
                    self._server.upload(run_id, local, WHOLE)
                self._note(self._waiting)
            return
        age_s = self._age_s
        while self._waiting and (final or self._waiting >= PART_BYTES or age_s >= PART_EVERY_S):
            self._send_part(run_id)

    def postpone(self) -> None:
        """Wait as long as after a success before output that is not final is due."""
        self._sent_at = time.monotonic()

    def give_up(self) -> None:
        """Leave out what is waiting."""
        self._note(self._waiting)

    @property
    def _waiting(self) -> int:
        return max(0, len(self._output) - self._ledger.terminal_sent)

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._sent_at

    def _send_part(self, run_id: str) -> None:
        """Send the next part, or note that an earlier attempt has sent it."""
        rest = bytes(self._output[self._ledger.terminal_sent :])
        part = _whole_lines(rest, PART_BYTES)
        name = PART.format(self._ledger.terminal_parts)
        try:
            with as_file(part) as local:
                self._server.upload(run_id, local, name)
        except ExistsError:
            part = self._server.artifact(run_id, name) or b""
            if not rest.startswith(part):
                part = b""  # another file has this name: use the next one
        self._ledger.terminal_parts += 1
        self._note(len(part))

    def _note(self, sent: int) -> None:
        self._ledger.terminal_sent += sent
        self._sent_at = time.monotonic()
        self._ledger.write()


def _whole_lines(text: bytes, most: int) -> bytes:
    """Return the beginning of a text, at most `most` bytes, which ends with a line if possible."""
    if len(text) <= most:
        return text
    end = text.rfind(b"\n", 0, most) + 1
    if not end:
        end = most
        while end > 1 and text[end] & 0xC0 == 0x80:  # not within a character
            end -= 1
    return text[:end]
