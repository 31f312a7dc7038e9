"""A finished run: its inference checkpoint, and what that says about the training."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.tracking.spool import FOLDER, Spool
from anemoi_house.upstream.checkpoints import fault_of

CHECKPOINT = "inference-last.ckpt"


@dataclass(frozen=True)
class Run:
    """A finished run: its inference checkpoint and what that says about the training."""

    checkpoint: Path
    metadata: dict[str, Any]

    @property
    def run_id(self) -> str:
        """Id of the run, which names its folder."""
        return self.metadata["run_id"]

    @property
    def name(self) -> str:
        """Name of the run for a person, as in the tracker; its id where it has none."""
        log = self.metadata["config"]["diagnostics"]["log"]
        return (log.get("mlflow") or {}).get("run_name") or self.run_id

    @property
    def root(self) -> Path:
        """Folder of all outputs, also where it was moved since; that of a checkpoint which lies elsewhere by itself."""
        folder = Path(self.metadata["config"]["system"]["output"]["checkpoints"]["root"]).parent.name
        there = self.checkpoint.absolute().parents
        return there[2] if len(there) > 2 and there[1].name == folder else there[0]

    @property
    def spool(self) -> Spool:
        """What the run has said, also where the outputs were moved since."""
        output = self.metadata["config"]["system"]["output"]
        folder, root = Path(output["logs"]["mlflow"]), output["root"]
        if folder.is_relative_to(root):
            folder = self.root / folder.relative_to(root)
        return Spool(folder / FOLDER / self.run_id)

    @property
    def step(self) -> int | None:
        """Optimiser steps that the checkpoint has behind it; None where it does not say."""
        return (self.metadata.get("training") or {}).get("global_step")

    @cached_property
    def dataset_name(self) -> str:
        """Name of its dataset, `data` in our configs.

        Raises
        ------
        HouseError
            Where the checkpoint is of an older anemoi-training, or of several datasets.
        """
        names = (self.metadata.get("metadata_inference") or {}).get("dataset_names") or []
        if len(names) != 1:
            raise HouseError(
                f"{self.checkpoint}: a checkpoint of {len(names)} named datasets; those of anemoi-training 0.17 with "
                "one dataset are understood."
            )
        return names[0]

    @property
    def dataset_metadata(self) -> Mapping[str, Any]:
        """What the checkpoint says of its dataset: `variables`, `variables_metadata` and so on."""
        return self.metadata["dataset"][self.dataset_name]

    @property
    def inference(self) -> Mapping[str, Any]:
        """What the checkpoint says to whoever runs it: `timesteps`, `variable_types`, `data_indices`."""
        return self.metadata["metadata_inference"][self.dataset_name]

    def check_whole(self) -> None:
        """Read the checkpoint through, without loading the model.

        Raises
        ------
        HouseError
            Where it was cut short, is one to train on with, or lacks its graph: the nodes and edges of the model, and
            their coordinates in the metadata.
        """
        if fault := fault_of(self.checkpoint):
            raise HouseError(f"{self.checkpoint}: {fault}. Take another checkpoint of the run: inference-*.ckpt.")
        with zipfile.ZipFile(self.checkpoint) as archive:
            model = next((archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")), b"")
        if b"pytorch-lightning_version" in model:
            raise HouseError(
                f"{self.checkpoint}: a checkpoint to go on with. To forecast, take the inference-*.ckpt beside it."
            )
        arrays = (self.metadata.get("supporting_arrays_paths") or {}).get(self.dataset_name) or {}
        lacking = [name for name in ("latitudes", "longitudes") if name not in arrays]
        if b"HeteroData" not in model or lacking:
            what = f"the {' and '.join(lacking)} of its nodes" if lacking else "nodes and edges"
            raise HouseError(
                f"{self.checkpoint}: a checkpoint without its graph ({what} are not in it). Take one as the training "
                "wrote it: inference-*.ckpt."
            )

    @cached_property
    def coordinates(self) -> tuple[Any, Any]:
        """Latitudes and longitudes of the data nodes, in degrees, as the checkpoint has them."""
        from anemoi.utils.checkpoints import load_metadata

        _, arrays = load_metadata(str(self.checkpoint), supporting_arrays=True)
        own = arrays[self.dataset_name]
        return own["latitudes"], own["longitudes"]


def find_run(path: Path) -> Run:
    """Run of a checkpoint folder or, where several runs lie below `path`, the latest of them.

    Parameters
    ----------
    path : Path
        A folder, or an inference checkpoint.

    Raises
    ------
    HouseError
        Where there is no finished run, or its checkpoint is cut short.
    """
    if path.is_file():
        return _run_of(path)
    found = sorted(path.rglob(CHECKPOINT), key=lambda file: file.stat().st_mtime)
    if not found:
        raise HouseError(
            f"{path}: no {CHECKPOINT} lies below it. Give the folder of a finished run, such as "
            "outputs/checkpoint/RUN_ID, or one that holds such folders."
        )
    return _run_of(found[-1])


def _run_of(checkpoint: Path) -> Run:
    from anemoi.utils.checkpoints import load_metadata

    try:
        metadata = load_metadata(str(checkpoint))
    except (OSError, ValueError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HouseError(
            f"{checkpoint}: no checkpoint of anemoi-training, or one that was cut short ({reason}). Take another "
            "checkpoint of the run: inference-*.ckpt."
        ) from None
    return Run(checkpoint, metadata)
