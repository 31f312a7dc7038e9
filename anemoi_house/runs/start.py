"""What a training begins with: a new model, or a checkpoint that suits it.

The stock trainer takes `training.run_id`, `training.fork_run_id`, `training.load_weights_only` and
`system.input.warm_start` as they are. Some of their combinations end late, or go on with other settings than those
that were asked for. They are found here while the config is resolved, before anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError
from anemoi_house.tracking.identity import local_run_id
from anemoi_house.tracking.spool import FOLDER
from anemoi_house.upstream.checkpoints import LAST, fault_of, metadata_of

_SCHEDULE = "training.optimization.lr_scheduler"


@dataclass(frozen=True)
class Source:
    """Checkpoint that a training begins with.

    Attributes
    ----------
    key, value : str
        What names it in the config; a run by its id here, or by the one that its server has given it.
    checkpoint : Path
        The file, where the stock trainer looks for it.
    """

    key: str
    value: str
    checkpoint: Path

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.key}={self.value}"


def source_of(config: DictConfig) -> Source | None:
    """Checkpoint that a config names; None where a training begins anew. The file is not looked at.

    Parameters
    ----------
    config : DictConfig
        The whole config, with its interpolations.
    """
    folder = Path(config.system.output.root, config.system.output.checkpoints.root)
    if warm_start := config.system.input.get("warm_start"):
        return Source("system.input.warm_start", warm_start, Path(warm_start))
    for key in ("fork_run_id", "run_id"):
        if run := config.training.get(key):
            return Source(f"training.{key}", run, folder / local_run_id(spools_of(config), run) / LAST)
    return None


def spools_of(config: DictConfig) -> Path:
    """Folder that the records of all runs of a config's outputs lie in, whether there is one or not."""
    output = config.system.output
    return Path(output.root, output.logs.root, output.logs.mlflow, FOLDER)


def checked_start(config: DictConfig) -> str:
    """Say what a training begins with, once it is sure that it can.

    Parameters
    ----------
    config : DictConfig
        The whole config, with its interpolations.

    Returns
    -------
    str
        In words: 'new', or how it begins with which file.

    Raises
    ------
    HouseError
        Where there is no such checkpoint or it is damaged; where its state would bring another schedule or rollout
        than the config's; where Lightning would begin with another file.
    """
    if stray := sorted(Path.cwd().glob("hpc_ckpt_*.ckpt")):
        raise HouseError(
            f"{stray[-1]}: Lightning goes on from a file of this name in the working folder, whatever the config says. "
            "Move it away, or start elsewhere; to go on from it: system.input.warm_start=FILE under another name."
        )
    source = source_of(config)
    if source is None:
        return "new"
    check_file(source)
    weights_only = bool(config.training.load_weights_only)
    if not weights_only:
        _check_state(config, source)
    goes_on = config.training.run_id and not config.training.fork_run_id
    what = "restart" if goes_on else "weights" if weights_only else "fork"
    return f"{what} of {source.checkpoint}"


def check_file(source: Source) -> None:
    """Whether a checkpoint is there, whole, and made to train from.

    Raises
    ------
    HouseError
        Where it is not.
    """
    path = source.checkpoint
    if path.name.startswith("inference-"):
        raise HouseError(
            f"{source}: is for inference, without what a training needs. Give the file beside it: "
            f"{path.with_name(path.name.removeprefix('inference-'))}."
        )
    if not (fault := _fault(path)):
        return
    if source.key == "system.input.warm_start":
        way_out = "Give the path of a checkpoint that is whole"
    elif path.exists():
        way_out = f"Its checkpoint before that: the arguments that `anemoi-house resume {path.parent}` prints"
    else:
        runs = sorted(each.parent.name for each in path.parent.parent.glob(f"*/{LAST}"))
        there = f"There are {', '.join(runs[-3:])}" if runs else "There is no run with one"
        way_out = f"{there} in {path.parent.parent}; other outputs: HOUSE_OUTPUT. Without {source.key} a new run begins"
    raise HouseError(f"{source}: {path}: {fault}. {way_out}.")


def _fault(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return fault_of(path)
    return _fault_of_version(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _fault_of_version(path: Path, _mtime_ns: int, _size: int) -> str:
    """A config is resolved several times, and a checkpoint takes seconds to read."""
    return fault_of(path)


def _check_state(config: DictConfig, source: Source) -> None:
    """Whether what comes with the state of a checkpoint is what the config says."""
    metadata = metadata_of(source.checkpoint)
    before = metadata.get("config") or {}
    run = metadata.get("run_id") or "RUN"
    anew = (
        f"weights alone into a new run, training.load_weights_only=True with training.run_id=null "
        f"training.fork_run_id={run}"
    )
    _check_schedule(config, _at(before, _SCHEDULE), source, anew)
    old, new = _at(before, "task.rollout.start"), OmegaConf.select(config, "task.rollout.start")
    if None not in (old, new) and old != new:
        raise HouseError(
            f"task.rollout.start={new}: {source} brings the rollout of its own training, which began with {old} "
            f"and would go on from there. For a second stage: {anew}, as the _rollout experiments do. To go on with "
            f"the rollout as it is: task.rollout.start={old}."
        )


def _check_schedule(config: DictConfig, before: Any, source: Source, anew: str) -> None:
    chosen = OmegaConf.select(config, _SCHEDULE)
    now = OmegaConf.to_container(chosen, resolve=True) if isinstance(chosen, DictConfig) else chosen
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return
    for key in sorted(before.keys() & now.keys(), key=lambda key: (key != "t_initial", key)):
        old, new = before[key], now[key]
        if old == new:
            continue
        effect = "and the training would keep that"
        if key == "t_initial" and new > old:
            effect = f"and from step {old} on the rate would stay at its minimum, {before.get('lr_min', 0)}"
        asked = f"training.max_steps={new}" if new == config.training.max_steps else f"{_SCHEDULE}.{key}={new}"
        raise HouseError(
            f"{asked}: {source} brings its own schedule of the learning rate, with {key} {old}, {effect}. To have it "
            f"so: {_SCHEDULE}.{key}={old}. For a schedule of its own: {anew}."
        )


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, Mapping):
            return None
        tree = tree.get(part)
    return tree
