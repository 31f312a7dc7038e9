"""What runs are told apart by, recorded when a training begins: its graph, its data, its versions, its rate."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
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
PICTURE_WAIT_S = 60.0
"""For how long a training that is over waits for its picture; after more than some steps it is there already."""
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
    picture : bool
        Whether to draw the graph: in a process of its own, with the time that the training leaves over.
    """

    def __init__(self, picture: bool = True) -> None:
        self.picture = picture
        self._painter: _Painter | None = None

    @rank_zero_only
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record it all; what cannot be found out is left out."""
        logger = trainer.logger
        if getattr(logger, "logger_name", None) != "mlflow":
            return
        experiment, run_id = logger.experiment, logger.run_id  # type: ignore[union-attr]
        params = {**_of_graph(pl_module), **_of_training(trainer, pl_module), **_of_data(pl_module)}
        try:
            experiment.log_batch(
                run_id,
                params=[Param(key, str(value)) for key, value in params.items()],
                tags=[RunTag(key, str(value)) for key, value in _tags(trainer).items()],
            )
            graph = Path(str(pl_module.config.system.input.graph))  # type: ignore[union-attr]
            if self.picture and graph.is_file() and hasattr(pl_module.model.graph_data, RECORD):  # type: ignore[union-attr]
                self._painter = _Painter(graph)
        except Exception as failure:  # a description is not worth a training
            LOGGER.warning("The run is not described in full: %s", failure)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Record the picture once it is drawn."""
        if self._painter is not None and self._painter.done:
            self._hang_up(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the picture, at most `PICTURE_WAIT_S`."""
        if self._painter is not None:
            self._painter.wait(PICTURE_WAIT_S)
            self._hang_up(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Go at once."""
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    def _hang_up(self, trainer: pl.Trainer) -> None:
        painter, self._painter = self._painter, None
        assert painter is not None
        try:
            trainer.logger.experiment.log_artifact(trainer.logger.run_id, str(painter.picture()))  # type: ignore[union-attr]
        except Exception as failure:
            LOGGER.warning("The run has no picture of its graph: %s", failure)
        finally:
            painter.close()


class _Painter:
    """`anemoi-house graph plot`, beside the training."""

    def __init__(self, graph: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="anemoi-house-")
        self._file = Path(self._folder.name) / "graph.png"
        command = [sys.executable, "-P", "-m", "anemoi_house.cli", "graph", "plot", str(graph), "-o", str(self._file)]
        try:
            with (self._file.parent / "said").open("wb") as said:
                self._process = subprocess.Popen(
                    ["nice", *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
                )
        except BaseException:
            self._folder.cleanup()
            raise

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._process.poll() is not None

    def wait(self, seconds: float) -> None:
        """Wait for its end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def picture(self) -> Path:
        """The file; an OSError with what the command said where there is none."""
        if not self.done:
            raise TimeoutError(f"it was not drawn within {PICTURE_WAIT_S:.0f} s of the training's end")
        if not self._file.is_file():
            raise OSError((self._file.parent / "said").read_text(errors="replace").strip()[-300:] or "it was not drawn")
        return self._file

    def close(self) -> None:
        """End it, and leave nothing behind."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


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


def _tags(trainer: pl.Trainer) -> dict[str, str]:
    tags = dict(_versions())
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
