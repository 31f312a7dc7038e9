"""MLflow's own client on the spool of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

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
    with pytest.raises(MlflowException, match="another run"):
        client.create_run("0")
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
