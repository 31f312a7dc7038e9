"""What an inference checkpoint says about its training, under the names that anemoi-training 0.17 gives it."""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from anemoi_house.errors import HouseError, first_line
from anemoi_house.upstream import keys
from anemoi_house.upstream.checkpoints import INFERENCE, fault_of

ANOTHER = f"Use another checkpoint of the run: {INFERENCE}*.ckpt."


@dataclass(frozen=True)
class InferenceCheckpoint:
    """A checkpoint to forecast with, and its metadata.

    Attributes
    ----------
    checkpoint : Path
        The file.
    metadata : dict
        Everything it says; the properties below name what we use.
    """

    checkpoint: Path
    metadata: dict[str, Any]

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read the metadata of a checkpoint, without loading its model.

        Raises
        ------
        HouseError
            If the file is not a checkpoint of anemoi-training, or was cut short.
        """
        from anemoi.utils.checkpoints import load_metadata

        try:
            return cls(checkpoint, load_metadata(str(checkpoint)))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise HouseError(
                f"{checkpoint}: not a checkpoint of anemoi-training, or cut short ({first_line(error)}). {ANOTHER}"
            ) from None

    @property
    def run_id(self) -> str:
        """Id of the run, which names its folder."""
        return self.metadata["run_id"]

    @property
    def config(self) -> dict[str, Any]:
        """Config of the training, resolved; read it with `keys.get`."""
        return self.metadata["config"]

    @property
    def name(self) -> str:
        """Name of the run in the tracker; its id if it has none."""
        return keys.get(self.config, keys.RUN_NAME) or self.run_id

    @property
    def step(self) -> int | None:
        """Optimiser steps that the checkpoint has seen; None if it does not say."""
        return (self.metadata.get("training") or {}).get("global_step")

    @property
    def uuid(self) -> str | None:
        """Unique id of the checkpoint."""
        return self.metadata.get("uuid")

    @property
    def input_steps(self) -> int:
        """Number of states that the model takes as input."""
        return keys.get(self.config, keys.INPUT_STEPS)

    @cached_property
    def dataset_name(self) -> str:
        """Name of its dataset, `data` in our configs.

        Raises
        ------
        HouseError
            If the checkpoint is from an older anemoi-training, or has several datasets.
        """
        names = (self.metadata.get("metadata_inference") or {}).get("dataset_names") or []
        if len(names) != 1:
            raise HouseError(
                f"{self.checkpoint}: has {len(names)} named datasets. Only checkpoints of anemoi-training 0.17 with "
                "one dataset are supported."
            )
        return names[0]

    @property
    def dataset_metadata(self) -> Mapping[str, Any]:
        """What the checkpoint says about its dataset: `variables`, `variables_metadata` and so on."""
        return self.metadata["dataset"][self.dataset_name]

    @property
    def inference(self) -> Mapping[str, Any]:
        """What the checkpoint tells an inference runner: `timesteps`, `variable_types`, `data_indices`."""
        return self.metadata["metadata_inference"][self.dataset_name]

    def dates_of(self, stage: str) -> Mapping[str, Any]:
        """Return the `dataset_config`, `start` and `end` of a stage: `keys.TRAINING`, `VALIDATION` or `TEST`."""
        return keys.get(self.config, f"{stage}.datasets", {}).get(self.dataset_name) or {}

    def dataset_of(self, stage: str) -> dict[str, Any]:
        """Return the arguments of `open_dataset` for a stage, without its period; empty for a stage without data."""
        reader = self.dates_of(stage).get("dataset_config") or {}
        arguments = {"dataset": reader} if isinstance(reader, str) else reader
        return {key: copy.deepcopy(value) for key, value in arguments.items() if value is not None}

    def check_whole(self) -> None:
        """Read the checkpoint through, without loading the model.

        Raises
        ------
        HouseError
            If it was cut short, is one to train from, or lacks its graph: the nodes and edges of the model, and their
            coordinates in the metadata.
        """
        if fault := fault_of(self.checkpoint):
            raise HouseError(f"{self.checkpoint}: {fault}. {ANOTHER}")
        with zipfile.ZipFile(self.checkpoint) as archive:
            model = next((archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")), b"")
        if b"pytorch-lightning_version" in model:
            raise HouseError(
                f"{self.checkpoint}: a checkpoint to train from. To forecast, use the {INFERENCE}*.ckpt next to it."
            )
        arrays = (self.metadata.get("supporting_arrays_paths") or {}).get(self.dataset_name) or {}
        lacking = [name for name in ("latitudes", "longitudes") if name not in arrays]
        if b"HeteroData" not in model:
            lacking.append("nodes and edges")
        if lacking:
            raise HouseError(f"{self.checkpoint}: has no graph ({', '.join(lacking)} are missing). {ANOTHER}")

    @cached_property
    def coordinates(self) -> tuple[Any, Any]:
        """Latitudes and longitudes of the data nodes, in degrees."""
        from anemoi.utils.checkpoints import load_metadata

        _, arrays = load_metadata(str(self.checkpoint), supporting_arrays=True)
        own = arrays[self.dataset_name]
        return own["latitudes"], own["longitudes"]
