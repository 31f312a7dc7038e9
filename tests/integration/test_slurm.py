"""`slurm2ddp.sh` under a real SLURM of two nodes: in batch, in an interactive allocation, in steps of every kind."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from slurm.cluster import SlurmCluster, why_not

pytestmark = [pytest.mark.alone, pytest.mark.skipif(bool(why_not()), reason=why_not())]

SCRIPT = Path(__file__).parents[2] / "slurm2ddp.sh"
SHOW = """
import json, os, socket, sys
names = ("RANK", "WORLD_RANK", "GLOBAL_RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
         "OMP_NUM_THREADS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME")
told = {name: os.environ.get(name) for name in names}
print(json.dumps({"node": socket.gethostname(), "arguments": sys.argv[1:], **told}))
"""
MEET = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print(f"sum {int(total)}", flush=True)
dist.destroy_process_group()
"""

# An epoch of two samples: both ranks of a step see what one process sees in its batch of two.
TRAIN = [
    *(str(Path(sys.prefix) / "bin" / "anemoi-training"), "train", "--config-name=tnbd_sample", "training.max_steps=3"),
    *("dataloader.training.datasets.data.end=2020-01-01", "dataloader.validation.datasets.data.end=2020-01-26"),
    *("diagnostics.log.interval=1", "diagnostics.log.mlflow.offline=True"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster", cpus=8) as cluster:
        (cluster.folder / "show.py").write_text(SHOW)
        (cluster.folder / "meet.py").write_text(MEET)
        yield cluster


LAYOUTS = {"2 x 1": ("-N2", "--ntasks-per-node=1"), "1 x 2": ("-N1", "--ntasks-per-node=2")}
KINDS = ("batch", "interactive")


def train_alone(slurm: SlurmCluster, sample: Path, folder: Path) -> Path:
    """Outputs of one process with the global batch, and the global learning rate, of two."""
    more = ["dataloader.batch_size.training=2", "training.optimization.lr=2.0e-3"]
    environment = slurm.environment(HOUSE_SAMPLE=str(sample), ANEMOI_BASE_SEED="2020", OMP_NUM_THREADS="1")
    done = subprocess.run([*TRAIN, *more], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "outputs"


def train_as_ranks(slurm: SlurmCluster, sample: Path, folder: Path, kind: str, layout: str) -> Path:
    """Outputs of two ranks."""
    command, options = ["srun", str(SCRIPT), *TRAIN], LAYOUTS[layout]
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


@pytest.fixture(scope="module")
def trainings(
    slurm: SlurmCluster, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Path]]]:
    """Trainings that go on beside the tests that wait for SLURM, some at once: each alone leaves a processor idle."""
    with ThreadPoolExecutor(max_workers=3) as executor:
        begun = {"alone": executor.submit(train_alone, slurm, sample, tmp_path_factory.mktemp("alone"))}
        for kind, layout in itertools.product(KINDS, LAYOUTS):
            folder = tmp_path_factory.mktemp("ranks")
            begun[f"{kind} {layout}"] = executor.submit(train_as_ranks, slurm, sample, folder, kind, layout)
        yield begun


def show(cluster: SlurmCluster, *arguments: str) -> list[str]:
    return [str(SCRIPT), sys.executable, "-I", str(cluster.folder / "show.py"), *arguments]


def told(text: str) -> list[dict]:
    """What the tasks have printed, by rank."""
    return sorted(
        (json.loads(line) for line in text.splitlines() if line[:1] == "{"), key=lambda task: int(task["RANK"])
    )


def batch(cluster: SlurmCluster, folder: Path, text: str, *options: str) -> tuple[dict[str, str], str]:
    """Run a job to its end; what the controller and the job say."""
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\n{text}\n")
    job = cluster.wait_for_job(cluster.submit(script, "--output=job.log", *options, cwd=folder), patience_s=60)
    return job, (folder / "job.log").read_text()


def assert_ranks(tasks: list[dict], nodes: dict[str, int], master: str) -> None:
    """Compare with the places that SLURM's block distribution gives: ranks node by node."""
    expected = [(node, local, number) for number, (node, count) in enumerate(nodes.items()) for local in range(count)]
    places = [(task["node"], int(task["LOCAL_RANK"]), int(task["NODE_RANK"])) for task in tasks]
    assert places == expected
    for rank, task in enumerate(tasks):
        assert task["RANK"] == task["WORLD_RANK"] == task["GLOBAL_RANK"] == str(rank)
        assert task["WORLD_SIZE"] == str(len(expected))
        assert task["MASTER_ADDR"] == master
    assert len({task["MASTER_PORT"] for task in tasks}) == 1


def test_trainings_begin(trainings: dict[str, Future[Path]]) -> None:
    """First of all, so that test_ranks_train_as_one_process_does has not to wait for them."""
    assert trainings["alone"].running()


def test_batch(slurm: SlurmCluster, tmp_path: Path) -> None:
    command = shlex.join(show(slurm, "a b", "", "[x]", "*", "'\"$HOME"))
    job, log = batch(slurm, tmp_path, f"srun {command}", "-N2", "--ntasks-per-node=2")
    assert job["JobState"] == "COMPLETED", log
    assert_ranks(told(log), {"node1": 2, "node2": 2}, "node1")
    assert [task["arguments"] for task in told(log)] == 4 * [["a b", "", "[x]", "*", "'\"$HOME"]]
    assert {task["SLURM_NTASKS_PER_NODE"] for task in told(log)} == {"2"}


def test_ntasks_alone(slurm: SlurmCluster, tmp_path: Path) -> None:
    job, log = batch(slurm, tmp_path, f"srun {shlex.join(show(slurm))}", "-N2", "--ntasks=2")
    assert job["JobState"] == "COMPLETED", log
    assert_ranks(told(log), {"node1": 1, "node2": 1}, "node1")
    assert {task["SLURM_NTASKS_PER_NODE"] for task in told(log)} == {"1"}


def test_uneven_tasks(slurm: SlurmCluster) -> None:
    done = slurm.run("srun", "-N2", "--ntasks=3", *show(slurm))
    assert_ranks(told(done.stdout), {"node1": 2, "node2": 1}, "node1")
    assert {task["SLURM_NTASKS_PER_NODE"] for task in told(done.stdout)} == {None}


@pytest.mark.parametrize("name", [None, "bash"])
def test_interactive_allocation(slurm: SlurmCluster, name: str | None) -> None:
    options = ["--job-name", name] if name else []
    done = slurm.run("salloc", "-N2", "--ntasks-per-node=1", *options, "srun", *show(slurm))
    assert_ranks(told(done.stdout), {"node1": 1, "node2": 1}, "node1")
    assert {task["SLURM_JOB_NAME"] for task in told(done.stdout)} == {name or "interactive"}


def test_steps_on_parts_of_a_job_at_once(slurm: SlurmCluster, tmp_path: Path) -> None:
    command = shlex.join(show(slurm))
    text = "\n".join(
        [
            f"srun -N1 -w node1 -n2 {command} > one.txt &",
            f"srun -N1 -w node2 -n2 {command} > two.txt &",
            "wait",
            f"srun -N2 -n2 --ntasks-per-node=1 {command} > both.txt",
        ]
    )
    job, log = batch(slurm, tmp_path, text, "-N2", "--ntasks-per-node=4")
    assert job["JobState"] == "COMPLETED", log
    one, two, both = (told((tmp_path / f"{name}.txt").read_text()) for name in ("one", "two", "both"))
    assert_ranks(one, {"node1": 2}, "127.0.0.1")
    assert_ranks(two, {"node2": 2}, "127.0.0.1")
    assert_ranks(both, {"node1": 1, "node2": 1}, "node1")
    assert len({tasks[0]["MASTER_PORT"] for tasks in (one, two, both)}) == 3
    assert {task["SLURM_NTASKS_PER_NODE"] for task in one + two} == {"2"}


def test_without_srun_in_a_batch_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    job, log = batch(slurm, tmp_path, shlex.join(show(slurm)), "-N2", "--ntasks-per-node=2")
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "2:0")
    assert "this is no task of a SLURM step; start it with srun" in log


