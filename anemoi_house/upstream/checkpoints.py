"""Checkpoints of a run as they lie on the disk: which of them are whole, and which one a training goes on from.

Nothing here imports torch: a batch script asks between two attempts.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

LAST = "last.ckpt"
END_OF_EPOCH = "by_epoch"
_NAMED = re.compile(r"anemoi-(?P<kind>by_epoch|by_time|by_step)-epoch_(?P<epoch>\d+)-step_(?P<step>\d+)\.ckpt")
_METADATA = "anemoi.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with its training state, which a training can go on from.

    Attributes
    ----------
    path : Path
        The file.
    kind : str
        When it was written: `by_epoch` at the end of an epoch, `by_time` or `by_step` in the middle of one.
    epoch, step : int
        Counted from 0, as in its name; the step is the number of those that are done.
    """

    path: Path
    kind: str
    epoch: int
    step: int

    @property
    def ends_an_epoch(self) -> bool:
        """Whether a training that goes on from it leaves no date of an epoch out, and sees none twice."""
        return self.kind == END_OF_EPOCH

    @cached_property
    def fault(self) -> str:
        """What makes the file unusable; empty if nothing does. All of the file is read, once."""
        return fault_of(self.path)


def fault_of(path: Path) -> str:
    """What makes a checkpoint unusable; empty if nothing does.

    A checkpoint is a zip archive with a checksum of each part, and the stock training adds a last part, the metadata,
    after the weights are written. So one that was cut short, or has no metadata, was being written when its training
    was killed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                return f"its part {broken} is damaged"
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == _METADATA]
            if len(names) != 1:
                return "its metadata was not written"
            json.loads(archive.read(names[0]))
    except FileNotFoundError:
        return "it is not there"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        return "it was cut short"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def metadata_of(path: Path) -> dict[str, Any]:
    """Metadata of a checkpoint that is whole: `config`, `run_id`, `training` and so on."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.rpartition("/")[2] == _METADATA]
        found: dict[str, Any] = json.loads(archive.read(name))
    return found


def checkpoints_in(folder: Path) -> list[Checkpoint]:
    """Checkpoints of a run's folder that have their step in their name, the furthest first, unread.

    Of two at one step, the one at an epoch's end comes first. `last.ckpt` is a copy of one of them.
    """
    found = [checkpoint for path in folder.glob("anemoi-by_*.ckpt") if (checkpoint := _named(path))]
    return sorted(found, key=lambda each: (each.step, each.ends_an_epoch), reverse=True)


def candidates(folder: Path) -> Iterator[Checkpoint]:
    """Checkpoints in the order in which a training should go on from them: ends of epochs first."""
    found = checkpoints_in(folder)
    yield from (each for each in found if each.ends_an_epoch)
    yield from (each for each in found if not each.ends_an_epoch)


def _named(path: Path) -> Checkpoint | None:
    if not (match := _NAMED.fullmatch(path.name)):
        return None
    return Checkpoint(path, match["kind"], int(match["epoch"]), int(match["step"]))
