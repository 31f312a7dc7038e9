"""Trainings with the stock command while the tracking server fails in every way.

Spools are read line by line, and servers from their databases, both without our own code. Scenarios run two at a time,
as a short training mostly imports its stack.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tracking.azure import AzureFront
from tracking.fixtures import template_database  # noqa: F401
from tracking.front import Front
from tracking.mlflow_server import MlflowServer, find_runs, read_run

pytestmark = pytest.mark.alone

STEPS = 16
SECRET = "s3cr3t-of-no-use-0123456789"
WITH_A_TOKEN = ("server_absent", "server_killed_for_good", "training_killed")
MESSAGE = re.compile(r"Tracking: .*")


@dataclass
class Training:
    """A training, and what became of it."""

    folder: Path
    server: MlflowServer
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    status: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def start(self, *overrides: str, diagnostics: str = "house_mlflow", steps: int = STEPS) -> Training:
        """Start `anemoi-training train`."""
        command = [
            *(Path(sys.prefix) / "bin" / "anemoi-training", "train", "--config-name=tnbd_sample"),
            *(f"diagnostics={diagnostics}", f"training.max_steps={steps}", "diagnostics.log.interval=1"),
            *overrides,
        ]
        with (self.folder / "train.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def wait(self, patience_s: float = 300) -> Training:
        """Wait for its end."""
        self.status = self.process.wait(patience_s)
        return self

    def reach(self, step: int, patience_s: float = 240) -> Training:
        """Wait until a step is recorded."""
        deadline = time.monotonic() + patience_s
        while not any(row[3] >= step for row in self.rows):
            assert time.monotonic() < deadline, self.log[-3000:]
            assert self.process.poll() is None, self.log[-3000:]
            time.sleep(0.1)
        return self

    def hear(self, words: str, patience_s: float = 240) -> Training:
        """Wait until it logs something."""
        deadline = time.monotonic() + patience_s
        while not any(words in line for line in self.said):
            assert time.monotonic() < deadline, self.log[-3000:]
            assert self.process.poll() is None, self.log[-3000:]
            time.sleep(0.1)
        return self

    def callback(self, name: str) -> str:
        """Override that adds one of the callbacks below."""
        (self.folder / "mine.py").write_text(CALLBACKS)
        self.environment["PYTHONPATH"] = str(self.folder)
        targets = ("anemoi_house.plugin.describe_run.DescribeRun", f"mine.{name}")
        return f"diagnostics.callbacks=[{', '.join(f'{{_target_: {target}}}' for target in targets)}]"

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run `anemoi-house`."""
        return subprocess.run(
            [Path(sys.prefix) / "bin" / "anemoi-house", *map(str, arguments)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    def sync(self) -> subprocess.CompletedProcess[str]:
        """Send what is left."""
        return self.command("sync")

    @property
    def log(self) -> str:
        return (self.folder / "train.log").read_text(errors="replace")

    @property
    def said(self) -> list[str]:
        """Our own lines of the log."""
        return MESSAGE.findall(self.log)

    @property
    def spools(self) -> list[Path]:
        return sorted((self.folder / "outputs").glob("logs/mlflow/spool/*"), key=lambda path: path.stat().st_ctime)

    def records(self, run_id: str | None = None) -> list[dict[str, Any]]:
        """Complete lines of a spool."""
        if not self.spools:
            return []
        folder = self.spools[-1] if run_id is None else self.spools[-1].with_name(run_id)
        try:
            *lines, _ = (folder / "records.jsonl").read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    @property
    def rows(self) -> list[list[Any]]:
        return [row for record in self.records() if record["kind"] == "metrics" for row in record["rows"]]

    @property
    def run_id(self) -> str:
        return self.spools[-1].name

    def at_server(self, run_id: str | None = None) -> dict[str, Any]:
        """The one run that the server has for ours."""
        (found,) = find_runs(self.server.database, tags={"house.run_id": run_id or self.run_id})
        return read_run(self.server.database, found)

    def is_ended_at_server(self) -> bool:
        """Whether the server has the run, and its end."""
        found = find_runs(self.server.database, tags={"house.run_id": self.run_id})
        return bool(found) and read_run(self.server.database, found[0])["status"] != "RUNNING"

    def assert_server_has_it_all(self, run_id: str | None = None, *, renames: bool = False) -> dict[str, Any]:
        """Compare the server's run with the spool, row by row."""
        records = self.records(run_id)
        run = self.at_server(run_id)
        of = {kind: [record for record in records if record["kind"] == kind] for kind in
              ("start", "metrics", "params", "tags", "artifact", "terminal", "end")}  # fmt: skip
        # A set, like MLflow's table: Lightning logs a loss twice in one millisecond if a callback stops it.
        rows = sorted({tuple(row) for record in of["metrics"] for row in record["rows"]},
                      key=lambda row: (row[0], row[3], row[2], str(row[1])))  # fmt: skip
        assert rows
        assert [tuple(row) for row in run["metrics"]] == rows
        assert run["params"] == {key: value for record in of["params"] for key, value in record["values"].items()}
        tags = {key: value for record in of["tags"] for key, value in record["values"].items()}
        assert {key: run["tags"].get(key) for key in tags} == tags
        folder = self.spools[-1] if run_id is None else self.spools[-1].with_name(run_id)
        for record in of["artifact"]:
            assert run["artifacts"][record["path"]] == (folder / record["file"]).read_bytes()
        terminal = "".join(record["text"] for record in of["terminal"])
        sent = b"".join(content for name, content in sorted(run["artifacts"].items()) if name.startswith("terminal"))
        assert sent.decode() == terminal
        assert run["name"] == of["start"][0]["run_name"]
        assert run["experiment"] == of["start"][0]["experiment"]
        assert run["start_time"] == of["start"][0]["t"]
        if records[-1]["kind"] == "end":
            assert (run["status"], run["end_time"]) == (records[-1]["status"], records[-1]["t"])
        return run

    def files_with(self, secret: str) -> list[Path]:
        """Files of the training's folder that hold a secret, the server's own apart."""
        return [path for path in self.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


CALLBACKS = """
from pathlib import Path

import mlflow
import numpy as np
import pytorch_lightning as pl
import torch
from mlflow.entities import Param, RunTag


class Loud(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        if trainer.is_global_zero:
            client, run_id = trainer.logger.experiment, trainer.logger.run_id
            client.log_batch(run_id, params=[Param("long", "x" * 3000)] + [Param(f"p{n}", "1") for n in range(300)])
            client.log_batch(run_id, tags=[RunTag(f"t{n}", "1") for n in range(99)])
            client.log_param(run_id, "p0", "2")
            client.log_metric(run_id, "m" * 400, 1.0)
            client.log_artifact(run_id, "absent.png")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        odd = {"nan": float("nan"), "up": float("inf"), "down": float("-inf")}
        trainer.logger.log_metrics(odd, step=trainer.global_step)
        held = {"numpy": np.float32(0.5), "torch": torch.tensor(0.5), "no number": "x", "rmse (K)": 1, "rmse [K]": 2}
        trainer.logger.log_metrics(held, step=np.int64(trainer.global_step))
        mlflow.log_metric("bare", torch.tensor(0.5), step=np.int64(trainer.global_step))
        mlflow.delete_tag("t0")


class Enough(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = Path("enough").exists()
"""

Scenario = Callable[[Training], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Register a scenario; it runs once for all tests that look at its outcome."""
    SCENARIOS[function.__name__] = function
    return function


@pytest.fixture(scope="module")
def outcome(request, tmp_path_factory, sample, template_database):  # noqa: F811
    """Return a function that returns the outcome of a scenario; all scenarios of the session's tests are started."""
    tests = [item.name for item in request.session.items]
    wanted = {name for name in SCENARIOS if f"test_{name}" in tests}
    if "test_secrets_are_in_no_file" in tests:
        wanted |= set(WITH_A_TOKEN)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HOUSE_", "PYTHON", "MLFLOW", "AZURE", "ARM_", "SLURM"))
    }

    def play(name: str) -> Training:
        folder = tmp_path_factory.mktemp(name)
        server = MlflowServer(tmp_path_factory.mktemp(f"{name}-server"), template=template_database)
        environment = clean | {
            "HOUSE_SAMPLE": str(sample),
            "MLFLOW_TRACKING_URI": server.uri,
            "MLFLOW_TRACKING_TOKEN": SECRET,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        training = Training(folder, server, environment)
        try:
            SCENARIOS[name](training)
        finally:
            if training.process is not None:
                with suppress(ProcessLookupError):  # the workers of a training that was killed, too
                    os.killpg(training.process.pid, signal.SIGKILL)
            server.stop()
        return training

    with ThreadPoolExecutor(2) as pool:
        played = {name: pool.submit(play, name) for name in SCENARIOS if name in wanted}
        yield lambda name: played[name].result()
        for future in played.values():
            future.cancel()


@scenario
def server_absent(training: Training) -> None:
    training.start().wait()
    training.notes["before"] = training.command("runs")
    training.server.start()
    training.notes["sync"] = training.sync()
    training.notes["again"] = training.sync()


@scenario
def server_killed_and_back(training: Training) -> None:
    training.server.start()
    training.start(training.callback("Enough"), steps=1000).reach(4)
    training.server.kill()
    training.hear("Training continues")
    training.server.start()
    training.hear("is back")
    (training.folder / "enough").touch()
    training.wait()


@scenario
def server_killed_for_good(training: Training) -> None:
    training.server.start()
    training.start(training.callback("Enough"), steps=1000).reach(4)
    training.server.kill()
    training.hear("Training continues")
    (training.folder / "enough").touch()
    training.wait()
    training.notes["away"] = training.sync()
    training.server.start()
    training.notes["sync"] = training.sync()


@scenario
def server_silent(training: Training) -> None:
    training.server.start()
    with Front(training.server) as front:
        training.environment |= front.environment
        training.start().reach(4)
        front.silence()
        training.wait()
        front.heal()
        training.notes["sync"] = training.sync()


@scenario
def sigterm_in_an_outage(training: Training) -> None:
    training.server.start()
    with Front(training.server) as front:
        training.environment |= front.environment
        training.start(steps=400).reach(4)
        front.silence()
        training.reach(8)
        training.process.send_signal(signal.SIGTERM)
        training.wait()
        front.heal()
        training.notes["sync"] = training.sync()


@scenario
def training_killed(training: Training) -> None:
    training.server.start()
    training.start(steps=400).reach(8)
    training.process.kill()
    training.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not training.is_ended_at_server():
        time.sleep(0.2)


@scenario
def azure_in_trouble(training: Training) -> None:
    training.server.start()
    with AzureFront(training.server, training.folder.with_name(training.folder.name + "-azure")) as front:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"):
            del training.environment[name]
        training.environment |= front.workspace_environment
        front.fail("log-batch", status=500, times=4)
        front.fail("log-batch", status=429, times=2, headers={"Retry-After": "1"}, after=6)
        training.start(training.callback("Loud"), diagnostics="house_azure").reach(6)
        front.revoke_tokens()
        training.wait()
        training.notes["sync"] = training.sync()
        training.notes["secrets"] = front.secrets


@scenario
def two_ranks_restarted_and_forked(training: Training) -> None:
    ranks = (
        "system.hardware.num_gpus_per_node=2",
        "training.strategy._target_=anemoi.training.distributed.strategy.DDPGroupStrategy",
    )
    schedule = "training.optimization.lr_scheduler.t_initial=14"
    training.server.start()
    training.start(*ranks, schedule, steps=6).wait()
    training.notes["first"] = run = training.run_id
    training.notes["status"] = [training.status]
    training.notes["server_run"] = training.at_server()["run_id"]
    training.server.kill()
    # By the id that the server shows.
    training.start(f"training.run_id={training.notes['server_run']}", schedule, steps=12).wait()
    training.notes["status"].append(training.status)
    assert training.run_id == run
    training.start(f"training.fork_run_id={run}", schedule, steps=14).wait()
    training.notes["status"].append(training.status)
    training.server.start()
    training.notes["sync"] = training.sync()


@scenario
def disk_full_for_a_while(training: Training) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        training.notes["skip"] = "a small disk needs user namespaces: unshare -rm"
        return
    training.server.start()
    script = """
set -e
mkdir -p outputs small
mount -t tmpfs -o size=4m tmpfs small
"$@" system.output.logs.mlflow=$PWD/small > train.log 2>&1 &
until grep -qs '"train/loss",[^]]*,4\\]' small/spool/*/records.jsonl; do sleep 0.1; kill -0 $!; done
# Again and again: a file of the sender that is replaced gives a page back.
until grep -q 'kept in memory' train.log; do
  dd if=/dev/zero bs=4k >> small/filler 2> /dev/null || true
  sleep 0.1
  kill -0 $!
done
sleep 2
cp small/spool/*/records.jsonl full.jsonl
rm small/filler
wait $! && echo 0 > status || echo $? > status
mkdir -p outputs/logs/mlflow
cp -r small/spool outputs/logs/mlflow/
"""
    command = [
        *(Path(sys.prefix) / "bin" / "anemoi-training", "train", "--config-name=tnbd_sample"),
        *("diagnostics=house_mlflow", "training.max_steps=80", "diagnostics.log.interval=1"),
    ]
    training.process = subprocess.Popen(
        ["unshare", "-rm", "bash", "-c", script, "bash", *command],
        cwd=training.folder,
        env=training.environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    training.wait()
    training.status = int((training.folder / "status").read_text())


def test_server_absent(outcome):
    training = outcome("server_absent")
    assert training.status == 0
    assert [line for line in training.said if "cannot connect to 127.0.0.1" in line]
    assert "They are kept. Send them with: anemoi-house sync" in training.said[-1]
    assert training.run_id[:8] in training.notes["before"].stdout
    assert training.notes["sync"].returncode == 0, training.notes["sync"].stderr
    run = training.assert_server_has_it_all()
    assert run["status"] == "FINISHED"
    assert training.notes["again"].returncode == 0
    assert (training.folder / "outputs" / "checkpoint" / training.run_id / "last.ckpt").is_file()


def test_server_killed_and_back(outcome):
    training = outcome("server_killed_and_back")
    assert training.status == 0
    assert [line for line in training.said if "Training continues" in line]
    assert [line for line in training.said if "is back" in line]
    assert "is complete at http://127.0.0.1" in training.said[-1]
    training.assert_server_has_it_all()


def test_server_killed_for_good(outcome):
    training = outcome("server_killed_for_good")
    assert training.status == 0
    assert len([line for line in training.said if "Training continues" in line]) == 1
    assert training.notes["away"].returncode == 1
    assert "Traceback" not in training.notes["away"].stderr
    assert training.notes["sync"].returncode == 0
    training.assert_server_has_it_all()


def test_server_silent(outcome):
    training = outcome("server_silent")
    assert training.status == 0
    # It has ended while the server was still silent, and says why records are left.
    assert re.search(r"not sent \((127\.0\.0\.1:\d+ does not answer|there was no time)\)", training.said[-1])
    assert training.notes["sync"].returncode == 0
    assert training.assert_server_has_it_all()["status"] == "FINISHED"


def test_sigterm_in_an_outage(outcome):
    training = outcome("sigterm_in_an_outage")
    assert "not sent (" in training.said[-1]  # it has ended while the server was still silent
    assert training.notes["sync"].returncode == 0
    assert training.assert_server_has_it_all()["status"] == "KILLED"


def test_training_killed(outcome):
    training = outcome("training_killed")
    assert training.status == -signal.SIGKILL
    run = training.assert_server_has_it_all()
    assert run["status"] == "KILLED"
    assert max(row[3] for row in training.rows) >= 8  # which was seen before the kill


def test_azure_in_trouble(outcome):
    training = outcome("azure_in_trouble")
    assert training.status == 0
    assert training.notes["sync"].returncode == 0, training.notes["sync"].stderr
    run = training.assert_server_has_it_all()
    assert run["status"] == "FINISHED"
    assert run["params"]["dataloader.trim"] == "225 km"
    assert run["params"]["graph.encoder_neighbours"] == "20"
    assert run["params"]["graph.isolated.lam"] == "0"
    assert run["params"]["training.learning_rate_used"] == "0.001"
    assert run["tags"]["experiment"] == "tnbd_sample"
    assert run["tags"]["version.anemoi-training"].startswith("0.17.")
    assert len(run["params"]) < 200
    assert len(run["tags"]) < 50
    assert run["artifacts"]["graph.png"].startswith(b"\x89PNG")
    config = yaml.safe_load(run["artifacts"]["config.yaml"])
    assert config["training"]["max_steps"] == STEPS
    over = json.loads(run["artifacts"]["over_limits.json"])
    found = {(each["what"], each["key"]): each for each in over}
    assert len(found["param", "long"]["value"]) == 3000
    assert {"what": "param", "key": "p0", "value": "2"}.items() <= found["param", "p0"].items()
    assert ("tag", "t98") in found
    assert ("artifact", "absent.png") in found
    assert {"NaN", "Infinity", "-Infinity"} <= {row[1] for row in run["metrics"]}
    steps = Counter(row[0].partition("-")[0] for row in run["metrics"])
    assert {steps[name] for name in ("numpy", "torch", "bare")} == {STEPS}
    assert steps["rmse _K_"] == 2 * STEPS
    assert found["metric", "no number"]["why"] == f"{STEPS} values could not be recorded"
    assert run["tags"]["t0"] == ""
    for secret in training.notes["secrets"]:
        assert training.files_with(secret) == []


def test_two_ranks_restarted_and_forked(outcome):
    training = outcome("two_ranks_restarted_and_forked")
    assert training.notes["status"] == [0, 0, 0]
    assert training.notes["sync"].returncode == 0, training.notes["sync"].stderr
    first, fork = training.notes["first"], training.run_id
    assert {path.name for path in training.spools} == {first, fork}
    assert {path.name for path in (training.folder / "outputs" / "checkpoint").iterdir()} == {first, fork}
    run = training.assert_server_has_it_all(first)
    assert run["run_id"] == training.notes["server_run"]
    assert max(row[3] for row in run["metrics"]) == 11
    assert run["tags"]["restarts"] == "1"
    assert "training.max_steps: 6 -> 12" in run["tags"]["restart_1_changed"]
    assert set(run["artifacts"]) >= {"config.yaml", "config.restart-1.yaml", "graph.png"}
    forked = training.assert_server_has_it_all(fork)
    assert forked["tags"]["forkedRunId"] == run["run_id"]
    assert min(row[3] for row in forked["metrics"] if row[0] == "train/loss") >= 12


def test_disk_full_for_a_while(outcome):
    training = outcome("disk_full_for_a_while")
    if "skip" in training.notes:
        pytest.skip(training.notes["skip"])
    assert training.status == 0
    assert [line for line in training.said if "No space left on device" in line and "kept in memory" in line]
    assert [line for line in training.said if "no record was lost" in line]
    training.assert_server_has_it_all()
    assert len((training.folder / "full.jsonl").read_bytes()) < len(
        (training.spools[-1] / "records.jsonl").read_bytes()
    )


def test_secrets_are_in_no_file(outcome):
    for name in WITH_A_TOKEN:
        assert outcome(name).files_with(SECRET) == []


@pytest.mark.parametrize(
    ("overrides", "variables", "message"),
    [
        (["diagnostics=house_mlflow"], {}, "tracking_uri is not set"),
        (["diagnostics.log.mlflow.tracking_uri=ftp://server"], {}, "ftp:// is not known"),
        (["diagnostics=house_azure"], {"AZURE_TENANT_ID": "t", "AZUREML_ARM_SUBSCRIPTION": "s",
          "AZUREML_ARM_RESOURCEGROUP": "r", "AZUREML_ARM_WORKSPACE_NAME": "w"}, "AZURE_CLIENT_SECRET"),
        (["system.output.logs.mlflow=/proc/nowhere"], {}, "/proc/nowhere/spool/"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message_before_anything_is_built(overrides, variables, message, here, sample, tmp_path):
    done = here.run(
        "anemoi-training", "train", "--config-name=tnbd_sample", *overrides, cwd=tmp_path,
        HOUSE_SAMPLE=str(sample), MLFLOW_TRACKING_URI="", **variables,
    )  # fmt: skip
    assert done.returncode != 0
    assert message in done.stdout
    assert "Traceback" not in done.stdout
    assert not list(tmp_path.rglob("*.pt"))
    assert not list(tmp_path.rglob("records.jsonl"))