def test_without_srun_in_an_allocation(slurm: SlurmCluster) -> None:
    done = slurm.run("salloc", "-N2", "--ntasks-per-node=2", *show(slurm), check=False)
    assert done.returncode == 2
    assert told(done.stdout) == []


def test_ranks_meet(slurm: SlurmCluster) -> None:
    done = slurm.run("srun", "-N2", "--ntasks-per-node=2", SCRIPT, sys.executable, "-I", slurm.folder / "meet.py")
    assert done.stdout.count("sum 10") == 4


def test_two_jobs_on_the_same_nodes(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Their ranks are on both nodes at once, and meet those of their own job: 1 + 2, not 1 + 2 + 1 + 2."""
    script = tmp_path / "job.sh"
    meet = shlex.join([sys.executable, "-I", str(slurm.folder / "meet.py")])
    # Neither lets go of its port before the other has come.
    script.write_text(
        f"#!/bin/bash\nsrun {SCRIPT} bash -c 'touch $OWN.$RANK; "
        f"while [ ! -e $OTHER.$RANK ]; do sleep 0.1; done; {meet}; sleep 3'\n"
    )
    jobs = [
        slurm.submit(script, "-N2", "--ntasks-per-node=1", "--time=2", f"--output={own}.log", cwd=tmp_path,
                     env={"OWN": own, "OTHER": other})
        for own, other in (("one", "two"), ("two", "one"))
    ]  # fmt: skip
    for job, name in zip(jobs, ("one", "two"), strict=True):
        log = tmp_path / f"{name}.log"
        assert slurm.wait_for_job(job, patience_s=100)["JobState"] == "COMPLETED", log.read_text()
        assert log.read_text().count("sum 3") == 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_train_as_one_process_does(trainings: dict[str, Future[Path]], kind: str, layout: str) -> None:
    ours, alone = (trainings[name].result(timeout=600) for name in (f"{kind} {layout}", "alone"))
    assert_same_training(ours, alone)


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Compare losses, rates and weights of the only run in each folder."""
    checkpoints = [
        torch.load(*outputs.glob("checkpoint/*/last.ckpt"), weights_only=False) for outputs in (ours, theirs)
    ]
    (one, other) = checkpoints
    assert one["global_step"] == other["global_step"] == 3
    for name, weights in other["state_dict"].items():
        torch.testing.assert_close(
            one["state_dict"][name], weights, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: n + text
        )
    found = [metrics(outputs) for outputs in (ours, theirs)]
    for key in ("train/loss_epoch", "val/loss", "learning_rate"):
        assert found[1][key]
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-4), key


def metrics(outputs: Path) -> dict[str, list[float]]:
    """Recorded values of each metric, by step."""
    (records,) = outputs.glob("logs/mlflow/spool/*/records.jsonl")
    rows = [row for line in records.open() for row in json.loads(line).get("rows", [])]
    return {
        key: [row[1] for row in sorted(rows, key=lambda row: row[3]) if row[0] == key]
        for key in {row[0] for row in rows}
    }
