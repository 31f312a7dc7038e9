"""MLflow's own client on the spool of a run."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from anemoi_house.tracking.copies import SMALL_BYTES
from anemoi_house.tracking.limits import MAX_PARAMS
from anemoi_house.tracking.records import is_valid
from anemoi_house.tracking.redact import Redactor
from anemoi_house.tracking.spool import Spool, Summary
from anemoi_house.tracking.store import SpoolStore
from anemoi_house.tracking.writer import SpoolWriter

SECRET = "s3cr3t-0123456789"
RUN = "0123456789abcdef"
START = {"kind": "start", "t": 1000, "session": 0, "run_id": RUN, "run_name": "tnbd", "experiment": "nested"}


@pytest.fixture
def store(tmp_path):
    writer = SpoolWriter(tmp_path / RUN, lambda line: None)
    store = SpoolStore(writer, Summary(RUN), Redactor({"AZURE_CLIENT_SECRET": SECRET}))
    store.put(dict(START))
    yield store
    store.close(1)


@pytest.fixture
def client(store):
    return MlflowClient(store.uri)


def records(store, kind):
    store.writer.flush(5)
    return [record.data for record in Spool(store.writer.folder).records() if record.data["kind"] == kind]


def test_what_the_client_logs_becomes_records(store, client):
    client.log_batch(RUN, [Metric("loss", 0.5, 7, 1), Metric("loss", float("nan"), 8, 2)], [Param("a", "1")],
                     [RunTag("b", "2")])  # fmt: skip
    client.log_metric(RUN, "rate", 3, timestamp=9, step=4)
    client.log_param(RUN, "c", 5)
    client.set_tag(RUN, "d", SECRET)
    assert records(store, "metrics") == [
        {"kind": "metrics", "rows": [["loss", 0.5, 7, 1], ["loss", "NaN", 8, 2]]},
        {"kind": "metrics", "rows": [["rate", 3.0, 9, 4]]},
    ]
    assert [record["values"] for record in records(store, "params")] == [{"a": "1"}, {"c": "5"}]
    assert [record["values"] for record in records(store, "tags")] == [{"b": "2"}, {"d": "***"}]


def test_the_run_can_be_asked_for(store, client):
    client.log_batch(RUN, [Metric("system/cpu", 50, 7, 1)], [Param("a", "1")], [RunTag("b", "2")])
    client.log_metric(RUN, "system/cpu", 60, timestamp=8, step=2)
    run = client.get_run(RUN)
    assert (run.info.run_id, run.info.run_name, run.info.status, run.info.start_time) == (RUN, "tnbd", "RUNNING", 1000)
    assert run.data.params == {"a": "1"}
    assert run.data.tags["b"] == "2"
    assert run.data.metrics == {"system/cpu": 60}
    assert [metric.value for metric in client.get_metric_history(RUN, "system/cpu")] == [50, 60]
    client.set_terminated(RUN, "FAILED", end_time=9000)
    assert records(store, "end") == [{"kind": "end", "t": 9000, "status": "FAILED"}]
    assert client.get_run(RUN).info.status == "FAILED"


def test_artifacts_of_every_kind_are_kept_and_can_be_read_back(store, client, tmp_path):
    (tmp_path / "plot.png").write_bytes(b"png")
    (tmp_path / "many" / "deep").mkdir(parents=True)
    (tmp_path / "many" / "deep" / "one.bin").write_bytes(b"1")
    figure = Figure()
    figure.subplots().plot([1, 2])
    client.log_artifact(RUN, str(tmp_path / "plot.png"), "plots")
    client.log_artifacts(RUN, str(tmp_path / "many"))
    client.log_text(RUN, f"secret: {SECRET}", "notes.txt")
    client.log_dict(RUN, {"a": 1}, "settings.json")
    client.log_figure(RUN, figure, "figure.png")
    for row in (1, 2):
        client.log_table(RUN, data={"row": [row]}, artifact_file="table.json")
    names = {record["path"] for record in records(store, "artifact")}
    assert names == {"plots/plot.png", "deep/one.bin", "notes.txt", "settings.json", "figure.png", "table.json"}
    assert {info.path for info in client.list_artifacts(RUN)} == {
        "plots", "deep", "notes.txt", "settings.json", "figure.png", "table.json",
    }  # fmt: skip
    (inside,) = client.list_artifacts(RUN, "plots")
    assert (inside.path, inside.is_dir, inside.file_size) == ("plots/plot.png", False, 3)
    table = json.loads(Path(client.download_artifacts(RUN, "table.json")).read_bytes())
    assert pd.DataFrame(table["data"], columns=table["columns"]).row.tolist() == [1, 2]
    assert Path(client.download_artifacts(RUN, "notes.txt")).read_text() == "secret: ***"
    assert not [
        path for path in store.writer.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


def test_what_is_over_a_limit_is_told_once_and_kept(store, client, caplog):
    for _ in range(2):
        client.log_param(RUN, "long", "x" * 3000)
        client.log_param(RUN, "twice", "1")
        client.log_param(RUN, "twice", "2")
    client.log_batch(RUN, tags=[RunTag(f"t{number}", "1") for number in range(99)])
    over = records(store, "over")
    assert [(each["what"], each["key"], len(each["value"])) for each in over[:2]] == [
        ("param", "long", 3000),
        ("param", "twice", 1),
    ]
    assert len([each for each in over if each["what"] == "tag"]) == 99 - 45
    assert len([line for line in caplog.messages if "twice" in line]) == 1


def test_a_file_that_is_not_there_is_one_line(store, client, caplog):
    store.log_artifact(store.writer.folder / "absent.png", "absent.png")
    assert caplog.messages == ["Tracking: artifact absent.png: No such file or directory; see over_limits.json."]


def test_a_spool_is_that_of_one_run_in_one_process(store, client):
    run = client.create_run("0", tags={"mine": "1", "mlflow.parentRunId": "other"}, run_name="other")
    assert (run.info.run_id, run.info.run_name) == (RUN, "tnbd")
    assert records(store, "tags") == [{"kind": "tags", "values": {"mine": "1"}}]
    with pytest.raises(MlflowException, match="is not recorded by this process"):
        MlflowClient("house-spool:///elsewhere")


def test_planted_secrets_are_in_no_file_of_the_record_and_harmless_settings_are(store, client, tmp_path):
    harmless = {"num_tokens": "131072", "tokenizer": "sentencepiece-32000", "sort_key": "valid_time"}
    planted = {"my.password": SECRET, "storage_key": "k3y-of-the-storage", "github_pat": "p4t-of-somebody"}
    client.log_batch(RUN, [], [Param(key, value) for key, value in (planted | harmless).items()],
                     [RunTag("url", "https://t0ken-in-address@host"), *(RunTag(f"of {key}", f"{key}={value}")
                                                                       for key, value in planted.items())])  # fmt: skip
    for suffix in (".rst", ".env", ".ipynb", "", ".yaml.bak"):
        for text in ("\n".join(f"{key}={value}" for key, value in planted.items()), json.dumps(planted | harmless)):
            (tmp_path / f"notes{suffix}").write_text(text)
            store.log_artifact(tmp_path / f"notes{suffix}", f"notes{suffix}")
    store.writer.flush(5)
    held = b"".join(path.read_bytes() for path in store.writer.folder.rglob("*") if path.is_file())
    for secret in (*planted.values(), "t0ken-in-address"):
        assert secret.encode() not in held
    for value in harmless.values():
        assert value.encode() in held
    assert {key: store.run.params[key] for key in harmless} == harmless


def test_what_only_a_server_can_do_is_one_line(store, client, caplog):
    client.delete_run(RUN)
    client.set_experiment_tag("0", "a", "b")
    client.rename_experiment("0", "b")
    assert caplog.messages == [
        f"Tracking: the record of a training cannot {what}; skipped. Do it on the server."
        for what in ("delete a run", "tag an experiment", "rename an experiment")
    ]


class Hostile:
    """What no callback should pass."""

    def __float__(self):
        raise RuntimeError("no\nnumber")

    __int__ = __index__ = __float__


NUMBERS = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.floats(width=32).map(np.float32), st.floats(width=16).map(np.float16),
    st.integers(-(2**63), 2**63 - 1).map(np.int64), st.booleans().map(np.bool_), st.floats().map(np.array),
    st.floats(width=32).map(torch.tensor), st.integers(-(2**63), 2**63 - 1).map(torch.tensor),
    st.floats(width=32).map(lambda value: torch.tensor([value], requires_grad=True)), st.decimals(), st.fractions(),
)  # fmt: skip
ANYTHING = NUMBERS | st.one_of(
    st.none(), st.text(), st.binary(), st.complex_numbers(), st.lists(st.integers()), st.just(Hostile()),
    st.just(torch.tensor([1.0, 2.0])), st.just(np.datetime64("2020-01-01")), st.just(10**4000), st.just(object),
)  # fmt: skip
ROWS = st.tuples(st.text(), ANYTHING, NUMBERS | ANYTHING, NUMBERS | ANYTHING)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=5))
def test_whatever_is_logged_is_recorded_or_counted(rows, store):
    before = store.run.rows
    store.log_rows(rows)
    store.log_rows([("after", 1, 2, 3)])
    left_out = store._unrecorded.total()
    store.report_unrecorded()
    assert store.writer.flush(5)
    summary = Spool(store.writer.folder).summary()
    assert summary.damaged == 0
    assert summary.rows == before + len(rows) + 1 - left_out


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.float64(0.5), np.array([0.5]), torch.tensor(0.5), torch.tensor([0.5]).bfloat16()]
)
def test_what_numpy_and_torch_hold_are_numbers(store, client, value):
    store.log_rows([("loss", value, np.int64(7), torch.tensor(3))])
    client.log_batch(RUN, [Metric("loss", value, np.int64(7), np.int64(3))])
    client.log_metric(RUN, "loss", value, timestamp=7, step=np.int32(3))
    assert [record["rows"] for record in records(store, "metrics")] == [[["loss", 0.5, 7, 3]]] * 3


def test_values_that_are_no_numbers_are_counted(store, caplog):
    for step in range(20):
        store.log_rows([("loss", "none", 7, step), ("rate", 0.1, 7, step)])
    store.log_rows([("rate", 0.1, 7, 2**63)])
    store.report_unrecorded()
    assert [(over["key"], over["why"]) for over in records(store, "over")] == [
        ("loss", "a value cannot be recorded: str, could not convert string to float: 'none'"),
        ("rate", "a value cannot be recorded: float, has more than 64 bits"),
        ("loss", "20 values could not be recorded"),
        ("rate", "1 value could not be recorded"),
    ]
    assert len(records(store, "metrics")) == 20
    assert caplog.messages[2:] == ["Tracking: 21 values of 2 metrics could not be recorded; see over_limits.json."]
    assert store.lacks


def test_a_hundred_parameters_over_the_limit_are_a_few_lines(store, client, caplog):
    client.log_batch(RUN, params=[Param(f"p{number}", "1") for number in range(300)])
    for number in range(300, 400):
        client.log_param(RUN, f"p{number}", "1")
    assert len(records(store, "over")) == 400 - MAX_PARAMS
    first, _, last = caplog.messages
    assert first == ("Tracking: param p190 and 9 others: a run can have at most 190 params; see over_limits.json.")
    assert last.endswith("Further params are only listed there.")


def test_names_that_have_to_be_changed_stay_apart(store):
    names = ["rmse (K)", "rmse [K]", "rmse _K_", "a//b", "a/b", "../a", "", ".", "é"]
    store.log_rows([(name, 1, 7, 1) for name in names])
    (record,) = records(store, "metrics")
    keys = [row[0] for row in record["rows"]]
    assert len(set(keys)) == len(names)
    assert [key for key in keys if key in names] == ["rmse _K_", "a/b", "é"]


def test_a_deleted_tag_is_empty(store, client):
    client.set_tag(RUN, "a", "1")
    client.delete_tag(RUN, "a")
    assert [record["values"] for record in records(store, "tags")] == [{"a": "1"}, {"a": ""}]


def test_the_training_goes_on_where_a_run_of_mlflows_functions_ends(store, client):
    client.create_run("0")
    client.set_terminated(RUN)
    assert records(store, "end") == []
    client.set_terminated(RUN)
    assert len(records(store, "end")) == 1


LARGE = SMALL_BYTES + 1


@pytest.fixture
def held(store, monkeypatch):
    """Hold the thread that copies until the fixture is set."""
    begin, copy = threading.Event(), store.writer._copier._copy
    monkeypatch.setattr(store.writer._copier, "_copy", lambda artifact: begin.wait(30) and copy(artifact))
    yield begin
    begin.set()


@pytest.mark.parametrize("size", [0, 5, SMALL_BYTES, LARGE, 3 * LARGE])
@pytest.mark.parametrize("then", ["delete", "replace", "append"])
def test_an_artifact_is_as_it_was_at_the_call(store, held, tmp_path, size, then):
    content = os.urandom(size)
    local = tmp_path / "a.bin"
    local.write_bytes(content)
    store.log_artifact(local, "a.bin")  # returns before anything is copied
    if then == "append":
        with local.open("ab") as file:
            file.write(b"more")
    else:
        local.unlink()
    if then == "replace":
        local.write_bytes(b"other")
    held.set()
    (record,) = records(store, "artifact")
    assert (store.writer.folder / record["file"]).read_bytes() == content
    assert (record["size"], record["sha256"]) == (size, hashlib.sha256(content).hexdigest())
    assert bool(records(store, "over")) == (then == "append" and size >= LARGE)


def test_a_large_artifact_that_is_written_to_before_it_is_copied_is_told_of(store, held, tmp_path, caplog):
    local = tmp_path / "a.bin"
    local.write_bytes(b"1" * LARGE)
    store.log_artifact(local, "a.bin")
    local.write_bytes(b"2" * 10)
    held.set()
    (record,) = records(store, "artifact")
    assert record["size"] == 10
    (over,) = records(store, "over")
    assert "was written to before it was copied" in over["why"]
    assert store.lacks


def test_secrets_leave_large_texts_too(store, tmp_path):
    local = tmp_path / "a.log"
    local.write_text("x" * LARGE + f"\n{SECRET}\n")
    store.log_artifact(local, "a.log")
    (record,) = records(store, "artifact")
    assert (store.writer.folder / record["file"]).read_text() == "x" * LARGE + "\n***\n"


def test_artifacts_that_are_left_at_the_end_are_told_of(store, held, tmp_path):
    local = tmp_path / "a.bin"
    for name in ("a.bin", "b.bin"):
        local.write_bytes(b"1" * LARGE)
        store.log_artifact(local, name)
    store.close(0.1)
    over = [record.data for record in Spool(store.writer.folder).records() if record.data["kind"] == "over"]
    assert [(each["key"], each["why"]) for each in over] == [
        (name, "the training ended before it was copied") for name in ("a.bin", "b.bin")
    ]


@pytest.mark.parametrize("name", ["a\0b.png", "a.p\0ng", "a." + "x" * 300, "a\n.png", "?.png", "a.\udcff"])
def test_any_name_of_an_artifact_is_kept(store, tmp_path, name):
    (tmp_path / "a").write_bytes(b"1")
    store.log_artifact(tmp_path / "a", name)
    (record,) = records(store, "artifact")
    assert record["path"] == name.encode(errors="replace").decode()
    assert is_valid(record)


def test_a_named_pipe_does_not_hold_up_a_training(store, tmp_path, caplog):
    os.mkfifo(tmp_path / "pipe")
    store.log_artifact(tmp_path / "pipe", "pipe")
    assert caplog.messages == ["Tracking: artifact pipe: not a regular file; see over_limits.json."]
