"""Values that our configs compute: `${house.NAME:...}`.

A resolver runs when a command resolves its config, which is before anything is built: that is where
users' mistakes in paths, data and trim are found. Importing this module costs nothing beyond OmegaConf.
"""

from __future__ import annotations

import os
from functools import wraps
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError

if TYPE_CHECKING:
    from collections.abc import Callable


def register() -> None:
    """Register our resolvers with OmegaConf; again makes no difference."""
    for name, resolver in (
        ("path_of", path_of),
        ("nested", nested),
        ("build_graph", build_graph),
        ("slurm_nodes", slurm_nodes),
        ("slurm_tasks_per_node", slurm_tasks_per_node),
        ("slurm_gpus_per_node", slurm_gpus_per_node),
        ("strategy", strategy),
        ("tracking_uri", tracking_uri),
        ("begins_with_weights", begins_with_weights),
        ("local_rate", local_rate),
        ("start", start),
    ):
        OmegaConf.register_new_resolver(f"house.{name}", _with_message(resolver), replace=True)


def path_of(variable: str, key: str) -> str:
    """`${house.path_of:VARIABLE,key}`: a path that users set once, by environment variable or override."""
    if path := os.environ.get(variable):
        return path
    raise HouseError(
        f"{key} is not set. Say where the dataset is: `export {variable}=/path/to/it.zarr`, once, or `{key}=...` on "
        "the command line. Without data of your own: `anemoi-house sample sample` and a config that ends in _sample."
    )


def nested(cutout: DictConfig, *, _root_: DictConfig) -> DictConfig:
    """`${house.nested:${dataloader.nested}}`: the cutout with its trim in cells, once all that it names is checked."""
    from anemoi_house.plugin.cutout import checked_cutout

    return OmegaConf.create(checked_cutout(cutout, _root_))


def build_graph(*, _root_: DictConfig) -> bool:
    """`${house.build_graph:}`: whether the graph file is missing, or made from other settings or data."""
    from anemoi_house.plugin.cutout import graph_to_build

    return graph_to_build(_root_)


def slurm_nodes() -> int:
    """`${house.slurm_nodes:}`: nodes of the SLURM step, else of the job; 1 outside of one."""
    return int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)


def slurm_tasks_per_node() -> int:
    """`${house.slurm_tasks_per_node:}`: tasks on each node of the SLURM step; 1 outside of one."""
    layout = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or "1"
    each = layout.partition("(")[0]  # `4(x2)`
    if "," in layout or not each.isdigit():
        raise HouseError(
            f"The step has {layout} tasks on its nodes, and a training as many on each: ask for them with "
            "--ntasks-per-node, in place of --ntasks."
        )
    return int(each)


def slurm_gpus_per_node() -> int:
    """`${house.slurm_gpus_per_node:}`: GPUs per node of the SLURM job, else tasks per node of the step; 1 elsewhere."""
    tasks = slurm_tasks_per_node()
    asked = os.environ.get("SLURM_GPUS_PER_NODE") or str(tasks)
    number = asked.rpartition(":")[2]  # `a100:4`
    if not number.isdigit():
        raise HouseError(f"SLURM_GPUS_PER_NODE is '{asked}', which is no number of GPUs; set num_gpus_per_node.")
    if tasks not in (1, int(number)):
        raise HouseError(
            f"The step has {tasks} tasks on each node, and the job {number} GPUs: a task runs one GPU. Ask for "
            f"--ntasks-per-node={number}."
        )
    return int(number)


def strategy(nodes: int, devices: int) -> str:
    """`${house.strategy:NODES,DEVICES}`: the class for one device, or for several."""
    several = int(nodes) * int(devices) > 1
    return f"anemoi.training.distributed.{'strategy.DDPGroupStrategy' if several else 'single.SingleDeviceStrategy'}"


def tracking_uri() -> str:
    """`${house.tracking_uri:}`: the MLflow server that the environment names."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    raise HouseError(
        "diagnostics.log.mlflow.tracking_uri is not set. Say where the MLflow server is: `export "
        "MLFLOW_TRACKING_URI=https://...`, or `diagnostics.log.mlflow.tracking_uri=...` on the command line. Without a "
        "server: diagnostics=house_local."
    )


def begins_with_weights(*, _root_: DictConfig) -> bool:
    """`${house.begins_with_weights:}`: whether a second stage loads weights alone, once their file is seen."""
    from anemoi_house.runs import stages

    return stages.begins_with_weights(_root_)


def start(*, _root_: DictConfig) -> str:
    """`${house.start:}`: what the training begins with, in words, once it is checked."""
    from anemoi_house.runs.start import checked_start

    return checked_start(_root_)


def local_rate(global_rate: float, *, _root_: DictConfig) -> float:
    """`${house.local_rate:RATE}`: the learning rate to set for a global one on this hardware."""
    from anemoi_house.runs import stages

    return stages.local_rate(global_rate, _root_)


def _with_message(resolver: Callable[..., Any]) -> Callable[..., Any]:
    """Let a user's mistake through OmegaConf as the message that it is."""

    @wraps(resolver)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return resolver(*args, **kwargs)
        except HouseError as mistake:
            from anemoi_house.upstream.errors import ResolverError

            raise ResolverError(str(mistake)) from None

    return call
