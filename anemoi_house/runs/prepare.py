"""What one task does before the ranks of a job start: everything is checked, and the graph is built once."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anemoi.graphs.create import load_graph_from_file
from omegaconf import DictConfig
from torch_geometric.data import HeteroData

from anemoi_house.errors import HouseError
from anemoi_house.runs.start import spools_of
from anemoi_house.tracking.identity import local_run_id
from anemoi_house.tracking.spool import Spool
from anemoi_house.upstream.checkpoints import checkpoints_in
from anemoi_house.upstream.compose import composed, validated

ROOM_FOR_CHECKPOINTS = 4
"""Checkpoints that there must be room for: the stock training writes those of an epoch and of a time side by side."""

PATIENCE_S = 150
"""Seconds that the end of another training of the same run is waited for."""

LEAST_FREE_BYTES = 2 * 2**30
"""Room that a run must have before its first checkpoint shows what it needs."""


def prepare(config_name: str, overrides: Sequence[str] = ()) -> Path | None:
    """Check a training and build its graph, as `anemoi-training train` would with the same arguments.

    Parameters
    ----------
    config_name : str
        As for `anemoi-training train --config-name`.
    overrides : sequence of str
        Of the config, in Hydra's notation.

    Returns
    -------
    Path or None
        Graph file; None where the config names none.

    Raises
    ------
    HouseError
        Where the training would end on a mistake: in the config, the paths of the data, the folder it writes to, or
        where another one still writes to its run.
    """
    import anemoi.training.schemas.base_schema  # noqa: F401  our plugin widens the schemas that are loaded

    config = composed(config_name, None, overrides)
    _check_folder(Path(config.system.output.root))
    _wait_for_other_writer(config)
    return _see_to_graph(validated(config, config_name))


def _check_folder(folder: Path) -> None:
    """Whether a run can be written to the folder, by writing there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(2**20))
            file.flush()
    except OSError as error:
        raise HouseError(
            f"system.output.root={folder}: cannot be written to ({error.strerror}). Free some space, or give another "
            "folder: HOUSE_OUTPUT, or --output of anemoi-house sbatch."
        ) from None
    written = [
        checkpoint.path.stat().st_size for run in folder.glob("checkpoint/*") for checkpoint in checkpoints_in(run)
    ]
    needed = ROOM_FOR_CHECKPOINTS * max(written) if written else LEAST_FREE_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HouseError(
            f"system.output.root={folder}: {free / 2**30:.1f} GiB are free, and checkpoints need {needed / 2**30:.1f}. "
            "Free some space, or give another folder: HOUSE_OUTPUT, or --output of anemoi-house sbatch."
        )


def _wait_for_other_writer(config: DictConfig) -> None:
    """Give the ranks of an attempt before, on a node that was lost, the time to end."""
    run_id = config.training.run_id
    if not run_id or config.training.fork_run_id:
        return
    spool = Spool(spools_of(config) / local_run_id(spools_of(config), run_id))
    if not spool.is_locked():
        return
    print(f"run {run_id} is still written to; waiting for its end, at most {PATIENCE_S} s", flush=True)
    deadline = time.monotonic() + PATIENCE_S
    while spool.is_locked():
        if time.monotonic() > deadline:
            raise HouseError(
                f"training.run_id={run_id}: another training still writes to this run. End it, or branch off: "
                f"training.run_id=null training.fork_run_id={run_id}."
            )
        time.sleep(1)


def _see_to_graph(config: DictConfig) -> Path | None:
    """Build the graph, or see that it is there, by the stock trainer's own means."""
    if not config.system.input.graph:
        return None
    path = Path(config.system.input.graph)
    if path.exists() and not config.graph.get("overwrite", False):
        nodes = load_graph_from_file(path)  # without the trainer, whose import takes seconds of every attempt
    else:
        nodes = _built_graph(config)
    print(f"graph {path}: {', '.join(f'{nodes[name].num_nodes:,} {name} nodes' for name in nodes.node_types)}")
    return path


def _built_graph(config: DictConfig) -> HeteroData:
    from anemoi.training.train.train import AnemoiTrainer

    kind: Any = AnemoiTrainer
    trainer = kind.__new__(kind)  # one that is initialised begins a run
    trainer.config = config
    return trainer.graph_data
