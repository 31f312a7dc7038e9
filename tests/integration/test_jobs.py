"""Jobs of `anemoi-house sbatch` under a real SLURM of three nodes: limits, and other ways in which an attempt ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from slurm.cluster import SlurmCluster, why_not

from anemoi_house.upstream.checkpoints import checkpoints_in, fault_of

pytestmark = [pytest.mark.alone, pytest.mark.skipif(bool(why_not()), reason=why_not())]

BIN = Path(sys.prefix) / "bin"
# Ten steps per epoch, so that a checkpoint is written every few seconds.
SHORT = [
    *("dataloader.training.datasets.data.end=2020-01-03", "dataloader.validation.datasets.data.end=2020-01-26"),
    "dataloader.limit_batches.validation=1",
]
STEPS_PER_EPOCH = 10
PAIR_STEPS = 50
PAIR = ["--seed=2020", f"training.max_steps={PAIR_STEPS}"]
UNSENT = "diagnostics.log.mlflow.offline=True"  # without the process that sends records


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    disk = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2300m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(scope="module")
def slurm(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster that is started after the small disk is mounted, and so sees it."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm") / "cluster", cpus=8, nodes=3) as cluster:
        yield cluster


class Trained:
    """A sample training as a job: its script, its folder and its log."""

    def __init__(self, slurm: SlurmCluster, sample: Path, folder: Path, *options: str, output: Path | None = None):
        self.slurm, self.sample, self.folder = slurm, sample, folder
        self.output = output or folder / "run"
        self.script = folder / "job.sh"
        folder.mkdir(exist_ok=True)
        asked = ["--config-name=tnbd_sample", "--account=none", f"--output={self.output}"]
        done = slurm.run(BIN / "anemoi-house", "sbatch", *asked, *SHORT, *options, cwd=folder)
        self.script.write_text(done.stdout)

    def submit(self, *options: str) -> str:
        # One thread: with several, the rounding of sums varies.
        environment = {"HOUSE_SAMPLE": str(self.sample), "OMP_NUM_THREADS": "1"}
        self.job_id = self.slurm.submit(self.script, "--output=job.log", *options, cwd=self.folder, env=environment)
        return self.job_id

    @property
    def log(self) -> str:
        path = self.folder / "job.log"
        return path.read_text(errors="replace").replace("\r", "\n") if path.exists() else ""

    @property
    def last_words(self) -> str:
        return "\n".join(line[:300] for line in self.log.splitlines()[-60:])

    def said(self, text: str) -> list[str]:
        """Messages of the script itself that contain a text; a progress bar may precede them on the line."""
        own = re.findall(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d job {self.job_id}: .*", self.log)
        return [line for line in own if text in line]

    def wait_for(self, text: str, times: int = 1, patience_s: float = 120) -> None:
        self.slurm.wait_for(lambda: len(re.findall(text, self.log)) >= times, f"{text}: {self.last_words}", patience_s)

    def ended(self, patience_s: float = 240) -> dict[str, str]:
        return self.slurm.wait_for_job(self.job_id, patience_s=patience_s)

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoints at ends of epochs, the furthest first."""
        return [
            each.path for run in self.output.glob("checkpoint/*") for each in checkpoints_in(run) if each.ends_an_epoch
        ]

    def wait_for_epochs(self, number: int) -> None:
        self.slurm.wait_for(lambda: len(self.checkpoints) >= number, f"{number} epochs\n{self.last_words}", 300)

    def ranks(self) -> dict[int, tuple[int, dict[str, str]]]:
        """Process and environment of each rank, by its number."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ProcessLookupError):
                continue
            environment = dict(word.split("=", 1) for word in words if "=" in word)
            is_training = any(part.endswith(b"anemoi-training") for part in command[:2])
            if is_training and environment.get("HOUSE_OUTPUT") == str(self.output) and "RANK" in environment:
                found[int(folder.name)] = (parent, environment)
        # The workers of a rank's data loader look like the rank.
        own = {process: environment for process, (parent, environment) in found.items() if parent not in found}
        return {int(environment["RANK"]): (process, environment) for process, environment in own.items()}


def stopped_while_it_writes(process: int, folder: Path, patience_s: float = 150) -> Path:
    """Stop a rank as soon as an incomplete checkpoint appears, and return that checkpoint."""
    deadline = time.monotonic() + patience_s
    known = set(os.listdir(folder))
    while time.monotonic() < deadline:
        new = [name for name in os.listdir(folder) if name.startswith("anemoi-by_epoch") and name not in known]
        if not new:
            time.sleep(0.002)
            continue
        os.kill(process, signal.SIGSTOP)
        if fault_of(folder / new[0]):
            return folder / new[0]
        os.kill(process, signal.SIGCONT)  # this one is already complete
        known.update(new)
    raise TimeoutError(f"no checkpoint was met while it was being written to {folder}")


def is_told_to_end(process: int) -> bool:
    """Return True if SIGTERM is pending for a stopped process."""
    (pending,) = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return bool(int(pending, 16) >> signal.SIGTERM - 1 & 1)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)["state_dict"]


def seconds(line: str) -> float:
    return time.mktime(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S"))


def hold_until_the_limit_is_near(job: Trained) -> None:
    """Hold the first attempt after its first epoch; when released, it ends at the next checkpoint."""

    def is_near() -> bool:
        return bool(job.said("the limit is near"))

    job.slurm.wait_for(lambda: is_near() or job.checkpoints, f"an epoch\n{job.last_words}", 240)
    if is_near():
        return
    (process, _) = job.ranks()[0]
    os.kill(process, signal.SIGSTOP)
    try:
        job.slurm.wait_for(is_near, f"the limit is near\n{job.last_words}", 240)
    finally:
        os.kill(process, signal.SIGCONT)


def hold_until_it_is_told_to_end(job: Trained) -> Path:
    """Hold the second attempt within its second epoch, and return the checkpoint that it has reached."""
    before = len(job.checkpoints)

    def new() -> list[Path]:
        return [path for path in job.checkpoints[: len(job.checkpoints) - before] if not fault_of(path)]

    job.slurm.wait_for(new, f"an epoch\n{job.last_words}", 240)
    time.sleep(0.5)
    (process, _) = job.ranks()[0]
    os.kill(process, signal.SIGSTOP)  # no machine is fast enough to end the epoch
    job.slurm.wait_for(lambda: is_told_to_end(process), f"SIGTERM\n{job.last_words}", 240)
    (reached, *_) = new()
    os.kill(process, signal.SIGCONT)
    return reached


def hold_two_attempts(job: Trained) -> Path:
    """Make the training need two requeues even on a fast machine; return the checkpoint that the second starts from."""
    hold_until_the_limit_is_near(job)
    job.wait_for("attempt 2 on")
    return hold_until_it_is_told_to_end(job)


@pytest.fixture(scope="module")
def limited(
    slurm: SlurmCluster, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Trained, Future[Path]]]:
    """A job with a limit shorter than its training, on a node that no test removes, and the future that holds it."""
    folder = tmp_path_factory.mktemp("pair") / "limited"
    job = Trained(slurm, sample, folder, "--time=3", "--signal-before=40", *PAIR)
    job.submit("--nodelist=node2")
    with ThreadPoolExecutor() as executor:
        yield job, executor.submit(hold_two_attempts, job)  # immediately: its first epoch ends soon


@pytest.fixture(scope="module")
def built(limited: tuple[Trained, Future[Path]], sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Override for the other jobs with the path of a graph, built while the limited job builds its own."""
    graph = f"system.input.graph={tmp_path_factory.mktemp('graph') / 'tnbd_sample.pt'}"
    environment = os.environ | {"HOUSE_SAMPLE": str(sample), "HOUSE_OUTPUT": str(tmp_path_factory.mktemp("none"))}
    command = [BIN / "anemoi-house", "prepare", "--config-name=tnbd_sample", *SHORT, graph]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return graph


