"""The loggers as anemoi-training and its callbacks use them; nothing is sent."""

from __future__ import annotations

import atexit
import io
import json
import os
import threading
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from mlflow.entities import LoggedModelOutput
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name
from omegaconf import OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from anemoi_house.tracking.limits import fit_key
from anemoi_house.tracking.logger import AzureMLflowLogger, SpooledMLflowLogger
from anemoi_house.tracking.metric_names import metric_name
from anemoi_house.tracking.spool import Spool
from anemoi_house.upstream.errors import CommandError

CONFIG = {"training": {"max_steps": 6, "lr": 0.1}, "model": {"layers": 2}, "password": "of-no-use"}


@pytest.fixture(autouse=True)
def no_trace(monkeypatch):
    """Neither MLflow's address nor any variable outlives a test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**settings):
        settings = {
            "offline": True,
            "terminal": False,
            "params": ["training", "model.*"],
            "run_name": "tnbd",
        } | settings
        made.append(SpooledMLflowLogger(str(tmp_path / "mlflow"), experiment_name="nested", **settings))
        return made[-1]

    yield make
    for logger in made:
        atexit.unregister(logger._at_exit)
        logger._store.close(1)


def records(logger, kind):
    logger._store.writer.flush(5)
    found = [record.data for record in Spool(logger._store.writer.folder).records()]
    return [record for record in found if record["kind"] == kind]


def close(logger):
    logger.finalize("success")
    logger._store.close(5)


@pytest.mark.parametrize(
    ("stock", "ours"),
    [
        ("train_multi_dataset_loss_step", "train/loss"),
        ("train_multi_dataset_loss_epoch", "train/loss_epoch"),
        ("val_multi_dataset_loss_step", "val/loss_step"),
        ("val_multi_dataset_loss_epoch", "val/loss"),
        ("val_data_mse_metric/data/t_850/1_epoch", "val/mse/t_850.step1"),
        ("val_data_mse_inner_ring_metric/data/sfc_2t/2", "val/mse_inner_ring/sfc_2t.step2"),
        ("val_data_mse_metric/data/sfc_2t_epoch", "val/mse/sfc_2t"),
        ("lr-AdamW", "learning_rate"),
        ("lr-SGD", "lr-SGD"),
        ("train_spectral_loss", "train_spectral_loss"),
        ("val_data_mse_loss", "val_data_mse_loss"),
        ("val_lam_mse_loss", "val_lam_mse_loss"),
        ("val_lam_mse_metric/lam/t_850/1", "val_lam_mse_metric/lam/t_850/1"),
        ("val_mse_metric/t_850/1", "val_mse_metric/t_850/1"),
        ("val_multi_dataset_loss_epoch\n", "val_multi_dataset_loss_epoch\n"),
        ("system/cpu_utilization_percentage", "system/cpu_utilization_percentage"),
        ("mine", "mine"),
    ],
)
def test_names_of_metrics(stock, ours):
    assert metric_name(stock) == ours


PARTS = st.sampled_from(
    ["train", "val", "lr-", "data", "lam", "mse", "loss", "step", "_epoch", "metric", "/", "_", "1"]
)


@given(names=st.sets(st.lists(PARTS, min_size=1, max_size=9).map("".join) | st.text(), max_size=20))
def test_names_other_than_those_of_the_stock_stay_apart(names):
    for form in ("_step", "_epoch"):  # one metric of Lightning, in two forms
        names -= {name + form for name in names}
    recorded = {metric_name(name) for name in names}
    assert len(recorded) == len(names)
    assert len({fit_key("metric", name)[0] for name in recorded}) == len(names)


@given(what=st.sampled_from(["metric", "param", "tag"]), name=st.text(max_size=300) | st.text("./\\ a", max_size=300))
def test_every_name_becomes_one_that_mlflow_takes(what, name):
    fitting, over = fit_key(what, name)
    assert bool(over) == (fitting != name)
    if what == "metric":
        _validate_metric_name(fitting)
    elif what == "param":
        _validate_param_name(fitting)
    else:
        _validate_tag_name(fitting)
    assert fit_key(what, fitting) == (fitting, [])


def test_a_run_is_recorded(make):
    logger = make()
    logger.log_hyperparams(OmegaConf.create(CONFIG))
    logger.log_hyperparams({"config": CONFIG, "metadata": {"much": "more"}})  # Lightning's own call
    logger.log_metrics({"train_multi_dataset_loss_step": 0.5, "epoch": 0}, step=1)
    logger.log_metrics({"train_multi_dataset_loss_step": 0.25, "epoch": 0}, step=2)
    logger.log_metrics({"epoch": 0}, step=2)
    logger.finalize("success")
    (start,) = records(logger, "start")
    assert (start["run_id"], start["experiment"], start["run_name"]) == (logger.run_id, "nested", "tnbd")
    rows = [(key, value, step) for record in records(logger, "metrics") for key, value, _, step in record["rows"]]
    assert rows == [("train/loss", 0.5, 1), ("epoch", 0.0, 1), ("train/loss", 0.25, 2), ("epoch", 0.0, 2)]
    (params,) = records(logger, "params")
    assert params["values"] == {"training.max_steps": "6", "training.lr": "0.1", "model.layers": "2"}
    (config,) = records(logger, "artifact")
    assert config["path"] == "config.yaml"
    written = yaml.safe_load((logger._store.writer.folder / config["file"]).read_text())
    assert written == {**CONFIG, "password": "***"}
    (end,) = records(logger, "end")
    assert end["status"] == "FINISHED"


def test_a_run_that_is_only_recorded_names_its_server_for_a_later_sync(make, tmp_path):
    spool = Spool(make()._store.writer.folder)  # offline, as all loggers of these tests
    assert spool.target()["uri"] == f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    assert not list((spool.folder / "sent").glob("*"))


def test_the_contract_of_the_stock_logger(make, tmp_path):
    logger = make()
    run = logger._mlflow_client.get_run(logger.run_id)  # as the checkpoint callback does
    assert (run.info.run_id, run.info.run_name) == (logger.run_id, "tnbd")
    assert logger.version == logger.run_id
    (tmp_path / "plot.png").touch()
    logger.experiment.log_artifact(logger.run_id, str(tmp_path / "plot.png"), artifact_path="plots")
    logger.experiment.log_table(logger.run_id, {"a": [1]}, "speed.json")
    assert [record["path"] for record in records(logger, "artifact")] == ["plots/plot.png", "speed.json"]
    with mlflow.start_run(run_id=logger.run_id):  # a callback with MLflow's functions
        mlflow.log_metric("mine", 3, step=1)
    assert records(logger, "metrics")[-1]["rows"][0][:2] == ["mine", 3.0]
    assert (logger._parent_run_server2server, logger._fork_run_server2server, logger._parent_dry_run) == (
        None,
        None,
        False,
    )


def test_only_what_repeats_a_value_is_recorded_once(make):
    logger = make()
    for value in (0.5, 0.5, np.float32(0.5), 0.25):
        logger.log_metrics({"train_spectral_loss": value}, step=np.int64(1))
    logger.log_metrics({"no step": 1})
    logger.log_metrics({"no step": 2})
    rows = [row[:2] for record in records(logger, "metrics") for row in record["rows"]]
    assert rows == [["train_spectral_loss", 0.5], ["train_spectral_loss", 0.25], ["no step", 1.0], ["no step", 2.0]]


def test_one_bad_value_leaves_the_others(make, caplog):
    logger = make()
    for step in range(3):
        logger.log_metrics({"text": "no number", 5: 1, "loss": torch.tensor(0.5)}, step=step)
    assert [[row[0] for row in record["rows"]] for record in records(logger, "metrics")] == [["5", "loss"]] * 3
    close(logger)
    assert "Tracking: 3 values of 1 metric could not be recorded; see over_limits.json." in caplog.messages


def functions_of_mlflow(folder):
    """Everything that a callback may call with MLflow alone."""
    (folder / "a.txt").write_text("a")
    figure = Figure()
    mlflow.log_metric("bare", 1, step=3)
    mlflow.log_metrics({"bare": np.float32(2)}, step=4)
    mlflow.log_param("param", 1)
    mlflow.log_params({"others": 2})
    mlflow.set_tag("tag", 1)
    mlflow.set_tags({"gone": 2})
    mlflow.delete_tag("gone")
    mlflow.log_artifact(str(folder / "a.txt"))
    mlflow.log_artifacts(str(folder), "folder")
    mlflow.log_text("text", "text.txt")
    mlflow.log_dict({"a": 1}, "dict.json")
    mlflow.log_figure(figure, "figure.png")
    mlflow.log_image(np.zeros((4, 4, 3), np.uint8), "image.png")
    mlflow.log_image(np.zeros((4, 4, 3), np.uint8), key="images", step=1)
    for row in (1, 2):
        mlflow.log_table({"row": [row]}, "table.json")
    mlflow.log_stream(io.BytesIO(b"stream"), "stream.bin")
    mlflow.log_input(mlflow.data.from_numpy(np.zeros(3), name="fields"))
    mlflow.set_experiment("another")
    mlflow.set_experiment_tag("a", "b")
    mlflow.set_experiment_tags({"a": "b"})
    mlflow.delete_experiment_tag("a")
    mlflow.log_outputs([LoggedModelOutput("m", 1)])
    assert mlflow.load_table("table.json").row.tolist() == [1, 2]
    assert mlflow.active_run().info.run_id == mlflow.last_active_run().info.run_id
    mlflow.get_run(mlflow.active_run().info.run_id)
    mlflow.search_runs()
    mlflow.get_artifact_uri("a.txt")
    mlflow.flush_async_logging()
    with mlflow.start_run(nested=True, run_name="nested", description="more"):
        mlflow.log_metric("nested", 1)


def test_mlflows_functions_log_to_the_run_of_the_training(make, tmp_path):
    logger = make()
    logger.log_system_metrics()
    try:
        functions_of_mlflow(tmp_path)
        assert mlflow.active_run().info.run_id == logger.run_id
        assert len([each for each in threading.enumerate() if each.name.startswith("SystemMetrics")]) == 1
        mlflow.log_metric("asynchronous", 1, synchronous=False).wait()
    finally:
        mlflow.end_run()
    with mlflow.start_run(run_id=logger.run_id):
        mlflow.log_metric("by its id", 3)
    assert records(logger, "end") == [], "the training goes on"
    rows = {row[0]: row[1] for record in records(logger, "metrics") for row in record["rows"]}
    assert rows == {"bare": 2.0, "nested": 1.0, "by its id": 3.0, "asynchronous": 1.0}
    values = Spool(logger._store.writer.folder).summary()
    assert (values.params, values.tags["tag"], values.tags["gone"]) == ({"param": "1", "others": "2"}, "1", "")
    assert (values.name, values.tags["mlflow.note.content"]) == ("tnbd", "more")
    names = {record["path"] for record in records(logger, "artifact")}
    assert {"a.txt", "folder/a.txt", "text.txt", "dict.json", "figure.png", "image.png", "table.json"} <= names
    logger.finalize("success")
    assert [record["status"] for record in records(logger, "end")] == ["FINISHED"]


def test_mlflows_functions_wait_for_no_server_on_other_ranks(make, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    make()
    try:
        mlflow.log_metric("bare", 1, step=3)
        mlflow.log_text("text", "text.txt")
        mlflow.log_table({"row": [1]}, "table.json")
    finally:
        mlflow.end_run()
    assert not (tmp_path / "mlflow").exists()


def test_repeated_failures_are_a_few_lines(make, caplog):
    logger = make()
    for step in range(150):
        logger.experiment.log_metric(logger.run_id, "loss", "no number", step=step)
        logger.log_metrics(step, step=step)
    lines = [line for line in caplog.messages if "log_metrics failed and is skipped" in line]
    assert len(lines) == 3
    assert "(for the 100th time)" in lines[-1]
    assert len([line for line in caplog.messages if "metric loss" in line]) == 1


def test_nothing_fails(make, monkeypatch, caplog):
    logger = make()
    logger.log_metrics({"text": "no number"}, step=1)
    logger.experiment.log_artifact(logger.run_id, "absent.png")
    logger.experiment.log_param(logger.run_id, "bad\x00name", "1")
    monkeypatch.setattr(logger._store, "log_rows", lambda rows, once: 1 / 0)
    logger.log_metrics({"loss": 1.0}, step=1)
    assert [line for line in caplog.messages if "log_metrics failed and is skipped: division by zero" in line]
    assert all("\n" not in line for line in caplog.messages if line.startswith("Tracking"))


def test_a_restart_goes_on_in_the_same_run(make):
    first = make()
    first.log_hyperparams(CONFIG)
    close(first)
    again = make(run_id=first.run_id, run_name="other")
    assert again.run_id == first.run_id
    again.log_hyperparams({**CONFIG, "training": {"max_steps": 12, "lr": 0.1}})
    close(again)
    assert [record["session"] for record in records(again, "start")] == [0, 1]
    assert records(again, "start")[1]["run_name"] == "tnbd"
    tags = {key: value for record in records(again, "tags") for key, value in record["values"].items()}
    assert tags["restart_1_changed"] == "training.max_steps: 6 -> 12"
    assert tags["restarts"] == "1"
    assert len(records(again, "params")) == 1
    assert [record["path"] for record in records(again, "artifact")] == ["config.yaml", "config.restart-1.yaml"]


def test_a_restart_may_be_a_child(make):
    first = make()
    close(first)
    child = make(run_id=first.run_id, on_resume_create_child=True)
    (start,) = records(child, "start")
    assert (start["parent"], start["run_name"]) == (first.run_id, "tnbd")
    assert child.run_id != first.run_id


def test_ids_of_a_server_lead_to_the_folders_here(make):
    first = make()
    close(first)
    ledger = first._store.writer.folder / "sent" / "abc.json"
    ledger.parent.mkdir()
    ledger.write_text(json.dumps({"run_id": "of-the-server", "uri": "http://there"}))
    again = make(run_id="of-the-server")
    assert (again.run_id, again._parent_run_server2server) == (first.run_id, first.run_id)
    close(again)
    fork = make(fork_run_id="of-the-server")
    assert fork._fork_run_server2server == first.run_id
    assert records(fork, "start")[0]["fork_of"] == "of-the-server"


def test_a_run_of_a_server_that_is_unknown_here_is_taken_over(make):
    logger = make(run_id="of-the-stock-logger")
    (start,) = records(logger, "start")
    assert (start["run_id"], start["server_run"]) == ("of-the-stock-logger", "of-the-stock-logger")


def test_other_ranks_have_the_id_and_write_nothing(make, monkeypatch, tmp_path):
    first = make()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    other = make()
    assert other.run_id == first.run_id
    other.log_metrics({"loss": 1}, step=1)
    other.experiment.log_artifact(other.run_id, "absent.png")
    other.finalize("success")
    assert list((tmp_path / "mlflow" / "spool").iterdir()) == [first._store.writer.folder]
    assert records(first, "metrics") == []


def test_what_is_said_after_the_end_is_recorded_before_the_process_ends(make):
    logger = make()
    logger.finalize("success")
    logger.experiment.log_table(logger.run_id, {"a": [1]}, "speed.json")  # as `anemoi-training profiler` does
    logger._at_exit()
    kinds = [record.data["kind"] for record in Spool(logger._store.writer.folder).records()]
    assert kinds[-4:] == ["end", "artifact", "tags", "end"]


def test_a_training_that_never_began_has_failed(make):
    logger = make()
    logger._at_exit()
    assert records(logger, "end")[0]["status"] == "FAILED"


def test_an_interrupted_training_was_killed(make):
    logger = make()
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        logger.finalize("failed")
    assert records(logger, "end")[0]["status"] == "KILLED"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tracking_uri": "ftp://there"}, "ftp:// is not known"),
        ({"tracking_uri": "https://me:of-no-use@there"}, "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_bad_address_ends_the_command_and_leaves_nothing(make, settings, message, tmp_path):
    with pytest.raises(CommandError, match=message):
        make(**settings)
    assert not list(tmp_path.rglob("records.jsonl"))


@pytest.mark.parametrize(
    ("settings", "environ", "missing"),
    [
        ({"aml_resource_group": "g"}, {}, "aml_subscription_id"),
        ({"aml_resource_group": "g"}, {}, "AZUREML_ARM_WORKSPACE_NAME"),
        ({"aml_resource_group": "g", "aml_subscription_id": "s", "aml_workspace_name": "w"},
         {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}, "AZURE_CLIENT_SECRET"),
        ({"identity": "browser"}, {}, "default, service_principal, managed, cli"),
    ],
)  # fmt: skip
def test_half_of_azures_settings_end_the_command(settings, environ, missing, tmp_path, monkeypatch):
    pytest.importorskip("azureml.mlflow", reason="needs the extra azure: pip install 'anemoi-house[azure]'")
    for name in [name for name in os.environ if name.startswith(("AZURE", "MLFLOW"))]:
        del os.environ[name]
    os.environ.update(environ)
    with pytest.raises(CommandError, match=missing):
        AzureMLflowLogger(str(tmp_path), terminal=False, offline=True, **settings)
    assert not list(Path(tmp_path).rglob("records.jsonl"))
