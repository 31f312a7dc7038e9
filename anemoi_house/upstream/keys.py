"""Keys of a training's config, spelled once: a release of anemoi-training that renames one changes this module.

Code reads a setting by its name here, `get(config, keys.GRAPH)`, and messages quote it: `f"{keys.GRAPH}: ..."`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

DATA, HIDDEN = "data", "hidden"
"""Name of the dataset and of its nodes in the graph, and name of the mesh."""

# A run and what it starts from
RUN_ID = "training.run_id"
FORK_RUN_ID = "training.fork_run_id"
WEIGHTS_ONLY = "training.load_weights_only"
WARM_START = "system.input.warm_start"

# Outputs
OUTPUT = "system.output.root"
CHECKPOINTS = "system.output.checkpoints.root"
LOGS = "system.output.logs.root"
MLFLOW_LOGS = "system.output.logs.mlflow"

# Hardware
NODES = "system.hardware.num_nodes"
GPUS_PER_NODE = "system.hardware.num_gpus_per_node"
GPUS_PER_MODEL = "system.hardware.num_gpus_per_model"

# Data
DATASETS = "system.input.dataset"
LAM, GLOBAL = f"{DATASETS}.lam", f"{DATASETS}.global"
FREQUENCY = "data.frequency"
DATASET = "dataloader.dataset"
NESTED = "dataloader.nested"
TRIM = "dataloader.trim"
VARIABLES = f"data.datasets.{DATA}"
FORCING = f"{VARIABLES}.forcing"
TRAINING, VALIDATION, TEST = (f"dataloader.{stage}" for stage in ("training", "validation", "test"))
BATCH_SIZE = "dataloader.batch_size.training"
WORKERS = "dataloader.num_workers.training"
LIMIT_BATCHES = "dataloader.limit_batches.training"

# Graph
GRAPH = "system.input.graph"
GRAPH_CONFIG = "graph"
GRAPH_NODES, GRAPH_EDGES, OVERWRITE = (f"{GRAPH_CONFIG}.{key}" for key in ("nodes", "edges", "overwrite"))

OPEN_BLOCKS = ("data", VARIABLES, "dataloader", GRAPH_CONFIG, "system.input", DATASETS, "diagnostics.plot")
"""Blocks in which anemoi's schemas accept, and ignore, any key."""

# Training
TASK = "task"
INPUT_STEPS = "task.multistep_input"
ROLLOUT_START = "task.rollout.start"
MAX_STEPS, MAX_EPOCHS = "training.max_steps", "training.max_epochs"
ACCUMULATED = "training.accum_grad_batches"
OPTIMISATION = "training.optimization"
SCHEDULE = f"{OPTIMISATION}.lr_scheduler"
LOSS = f"training.training_loss.datasets.{DATA}"
SCALERS = f"training.scalers.datasets.{DATA}"
VARIABLE_GROUPS = f"training.variable_groups.datasets.{DATA}"
METRICS = "training.metrics.datasets"
METRICS_TO_LOG = f"{METRICS}.{DATA}"

# Diagnostics
CALLBACKS = "diagnostics.callbacks"
CHECKPOINTING = "diagnostics.checkpoint"
PLOTS = "diagnostics.plot.callbacks"
PLOTTED = "diagnostics.plot.parameters"
MLFLOW = "diagnostics.log.mlflow"
TRACKED, RUN_NAME, TRACKING_URI = (f"{MLFLOW}.{key}" for key in ("enabled", "run_name", "tracking_uri"))


def dates_of(stage: str) -> str:
    """Return the key of the dates and the dataset of a stage: `TRAINING`, `VALIDATION` or `TEST`."""
    return f"{stage}.datasets.{DATA}"


def get(config: dict[str, Any] | DictConfig, key: str, default: Any = None) -> Any:
    """Return the value at a dotted key; `default` where it is not set or null.

    Parameters
    ----------
    config : DictConfig or dict
        The whole config: of a training, or the plain copy of it in a checkpoint.
    key : str
        One of this module.
    default : Any
        Value for a key that is absent or null.
    """
    found: Any = config
    if isinstance(config, dict):
        for part in key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    else:
        from omegaconf import OmegaConf

        found = OmegaConf.select(config, key)
    return default if found is None else found


def plain(config: DictConfig, key: str) -> Any:
    """Return the setting at a dotted key, resolved, as plain lists, dicts and values."""
    from omegaconf import OmegaConf

    found = get(config, key)
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def continues_run(config: DictConfig) -> bool:
    """Return True if a training continues a run, in its folder, rather than starting a new one."""
    return bool(get(config, RUN_ID)) and not get(config, FORK_RUN_ID)


def checkpoints_folder(config: DictConfig) -> Path:
    """Return the folder that holds a checkpoint folder for each run."""
    return Path(get(config, OUTPUT), get(config, CHECKPOINTS))


def mlflow_folder(config: DictConfig) -> Path:
    """Return the folder that MLflow's stock logger would write to."""
    return Path(get(config, OUTPUT), get(config, LOGS), get(config, MLFLOW_LOGS))
