"""What a training starts from, with files as a training leaves them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError
from anemoi_house.runs.start import checked_start

SCHEDULE = {"_target_": "timm.scheduler.CosineLRScheduler", "t_initial": 300, "lr_min": 3e-7, "warmup_t": 20}


def settings(**changes: Any) -> DictConfig:
    config = OmegaConf.create(
        {
            "system": {
                "output": {
                    "root": "outputs",
                    "checkpoints": {"root": "checkpoint"},
                    "logs": {"root": "logs", "mlflow": "mlflow"},
                },
                "input": {"warm_start": None},
            },
            "training": {
                "run_id": None,
                "fork_run_id": None,
                "load_weights_only": False,
                "max_steps": 300,
                "optimization": {"lr_scheduler": {**SCHEDULE, "t_initial": "${training.max_steps}"}},
            },
            "task": {"rollout": {"start": 1, "epoch_increment": 0, "maximum": 1}},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "outputs" / "checkpoint" / "abc"
    folder.mkdir(parents=True)
    before = OmegaConf.to_container(settings(), resolve=True)
    with zipfile.ZipFile(folder / "last.ckpt", "w") as archive:
        archive.writestr("archive/data/0", b"weights")
        archive.writestr("archive/anemoi-metadata/anemoi.json", json.dumps({"run_id": "abc", "config": before}))
    return folder


def test_each_way_to_begin_is_told(run: Path) -> None:
    last = "outputs/checkpoint/abc/last.ckpt"
    assert checked_start(settings()) == "new"
    assert checked_start(settings(training__run_id="abc")) == f"restart of {last}"
    assert checked_start(settings(training__fork_run_id="abc")) == f"fork of {last}"
    assert checked_start(settings(system__input__warm_start=last)) == f"fork of {last}"
    weights = settings(training__fork_run_id="abc", training__load_weights_only=True)
    assert checked_start(weights) == f"weights of {last}"


def test_a_run_may_be_named_as_its_server_names_it(run: Path) -> None:
    sent = run.parents[1] / "logs" / "mlflow" / "spool" / "abc" / "sent"
    sent.mkdir(parents=True)
    (sent / "server.json").write_text(json.dumps({"run_id": "0123456789"}))
    assert checked_start(settings(training__run_id="0123456789")) == "restart of outputs/checkpoint/abc/last.ckpt"
    # What `anemoi-house resume` prints.
    resumed = settings(training__run_id="abc", system__input__warm_start=str(run / "last.ckpt"))
    assert checked_start(resumed) == f"restart of {run / 'last.ckpt'}"


def test_a_longer_training_would_stay_at_the_minimum(run: Path) -> None:
    longer = settings(training__run_id="abc", training__max_steps=600)
    with pytest.raises(HouseError) as mistake:
        checked_start(longer)
    assert str(mistake.value) == (
        "training.max_steps=600: training.run_id=abc restores its own learning-rate schedule with t_initial=300, so "
        "from step 300 the rate would stay at its minimum, 3e-07. To accept that, set "
        "training.optimization.lr_scheduler.t_initial=300. For a new schedule, load weights alone into a new run: "
        "training.load_weights_only=True training.run_id=null training.fork_run_id=abc."
    )
    knowingly = settings(
        training__run_id="abc", training__max_steps=600, training__optimization__lr_scheduler__t_initial=300
    )
    assert checked_start(knowingly).startswith("restart")
    new_schedule = settings(training__fork_run_id="abc", training__max_steps=600, training__load_weights_only=True)
    assert checked_start(new_schedule).startswith("weights")


def test_other_settings_of_the_schedule_would_be_ignored(run: Path) -> None:
    for key, value in (("lr_min", 1e-6), ("warmup_t", 10), ("t_initial", 200)):
        changed = settings(training__fork_run_id="abc", **{f"training__optimization__lr_scheduler__{key}": value})
        with pytest.raises(HouseError, match=rf"^training\.optimization\.lr_scheduler\.{key}=.*would stay in force"):
            checked_start(changed)
    constant = settings(training__fork_run_id="abc", training__optimization__lr_scheduler=None)
    assert checked_start(constant).startswith("fork")


def test_a_rollout_stage_would_inherit_the_rollout(run: Path) -> None:
    stage = {"task__rollout__start": 2, "task__rollout__maximum": 12, "task__rollout__epoch_increment": 1}
    with pytest.raises(HouseError, match=r"^task\.rollout\.start=2: training\.fork_run_id=abc restores the rollout"):
        checked_start(settings(training__fork_run_id="abc", **stage))
    assert checked_start(settings(training__fork_run_id="abc", training__load_weights_only=True, **stage))
    longer = settings(training__run_id="abc", task__rollout__maximum=12, task__rollout__epoch_increment=1)
    assert checked_start(longer).startswith("restart"), "it grows from where it is"


def test_a_run_without_a_checkpoint(run: Path) -> None:
    with pytest.raises(
        HouseError, match=r"^training\.run_id=xyz: .*last\.ckpt: it does not exist\. outputs/checkpoint has abc; "
    ):
        checked_start(settings(training__run_id="xyz"))
    (run / "last.ckpt").unlink()
    with pytest.raises(HouseError, match=r"outputs/checkpoint has no run with one; set HOUSE_OUTPUT for other outputs"):
        checked_start(settings(training__fork_run_id="abc"))
    with pytest.raises(HouseError, match=r"^system\.input\.warm_start=old\.ckpt: old\.ckpt: it does not exist"):
        checked_start(settings(system__input__warm_start="old.ckpt"))


def test_files_that_no_training_can_begin_with(run: Path) -> None:
    last = run / "last.ckpt"
    inference = last.rename(run / "inference-last.ckpt")
    with pytest.raises(HouseError, match=r"is for inference.*Give the file next to it: .*/abc/last\.ckpt\.$"):
        checked_start(settings(system__input__warm_start=str(inference)))
    last.write_bytes(inference.read_bytes()[:-30])
    with pytest.raises(
        HouseError, match=r"it was cut short\. For an earlier one, use the arguments that `anemoi-house resume "
    ):
        checked_start(settings(training__run_id="abc"))
    last.write_bytes(inference.read_bytes())
    assert checked_start(settings(training__run_id="abc")).startswith("restart"), "the file is read again"


def test_a_stray_file_that_lightning_would_take(run: Path) -> None:
    (Path.cwd() / "hpc_ckpt_1.ckpt").touch()
    for config in (settings(), settings(training__run_id="abc")):
        with pytest.raises(HouseError, match=r"hpc_ckpt_1\.ckpt: Lightning continues from a file with this name"):
            checked_start(config)
