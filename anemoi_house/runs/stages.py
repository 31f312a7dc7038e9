"""The second stage of a training: what it starts from, and its learning rate."""

from __future__ import annotations

from omegaconf import DictConfig

from anemoi_house.errors import HouseError
from anemoi_house.runs.start import check_file, source_of
from anemoi_house.upstream import keys
from anemoi_house.upstream.trainer import replicas


def begins_with_weights(config: DictConfig) -> bool:
    """Return True if a second stage loads weights alone, as a new run; False if it continues its own run.

    Parameters
    ----------
    config : DictConfig
        The whole config, unresolved.

    Raises
    ------
    HouseError
        If nothing names the weights to start from, or their file is missing or damaged.
    """
    if keys.continues_run(config):
        return False
    source = source_of(config)
    if source is None:
        raise HouseError(
            f"{keys.FORK_RUN_ID} and {keys.WARM_START} are not set, but a second stage needs the weights of a first "
            f"one. Set {keys.FORK_RUN_ID}=RUN for a run in these outputs, or {keys.WARM_START}=FILE."
        )
    check_file(source)
    return True


def local_rate(global_rate: float, config: DictConfig) -> float:
    """Return the learning rate to set for a global one, since the trainer multiplies it by the replicas."""
    return float(global_rate) / replicas(config)
