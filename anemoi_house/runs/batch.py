"""A training as a job of SLURM: a script that checks, trains, stops at a checkpoint before its limit, and goes on."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anemoi_house import __version__
from anemoi_house.errors import HouseError
from anemoi_house.upstream.compose import composed

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<fields>\d+(?::\d+){0,2})")
_GPUS = re.compile(r"(?:[\w.-]+:)?(?P<number>[1-9]\d*)")
NO_ACCOUNT = "none"


@dataclass(frozen=True)
class Job:
    """What a job asks SLURM for, and what it runs.

    Attributes
    ----------
    config_name : str
        As after `anemoi-training train --config-name`.
    overrides : sequence of str
        Of the config, in Hydra's notation.
    nodes : int
        Number of nodes.
    gpus_per_node : str or None
        As sbatch takes it, `4` or `a100:4`: a task for each. None for ranks on CPUs.
    tasks_per_node : int or None
        CPU ranks on each node, where there are no GPUs; 1 by default.
    gpus_per_model : int
        GPUs, or CPU ranks, that share one model.
    time : str
        Limit of an attempt, as sbatch takes it.
    account : str or None
        As sbatch takes it; `none` where the site has no accounts. `SBATCH_ACCOUNT` by default.
    partition : str or None
        As sbatch takes it; the site's default otherwise.
    cpus_per_task : int or None
        As sbatch takes it; the site's default otherwise.
    output : Path or None
        Folder of the run, its own; `runs/CONFIG` by default.
    env : Path or None
        Shell file that every attempt reads, for credentials: its path stands in the script, nothing of what it holds.
    seed : int or None
        The same seed for each attempt; by default another one.
    signal_before : int
        Seconds before the limit at which the training begins to stop.
    command : sequence of str
        What the script is made with, for its heading; the command line by default.
    """

    config_name: str
    time: str
    overrides: Sequence[str] = ()
    nodes: int = 1
    gpus_per_node: str | None = None
    tasks_per_node: int | None = None
    gpus_per_model: int = 1
    account: str | None = None
    partition: str | None = None
    cpus_per_task: int | None = None
    output: Path | None = None
    env: Path | None = None
    seed: int | None = None
    signal_before: int = 600
    command: Sequence[str] = field(default_factory=lambda: ("anemoi-house", *sys.argv[1:]))

    @property
    def ranks_per_node(self) -> int:
        """Tasks on each node."""
        if self.gpus_per_node is None:
            return self.tasks_per_node or 1
        if not (match := _GPUS.fullmatch(self.gpus_per_node)):
            raise HouseError(f"--gpus-per-node {self.gpus_per_node}: give a number, or a kind and a number: a100:4")
        return int(match["number"])


def job_script(job: Job) -> str:
    """Script for `sbatch`, complete.

    Raises
    ------
    HouseError
        For an unknown config, an account that is not set, a missing environment file, and what SLURM would not take or
        the training would refuse.
    """
    _check(job)
    hardware = {
        "num_nodes": job.nodes,
        "num_gpus_per_node": job.ranks_per_node,
        "num_gpus_per_model": job.gpus_per_model,
    }
    overrides = [*(f"system.hardware.{key}={value}" for key, value in hardware.items()), *job.overrides]
    composed(job.config_name, None, overrides)
    return _filled(job, overrides)


def _filled(job: Job, overrides: Sequence[str]) -> str:
    output = (job.output or Path("runs", job.config_name)).absolute()
    grace = min(60, job.signal_before // 8)
    values = {
        "SBATCH": _directives(job),
        "TITLE": job.config_name,
        "VERSION": __version__,
        "COMMAND": shlex.join(job.command),
        "CONFIG": shlex.quote(job.config_name),
        "OVERRIDES": "".join(f"\n    {shlex.quote(each)}" for each in overrides) + "\n",
        "OUTPUT": shlex.quote(str(output)),
        "ENV": shlex.quote(str(job.env.expanduser().absolute())) if job.env else "",
        "SEED": "" if job.seed is None else str(job.seed),
        "PATIENCE": str(job.signal_before - 3 * grace),
        "GRACE": str(grace),
        "BIN": shlex.quote(str(Path(sys.prefix, "bin"))),
    }
    template = Path(__file__).with_name("job.sh").read_text()
    # At once, so that nothing of what is put in is taken for a name.
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], template)


def _check(job: Job) -> None:
    numbers = {
        "--nodes": job.nodes, "--ntasks-per-node": job.tasks_per_node, "--gpus-per-model": job.gpus_per_model,
        "--cpus-per-task": job.cpus_per_task,
    }  # fmt: skip
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise HouseError(f"{option} {number}: give a number of 1 or more")
    if job.gpus_per_node is not None and job.tasks_per_node is not None:
        raise HouseError(
            "--ntasks-per-node: goes without --gpus-per-node, which gives a task to each GPU. Take one of the two away."
        )
    ranks = job.nodes * job.ranks_per_node
    if ranks % job.gpus_per_model:
        raise HouseError(
            f"--gpus-per-model {job.gpus_per_model}: does not divide the {ranks} ranks of {job.nodes} nodes with "
            f"{job.ranks_per_node} each"
        )
    if not job.account and not os.environ.get("SBATCH_ACCOUNT"):
        raise HouseError(
            "--account is not set. Give --account NAME, or `export SBATCH_ACCOUNT=NAME` once; --account none where the "
            "site has none."
        )
    if job.env and not job.env.expanduser().is_file():
        raise HouseError(f"--env {job.env}: there is no such file. Write it, or leave --env away.")
    if not 8 <= job.signal_before <= 65535:
        raise HouseError(f"--signal-before {job.signal_before}: SLURM takes 8 to 65535 seconds")
    if _seconds(job.time) <= job.signal_before + 30:
        raise HouseError(
            f"--time {job.time}: is no more than the {job.signal_before} s before its end at which the training begins "
            "to stop. Give more --time, or less --signal-before."
        )
    if job.seed is not None and not 0 <= job.seed < 2**32:
        raise HouseError(f"--seed {job.seed}: give a number from 0 to {2**32 - 1}")
    for option, text in (
        ("--account", job.account),
        ("--partition", job.partition),
        ("--config-name", job.config_name),
    ):
        if text is not None and not re.fullmatch(r"[\w.,/+-]+", text):
            raise HouseError(f"{option} {text!r}: is no name that SLURM takes")


def _seconds(time: str) -> int:
    """Seconds of a limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    if not (match := _TIME.fullmatch(time)):
        raise HouseError(f"--time {time}: give it as SLURM does: MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS")
    numbers = [int(each) for each in match["fields"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
    return ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _directives(job: Job) -> str:
    account = None if job.account == NO_ACCOUNT else job.account
    options = {
        "job-name": job.config_name.replace("/", "-"),
        "nodes": job.nodes,
        "ntasks-per-node": job.ranks_per_node,
        "gpus-per-node": job.gpus_per_node,
        "cpus-per-task": job.cpus_per_task,
        "time": job.time,
        "account": account,
        "partition": job.partition,
        "signal": f"B:USR1@{job.signal_before}",
        "output": "%x-%j.log",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None]
    return "\n".join([*lines, "#SBATCH --requeue"])
