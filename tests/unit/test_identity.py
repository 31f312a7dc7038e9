"""The id of a run is the same on every rank, and another for every run."""

from __future__ import annotations

import json

import pytest

from anemoi_house.tracking.identity import local_run_id, new_run_id

STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_START_TIME": "1700000000"}


def test_tasks_of_a_slurm_step_agree():
    ids = {new_run_id(rank, {**STEP, "SLURM_PROCID": str(rank)}) for rank in range(4)}
    assert len(ids) == 1
    assert len(ids.pop()) == 32


@pytest.mark.parametrize("other", ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_START_TIME"])
def test_other_jobs_steps_and_restarts_are_other_runs(other):
    assert new_run_id(0, dict(STEP)) != new_run_id(0, {**STEP, other: "9"})


def test_processes_that_rank_0_starts_inherit_its_id():
    environ: dict[str, str] = {}
    first = new_run_id(0, environ)
    assert new_run_id(1, environ) == first
    assert new_run_id(0, environ) != first  # a second training in the same process


def test_workers_of_torchrun_agree():
    environ = {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1"}
    assert new_run_id(0, dict(environ)) == new_run_id(3, dict(environ))
    nodes = {"TORCHELASTIC_RUN_ID": "a", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}
    assert new_run_id(0, dict(nodes)) == new_run_id(3, dict(nodes)) != new_run_id(0, {**nodes, "MASTER_ADDR": "n2"})


def test_an_azure_job_has_its_run():
    assert new_run_id(0, {"MLFLOW_RUN_ID": "brave_name_1"}) == "brave_name_1"


def test_another_launcher_leaves_rank_0_alone_with_an_id():
    assert new_run_id(1, {}) is None


def test_an_id_of_a_server_leads_to_the_run_here(tmp_path):
    ledger = tmp_path / "here" / "sent" / "abc.json"
    ledger.parent.mkdir(parents=True)
    ledger.write_text(json.dumps({"run_id": "there"}))
    (tmp_path / "broken" / "sent").mkdir(parents=True)
    (tmp_path / "broken" / "sent" / "x.json").write_text("{")
    assert local_run_id(tmp_path, "there") == "here"
    assert local_run_id(tmp_path, "here") == "here"
    assert local_run_id(tmp_path, "unknown") == "unknown"
