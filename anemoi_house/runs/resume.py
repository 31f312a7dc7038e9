"""What a training is told so that it goes on where it was ended, by a limit, a lost node or a person.

The means are the stock ones: `training.run_id` keeps the run and its folder, and `system.input.warm_start` names the
checkpoint whose weights, optimiser, schedule and step are restored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from anemoi_house.errors import HouseError
from anemoi_house.upstream.checkpoints import LAST, Checkpoint, candidates, checkpoints_in, fault_of

_BARE = re.compile(r"[\w./:%+@-]+", re.ASCII)


@dataclass(frozen=True)
class Resume:
    """Where a run goes on.

    Attributes
    ----------
    run_id : str
        Name of the run's checkpoint folder.
    checkpoint : Checkpoint
        The one to go on from.
    steps_again : int
        Steps beyond it that are in a later checkpoint, written in the middle of an epoch, and are done again.
    passed_over : tuple of str
        Files that are not whole, each with what is wrong.
    """

    run_id: str
    checkpoint: Checkpoint
    steps_again: int
    passed_over: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """Arguments for `anemoi-training train`, beside those that the run began with."""
        return [
            f"training.run_id={_quoted(self.run_id)}",
            "training.fork_run_id=null",
            f"system.input.warm_start={_quoted(str(self.checkpoint.path.absolute()))}",
        ]

    @property
    def told(self) -> list[str]:
        """What a person should know of it, in lines."""
        lines = [f"{each}; passed over" for each in self.passed_over]
        again = f"; {self.steps_again} steps of an unfinished epoch are done again" if self.steps_again else ""
        middle = "" if self.checkpoint.ends_an_epoch else ", in the middle of an epoch: its data begin anew"
        lines.append(
            f"run {self.run_id} goes on at step {self.checkpoint.step} ({self.checkpoint.path.name}{middle}{again})"
        )
        return lines


def resume(folder: Path) -> Resume | None:
    """Find where the run in `folder` goes on: at its last whole checkpoint that ends an epoch, else at its last one.

    Parameters
    ----------
    folder : Path
        The run's checkpoint folder, or the outputs of one run (`HOUSE_OUTPUT`).

    Returns
    -------
    Resume or None
        None where the run has written no checkpoint yet, so that it begins.

    Raises
    ------
    HouseError
        Where `folder` holds several runs, or every checkpoint is damaged.
    """
    run = _run_folder(folder)
    if run is None:
        return None
    passed_over = []
    last = run / LAST
    if last.exists() and (fault := fault_of(last)):
        passed_over.append(f"{last}: {fault}")
    for checkpoint in candidates(run):
        if fault := checkpoint.fault:
            passed_over.append(f"{checkpoint.path}: {fault}")
            continue
        later = [other.step for other in checkpoints_in(run) if other.step > checkpoint.step and not other.fault]
        again = max(later, default=checkpoint.step) - checkpoint.step
        return Resume(run.name, checkpoint, again, tuple(passed_over))
    if not passed_over:
        return None
    raise HouseError(
        f"{run}: no checkpoint is whole ({'; '.join(passed_over)}). Begin anew in another folder, or from a file that "
        "you trust: system.input.warm_start=FILE."
    )


def _run_folder(folder: Path) -> Path | None:
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise HouseError(f"{folder}: is no folder. Give the outputs of a run, or its checkpoint folder.")
    if _has_checkpoints(folder):
        return folder
    runs = sorted(path for path in folder.glob("checkpoint/*") if path.is_dir() and _has_checkpoints(path))
    if len(runs) > 1:
        raise HouseError(
            f"{folder}: holds {len(runs)} runs. Give the folder of the one that is to go on: "
            + " or ".join(str(path) for path in runs[-3:])
        )
    return runs[0] if runs else None


def _has_checkpoints(folder: Path) -> bool:
    return (folder / LAST).exists() or bool(checkpoints_in(folder))


def _quoted(value: str) -> str:
    """A value as Hydra's grammar of overrides takes it for a string."""
    if _BARE.fullmatch(value):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"'{escaped}'"
