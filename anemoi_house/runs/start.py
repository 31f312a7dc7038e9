"""What a training starts from: a new model, or a checkpoint that fits it.

The stock trainer takes its settings of runs and checkpoints as they are. Some combinations fail late, or continue with
other settings than the config has. They are found here while the config is resolved, before anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from anemoi_house.errors import HouseError
from anemoi_house.tracking.identity import local_run_id
from anemoi_house.tracking.spool import FOLDER
from anemoi_house.upstream import keys
from anemoi_house.upstream.checkpoints import INFERENCE, LAST, fault_of


@dataclass(frozen=True)
class Source:
    """Checkpoint that a training starts from.

    Attributes
    ----------
    key, value : str
        Setting that names it; a run by its local id, or by the id that its server gave it.
    checkpoint : Path
        The file, where the stock trainer looks for it.
    """

    key: str
    value: str
    checkpoint: Path

    def __str__(self) -> str:
        """Return the setting as on the command line."""
        return f"{self.key}={self.value}"


def source_of(config: DictConfig) -> Source | None:
    """Return the checkpoint that a config names, without looking at the file; None for a new model.

    Parameters
    ----------
    config : DictConfig
        The whole config, unresolved.
    """
    if warm_start := keys.get(config, keys.WARM_START):
        return Source(keys.WARM_START, warm_start, Path(warm_start))
    for key in (keys.FORK_RUN_ID, keys.RUN_ID):
        if run := keys.get(config, key):
            return Source(key, run, keys.checkpoints_folder(config) / record_folder(config, run).name / LAST)
    return None


def record_folder(config: DictConfig, run_id: str) -> Path:
    """Return the folder for the record of a run in a config's outputs, named by its local id; it may not exist."""
    spools = keys.mlflow_folder(config) / FOLDER
    return spools / local_run_id(spools, run_id)


def checked_start(config: DictConfig) -> str:
    """Check that a training can start as its config says, and return what it starts from, in words.

    Parameters
    ----------
    config : DictConfig
        The whole config, unresolved.

    Returns
    -------
    str
        `new`, or how it uses which file.

    Raises
    ------
    HouseError
        If the checkpoint is missing or damaged, its state would override the schedule or rollout of the config, or
        Lightning would start from another file.
    """
    if stray := sorted(Path.cwd().glob("hpc_ckpt_*.ckpt")):
        raise HouseError(
            f"{stray[-1]}: Lightning continues from a file with this name in the working directory, whatever the "
            f"config says. Move it away, or start in another directory. To continue from it, rename it and set "
            f"{keys.WARM_START}=FILE."
        )
    source = source_of(config)
    if source is None:
        return "new"
    check_file(source)
    weights_only = bool(keys.get(config, keys.WEIGHTS_ONLY))
    if not weights_only:
        _check_state(config, source)
    how = "restart" if keys.continues_run(config) else "weights" if weights_only else "fork"
    return f"{how} of {source.checkpoint}"


def check_file(source: Source) -> None:
    """Check that a checkpoint exists, is whole, and can be trained from.

    Raises
    ------
    HouseError
        If it does not, is not, or cannot.
    """
    path = source.checkpoint
    if path.name.startswith(INFERENCE):
        raise HouseError(
            f"{source}: is for inference, without the training state. Give the file next to it: "
            f"{path.with_name(path.name.removeprefix(INFERENCE))}."
        )
    if not (fault := fault_of(path)):
        return
    if source.key == keys.WARM_START:
        way_out = "Give the path of a whole checkpoint"
    elif path.exists():
        way_out = f"For an earlier one, use the arguments that `anemoi-house resume {path.parent}` prints"
    else:
        outputs = path.parent.parent
        runs = sorted(each.parent.name for each in outputs.glob(f"*/{LAST}"))
        way_out = (
            f"{outputs} has {', '.join(runs[-3:]) or 'no run with one'}; set HOUSE_OUTPUT for other outputs. Leave out "
            f"{source.key} to start a new run"
        )
    raise HouseError(f"{source}: {path}: {fault}. {way_out}.")


def _check_state(config: DictConfig, source: Source) -> None:
    """Check that the state of a checkpoint agrees with the schedule and rollout of the config."""
    from anemoi.utils.checkpoints import load_metadata

    metadata = load_metadata(str(source.checkpoint))
    before = metadata.get("config") or {}
    new_run = (
        f"load weights alone into a new run: {keys.WEIGHTS_ONLY}=True {keys.RUN_ID}=null "
        f"{keys.FORK_RUN_ID}={metadata.get('run_id') or 'RUN'}"
    )
    _check_schedule(config, keys.get(before, keys.SCHEDULE), source, new_run)
    old, new = (keys.get(each, keys.ROLLOUT_START) for each in (before, config))
    if None not in (old, new) and old != new:
        raise HouseError(
            f"{keys.ROLLOUT_START}={new}: {source} restores the rollout of its own training, which started at {old}, "
            f"and would continue from there. For a second stage, {new_run}, as the _rollout experiments do. To "
            f"continue the old rollout, set {keys.ROLLOUT_START}={old}."
        )


def _check_schedule(config: DictConfig, before: Any, source: Source, new_run: str) -> None:
    now = keys.plain(config, keys.SCHEDULE)
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return
    changed = [key for key in before.keys() & now.keys() if before[key] != now[key]]
    if not changed:
        return
    key = "t_initial" if "t_initial" in changed else min(changed)
    old, new = before[key], now[key]
    effect = "which would stay in force"
    if key == "t_initial" and new > old:
        effect = f"so from step {old} the rate would stay at its minimum, {before.get('lr_min', 0)}"
    by_steps = new == keys.get(config, keys.MAX_STEPS)
    setting = f"{keys.MAX_STEPS}={new}" if by_steps else f"{keys.SCHEDULE}.{key}={new}"
    raise HouseError(
        f"{setting}: {source} restores its own learning-rate schedule with {key}={old}, {effect}. To accept that, "
        f"set {keys.SCHEDULE}.{key}={old}. For a new schedule, {new_run}."
    )