@pytest.fixture(scope="module")
def pair(
    slurm: SlurmCluster, sample: Path, limited: tuple[Trained, Future[Path]], built: str
) -> tuple[Trained, Trained, Future[Path]]:
    """The limited job, a job with the same seed and enough time, and the future that holds the first.

    They train while the other tests wait.
    """
    job, holding = limited
    whole = Trained(slurm, sample, job.folder.with_name("whole"), "--time=30", UNSENT, built, *PAIR)
    whole.submit("--nodelist=node2", "--begin=now+40")  # while the other one is held
    return job, whole, holding


def fill_the_disk(slurm: SlurmCluster, sample: Path, built: str, folder: Path, disk: Path) -> None:
    """A checkpoint does not fit on the disk, nor does that of the next attempt, until space is freed."""
    job = Trained(slurm, sample, folder, "--time=30", UNSENT, built, "training.max_steps=20", output=disk / "run")
    job.submit("--nodelist=node2")
    job.slurm.wait_for(lambda: job.ranks(), f"a rank\n{job.last_words}", 90)
    free = shutil.disk_usage(disk).free
    subprocess.run(["fallocate", "-l", str(free - 3_000_000), disk / "other"], check=True)
    assert job.ended()["JobState"] == "FAILED"
    assert job.said(f"MiB are free in {job.output}: too few for a checkpoint")
    assert re.search(r"not requeued: the training ended with status \d+ before it reached a checkpoint", job.log)
    job.submit("--nodelist=node2")
    assert job.ended()["JobState"] == "FAILED"
    assert re.search(
        r"system\.output\.root=.*: (0\.0 GiB are free, but|cannot be written \(No space left on device\))", job.log
    )
    (disk / "other").unlink()
    job.submit("--nodelist=node2")
    assert job.ended()["JobState"] == "COMPLETED", job.last_words
    assert [fault_of(path) for path in job.checkpoints] == ["", ""]


