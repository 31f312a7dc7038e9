"""A training as a SLURM job: a script that checks, trains, stops at a checkpoint before the limit, and requeues."""

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
from anemoi_house.tracking.redact import Redactor
from anemoi_house.upstream import keys
from anemoi_house.upstream.compose import composed

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<fields>\d+(?::\d+){0,2})")
_GPUS = re.compile(r"(?:[\w.-]+:)?(?P<number>[1-9]\d*)")
_NAME = re.compile(r"[\w.,/+-]+")


@dataclass(frozen=True)
class Job:
    """What a job requests from SLURM, and what it runs.

    Attributes
    ----------
    config_name : str
        As after `anemoi-training train --config-name`.
    time : str
        Limit of an attempt, as for sbatch.
    overrides : sequence of str
        Of the config, in Hydra's syntax.
    nodes : int
        Number of nodes.
    gpus_per_node : str or None
        As for sbatch, `4` or `a100:4`; each GPU gets a task. None for ranks on CPUs.
    tasks_per_node : int or None
        CPU ranks per node, without GPUs; 1 by default.
    gpus_per_model : int
        GPUs, or CPU ranks, that share one model.
    account : str or None
        As for sbatch; `none` if the site has no accounts. Default: `SBATCH_ACCOUNT`.
    partition : str or None
        As for sbatch; default: the site's.
    cpus_per_task : int or None
        As for sbatch; default: the site's.
    output : Path or None
        Folder of this run alone; default: `runs/CONFIG`.
    env : Path or None
        Shell file that every attempt sources, for credentials. The script has its path, not its content.
    seed : int or None
        Seed of every attempt; by default each has another one.
    signal_before : int
        Seconds before the limit at which the training begins to stop.
    command : sequence of str
        Command that made the script, for its header; by default this process's.
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
        """Tasks per node."""
        if self.gpus_per_node is None:
            return self.tasks_per_node or 1
        if not (match := _GPUS.fullmatch(self.gpus_per_node)):
            raise HouseError(f"--gpus-per-node {self.gpus_per_node}: give a number, or a type and a number: a100:4")
        return int(match["number"])


def job_script(job: Job) -> str:
    """Return a complete script for `sbatch`.

    Raises
    ------
    HouseError
        If the config is unknown, the account is not set, the environment file is missing, or SLURM or the training
        would refuse an option.
    """
    _check_numbers(job)
    _check_names(job)
    _check_times(job)
    hardware = {keys.NODES: job.nodes, keys.GPUS_PER_NODE: job.ranks_per_node, keys.GPUS_PER_MODEL: job.gpus_per_model}
    _check_secrets(job)
    overrides = [*(f"{key}={value}" for key, value in hardware.items()), *job.overrides]
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
        "WARM_START": keys.WARM_START,
        "LIMIT_BATCHES": keys.LIMIT_BATCHES,
    }
    template = Path(__file__).with_name("job.sh").read_text()
    # In one pass, so that nothing inserted is taken for a placeholder.
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], template)


def _check_numbers(job: Job) -> None:
    numbers = {
        "--nodes": job.nodes, "--ntasks-per-node": job.tasks_per_node, "--gpus-per-model": job.gpus_per_model,
        "--cpus-per-task": job.cpus_per_task,
    }  # fmt: skip
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise HouseError(f"{option} {number}: give a number of 1 or more")
    if job.gpus_per_node is not None and job.tasks_per_node is not None:
        raise HouseError(
            "--ntasks-per-node: cannot be combined with --gpus-per-node, which sets one task per GPU. Remove one of "
            "them."
        )
    ranks = job.nodes * job.ranks_per_node
    if ranks % job.gpus_per_model:
        raise HouseError(
            f"--gpus-per-model {job.gpus_per_model}: does not divide the {ranks} ranks ({job.nodes} nodes with "
            f"{job.ranks_per_node} each)"
        )
    if job.seed is not None and not 0 <= job.seed < 2**32:
        raise HouseError(f"--seed {job.seed}: give a number from 0 to {2**32 - 1}")


def _check_secrets(job: Job) -> None:
    """Refuse secrets: others may read the script, and the training's command."""
    given = [*job.overrides, *job.command]
    for each, shown in zip(given, Redactor().command(given), strict=True):
        if each != shown:
            raise HouseError(
                f"{shown}: a secret is not written into a script. Set it as a variable in the file of --env, and give "
                "KEY='${oc.env:VARIABLE}'."
            )


def _check_names(job: Job) -> None:
    if not job.account and not os.environ.get("SBATCH_ACCOUNT"):
        raise HouseError(
            "--account is not set. Give --account NAME, or run `export SBATCH_ACCOUNT=NAME` once. If the site has no "
            "accounts, give --account none."
        )
    if job.env and not job.env.expanduser().is_file():
        raise HouseError(f"--env {job.env}: does not exist. Create it, or leave out --env.")
    names = {"--account": job.account, "--partition": job.partition, "--config-name": job.config_name}
    for option, name in names.items():
        if name is not None and not _NAME.fullmatch(name):
            raise HouseError(f"{option} {name!r}: is not a name that SLURM accepts")


def _check_times(job: Job) -> None:
    if not 8 <= job.signal_before <= 65535:
        raise HouseError(f"--signal-before {job.signal_before}: SLURM accepts 8 to 65535 seconds")
    if _seconds(job.time) <= job.signal_before + 30:
        raise HouseError(
            f"--time {job.time}: is too short, since the training begins to stop {job.signal_before} s before the "
            "limit. Give more --time, or less --signal-before."
        )


def _seconds(time: str) -> int:
    """Return the seconds of a limit: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    if not (match := _TIME.fullmatch(time)):
        raise HouseError(f"--time {time}: is not a SLURM time. Give MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS.")
    fields = [int(each) for each in match["fields"].split(":")]
    if match["days"] is None and len(fields) < 3:  # these begin with minutes
        fields.insert(0, 0)
    return sum(part * unit for part, unit in zip([int(match["days"] or 0), *fields], (86400, 3600, 60, 1)))


def _directives(job: Job) -> str:
    options = {
        "job-name": job.config_name.replace("/", "-"),
        "nodes": job.nodes,
        "ntasks-per-node": job.ranks_per_node,
        "gpus-per-node": job.gpus_per_node,
        "cpus-per-task": job.cpus_per_task,
        "time": job.time,
        "account": None if job.account == "none" else job.account,
        "partition": job.partition,
        "signal": f"B:USR1@{job.signal_before}",
        "output": "%x-%j.log",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None]
    return "\n".join([*lines, "#SBATCH --requeue"])
