"""The second stage of a training: what it begins with, and its learning rate."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from anemoi_house.errors import HouseError
from anemoi_house.jobs.checkpoints import LAST, fault_of


def begins_with_weights(config: DictConfig) -> bool:
    """Whether a second stage loads weights alone: True for a new run, False where it goes on with its own.

    Parameters
    ----------
    config : DictConfig
        The whole config; `training.run_id`, `training.fork_run_id` and `system.input.warm_start` are read.

    Raises
    ------
    HouseError
        Where nothing says what weights the stage begins with, or their file is missing or damaged.
    """
    run_id, fork_run_id = config.training.run_id, config.training.fork_run_id
    warm_start = config.system.input.get("warm_start")
    if run_id and not fork_run_id:
        return False
    if warm_start:
        key, source = f"system.input.warm_start={warm_start}", Path(warm_start)
    elif fork_run_id:
        root = Path(config.system.output.root, config.system.output.checkpoints.root)
        key, source = f"training.fork_run_id={fork_run_id}", root / fork_run_id / LAST
    else:
        raise HouseError(
            "training.fork_run_id and system.input.warm_start are not set, and a second stage begins with the weights "
            "of a first one: training.fork_run_id=RUN for a run of these outputs, or system.input.warm_start=FILE."
        )
    if fault := fault_of(source):
        raise HouseError(f"{key}: {source}: {fault}. Give another run, or the path of a checkpoint that is whole.")
    return True


def local_rate(global_rate: float, config: DictConfig) -> float:
    """Learning rate to set for a global one: anemoi-training multiplies it by the models that train side by side."""
    hardware = config.system.hardware
    models = hardware.num_nodes * hardware.num_gpus_per_node / hardware.num_gpus_per_model
    return float(global_rate) / models
