"""What `anemoi-house sync` prints of a run."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from anemoi_house.progress import ProgressLine
from anemoi_house.tracking.ledger import Ledger
from anemoi_house.tracking.pending import Pending, counts
from anemoi_house.tracking.sender import Sender
from anemoi_house.tracking.servers.connect import shown_uri
from anemoi_house.tracking.spool import Spool
from anemoi_house.words import counted

PROGRESS_S = 30.0
"""Between two lines of progress if stderr is not a terminal."""
SHORT_ID = 8


def label(spool: Spool) -> str:
    """Return the name of a run, if it can be read, with the beginning of its id."""
    name = ""
    with suppress(OSError):
        name = spool.start().get("run_name", "")
    short = spool.run_id[:SHORT_ID]
    return short if name in ("", spool.run_id) else f"{name[:30]} {short}"


def sent_line(spool: Spool, ledger: Ledger) -> str:
    """Return the line for a run that has been sent as far as it is recorded."""
    where = shown_uri(ledger.uri)
    line = f"{label(spool)}: complete at {where}"
    if not ledger.closed:
        line = f"{label(spool)}: up to date at {where}; the run continues"
    if ledger.refused_count:
        first = ledger.refused[0]
        line += f"; {ledger.refused_count} refused there: {first['what']}: {first['reason']}"
        line += " ..." if ledger.refused_count > 1 else ""
        line += "; to send it again: anemoi-house sync --retry-refused"
    if damaged := ledger.damaged + bool(ledger.closed and spool.torn()):
        line += f"; {counted(damaged, 'damaged line')} in the record left out"
    return line


def left_line(spool: Spool, uri: str, reason: str, to: str | None) -> str:
    """Return the line for a run that could not be sent, with the command that tries again."""
    left = counted(Pending(spool, uri).left["records"], "record")
    option = f" --to {to}" if to else ""
    return f"{label(spool)}: {left} still to send: {reason}; run again: anemoi-house sync {spool.folder}{option}"


class Progress(ProgressLine):
    """Progress of a sender on stderr.

    Parameters
    ----------
    log_every_s : float
        Seconds between two lines if stderr is not a terminal.
    """

    def __init__(self, log_every_s: float = PROGRESS_S) -> None:
        super().__init__(log_every_s)
        self._sender: Sender | None = None
        self._total: Counter[str] = Counter()
        self._counted = -1

    def show_sent(self, sender: Sender) -> None:
        """Show how much of a run is sent, if it is time for that."""
        if self.due:
            self.show(self._text(sender))

    def note(self, spool: Spool, reason: str) -> None:
        """Show on a terminal why sending pauses."""
        if self.on_terminal:
            self.show(f"{label(spool)}: {reason}")

    def _text(self, sender: Sender) -> str:
        ledger, spool = sender.ledger, sender.spool
        if sender is not self._sender or self._counted < ledger.offset:  # another run, or the spool has grown
            self._total = counts(spool, ledger.offset) + Counter(rows=ledger.rows, artifacts=ledger.artifacts)
            self._sender, self._counted = sender, spool.size
        text = f"{label(spool)}: {ledger.rows:,} of {self._total['rows']:,} rows"
        if self._total["artifacts"]:
            text += f", {ledger.artifacts:,} of {self._total['artifacts']:,} artifacts"
        return text