def lose_ranks(slurm: SlurmCluster, sample: Path, built: str, folder: Path) -> None:
    """One rank is killed; then all of them, while they write a checkpoint."""
    job = Trained(slurm, sample, folder, "--nodes=2", "--time=30", UNSENT, built, "training.max_steps=30")
    job.submit("--nodelist=node1,node2")
    job.wait_for_epochs(1)
    ranks = job.ranks()
    assert set(ranks) == {0, 1}
    seeds = [{environment["ANEMOI_BASE_SEED"] for _, environment in ranks.values()}]
    os.kill(ranks[1][0], signal.SIGKILL)
    job.wait_for("requeued, to continue at")
    slurm.wait_for(lambda: not job.ranks(), "the other rank is ended", 20)

    job.wait_for("attempt 2 on")
    slurm.wait_for(lambda: len(job.ranks()) == 2, f"two ranks\n{job.last_words}", 120)
    seeds.append({environment["ANEMOI_BASE_SEED"] for _, environment in job.ranks().values()})
    processes = [process for _, (process, _) in sorted(job.ranks().items())]
    job.wait_for_epochs(len(job.checkpoints) + 1)  # an attempt that reaches no checkpoint is not requeued
    newest = stopped_while_it_writes(processes[0], job.checkpoints[0].parent)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    assert fault_of(newest)
    # As after a crash of the disk, which may lose more than the kill.
    last = newest.with_name("last.ckpt")
    last.write_bytes(last.read_bytes()[:-5000])
    ended = job.ended()
    assert ended["JobState"] == "COMPLETED", job.last_words
    assert ended["Restarts"] == "2"
    assert all(len(each) == 1 for each in seeds)
    assert seeds[0] != seeds[1], "the seed is renewed with each attempt"
    assert re.search(rf"{re.escape(str(newest))}: (it was cut short|its metadata was not written); skipped", job.log)
    assert f"{last}: it was cut short; skipped" in job.log
    assert {fault_of(path) for path in job.checkpoints} == {""}
    assert job.checkpoints[0].stem.endswith("step_000030")


