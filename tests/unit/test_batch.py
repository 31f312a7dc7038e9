"""Job scripts: what they request from SLURM and run, and mistakes found before a script is printed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_house.cli import main
from anemoi_house.errors import HouseError
from anemoi_house.runs.batch import Job, _filled, _seconds, job_script
from anemoi_house.upstream.compose import composed

PUBLISHED: dict[str, Any] = {
    "config_name": "tnbd", "nodes": 8, "gpus_per_node": "4", "gpus_per_model": 2, "time": "12:00:00", "account": "A"
}  # fmt: skip


def directives(script: str) -> dict[str, str | None]:
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE)
    return {key: value or None for key, value in found}


def overrides(script: str) -> list[str]:
    """Return the overrides as bash reads them."""
    (text,) = re.findall(r"^overrides=\(.*?^\)$", script, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        ["bash", "-c", f'{text}\nprintf "%s\\0" "${{overrides[@]}}"'], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def test_the_published_settings_come_out_as_published() -> None:
    script = job_script(Job(**PUBLISHED))
    assert directives(script) == {
        "job-name": "tnbd", "nodes": "8", "ntasks-per-node": "4", "gpus-per-node": "4", "time": "12:00:00",
        "account": "A", "signal": "B:USR1@600", "output": "%x-%j.log", "open-mode": "append", "requeue": None,
    }  # fmt: skip
    config = composed("tnbd", None, overrides(script))
    hardware = config.system.hardware
    assert (hardware.num_nodes, hardware.num_gpus_per_node, hardware.num_gpus_per_model) == (8, 4, 2)
    models = hardware.num_nodes * hardware.num_gpus_per_node / hardware.num_gpus_per_model
    assert config.training.optimization.lr * models == pytest.approx(1.0e-3)
    assert config.training.max_steps == 30_000


def test_a_kind_of_gpu_is_asked_for_and_counted() -> None:
    script = job_script(Job(**PUBLISHED | {"gpus_per_node": "a100:4"}))
    assert directives(script)["gpus-per-node"] == "a100:4"
    assert directives(script)["ntasks-per-node"] == "4"
    assert "system.hardware.num_gpus_per_node=4" in overrides(script)


def test_ranks_on_cpus() -> None:
    script = job_script(Job("tnbd_sample", "10", nodes=2, tasks_per_node=2, signal_before=60, account="none"))
    asked = directives(script)
    assert asked["ntasks-per-node"] == "2"
    assert not {"gpus-per-node", "account"} & set(asked)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs Debian's package shellcheck")
def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    env = tmp_path / "my azure.sh"
    env.touch()
    script = tmp_path / "job.sh"
    for more in ({}, {"env": env, "seed": 7, "output": tmp_path / "a b", "overrides": ["training.max_steps=7"]}):
        script.write_text(job_script(Job(**PUBLISHED | more)))
        subprocess.run(["shellcheck", script], check=True)


@given(st.lists(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30), min_size=1, max_size=3))
def test_overrides_reach_the_training_as_they_are(texts: list[str]) -> None:
    assert overrides(_filled(Job(**PUBLISHED), texts)) == texts


def test_the_environment_file_is_named_and_not_read(tmp_path: Path) -> None:
    env = tmp_path / "azure.sh"
    env.write_text("export AZURE_CLIENT_SECRET=not-for-scripts\n")
    script = job_script(Job(**PUBLISHED | {"env": env}))
    assert f"env_file={shlex.quote(str(env))}\n" in script
    assert "not-for-scripts" not in script


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"config_name": "tnbdd"}, "there is no config 'tnbdd' .* Did you mean 'tnbd'[?]"),
        ({"overrides": ["training.max_step=5"]}, "training.max_step|max_step"),
        ({"account": None}, "--account is not set"),
        ({"env": Path("/nowhere/azure.sh")}, "--env /nowhere/azure.sh: does not exist"),
        ({"time": "12 hours"}, "--time 12 hours"),
        ({"time": "10"}, "--time 10: is too short, since the training begins to stop 600 s"),
        ({"nodes": 0}, "--nodes 0"),
        ({"gpus_per_node": "four"}, "--gpus-per-node four"),
        ({"tasks_per_node": 4}, "--ntasks-per-node: cannot be combined with --gpus-per-node"),
        ({"gpus_per_model": 3}, "--gpus-per-model 3: does not divide the 32 ranks"),
        ({"signal_before": 70000}, "--signal-before 70000"),
        ({"seed": -1}, "--seed -1"),
        ({"partition": "a b"}, "--partition 'a b'"),
        ({"overrides": ["+my.password=hunter22"]}, r"^\+my.password=\*\*\*: a secret is not written into a script"),
        (
            {"overrides": ["diagnostics.log.mlflow.tracking_uri=https://me:hunter22@x"]},
            r"tracking_uri=https://\*\*\*@x: a",
        ),
        ({"command": ["anemoi-house", "job", "my.api_key=hunter22"]}, r"my.api_key=\*\*\*: a secret"),
    ],
)
def test_mistakes_are_named(more: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SBATCH_ACCOUNT", raising=False)
    with pytest.raises(HouseError, match=told):
        job_script(Job(**PUBLISHED | more))


def test_the_account_may_be_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    assert "account" not in directives(job_script(Job(**PUBLISHED | {"account": None})))


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("90:30", 5430), ("12:00:00", 43200), ("1-0", 86400), ("1-2:03", 93780), ("1-2:03:04", 93784)],
)
def test_limits_are_read_as_slurm_reads_them(time: str, expected: int) -> None:
    assert _seconds(time) == expected


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--config-name", "nbd", "--nodes", "2", "--gpus-per-node", "4", "--time", "1:00:00", "--account", "A"]
    assert main(["sbatch", *asked, "training.max_steps=9"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("#!/bin/bash\n#SBATCH --job-name=nbd\n")
    assert "training.max_steps=9" in overrides(out)
    assert main(["sbatch", *asked[:-2], "--account", "a b"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "anemoi-house: --account 'a b': is not a name that SLURM accepts\n")
