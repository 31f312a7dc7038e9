"""Find a finished run: its inference checkpoint, and the record of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anemoi_house.errors import HouseError
from anemoi_house.tracking.spool import FOLDER, Spool
from anemoi_house.upstream import keys
from anemoi_house.upstream.checkpoints import INFERENCE_LAST
from anemoi_house.upstream.metadata import InferenceCheckpoint


@dataclass(frozen=True)
class Run(InferenceCheckpoint):
    """A finished run: its inference checkpoint, and its other outputs, also after they were moved."""

    @property
    def root(self) -> Path:
        """Folder of all outputs; the checkpoint's own folder if it was moved on its own."""
        folder = Path(keys.get(self.config, keys.CHECKPOINTS)).parent.name
        parents = self.checkpoint.absolute().parents
        return parents[2] if len(parents) > 2 and parents[1].name == folder else parents[0]

    @property
    def spool(self) -> Spool:
        """Record of the training."""
        folder, root = (Path(keys.get(self.config, key)) for key in (keys.MLFLOW_LOGS, keys.OUTPUT))
        if folder.is_relative_to(root):
            folder = self.root / folder.relative_to(root)
        return Spool(folder / FOLDER / self.run_id)


def find_run(path: Path) -> Run:
    """Return the run of a checkpoint, or the latest run under a folder.

    Parameters
    ----------
    path : Path
        A folder, or an inference checkpoint.

    Raises
    ------
    HouseError
        If there is no finished run, or its checkpoint was cut short.
    """
    if path.is_file():
        return Run.read(path)
    found = sorted(path.rglob(INFERENCE_LAST), key=lambda file: file.stat().st_mtime)
    if not found:
        raise HouseError(
            f"{path}: contains no {INFERENCE_LAST}. Give the folder of a finished run, such as "
            "outputs/checkpoint/RUN_ID, or one that holds such folders."
        )
    return Run.read(found[-1])
