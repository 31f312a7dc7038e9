"""`slurm2ddp.sh` under a real SLURM of two nodes: in batch jobs, an interactive allocation, and all kinds of steps."""

from __future__ import annotations

import json
import shlex
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from slurm.cluster import SlurmCluster, why_not
from slurm.ranks import KINDS, LAYOUTS, SCRIPT, STEPS

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.usefixtures("trainings"),  # they run while the tests wait for SLURM
]

SHOW = """
import json, os, socket, sys
names = ("RANK", "WORLD_RANK", "GLOBAL_RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
         "OMP_NUM_THREADS", "SLURM_NTASKS_PER_NODE", "SLURM_JOB_NAME")
reported = {name: os.environ.get(name) for name in names}
print(json.dumps({"node": socket.gethostname(), "arguments": sys.argv[1:], **reported}))
"""
MEET = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print(f"sum {int(total)}", flush=True)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def slurm(two_nodes: SlurmCluster) -> SlurmCluster:
    (two_nodes.folder / "show.py").write_text(SHOW)
    (two_nodes.folder / "meet.py").write_text(MEET)
    return two_nodes


def show(cluster: SlurmCluster, *arguments: str) -> list[str]:
    return [str(SCRIPT), sys.executable, "-I", str(cluster.folder / "show.py"), *arguments]


def reported(text: str) -> list[dict]:
    """Output of the tasks, by rank."""
    return sorted(
        (json.loads(line) for line in text.splitlines() if line[:1] == "{"), key=lambda task: int(task["RANK"])
    )


def batch(cluster: SlurmCluster, folder: Path, text: str, *options: str) -> tuple[dict[str, str], str]:
    """Run a job to its end, and return what the controller says about it, and its log."""
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\n{text}\n")
    job = cluster.wait_for_job(cluster.submit(script, "--output=job.log", *options, cwd=folder), patience_s=60)
    return job, (folder / "job.log").read_text()


def assert_ranks(tasks: list[dict], nodes: dict[str, int], master: str) -> None:
    """Compare with SLURM's block distribution: ranks node by node."""
    expected = [(node, local, number) for number, (node, count) in enumerate(nodes.items()) for local in range(count)]
    places = [(task["node"], int(task["LOCAL_RANK"]), int(task["NODE_RANK"])) for task in tasks]
    assert places == expected
    for rank, task in enumerate(tasks):
        assert task["RANK"] == task["WORLD_RANK"] == task["GLOBAL_RANK"] == str(rank)
        assert task["WORLD_SIZE"] == str(len(expected))
        assert task["MASTER_ADDR"] == master
    assert len({task["MASTER_PORT"] for task in tasks}) == 1


def test_batch(slurm: SlurmCluster, tmp_path: Path) -> None:
    command = shlex.join(show(slurm, "a b", "", "[x]", "*", "'\"$HOME"))
    job, log = batch(slurm, tmp_path, f"srun {command}", "-N2", "--ntasks-per-node=2")
    assert job["JobState"] == "COMPLETED", log
    assert_ranks(reported(log), {"node1": 2, "node2": 2}, "node1")
    assert [task["arguments"] for task in reported(log)] == 4 * [["a b", "", "[x]", "*", "'\"$HOME"]]
    assert {task["SLURM_NTASKS_PER_NODE"] for task in reported(log)} == {"2"}


def test_ntasks_alone(slurm: SlurmCluster, tmp_path: Path) -> None:
    job, log = batch(slurm, tmp_path, f"srun {shlex.join(show(slurm))}", "-N2", "--ntasks=2")
    assert job["JobState"] == "COMPLETED", log
    assert_ranks(reported(log), {"node1": 1, "node2": 1}, "node1")
    assert {task["SLURM_NTASKS_PER_NODE"] for task in reported(log)} == {"1"}


def test_uneven_tasks(slurm: SlurmCluster) -> None:
    done = slurm.run("srun", "-N2", "--ntasks=3", *show(slurm))
    assert_ranks(reported(done.stdout), {"node1": 2, "node2": 1}, "node1")
    assert {task["SLURM_NTASKS_PER_NODE"] for task in reported(done.stdout)} == {None}


@pytest.mark.parametrize("name", [None, "bash"])
def test_interactive_allocation(slurm: SlurmCluster, name: str | None) -> None:
    options = ["--job-name", name] if name else []
    done = slurm.run("salloc", "-N2", "--ntasks-per-node=1", *options, "srun", *show(slurm))
    assert_ranks(reported(done.stdout), {"node1": 1, "node2": 1}, "node1")
    assert {task["SLURM_JOB_NAME"] for task in reported(done.stdout)} == {name or "interactive"}


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
    one, two, both = (reported((tmp_path / f"{name}.txt").read_text()) for name in ("one", "two", "both"))
    assert_ranks(one, {"node1": 2}, "127.0.0.1")
    assert_ranks(two, {"node2": 2}, "127.0.0.1")
    assert_ranks(both, {"node1": 1, "node2": 1}, "node1")
    assert len({tasks[0]["MASTER_PORT"] for tasks in (one, two, both)}) == 3
    assert {task["SLURM_NTASKS_PER_NODE"] for task in one + two} == {"2"}


def test_without_srun_in_a_batch_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    job, log = batch(slurm, tmp_path, shlex.join(show(slurm)), "-N2", "--ntasks-per-node=2")
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "2:0")
    assert "not a task of a SLURM step; start it with srun" in log


def test_without_srun_in_an_allocation(slurm: SlurmCluster) -> None:
    done = slurm.run("salloc", "-N2", "--ntasks-per-node=2", *show(slurm), check=False)
    assert done.returncode == 2
    assert reported(done.stdout) == []


def test_ranks_meet(slurm: SlurmCluster) -> None:
    done = slurm.run("srun", "-N2", "--ntasks-per-node=2", SCRIPT, sys.executable, "-I", slurm.folder / "meet.py")
    assert done.stdout.count("sum 10") == 4


def test_two_jobs_on_the_same_nodes(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Their ranks share both nodes, and only connect to those of their own job: 1 + 2, not 1 + 2 + 1 + 2."""
    script = tmp_path / "job.sh"
    meet = shlex.join([sys.executable, "-I", str(slurm.folder / "meet.py")])
    # Neither releases its port before the other has started.
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
    assert one["global_step"] == other["global_step"] == STEPS
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
