"""A sample training as one process and as two ranks of SLURM, and the fixtures that run them during other tests."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from slurm.cluster import SlurmCluster

SCRIPT = Path(__file__).parents[2] / "slurm2ddp.sh"
LAYOUTS = {"2 x 1": ("-N2", "--ntasks-per-node=1"), "1 x 2": ("-N1", "--ntasks-per-node=2")}
KINDS = ("batch", "interactive")
STEPS = 3

# An epoch of two samples: the two ranks of a step see what one process sees in its batch of two.
# They run at low priority, because a job with a limit trains at the same time.
_TRAIN = [
    *("nice", str(Path(sys.prefix) / "bin" / "anemoi-training"), "train", "--config-name=tnbd_sample"),
    *("dataloader.training.datasets.data.end=2020-01-01", "dataloader.validation.datasets.data.end=2020-01-26"),
    *(f"training.max_steps={STEPS}", "diagnostics.log.interval=1", "diagnostics.log.mlflow.offline=True"),
]


@pytest.fixture(scope="session")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster of two nodes."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster", cpus=8) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def trainings(
    two_nodes: SlurmCluster, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Path]]]:
    """Outputs of `alone` and of each kind and layout. They start with the first test that uses them, two at a time."""
    with ThreadPoolExecutor(max_workers=2) as executor:
        begun = {"alone": executor.submit(_train_alone, two_nodes, sample, tmp_path_factory.mktemp("alone"))}
        for kind, layout in itertools.product(KINDS, LAYOUTS):
            folder = tmp_path_factory.mktemp("ranks")
            begun[f"{kind} {layout}"] = executor.submit(_train_as_ranks, two_nodes, sample, folder, kind, layout)
        yield begun


def _train_alone(slurm: SlurmCluster, sample: Path, folder: Path) -> Path:
    """Outputs of one process with the global batch and global learning rate of two."""
    more = ["dataloader.batch_size.training=2", "training.optimization.lr=2.0e-3"]
    environment = slurm.environment(HOUSE_SAMPLE=str(sample), ANEMOI_BASE_SEED="2020", OMP_NUM_THREADS="1")
    done = subprocess.run([*_TRAIN, *more], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "outputs"


def _train_as_ranks(slurm: SlurmCluster, sample: Path, folder: Path, kind: str, layout: str) -> Path:
    """Outputs of two ranks."""
    command, options = ["srun", str(SCRIPT), *_TRAIN], LAYOUTS[layout]
    environment = {"HOUSE_SAMPLE": str(sample), "ANEMOI_BASE_SEED": "2020"}
    if kind == "batch":
        script = folder / "job.sh"
        script.write_text(f"#!/bin/bash\n{shlex.join(command)}\n")
        job_id = slurm.submit(script, "--output=job.log", *options, cwd=folder, env=environment)
        assert slurm.wait_for_job(job_id)["JobState"] == "COMPLETED", (folder / "job.log").read_text()[-3000:]
    else:
        done = slurm.run("salloc", *options, *command, cwd=folder, env=environment, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "outputs"
