"""Arguments with which a run continues after a time limit, a lost node or Ctrl-C.

They are stock settings: one keeps the run and its folder, another names the checkpoint whose weights, optimiser,
schedule and step are restored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from anemoi_house.errors import HouseError
from anemoi_house.upstream import keys
from anemoi_house.upstream.checkpoints import LAST, Checkpoint, candidates, checkpoints_in, fault_of

RUN_FOLDERS = "checkpoint/*"
"""Checkpoint folders of the runs, in the outputs of our configs."""
_BARE = re.compile(r"[\w./:%+@-]+", re.ASCII)


@dataclass(frozen=True)
class Resume:
    """Where a run continues.

    Attributes
    ----------
    run_id : str
        Name of the run's checkpoint folder.
    checkpoint : Checkpoint
        The one to continue from.
    steps_again : int
        Steps after it that are done again: a later checkpoint within an epoch has them.
    passed_over : tuple of str
        Damaged files, each with its fault.
    """

    run_id: str
    checkpoint: Checkpoint
    steps_again: int
    passed_over: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """Arguments for `anemoi-training train`, in addition to those that the run was started with."""
        return [
            f"{keys.RUN_ID}={_quoted(self.run_id)}",
            f"{keys.FORK_RUN_ID}=null",
            f"{keys.WARM_START}={_quoted(str(self.checkpoint.path.absolute()))}",
        ]

    @property
    def summary(self) -> list[str]:
        """Lines that say where the run continues, and which files are skipped."""
        again = f"; {self.steps_again} steps of an unfinished epoch are repeated" if self.steps_again else ""
        within = "" if self.checkpoint.ends_an_epoch else ", within an epoch: the epoch's data start over"
        return [
            *(f"{each}; skipped" for each in self.passed_over),
            f"run {self.run_id} continues at step {self.checkpoint.step} ({self.checkpoint.path.name}{within}{again})",
        ]


def resume(folder: Path) -> Resume | None:
    """Find where a run continues: at its last whole checkpoint that ends an epoch, or else at its last whole one.

    Parameters
    ----------
    folder : Path
        Checkpoint folder of the run, or the outputs of one run (`HOUSE_OUTPUT`).

    Returns
    -------
    Resume or None
        None if the run has no checkpoint yet, and so begins at step 0.

    Raises
    ------
    HouseError
        If `folder` holds several runs, or every checkpoint is damaged.
    """
    if not (run := _run_folder(folder)):
        return None
    passed_over = []
    last = run / LAST
    if last.exists() and (fault := fault_of(last)):
        passed_over.append(f"{last}: {fault}")
    for checkpoint in candidates(run):
        if fault := fault_of(checkpoint.path):
            passed_over.append(f"{checkpoint.path}: {fault}")
            continue
        furthest = next(other for other in checkpoints_in(run) if not fault_of(other.path))
        return Resume(run.name, checkpoint, furthest.step - checkpoint.step, tuple(passed_over))
    if not passed_over:
        return None
    raise HouseError(
        f"{run}: every checkpoint is damaged ({'; '.join(passed_over)}). Start again in another folder, or from a file "
        f"that you trust: {keys.WARM_START}=FILE."
    )


def _run_folder(folder: Path) -> Path | None:
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise HouseError(f"{folder}: is not a directory. Give the outputs of a run, or its checkpoint folder.")
    if _has_checkpoints(folder):
        return folder
    runs = sorted(path for path in folder.glob(RUN_FOLDERS) if path.is_dir() and _has_checkpoints(path))
    if len(runs) > 1:
        choices = " or ".join(map(str, runs[-3:]))
        raise HouseError(f"{folder}: holds {len(runs)} runs. Give the folder of the one to continue: {choices}")
    return runs[0] if runs else None


def _has_checkpoints(folder: Path) -> bool:
    return (folder / LAST).exists() or bool(checkpoints_in(folder))


def _quoted(value: str) -> str:
    """Quote a value so that Hydra's grammar of overrides reads it as a string."""
    return value if _BARE.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()
