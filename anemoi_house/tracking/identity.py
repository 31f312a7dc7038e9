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
    """Return the id of a new run.

    Tasks of SLURM and of torchrun derive it from variables that all of them have; processes that rank 0 starts inherit
    it.

    Parameters
    ----------
    rank : int
        Rank of this process.
    environ : mutable mapping
        The environment. Rank 0 adds a variable for the processes that it starts.

    Returns
    -------
    str or None
        None on ranks above 0 of any other launcher: as with the stock logger, only rank 0 has an id.
    """
    if job_run := environ.get("MLFLOW_RUN_ID"):  # an Azure ML job has its run already
        return job_run
    shared = _shared(environ)
    if shared is not None:
        return uuid.uuid5(uuid.NAMESPACE_OID, shared).hex
    if rank > 0:
        return environ.get(_HANDED_DOWN)
    environ[_HANDED_DOWN] = uuid.uuid4().hex
    return environ[_HANDED_DOWN]


def local_run_id(spools: Path, run_id: str) -> str:
    """Return the id under which a run is recorded here, given that id or the id of a server."""
    if not (spools / run_id).is_dir():
        for ledger in sorted(spools.glob("*/sent/*.json")):
            try:
                if json.loads(ledger.read_bytes()).get("run_id") == run_id:
                    return ledger.parents[1].name
            except (OSError, ValueError):  # an incomplete copy: another ledger may have it
                continue
    return run_id


def _shared(environ: Mapping[str, str]) -> str | None:
    """Return a text that all ranks of a run, and no other run, can compose; None if there is none."""
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
