"""Values that our configs compute: `${house.NAME:...}`.

A resolver runs when a command resolves its config, before anything is built: that is where mistakes in paths, data and
trim are found. This module imports nothing but OmegaConf and Hydra.
"""

from __future__ import annotations

import os

from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError
from anemoi_house.upstream import keys
from anemoi_house.upstream.errors import ResolverError, mistakes_as


def register() -> None:
    """Register our resolvers with OmegaConf; a second call changes nothing."""
    of_slurm = (slurm_nodes, slurm_tasks_per_node, slurm_gpus_per_node)
    others = (path_of, nested, build_graph, strategy, tracking_uri, begins_with_weights, local_rate, start)
    for resolver in of_slurm + others:
        passing = mistakes_as(ResolverError)(resolver)
        OmegaConf.register_new_resolver(f"house.{resolver.__name__}", passing, replace=True)


def path_of(variable: str, key: str) -> str:
    """`${house.path_of:VARIABLE,key}`: a path that users set once, by environment variable or override."""
    if path := os.environ.get(variable):
        return path
    raise HouseError(
        f"{key} is not set. Set the path of the dataset: `export {variable}=/path/to/it.zarr`, once, or `{key}=...` on "
        "the command line. Without data of your own: `anemoi-house sample sample` and a config that ends in _sample."
    )


def nested(cutout: DictConfig, *, _root_: DictConfig) -> DictConfig:
    """`${house.nested:${dataloader.nested}}`: the cutout, checked, with its trim in cells."""
    from anemoi_house.plugin.cutout import checked_cutout
    from anemoi_house.upstream.known_keys import check_running

    check_running(_root_)
    return OmegaConf.create(checked_cutout(cutout, _root_))


def build_graph(*, _root_: DictConfig) -> bool:
    """`${house.build_graph:}`: whether the graph file is missing, or was made from other settings or data."""
    from anemoi_house.plugin.cutout import graph_to_build

    return graph_to_build(_root_)


def slurm_nodes() -> int:
    """`${house.slurm_nodes:}`: nodes of the SLURM step, or of the job; 1 outside SLURM."""
    return int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)


def slurm_tasks_per_node() -> int:
    """`${house.slurm_tasks_per_node:}`: tasks per node of the SLURM step; 1 outside SLURM."""
    layout = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or "1"
    tasks = layout.partition("(")[0]  # `4(x2)`
    if "," in layout or not tasks.isdigit():
        raise HouseError(
            f"SLURM_STEP_TASKS_PER_NODE: the step has {layout} tasks on its nodes, but a training needs the same "
            "number on each. Request tasks with --ntasks-per-node instead of --ntasks."
        )
    return int(tasks)


def slurm_gpus_per_node() -> int:
    """`${house.slurm_gpus_per_node:}`: GPUs per node of the SLURM job, or the tasks per node of its step; else 1."""
    tasks = slurm_tasks_per_node()
    requested = os.environ.get("SLURM_GPUS_PER_NODE") or str(tasks)
    number = requested.rpartition(":")[2]  # `a100:4`
    if not number.isdigit():
        raise HouseError(
            f"SLURM_GPUS_PER_NODE: '{requested}' is not a number of GPUs. Set {keys.GPUS_PER_NODE} on the command line."
        )
    if tasks not in (1, int(number)):
        raise HouseError(
            f"SLURM_GPUS_PER_NODE: the job has {number} GPUs per node, but the step {tasks} tasks, and each task runs "
            f"one GPU. Request --ntasks-per-node={number}."
        )
    return int(number)


def strategy(nodes: int, devices: int) -> str:
    """`${house.strategy:NODES,DEVICES}`: the stock class for one device, or for several."""
    several = int(nodes) * int(devices) > 1
    return f"anemoi.training.distributed.{'strategy.DDPGroupStrategy' if several else 'single.SingleDeviceStrategy'}"


def tracking_uri() -> str:
    """`${house.tracking_uri:}`: the MLflow server named in the environment."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    raise HouseError(
        f"{keys.TRACKING_URI} is not set. Set the address of the MLflow server: `export "
        f"MLFLOW_TRACKING_URI=https://...`, or `{keys.TRACKING_URI}=...` on the command line. Without a server: "
        "diagnostics=house_local."
    )


def begins_with_weights(*, _root_: DictConfig) -> bool:
    """`${house.begins_with_weights:}`: whether a second stage loads weights alone, after a check of their file."""
    from anemoi_house.runs import stages

    return stages.begins_with_weights(_root_)


def start(*, _root_: DictConfig) -> str:
    """`${house.start:}`: what the training starts from, in words, after a check that it can, and of its periods."""
    from anemoi_house.plugin.periods import check_use_of_data
    from anemoi_house.runs.start import checked_start

    check_use_of_data(_root_)
    return checked_start(_root_)


def local_rate(global_rate: float, *, _root_: DictConfig) -> float:
    """`${house.local_rate:RATE}`: the learning rate to set for a global one on this hardware."""
    from anemoi_house.runs import stages

    return stages.local_rate(global_rate, _root_)
