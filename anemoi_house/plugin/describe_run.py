"""What runs are told apart by, recorded when a training begins: its graph, its data, its versions, its rate."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from mlflow.entities import Param, RunTag
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from anemoi_house.graphs.describe import RECORD

LOGGER = logging.getLogger(__name__)
_PACKAGES = (
    "anemoi-house", "anemoi-training", "anemoi-models", "anemoi-graphs", "anemoi-datasets", "torch", "torch-geometric",
)  # fmt: skip
_SLURM = ("SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME")


class DescribeRun(pl.Callback):
    """Callback that records, with whatever MLflow logger the training has, what the run is.

    - Parameters: nodes, neighbours and isolated nodes of the graph, trainable parameters of the model, the learning
      rate that the optimiser really uses, ranks, the data's paths and dates.
    - Tags: the experiment's config, versions, git commit of the working folder, nodes, jobs of SLURM.
    - Artifact: the picture of the graph.

    Parameters
    ----------
    start : str
        What the training begins with, in words; kept as the tag `start`.
    picture : bool
        Whether to draw the graph. It is drawn beside its file, once: where there is no picture yet, or an older one.
        That takes a second for the samples, and some ten for the published grids.
    """

    def __init__(self, start: str = "", picture: bool = True) -> None:
        self.start = start
        self.picture = picture

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record it all; what cannot be found out is left out."""
        logger = trainer.logger
        tracked = getattr(logger, "logger_name", None) == "mlflow"
        try:
            if tracked:
                self._describe(trainer, pl_module)
            # Without a tracker too: the picture belongs to the graph.
            if self.picture and (picture := _picture(pl_module)) and tracked:
                _record(picture, logger)
        except Exception as failure:  # a description is not worth a training
            LOGGER.warning("The run is not described in full: %s", failure)

    def _describe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        params = {**_of_graph(pl_module), **_of_training(trainer, pl_module), **_of_data(pl_module)}
        trainer.logger.experiment.log_batch(  # type: ignore[union-attr]
            trainer.logger.run_id,  # type: ignore[union-attr]
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, str(value)) for key, value in _tags(trainer, self.start).items()],
        )


def _picture(pl_module: Any) -> Path | None:
    """Picture of the graph beside its file; None where the graph is none of ours, or its folder belongs to others."""
    graph = Path(str(pl_module.config.system.input.graph))
    picture = graph.with_suffix(".png")
    if not graph.is_file() or not hasattr(pl_module.model.graph_data, RECORD):
        return None
    if not picture.is_file() or picture.stat().st_mtime < graph.stat().st_mtime:
        if not os.access(graph.parent, os.W_OK):
            return None
        from anemoi_house.figures.graph import plot_graph

        plot_graph(graph, picture)
    return picture


def _record(picture: Path, logger: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        logger.experiment.log_artifact(logger.run_id, shutil.copy(picture, Path(folder) / "graph.png"))


def _of_graph(pl_module: Any) -> dict[str, Any]:
    record = getattr(pl_module.model.graph_data, RECORD, None)
    if record is None:
        return {}
    coverage = record["coverage"]
    found = {f"graph.{key}": value for key, value in coverage.items() if not isinstance(value, Mapping)}
    for key, part in coverage.items():
        if isinstance(part, Mapping):
            found |= {f"graph.{key}.{name.replace(' -> ', '_to_')}": value for name, value in part.items()}
    return {key: value for key, value in found.items() if value is not None}


def _of_training(trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = {group.get("initial_lr", group["lr"]) for group in groups}
    return {
        "model.trainable_parameters": sum(part.numel() for part in pl_module.parameters() if part.requires_grad),
        "training.learning_rate_used": ", ".join(f"{rate:.6g}" for rate in sorted(rates)),
        "ranks": trainer.world_size,
    }


def _of_data(pl_module: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with suppress(Exception):  # another layout of the dataloader's settings
        config = pl_module.config
        found |= {f"data.{name}": _whole(path) for name, path in config.system.input.dataset.items()}
        for stage in ("training", "validation"):
            dates = config.dataloader[stage].datasets.data
            found |= {f"data.{stage}.{end}": dates[end] for end in ("start", "end")}
    return found


def _whole(path: str) -> str:
    """A path that says where it is also to somebody in another folder."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def _tags(trainer: pl.Trainer, start: str) -> dict[str, str]:
    tags = dict(_versions())
    if start:
        tags["start"] = start
    with suppress(Exception):  # not started by Hydra
        from hydra.core.hydra_config import HydraConfig

        tags["experiment"] = str(HydraConfig.get().job.config_name)
    if commit := _git_commit():
        tags["git_commit"] = commit
    tags["nodes"] = str(trainer.num_nodes)
    tags |= {name: os.environ[name] for name in _SLURM if name in os.environ}
    return tags


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            yield f"version.{package}", version(package)


def _git_commit() -> str:
    """Commit of the working folder, with a plus where files differ from it; empty where there is no repository."""
    answers: list[str] = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            asked = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=2, check=True)
        except (OSError, subprocess.SubprocessError):
            return answers[0] if answers else ""
        answers.append(asked.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")
