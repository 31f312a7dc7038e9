"""What one task does before the ranks of a job start: check everything, and build the graph once."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from anemoi.graphs.create import load_graph_from_file
from omegaconf import DictConfig

from anemoi_house.errors import HouseError
from anemoi_house.runs.resume import RUN_FOLDERS
from anemoi_house.runs.start import record_folder
from anemoi_house.tracking.spool import Spool
from anemoi_house.upstream import keys
from anemoi_house.upstream.checkpoints import checkpoints_in
from anemoi_house.upstream.compose import composed, validated
from anemoi_house.upstream.graph import built_graph

ROOM_FOR_CHECKPOINTS = 4
"""Checkpoints that must fit on the disk: those of an epoch and those of a time interval can be written together."""
WAIT_S = 150
"""Longest wait, in seconds, for another training of the same run to end."""
LEAST_FREE_BYTES = 2 * 2**30
"""Free space required before the first checkpoint shows its size."""
ANOTHER_FOLDER = "Free some space, or give another folder: HOUSE_OUTPUT, or --output of anemoi-house sbatch."


def prepare(config_name: str, overrides: Sequence[str] = ()) -> Path | None:
    """Check a training and build its graph, as `anemoi-training train` would with the same arguments.

    Parameters
    ----------
    config_name : str
        As for `anemoi-training train --config-name`.
    overrides : sequence of str
        In Hydra's syntax.

    Returns
    -------
    Path or None
        Graph file; None if the config names none.

    Raises
    ------
    HouseError
        If the training would fail: on its config, the paths of its data or its output folder, or because another one
        still writes to its run.
    """
    import anemoi.training.schemas.base_schema  # noqa: F401  our plugin widens the schemas that are loaded

    config = composed(config_name, None, overrides)
    _check_folder(Path(keys.get(config, keys.OUTPUT)))
    _wait_for_other_writer(config)
    return _prepare_graph(validated(config, config_name))


def _check_folder(folder: Path) -> None:
    """Check that a run can write to a folder, by writing there, and that its checkpoints fit."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(2**20))
            file.flush()
    except OSError as error:
        raise HouseError(f"{keys.OUTPUT}={folder}: cannot be written ({error.strerror}). {ANOTHER_FOLDER}") from None
    written = [each.path.stat().st_size for run in folder.glob(RUN_FOLDERS) for each in checkpoints_in(run)]
    needed = ROOM_FOR_CHECKPOINTS * max(written) if written else LEAST_FREE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HouseError(
            f"{keys.OUTPUT}={folder}: {free / 2**30:.1f} GiB are free, but checkpoints need {needed / 2**30:.1f}. "
            f"{ANOTHER_FOLDER}"
        )


def _wait_for_other_writer(config: DictConfig) -> None:
    """Wait until the ranks of an earlier attempt, on a node that was lost, have ended."""
    if not keys.continues_run(config):
        return
    run_id = keys.get(config, keys.RUN_ID)
    spool = Spool(record_folder(config, run_id))
    if not spool.is_locked():
        return
    print(f"run {run_id} is still being written; waiting up to {WAIT_S} s for it to end", flush=True)
    deadline = time.monotonic() + WAIT_S
    while spool.is_locked():
        if time.monotonic() > deadline:
            raise HouseError(
                f"{keys.RUN_ID}={run_id}: another training still writes to this run. End it, or fork the run: "
                f"{keys.RUN_ID}=null {keys.FORK_RUN_ID}={run_id}."
            )
        time.sleep(1)


def _prepare_graph(config: DictConfig) -> Path | None:
    """Build the graph of a validated config unless its file fits, and print its size."""
    if not (name := keys.get(config, keys.GRAPH)):
        return None
    path = Path(name)
    if path.exists() and not keys.get(config, keys.OVERWRITE):
        graph = load_graph_from_file(path)  # without the trainer, whose import would cost every attempt seconds
    else:
        graph = built_graph(config)
    print(f"graph {path}: {', '.join(f'{graph[name].num_nodes:,} {name} nodes' for name in graph.node_types)}")
    return path
