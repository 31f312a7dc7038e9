"""Checkpoint files of a run: their names, which of them are whole, and which one a training continues from.

Nothing here imports torch: a job script asks between two attempts.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LAST = "last.ckpt"
"""Copy of the latest checkpoint to train from."""
INFERENCE = "inference-"
"""Prefix of a checkpoint to forecast with, which the stock training writes next to each to train from."""
INFERENCE_LAST = INFERENCE + LAST

_NAMED = re.compile(r"anemoi-(?P<kind>by_epoch|by_time|by_step)-epoch_(?P<epoch>\d+)-step_(?P<step>\d+)\.ckpt")
_METADATA = "anemoi.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with its training state, from which a training can continue.

    Attributes
    ----------
    path : Path
        The file.
    kind : str
        When it was written: `by_epoch` at the end of an epoch, `by_time` or `by_step` within one.
    epoch, step : int
        From its name: the epoch, counted from 0, and the number of steps done.
    """

    path: Path
    kind: str
    epoch: int
    step: int

    @property
    def ends_an_epoch(self) -> bool:
        """Whether a training that continues from it sees every date of an epoch exactly once."""
        return self.kind == "by_epoch"


def fault_of(path: Path) -> str:
    """Return what makes a checkpoint unusable; an empty string if it is whole.

    A checkpoint is a zip archive with a checksum for each part. The stock training adds the metadata last, after the
    weights: without it, the training was killed while it wrote the file.

    Reading a file takes seconds, and a config is resolved several times: a file is read again only after it changed.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return "it does not exist"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return _fault(path, stat.st_mtime_ns, stat.st_size)


@lru_cache
def _fault(path: Path, _mtime_ns: int, _size: int) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                return f"its part {broken} is damaged"
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == _METADATA]
            if len(names) != 1:
                return "its metadata was not written"
            json.loads(archive.read(names[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        return "it was cut short"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def checkpoints_in(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints of a run that have a step in their name, the furthest first, without reading them.

    Of two at the same step, the one at the end of an epoch comes first. `last.ckpt` is a copy of one of them.
    """
    found = [
        Checkpoint(path, match["kind"], int(match["epoch"]), int(match["step"]))
        for path in folder.glob("anemoi-by_*.ckpt")
        if (match := _NAMED.fullmatch(path.name))
    ]
    return sorted(found, key=lambda each: (each.step, each.ends_an_epoch), reverse=True)


def candidates(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints in the order in which a training should try to continue: ends of epochs first."""
    return sorted(checkpoints_in(folder), key=lambda each: not each.ends_an_epoch)
