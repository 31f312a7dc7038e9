"""Record what tells a run apart when a training begins: its graph, data, versions and learning rate."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from mlflow.entities import Param, RunTag
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from anemoi_house.graphs.describe import RECORD
from anemoi_house.upstream import keys

LOGGER = logging.getLogger(__name__)
_PACKAGES = (
    "anemoi-house", "anemoi-training", "anemoi-models", "anemoi-graphs", "anemoi-datasets", "torch", "torch-geometric",
)  # fmt: skip
_SLURM = ("SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_CLUSTER_NAME")


class DescribeRun(pl.Callback):
    """Record, with the training's MLflow logger, what the run is.

    - Parameters: nodes, neighbours and isolated nodes of the graph, trainable parameters of the model, the learning
      rate that the optimiser uses, ranks, the data's paths and dates.
    - Tags: the experiment's config, versions, git commit of the working directory, nodes, SLURM job.
    - Artifact: the picture of the graph.

    Parameters
    ----------
    start : str
        What the training starts from, in words; recorded as the tag `start`.
    picture : bool
        Whether to draw the graph, next to its file, if there is no picture yet or only an older one. This takes a
        second for the samples, and about ten for the published grids.
    """

    def __init__(self, start: str = "", picture: bool = True) -> None:
        self.start = start
        self.picture = picture

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record everything that can be found out."""
        logger: Any = trainer.logger
        tracked = getattr(logger, "logger_name", None) == "mlflow"
        try:
            if tracked:
                params = {**_of_graph(pl_module), **_of_training(trainer, pl_module), **_of_data(pl_module)}
                logger.experiment.log_batch(
                    logger.run_id,
                    params=[Param(key, str(value)) for key, value in params.items()],
                    tags=[RunTag(key, value) for key, value in _tags(trainer, self.start).items()],
                )
            # The picture belongs to the graph, so it is drawn without a tracker too.
            if self.picture and (picture := _picture(pl_module)) and tracked:
                with tempfile.TemporaryDirectory() as folder:
                    logger.experiment.log_artifact(logger.run_id, shutil.copy(picture, Path(folder) / "graph.png"))
        except Exception as failure:  # a description must not end a training
            LOGGER.warning("The description of the run is incomplete: %s", failure)


def _picture(pl_module: Any) -> Path | None:
    """Return the picture of the graph next to its file; None if the graph is not ours, or its folder is read-only."""
    graph = Path(str(keys.get(pl_module.config, keys.GRAPH)))
    picture = graph.with_suffix(".png")
    if not graph.is_file() or not hasattr(pl_module.model.graph_data, RECORD):
        return None
    if not picture.is_file() or picture.stat().st_mtime < graph.stat().st_mtime:
        if not os.access(graph.parent, os.W_OK):
            return None
        from anemoi_house.figures.graph import plot_graph

        plot_graph(graph, picture)
    return picture


def _of_graph(pl_module: Any) -> dict[str, Any]:
    coverage = getattr(pl_module.model.graph_data, RECORD, {"coverage": {}})["coverage"]
    found: dict[str, Any] = {}
    for key, part in coverage.items():
        parts = {f".{name}": value for name, value in part.items()} if isinstance(part, Mapping) else {"": part}
        found |= {f"graph.{key}{name.replace(' -> ', '_to_')}": value for name, value in parts.items()}
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
    with suppress(Exception):  # the dataloader of another config
        config = pl_module.config
        paths = keys.get(config, keys.DATASETS).items()
        found |= {f"data.{name}": str(Path(path).absolute()) if Path(path).exists() else path for name, path in paths}
        for stage in (keys.TRAINING, keys.VALIDATION):
            dates = keys.get(config, keys.dates_of(stage))
            found |= {f"data.{stage.rpartition('.')[2]}.{end}": dates[end] for end in ("start", "end")}
    return found


def _tags(trainer: pl.Trainer, start: str) -> dict[str, str]:
    tags = {f"version.{package}": version(package) for package in _PACKAGES}
    tags |= {name: os.environ[name] for name in _SLURM if name in os.environ}
    tags["nodes"] = str(trainer.num_nodes)
    if start:
        tags["start"] = start
    with suppress(Exception):  # not started by Hydra
        from hydra.core.hydra_config import HydraConfig

        tags["experiment"] = str(HydraConfig.get().job.config_name)
    if commit := _git_commit():
        tags["git_commit"] = commit
    return tags


def _git_commit() -> str:
    """Return the commit of the working directory, with a plus if files were changed; empty outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
