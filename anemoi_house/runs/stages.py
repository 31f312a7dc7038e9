"""The second stage of a training: what it begins with, and its learning rate."""

from __future__ import annotations

from omegaconf import DictConfig

from anemoi_house.errors import HouseError
from anemoi_house.runs.start import check_file, source_of


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
    if config.training.run_id and not config.training.fork_run_id:
        return False
    source = source_of(config)
    if source is None:
        raise HouseError(
            "training.fork_run_id and system.input.warm_start are not set, and a second stage begins with the weights "
            "of a first one: training.fork_run_id=RUN for a run of these outputs, or system.input.warm_start=FILE."
        )
    check_file(source)
    return True


def local_rate(global_rate: float, config: DictConfig) -> float:
    """Learning rate to set for a global one: anemoi-training multiplies it by the models that train side by side."""
    hardware = config.system.hardware
    models = hardware.num_nodes * hardware.num_gpus_per_node / hardware.num_gpus_per_model
    return float(global_rate) / models
