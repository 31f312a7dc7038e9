"""Restart, fork, warm start and rollout through the stock command, and whether `explain` predicts what they log."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anemoi_house.upstream.checkpoints import checkpoints_in

# Ten steps per epoch, metrics at each step, and a schedule of forty steps.
SHORT = [
    "dataloader.training.datasets.data.end=2020-01-03",
    "dataloader.validation.datasets.data.end=2020-01-27",
    "diagnostics.log.interval=1",
]
SCHEDULE = ["training.optimization.lr_scheduler.t_initial=40", "training.optimization.lr_scheduler.warmup_t=5"]


class Outputs:
    """Outputs of trainings, and their records."""

    def __init__(self, here, sample: Path, folder: Path) -> None:
        self.here, self.folder = here, folder
        self.variables = {"HOUSE_SAMPLE": str(sample), "HOUSE_OUTPUT": str(folder / "outputs")}

    def train(self, config: str, *overrides: str) -> str:
        """Train, and return the id of the new run."""
        before = self.runs()
        self.log = self.here.check(
            "anemoi-training", "train", f"--config-name={config}", *SHORT, *overrides, cwd=self.folder, **self.variables
        )
        new = self.runs() - before
        return new.pop() if new else ""

    def house(self, *command: str) -> str:
        return self.here.check("anemoi-house", *command, cwd=self.folder, **self.variables)

    def explain(self, config: str, *overrides: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.house("explain", config, "--json", *SHORT, *overrides))
        return told

    def runs(self) -> set[str]:
        return {path.name for path in self.folder.glob("outputs/checkpoint/*")}

    def checkpoint_folder(self, run: str) -> Path:
        return self.folder / "outputs" / "checkpoint" / run

    def spool(self, run: str) -> Path:
        return self.folder / "outputs/logs/mlflow/spool" / run

    def records(self, run: str, kind: str) -> list[dict[str, Any]]:
        return [
            record for record in map(json.loads, (self.spool(run) / "records.jsonl").open()) if record["kind"] == kind
        ]

    def metric(self, run: str, name: str) -> dict[int, float]:
        """Return the values of a metric by step."""
        rows = [row for record in self.records(run, "metrics") for row in record["rows"] if row[0] == name]
        return {step: float(value) for _, value, _, step in rows}

    def values(self, run: str, kind: str) -> dict[str, str]:
        return {key: value for record in self.records(run, kind) for key, value in record["values"].items()}


@pytest.fixture(scope="module")
def outputs(here, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return Outputs(here, sample, tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def first(outputs: Outputs) -> str:
    """A run that was stopped after two epochs, and then continued to its end."""
    run = outputs.train("tnbd_sample", *SCHEDULE, "training.max_steps=40", "training.max_epochs=2")
    assert {each.step for each in checkpoints_in(outputs.checkpoint_folder(run))} == {10, 20}
    goes_on = outputs.house("resume", f"outputs/checkpoint/{run}").splitlines()
    arguments = [line for line in goes_on if "=" in line and not line.startswith("anemoi-house")]
    assert outputs.train("tnbd_sample", *SCHEDULE, "training.max_steps=40", *arguments) == "", "no new folder"
    return run


def state(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=False, map_location="cpu")
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_restart_is_the_same_training_and_explain_predicts_it(outputs: Outputs, first: str) -> None:
    steps = [each.step for each in checkpoints_in(outputs.checkpoint_folder(first)) if each.ends_an_epoch]
    assert steps == [40, 30, 20, 10]
    assert outputs.values(first, "tags")["start"].startswith("restart of ")
    last = state(outputs.checkpoint_folder(first) / "last.ckpt")
    assert last["global_step"] == 40
    assert {int(each["step"]) for each in last["optimizer_states"][0]["state"].values()} == {40}

    told = outputs.explain("tnbd_sample", *SCHEDULE, "training.max_steps=40")
    assert told["steps"] == 40
    (phase,) = told["phases"]
    assert (phase["epochs"], phase["steps"]) == (4, 10)
    rates = dict(told["rate"]["by_step"])
    assert outputs.metric(first, "learning_rate") == pytest.approx(rates), "before the restart and after it"
    params = outputs.values(first, "params")
    assert float(params["training.learning_rate_used"]) == told["rate"]["effective"]
    weighed = {each["variable"]: each["weight"] for each in told["loss"]["weights"]}
    kept = [yaml.safe_load(path.read_text()) for path in outputs.spool(first).glob("artifacts/*.yaml")]
    logged_weights = kept[0]["variable_loss_scaling"]["data"]
    assert logged_weights.pop("total_sum") == pytest.approx(sum(weighed.values()))
    assert logged_weights == pytest.approx(weighed)
    assert told["folder"] == str(outputs.folder / "outputs" / "checkpoint")


def test_a_fork_leaves_the_old_run_as_it_is(outputs: Outputs, first: str) -> None:
    old = outputs.checkpoint_folder(first)
    before = hashes(old)
    fork = outputs.train("tnbd_sample", *SCHEDULE, "training.max_steps=50", f"training.fork_run_id={first}")
    assert hashes(old) == before
    assert fork != first
    assert [each.step for each in checkpoints_in(outputs.checkpoint_folder(fork)) if each.ends_an_epoch] == [50]
    assert outputs.values(fork, "tags")["start"].startswith("fork of ")
    # The schedule, which was kept on purpose, has ended.
    assert max(value for step, value in outputs.metric(fork, "learning_rate").items() if step >= 41) == pytest.approx(
        3e-7
    )


def test_a_warm_start_begins_from_the_file(outputs: Outputs, first: str) -> None:
    second = next(each for each in checkpoints_in(outputs.checkpoint_folder(first)) if each.step == 20)
    warm = outputs.train(
        "tnbd_sample", *SCHEDULE, "training.max_steps=40", "training.max_epochs=3",
        f"system.input.warm_start={second.path}",
    )  # fmt: skip
    ours, theirs = (
        next(each.path for each in checkpoints_in(outputs.checkpoint_folder(run)) if each.step == 30)
        for run in (warm, first)
    )
    # With the same seed, the order of the data and so the training are the same.
    expected = state(theirs)["state_dict"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state(ours)["state_dict"].items())


def test_the_second_stage_begins_with_weights_and_goes_on(outputs: Outputs, first: str) -> None:
    short = "dataloader.limit_batches.training=4"
    told = outputs.explain("tnbd_rollout_sample", f"training.fork_run_id={first}", short)
    assert told["start"].endswith("last.ckpt: weights alone, into a new run")
    assert [(each["rollout"], each["hours"]) for each in told["phases"]] == [(2, 12), (3, 18)]

    stage = outputs.train("tnbd_rollout_sample", f"training.fork_run_id={first}", "training.max_epochs=1", short)
    assert "Effective task rollout step: 2." in outputs.log
    outputs.train("tnbd_rollout_sample", f"training.run_id={stage}", short)
    assert "Effective task rollout step: 3." in outputs.log or "has been increased to 3" in outputs.log
    done = [each.step for each in checkpoints_in(outputs.checkpoint_folder(stage)) if each.ends_an_epoch]
    assert done == [8, 4]
    assert [each["steps"] for each in told["phases"]] == [4, 4]
    rates = outputs.metric(stage, "learning_rate")
    assert rates == pytest.approx(dict.fromkeys(rates, told["rate"]["effective"]))
    assert sorted(set(outputs.metric(stage, "rollout").values())) == [2, 3]


def test_what_would_ruin_a_run_ends_in_a_message(outputs: Outputs, first: str) -> None:
    before = outputs.runs()
    for overrides, message in (
        (["training.max_steps=80", f"training.run_id={first}"], "training.max_steps=80: training.run_id="),
        (["training.max_steps=40", "training.run_id=nobody"], "training.run_id=nobody: "),
    ):
        done = outputs.here.run(
            "anemoi-training", "train", "--config-name=tnbd_sample", *SHORT, *overrides,
            cwd=outputs.folder, **outputs.variables,
        )  # fmt: skip
        assert done.returncode != 0
        assert message in done.stdout
        assert "Traceback" not in done.stdout
        assert outputs.runs() == before