@pytest.fixture(scope="module")
def meanwhile(
    slurm: SlurmCluster, small_disk: Path, sample: Path, built: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """Trainings during the other tests, since a single job leaves a processor idle; on nodes that no test removes."""
    folders = [tmp_path_factory.mktemp(name) for name in ("full", "lost")]
    with ThreadPoolExecutor(max_workers=1) as executor:
        yield {
            "disk": executor.submit(fill_the_disk, slurm, sample, built, folders[0], small_disk),
            "ranks": executor.submit(lose_ranks, slurm, sample, built, folders[1]),
        }


def test_trainings_begin(pair: tuple[Trained, Trained, Future[Path]], meanwhile: dict[str, Future[None]]) -> None:
    """The first test, so that the tests of how the trainings end need not wait for them."""
    pair[0].wait_for("attempt 1 on node2")
    assert not meanwhile["disk"].done()


def test_mistakes_end_before_the_ranks_start(slurm: SlurmCluster, sample: Path, tmp_path: Path) -> None:
    env = tmp_path / "azure.sh"
    env.write_text("export HOUSE_SAMPLE=/nowhere\n")
    job = Trained(slurm, sample, tmp_path, "--time=30", f"--env={env}")
    job.submit()
    assert job.ended()["JobState"] == "FAILED"
    assert "/nowhere/hrrr.zarr" in job.log
    assert job.said("nothing was started")
    assert "Traceback" not in job.log
    env.unlink()
    job.submit()
    assert job.ended()["JobState"] == "FAILED"
    assert job.said(f"--env: {env} cannot be read")

    text = job.script.read_text()
    job.script.write_text(
        text.replace("env_file=", "env_file= #").replace("num_nodes=1", "num_nodes=1 training.max_steps=7")
    )
    job.submit()
    assert job.ended()["JobState"] == "FAILED"
    assert job.said("Give another --output. To continue with other settings, remove")
    assert not list(job.output.glob("checkpoint/*"))


def test_a_node_that_is_lost_while_its_ranks_still_run(
    slurm: SlurmCluster, sample: Path, built: str, tmp_path: Path
) -> None:
    job = Trained(
        slurm, sample, tmp_path, "--time=30", "--signal-before=80", UNSENT, built, "training.max_steps=100000"
    )
    job.submit("--nodelist=node3")
    job.wait_for_epochs(1)

    # Only the daemon ends: the ranks that it started continue, and it finds them again.
    slurm.end_daemon("node3")
    slurm.start_node("node3")
    job.wait_for_epochs(len(job.checkpoints) + 1)
    assert job.slurm.job(job.job_id)["JobState"] == "RUNNING"

    # Two jobs with the same output.
    other = Trained(slurm, sample, tmp_path / "other", "--time=30", "--signal-before=8", UNSENT, built,
                    "training.max_steps=100000", output=job.output)  # fmt: skip
    other.submit("--nodelist=node2")
    assert other.ended(120)["JobState"] == "FAILED"
    assert other.said(f"{job.output} is in use by job {job.job_id}, which still runs")

    # The node is lost: SLURM requeues the job, which finds the ranks of the previous attempt running, and waits.
    (process, _) = job.ranks()[0]
    slurm.end_daemon("node3")
    slurm.run("scontrol", "update", "nodename=node3", "state=down", "reason=lost")
    slurm.run("scontrol", "update", f"jobid={job.job_id}", "reqnodelist=", check=False)
    job.wait_for("is still being written; waiting up to")
    assert not job.said("finished")
    os.kill(process, signal.SIGKILL)
    written = len(job.checkpoints)
    job.wait_for_epochs(written + 1)
    assert job.ranks()[0][1]["SLURM_JOB_NODELIST"] in ("node1", "node2")
    slurm.run("scancel", job.job_id)
    assert job.ended()["JobState"] == "CANCELLED"
    slurm.start_node("node3")
    slurm.wait_for(lambda: "State=IDLE " in slurm.run("scontrol", "show", "node", "node3").stdout, "node3 is back", 60)


def test_a_disk_that_is_full_when_a_checkpoint_is_written(meanwhile: dict[str, Future[None]]) -> None:
    meanwhile["disk"].result(timeout=600)


def test_lost_ranks_and_a_checkpoint_that_was_cut(meanwhile: dict[str, Future[None]]) -> None:
    meanwhile["ranks"].result(timeout=600)


@pytest.mark.usefixtures("trainings")  # of test_slurm, in parallel
def test_a_limit_in_the_middle_of_an_epoch(pair: tuple[Trained, Trained, Future[Path]]) -> None:
    """No checkpoint is written in the time that is left: the job continues from the end of the previous epoch."""
    limited, _, holding = pair
    reached = holding.result(timeout=600)
    limited.wait_for("requeued, to continue at", times=2)
    limited.wait_for("attempt 3 on")
    assert limited.said("requeued, to continue at")[1].endswith(f"to continue at {reached.name}")
    limited.wait_for(rf"continues at step {int(reached.stem[-6:])} \({reached.name}\)")


def test_a_limit_is_a_pause(pair: tuple[Trained, Trained, Future[Path]], record_property) -> None:
    """A training that is held, ended by its limit and requeued has the weights of one without a limit, to the bit."""
    limited, whole, holding = pair
    holding.result(timeout=600)
    assert whole.ended()["JobState"] == "COMPLETED", whole.last_words
    job = limited.ended(patience_s=300)
    assert job["JobState"] == "COMPLETED", limited.last_words
    restarts = int(job["Restarts"])
    assert restarts >= 2
    assert len(limited.said("requeued, to continue at")) == restarts
    assert len(limited.said("the limit is near")) - restarts in (
        0,
        1,
    )  # the last attempt may end by itself this close to the limit

    # No step after the last end of an epoch is lost, so each epoch ended once.
    names = [path.name for path in limited.checkpoints]
    assert names == [path.name for path in whole.checkpoints]
    assert len(names) == PAIR_STEPS // STEPS_PER_EPOCH
    assert len(list(limited.output.glob("checkpoint/*"))) == 1
    for ours, theirs in zip(limited.checkpoints, whole.checkpoints, strict=True):
        expected = weights(theirs)
        for name, tensor in weights(ours).items():
            assert torch.equal(tensor, expected[name]), f"{ours.name}: {name}"

    # The second pause begins with a held rank, so only the first shows the cost of a pause.
    end, begin = seconds(limited.said("requeued")[0]), seconds(limited.said("attempt")[1])
    (records,) = limited.output.glob("logs/mlflow/spool/*/records.jsonl")
    rows = [row for line in records.open() for row in json.loads(line).get("rows", [])]
    times = [row[2] / 1000 for row in rows if row[0].startswith("train")]
    pause = min(each for each in times if each > end) - max(each for each in times if each <= end)
    record_property("pause_s", round(pause))
    record_property("of_it_slurm_s", begin - end)
    print(
        f"from the last step before a limit to the first after it: {pause:.0f} s, {begin - end:.0f} s of it the queue's"
    )
