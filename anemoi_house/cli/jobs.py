"""Commands for jobs of SLURM: `sbatch`, `resume`, `slurm2ddp`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anemoi_house.cli.parser import Commands, add_command, add_config_name, add_run


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    text = "Print a job script that trains an experiment under SLURM, and resumes after every time limit."
    more = "Other options of sbatch: on its command line, where they take precedence, or as its SBATCH_ variables."
    parser = add_command(commands, "sbatch", _sbatch, text, more)
    add_config_name(parser)
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--gpus-per-node", metavar="N", help="4 or a100:4; one task for each GPU")
    text = "ranks on CPUs, without GPUs (default: 1)"
    parser.add_argument("--ntasks-per-node", dest="tasks_per_node", type=int, metavar="N", help=text)
    parser.add_argument("--gpus-per-model", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--cpus-per-task", type=int, metavar="N")
    parser.add_argument("--time", required=True, help="time limit of an attempt, such as 12:00:00")
    parser.add_argument("--account", metavar="NAME", help="default: $SBATCH_ACCOUNT, if set")
    parser.add_argument("--partition", metavar="NAME")
    parser.add_argument("--env", type=Path, metavar="FILE", help="shell file that attempts source, for credentials")
    parser.add_argument("--output", type=Path, metavar="DIR", help="directory of this run alone (default: runs/NAME)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of every attempt (default: a new one for each)")
    text = "seconds before the limit from which the next checkpoint is the last (default: 600)"
    parser.add_argument("--signal-before", type=int, default=600, metavar="S", help=text)

    text = "Print the overrides with which `anemoi-training train` resumes a run, one a line."
    more = "It resumes from the last intact checkpoint that ends an epoch, else from the last one. Prints nothing "
    parser = add_command(commands, "resume", _resume, text, f"{more}without a checkpoint.")
    add_run(parser, "checkpoint directory of a run, or the outputs of one run")

    text = "Print the path of slurm2ddp.sh, which gives each task of a SLURM step its rank."
    more = 'Use: srun "$(anemoi-house slurm2ddp)" anemoi-training train --config-name=tnbd'
    add_command(commands, "slurm2ddp", _slurm2ddp, text, more)


def _sbatch(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.batch import Job, job_script

    options = {key: value for key, value in vars(arguments).items() if key not in ("run", "command")}
    print(job_script(Job(**options)), end="")


def _resume(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.resume import resume

    found = resume(arguments.run_folder)
    lines = found.summary if found else [f"{arguments.run_folder}: no checkpoint yet; the training begins at step 0"]
    print(*(f"anemoi-house resume: {line}" for line in lines), sep="\n", file=sys.stderr)
    if found:
        print(*found.overrides, sep="\n")


def _slurm2ddp(_: argparse.Namespace) -> None:
    from anemoi_house.shipped import shipped

    print(shipped("slurm2ddp.sh"))
