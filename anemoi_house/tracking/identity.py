"""The id of a run: known before any server answers, and the same on every rank."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_HANDED_DOWN = "ANEMOI_HOUSE_RUN_ID"
_SLURM = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_JOB_START_TIME", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
_TORCHRUN = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")


def new_run_id(rank: int, environ: MutableMapping[str, str]) -> str | None:
    """Id of a new run.

    Tasks of SLURM and of torchrun derive it from what all of them see; processes that rank 0 starts inherit it.

    Parameters
    ----------
    rank : int
        Rank of this process.
    environ : mutable mapping
        The environment. Rank 0 adds a variable to it for the processes that it starts.

    Returns
    -------
    str or None
        None on a rank that a launcher of another kind has started: as with the stock logger, rank 0 alone has an id.
    """
    if job_run := environ.get("MLFLOW_RUN_ID"):  # an Azure ML job: the run is there already
        return job_run
    shared = _shared(environ)
    if shared is not None:
        return uuid.uuid5(uuid.NAMESPACE_OID, shared).hex
    if rank > 0:
        return environ.get(_HANDED_DOWN)
    environ[_HANDED_DOWN] = uuid.uuid4().hex
    return environ[_HANDED_DOWN]


def local_run_id(spools: Path, run_id: str) -> str:
    """Id under which a run is recorded here, given that id or the one that a server has given the run."""
    if not (spools / run_id).is_dir():
        for ledger in sorted(spools.glob("*/sent/*.json")):
            try:
                if json.loads(ledger.read_bytes()).get("run_id") == run_id:
                    return ledger.parents[1].name
            except (OSError, ValueError):  # half copied: another ledger may know
                continue
    return run_id


def _shared(environ: Mapping[str, str]) -> str | None:
    """Text that all ranks of a run, and no other run, can put together; None where there is none."""
    if int(environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return "slurm:" + ":".join(environ.get(name, "") for name in _SLURM)
    if "TORCHELASTIC_RUN_ID" in environ:
        if environ.get("GROUP_WORLD_SIZE") == "1":  # one node: all ranks are children of one torchrun
            return f"torchrun:{os.uname().nodename}:{os.getppid()}:{_start_time(os.getppid())}"
        return "torchrun:" + ":".join(environ.get(name, "") for name in _TORCHRUN)
    return None


def _start_time(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[19]
