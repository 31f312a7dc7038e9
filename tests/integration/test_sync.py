"""`anemoi-house sync` with real clients, of a real MLflow server and of Azure ML, both behind failing fronts.

What the server has is read from its database. MLflow keeps a row that is sent twice once, so only the front knows what
was sent twice. Most tests call the command in this process, where MLflow is imported already.
"""

# ruff: noqa: F811

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.messages import Answer, Incoming
from tracking.azure import AzureFront
from tracking.fixtures import azure_front, mlflow_server, plain_front, template_database  # noqa: F401
from tracking.front import Front
from tracking.memory import T0, artifact, end, metrics, start, write_spool
from tracking.mlflow_server import MetricRow, MlflowServer, Run, find_runs, read_run

from anemoi_house.cli import main
from anemoi_house.tracking import stepper
from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.servers import azure_sign_in, base, mlflow
from anemoi_house.tracking.servers.connect import connect
from anemoi_house.tracking.spool import Spool
from anemoi_house.tracking.uploads import fitting, numbered
from anemoi_house.tracking.writer import SpoolWriter

pytestmark = pytest.mark.alone

COMMAND = [sys.executable, "-m", "anemoi_house", "sync"]
RUN_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorten pauses and timeouts, and restore the environment in the end."""
    before = dict(os.environ)
    monkeypatch.setattr(stepper, "FIRST_PAUSE_S", 0.05)
    for module in (base, mlflow, azure_sign_in):
        monkeypatch.setattr(module, "TIMEOUT_S", 1)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    yield
    os.environ.clear()
    os.environ.update(before)
    logging.disable(logging.NOTSET)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record all pauses of the command, those of retrying libraries included."""
    sleep, taken = time.sleep, []

    def recording(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            taken.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", recording)
    return taken


def records(steps: int = 60, first: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Return records of some steps of a training: 20 rows each, some not finite; files, and terminal output."""
    values = random.Random(seed)
    said: list[dict[str, Any]] = []
    for step in range(first, first + steps):
        odd = values.choice(["NaN", "Infinity", "-Infinity", 1e-300, 5])
        said.append(metrics(("val/odd", odd, step), *((f"val/{key}", values.gauss(0, 1), step) for key in range(19))))
        if step % 20 == 10:
            said += [artifact("plots/loss.png", f"loss at {step}"), {"kind": "terminal", "text": f"step {step} °\n"}]
    return said


def whole(folder: Path, uri: str, steps: int = 60, **about: Any) -> Spool:
    """Write the record of a run from its start to its end."""
    said = [
        start(RUN_ID, **about),
        {"kind": "params", "values": {f"model.p{number}": f"value {number}" for number in range(150)}},
        {"kind": "tags", "values": {f"tag{number}": str(number) for number in range(40)}},
        *records(steps),
        {"kind": "over", "what": "param", "key": "long", "value": "x", "why": "too long"},
        end(at=100 * steps),
    ]
    return write_spool(folder / RUN_ID, said, uri)


def read_records(spool: Spool) -> list[dict[str, Any]]:
    """Read records without our own code."""
    read = []
    for line in spool.records_path.read_text().splitlines():
        try:
            read.append(json.loads(line))
        except ValueError:
            continue
    return read


def rows_of(spool: Spool) -> list[MetricRow]:
    rows = [tuple(row) for data in read_records(spool) if data["kind"] == "metrics" for row in data["rows"]]
    return sorted(rows, key=lambda row: (row[0], row[3], row[2], str(row[1])))  # type: ignore[return-value]


def check(spool: Spool, run: Run, overwrites: bool = True) -> None:
    """Compare the run on the server with the record, row by row."""
    said = read_records(spool)
    first = said[0]
    assert (run["name"], run["experiment"]) == (first["run_name"], first["experiment"])
    assert run["start_time"] == first["t"]
    assert run["metrics"] == rows_of(spool)
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    for data in said:
        (params if data["kind"] == "params" else tags if data["kind"] == "tags" else {}).update(data.get("values", {}))
    assert run["params"] == params
    assert {key: run["tags"].get(key) for key in tags} == tags
    assert run["tags"]["house.run_id"] == spool.run_id
    assert set(run["tags"]) - set(tags) <= {
        *("house.run_id", "house.created", "mlflow.runName", "mlflow.parentRunId", "forkedRunId")
    }
    printed = "".join(data["text"] for data in said if data["kind"] == "terminal").encode()
    versions: dict[str, list[bytes]] = {}
    for data in said:
        if data["kind"] == "artifact":
            versions.setdefault(data["path"], []).append((spool.folder / data["file"]).read_bytes())
    had = run["artifacts"]
    if overwrites:
        assert had.get("terminal_log.txt", b"") == printed
        assert {path: had.get(path) for path in versions} == {path: files[-1] for path, files in versions.items()}
    else:
        assert b"".join(had[name] for name in sorted(had) if name.startswith("terminal/")) == printed
        for path, files in versions.items():
            found = [had[name] for number in range(1, 100) if (name := numbered(path, number)) in had]
            assert sorted(found) == sorted(files)
    ends = [data for data in said if data["kind"] == "end"]
    if ends:
        assert (run["status"], run["end_time"]) == (ends[-1]["status"], ends[-1]["t"])


def only(server: MlflowServer) -> Run:
    (run_id,) = server.find_runs("nested", {"house.run_id": RUN_ID})
    return server.read_run(run_id)


def nothing_twice(front: Front) -> None:
    again = [row for row, times in Counter(front.metrics).items() if times > 1]
    assert again == []


def environment(**variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "AZURE", "HOUSE_"))}
    return clean | variables


# Faults of a plain server

FAULTS: dict[str, Callable[[Front], Any]] = {
    "absent": lambda front: front.stop(),
    "silent": lambda front: front.silence(),
    "hangs in mid-run": lambda front: front.fail("log-batch", kind="timeout", after=3),
    "resets": lambda front: front.fail(kind="reset", after=5, times=2),
    "429": lambda front: front.fail("log-batch", status=429, times=4),
    "429 with Retry-After": lambda front: front.fail("log-batch", status=429, times=4, headers={"Retry-After": "3600"}),
    "500 in bursts": lambda front: [front.fail("", status=500, after=after, times=3) for after in (2, 9, 20)],
    "503 for the file": lambda front: front.fail("artifacts", status=503, times=2),
    "answers lost": lambda front: front.fail("log-batch", kind="answer-lost", after=3, times=4),
    "answers about the run lost": lambda front: front.fail("runs/(create|update)", kind="answer-lost", times=2),
    "access denied": lambda front: front.fail("log-batch", status=403, after=3),
    "a token that is refused": lambda front: front.fail("log-batch", status=401, after=3),
}
TOLD = {
    "absent": "cannot connect to {} (connection refused)",
    "silent": "{} does not answer",
    "hangs in mid-run": "{} does not answer",
    "access denied": "access denied by {} (403); check the credentials for this server",
    "a token that is refused": "sign-in refused by {} (401); check the credentials for this server",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_any_fault_the_server_has_the_record_and_nothing_twice(
    fault: str,
    plain_front: Front,
    mlflow_server: MlflowServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pauses: list[float],
) -> None:
    spool = whole(tmp_path, plain_front.uri)
    FAULTS[fault](plain_front)
    status = main(["sync", str(spool.folder)])
    # Five pauses between six attempts, whatever Retry-After says, for each of three bursts.
    assert sum(pauses) <= 3 * sum(0.05 * 2**failures for failures in range(5))
    assert plain_front.count(fault="timeout") <= 3
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    if fault in TOLD:
        assert status == 1
        reason = TOLD[fault].format(f"127.0.0.1:{plain_front.port}")
        assert re.search(rf"still to send: {re.escape(reason)}; run again: anemoi-house sync {spool.folder}$", out)
        assert Pending(spool).error == reason
        plain_front.heal()
        if fault == "absent":
            plain_front.start()
        assert main(["sync", str(spool.folder)]) == 0
    else:
        assert (status, out) == (0, f"tnbd_sample 01234567: complete at {plain_front.uri}\n")
    assert Pending(spool).complete
    check(spool, only(mlflow_server))
    nothing_twice(plain_front)


def test_a_kill_at_any_point_costs_nothing(plain_front: Front, mlflow_server: MlflowServer, tmp_path: Path) -> None:
    """The process is killed while a call is on its way to the server or back."""
    spool = whole(tmp_path, plain_front.uri, steps=400)
    plain_front.fail("log-batch|artifacts", kind="slow", seconds=0.05)
    for calls in (3, 9, 12):
        plain_front.forget()
        process = subprocess.Popen([*COMMAND, spool.folder], env=environment(), stdout=subprocess.DEVNULL)
        while plain_front.count("log-batch|artifacts") < calls:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.06))
        process.kill()
        process.wait()
        if calls == 9:
            shutil.rmtree(spool.folder / "sent")
    plain_front.heal()
    assert main(["sync", str(spool.folder)]) == 0
    check(spool, only(mlflow_server))
    nothing_twice(plain_front)


def test_two_at_once_on_one_folder_and_on_copies(
    plain_front: Front, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    spool = whole(tmp_path / "one", plain_front.uri, steps=200)
    shutil.copytree(spool.folder, tmp_path / "two" / RUN_ID)
    plain_front.fail("log-batch", kind="slow", seconds=0.1)
    processes = [
        subprocess.Popen([*COMMAND, folder], env=environment(), stdout=subprocess.PIPE, text=True)
        for folder in (spool.folder, spool.folder, tmp_path / "two" / RUN_ID)
    ]
    told = sorted(process.communicate(timeout=120)[0] for process in processes)
    done = f"tnbd_sample 01234567: complete at {plain_front.uri}\n"
    assert sum(line == done for line in told) >= 2, told
    assert all(line == done or re.search(r": process \d+ is sending it; nothing to do here$", line) for line in told)
    check(spool, only(mlflow_server))


def test_from_another_machine_without_a_ledger_or_with_an_older_one(
    plain_front: Front, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    """The folder was copied during the run, which continued on the first machine."""
    here = write_spool(tmp_path / "here" / RUN_ID, [start(RUN_ID), *records(30)], plain_front.uri)
    assert main(["sync", str(here.folder)]) == 0
    shutil.copytree(here.folder / "sent", tmp_path / "sent")
    write_spool(here.folder, [start(RUN_ID, session=1), *records(90, first=30, seed=1)])
    (here.folder / "target.json").write_text(json.dumps({"uri": plain_front.uri}))
    assert main(["sync", str(here.folder)]) == 0
    write_spool(here.folder, [*records(90, first=120, seed=2), end(at=21_000)], plain_front.uri)
    for number, sent in enumerate((tmp_path / "sent", None)):
        there = tmp_path / f"there{number}" / RUN_ID
        shutil.copytree(here.folder, there, ignore=shutil.ignore_patterns("sent", "*.lock"))
        if sent:
            shutil.copytree(sent, there / "sent")
        assert main(["sync", str(there)]) == 0
        check(here, only(mlflow_server))
        nothing_twice(plain_front)


def test_to_a_file_and_to_a_further_server(plain_front: Front, mlflow_server: MlflowServer, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    parent = write_spool(tmp_path / "parent", [start("parent"), end()], f"sqlite:///{folder / 'mlflow.db'}")
    spool = whole(tmp_path, f"sqlite:///{folder / 'mlflow.db'}", fork_of="parent")
    with spool.records_path.open("a") as lines:
        lines.write('{"kind":"metrics","rows":[["cut",1.')
    assert main(["sync", str(spool.folder)]) == 0
    assert main(["sync", str(spool.folder), "--to", plain_front.uri]) == 0
    (local,) = find_runs(folder / "mlflow.db", "nested", {"house.run_id": RUN_ID})
    check(spool, read_run(folder / "mlflow.db", local))
    check(spool, only(mlflow_server))
    (forked,) = find_runs(folder / "mlflow.db", "nested", {"house.run_id": parent.run_id})
    assert read_run(folder / "mlflow.db", local)["tags"]["forkedRunId"] == forked
    assert (
        only(mlflow_server)["tags"]["forkedRunId"] == mlflow_server.find_runs("nested", {"house.run_id": "parent"})[0]
    )


def test_a_kill_among_the_tables_of_a_new_file_costs_nothing(tmp_path: Path) -> None:
    store = tmp_path / "folder" / "mlflow.db"
    spool = whole(tmp_path, f"sqlite:///{store}")
    process = subprocess.Popen([sys.executable, "-m", "anemoi_house", "sync", str(spool.folder)])
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in store.parent.glob(".new-store-*/mlflow.db")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not store.exists()
    assert main(["sync", str(spool.folder)]) == 0
    (run_id,) = find_runs(store, "nested", {"house.run_id": RUN_ID})
    check(spool, read_run(store, run_id))


def test_what_was_deleted_on_the_server_stays_so(
    mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    spool = write_spool(tmp_path / RUN_ID, [start(RUN_ID), *records(5)], mlflow_server.uri)
    assert main(["sync", str(spool.folder)]) == 0
    client = MlflowClient(mlflow_server.uri)
    client.delete_run(only(mlflow_server)["run_id"])
    write_spool(spool.folder, [*records(5, first=5), end()], mlflow_server.uri)
    capsys.readouterr()
    for sent in (True, False):
        if not sent:
            shutil.rmtree(spool.folder / "sent")
        assert main(["sync", str(spool.folder)]) == 1
        assert f"the run was deleted on {mlflow_server.uri} and is not created again" in capsys.readouterr().out
    assert len(mlflow_server.find_runs()) == 1
    client.delete_experiment(client.get_experiment_by_name("nested").experiment_id)  # type: ignore[union-attr]
    other = write_spool(tmp_path / "other", [start("other")], mlflow_server.uri)
    assert main(["sync", str(other.folder)]) == 1
    assert f"the experiment 'nested' was deleted on {mlflow_server.uri}" in capsys.readouterr().out


def test_what_the_server_refuses_is_set_aside(
    mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [
        start(RUN_ID),
        {"kind": "params", "values": {"a": "1", "b": "2"}},
        {"kind": "params", "values": {"a": "changed", "c": "3"}},
        metrics(*((key, 1.0, step) for step in range(40) for key in ("good", "bad!", "fine"))),
        artifact("../escape.txt", "x"),
        artifact("good.txt", "y"),
        end(),
    ]
    spool = write_spool(tmp_path / RUN_ID, said, mlflow_server.uri)
    assert main(["sync", str(spool.folder)]) == 1
    assert "42 refused there: parameter a: Changing param values is not allowed" in capsys.readouterr().out
    run = only(mlflow_server)
    assert run["params"] == {"a": "1", "b": "2", "c": "3"}
    assert Counter(row[0] for row in run["metrics"]) == {"good": 40, "fine": 40}
    assert run["artifacts"] == {"good.txt": b"y"}


def test_slow_is_not_away_and_names_of_artifacts_are_kept(
    plain_front: Front, mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a?b.png", "a#1.png", "%41.png", "two\nlines.png", f"{'x' * 300}.png", "a b/é.png", "a.png", "A.png"]
    said = [start(RUN_ID), *(artifact(name, name) for name in names), metrics(("a", 1.0, 0)), end()]
    spool = write_spool(tmp_path / RUN_ID, said, plain_front.uri)
    plain_front.fail("artifacts/.*/a.png$", kind="slow", seconds=2)  # longer than TIMEOUT_S
    assert main(["sync", str(spool.folder)]) == 0, capsys.readouterr().out
    had = only(mlflow_server)["artifacts"]
    assert had == {fitting(name): name.encode() for name in names}
    assert plain_front.count("artifacts/.*/a.png$") == 1
    assert had["a b/é.png"]


ODD_ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "a page of a firewall": (
        {"path": "log-batch", "status": 400, "body": "<html>blocked</html>"},
        "something before",
    ),
    "a page of a sign-in": ({"path": "artifacts", "kind": "html", "method": "PUT"}, "does not have all of it"),
    "JSON of others": ({"path": "log-batch", "status": 200, "body": '{"ok": true}'}, "does not have all of it"),
    "nothing": ({"path": "", "status": 200, "body": ""}, "not one of MLflow"),
    "a redirect to a sign-in": (
        {"path": "artifacts", "status": 302, "method": "PUT", "headers": {"Location": "/health"}},
        "does not have all of it",
    ),
    "access denied for files": ({"path": "artifacts", "status": 403, "method": "PUT", "body": "no"}, "access denied"),
}


@pytest.mark.parametrize("answer", ODD_ANSWERS)
def test_whatever_answers_complete_is_never_wrong(
    answer: str,
    plain_front: Front,
    mlflow_server: MlflowServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault, told = ODD_ANSWERS[answer]
    spool = whole(tmp_path, plain_front.uri)
    plain_front.fail(**fault)
    for _ in range(2):
        assert main(["sync", str(spool.folder)]) == 1
        assert told in capsys.readouterr().out
    plain_front.heal()
    assert main(["sync", str(spool.folder)]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out == f"tnbd_sample 01234567: complete at {plain_front.uri}\n"
    check(spool, only(mlflow_server))


def test_what_is_too_large_for_a_proxy_is_split_or_set_aside(
    plain_front: Front, mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = whole(tmp_path, plain_front.uri)
    write_spool(tmp_path / RUN_ID, [artifact("large.txt", "x" * 50_000)], plain_front.uri)
    answer = plain_front.answer

    def limited(incoming: Incoming) -> Answer:
        return Answer(413, b"<html>413</html>") if len(incoming.body) > 40_000 else answer(incoming)

    plain_front.answer = limited  # type: ignore[method-assign]
    assert main(["sync", str(spool.folder)]) == 1
    assert "1 refused there: artifact large.txt: too large for 127.0.0.1" in capsys.readouterr().out
    assert only(mlflow_server)["metrics"] == rows_of(spool)
    plain_front.answer = answer  # type: ignore[method-assign]
    assert main(["sync", str(spool.folder), "--retry-refused"]) == 0
    check(spool, only(mlflow_server))
    assert sorted(map(str, Counter(plain_front.metrics))) == sorted(map(str, plain_front.metrics))


def test_a_number_that_the_client_cannot_say_is_set_aside(
    mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = metrics(("a", 1.0, 0), ("b", 1.0, 0))
    rows["rows"].append(["a", 1.0, T0, 2**63])
    spool = write_spool(tmp_path / RUN_ID, [start(RUN_ID), rows, *records(30), end()], mlflow_server.uri)
    assert main(["sync", str(spool.folder)]) == 1
    assert f"1 refused there: metric a at step {2**63}: MLflow's client cannot send it" in capsys.readouterr().out
    assert len(only(mlflow_server)["metrics"]) == 602


# Next to a training


def test_beside_a_training_through_an_outage_and_its_death(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    spool = write_spool(tmp_path / RUN_ID, [], mlflow_server.uri)
    writer = SpoolWriter(spool.folder, report=lambda line: None)

    def say(*said: dict[str, Any]) -> None:
        for record in said:
            writer.put(record)
        assert writer.flush(5)

    def wait_for(what: Callable[[], object], wait_s: float = 60) -> None:
        until = time.monotonic() + wait_s
        while not what():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)

    with (tmp_path / "sender.log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMAND, spool.folder, "--until-end"], env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    rows = [record for record in records(90) if record["kind"] == "metrics"]
    say(start(RUN_ID), *rows[:30])
    wait_for(lambda: Pending(spool).ledger.run_id and not Pending(spool).left["records"])
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    mlflow_server.kill()
    say(*rows[30:60])
    wait_for(lambda: Pending(spool).error)
    assert "cannot connect" in (Pending(spool).error or "")
    mlflow_server.start()
    say(*rows[60:])
    wait_for(lambda: not Pending(spool).left["records"])
    assert only(mlflow_server)["status"] == "RUNNING"
    os.close(writer._lock._fd)  # as when it is killed
    assert process.wait(30) == 0
    check(spool, only(mlflow_server))
    assert only(mlflow_server)["status"] == "KILLED"
    assert only(mlflow_server)["end_time"] == T0 + 89 * 100
    told = (tmp_path / "sender.log").read_text().splitlines()
    assert [re.sub(r"^[\d: -]+ |127.*", "", line) for line in told] == [
        *("cannot connect to ", "the server answers again", "tnbd_sample 01234567: complete at http://")
    ]


# Azure ML


@pytest.fixture
def azure(azure_front: AzureFront, monkeypatch: pytest.MonkeyPatch) -> AzureFront:
    """The workspace, and an environment with its names and a service principal."""
    os.environ |= azure_front.workspace_environment
    from azureml.mlflow._common._cloud import cloud as clouds

    monkeypatch.setattr(clouds, "KNOWN_CLOUDS", clouds.get_known_clouds())  # read once in a process
    from azure import identity

    for name in ("InteractiveBrowserCredential", "DeviceCodeCredential"):
        # These would ask a person.
        monkeypatch.setattr(getattr(identity, name), "get_token", lambda *_, **__: pytest.fail("somebody is asked"))
    return azure_front


def azure_spool(folder: Path, front: AzureFront, **about: Any) -> Spool:
    return whole(folder, f"azureml://{front.scope}", **about)


def nowhere(secrets: list[str], *folders: Path) -> None:
    """Check that no file holds a secret."""
    for folder in folders:
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not [secret for secret in secrets if secret.encode() in content], path


def test_azure_has_the_record_by_the_command(
    azure_front: AzureFront, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    spool = azure_spool(tmp_path / "spool", azure_front)
    done = subprocess.run(
        [*COMMAND, spool.folder], env=environment(**azure_front.workspace_environment), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "tnbd_sample 01234567: complete at Azure ML workspace ws\n"
    check(spool, only(mlflow_server), overwrites=False)
    assert set(only(mlflow_server)["artifacts"]) == {
        *("plots/loss.png", "plots/loss.2.png", "plots/loss.3.png", "terminal/000.txt", "over_limits.json")
    }
    nothing_twice(azure_front)
    nowhere(azure_front.secrets, tmp_path / "spool")


AZURE_FAULTS: dict[str, Callable[[AzureFront], Any]] = {
    "429": lambda front: front.fail("log-batch|artifacts", status=429, times=4),
    "500 in bursts": lambda front: [front.fail("/api/|/history/", status=500, after=n, times=2) for n in (1, 9, 25)],
    "answers lost": lambda front: front.fail("log-batch", kind="answer-lost", after=3, times=3),
    "answers about files lost": lambda front: [
        front.fail("batch/metadata", kind="answer-lost", times=1),
        front.fail("blob", kind="answer-lost", method="PUT", after=1, times=1),
    ],
    "files do not arrive": lambda front: front.fail("blob", status=503, method="PUT", times=2),
    "a token that expires in mid-run": lambda front: setattr(front, "token_life_s", 1),
    "a token that is refused": lambda front: front.fail("log-batch", status=401, after=3, times=1),
    "resets": lambda front: front.fail(kind="reset", after=8, times=2),
}


@pytest.mark.parametrize("fault", AZURE_FAULTS)
def test_after_any_fault_azure_has_the_record_and_nothing_twice(
    fault: str, azure: AzureFront, mlflow_server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = azure_spool(tmp_path / "spool", azure)
    AZURE_FAULTS[fault](azure)
    assert main(["sync", str(spool.folder)]) == 0, capsys.readouterr().out
    check(spool, only(mlflow_server), overwrites=False)
    nothing_twice(azure)
    nowhere(azure.secrets, tmp_path / "spool")


def test_a_token_that_azure_takes_no_more_is_replaced(
    azure: AzureFront, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    """The client considers its token valid for an hour."""
    spool = azure_spool(tmp_path / "spool", azure, steps=10)
    told = iter([False] * 5 + [True] * 1000)
    pass_on = azure.pass_on

    def revoking(*given: Any) -> Any:
        if next(told) and azure.tokens_issued == 1:
            azure.revoke_tokens()
        return pass_on(*given)

    azure.pass_on = revoking  # type: ignore[method-assign]
    assert main(["sync", str(spool.folder)]) == 0
    assert azure.tokens_issued == 2
    check(spool, only(mlflow_server), overwrites=False)


AZURE_MISTAKES: dict[str, tuple[dict[str, str | None], str]] = {
    "a wrong secret": (
        {"AZURE_CLIENT_SECRET": "wr0ng-and-still-secret"},
        "sign-in to Azure refused: the client secret is wrong (AADSTS7000215)",
    ),
    "an unknown application": (
        {"AZURE_CLIENT_ID": "22222222-2222-2222-2222-222222222222"},
        "sign-in to Azure refused: the tenant AZURE_TENANT_ID has no application AZURE_CLIENT_ID",
    ),
    "half of the variables": ({"AZURE_CLIENT_SECRET": None}, "are set, but not AZURE_CLIENT_SECRET"),
    "a certificate that does not verify": (
        {"REQUESTS_CA_BUNDLE": None},
        "cannot be verified (unable to get local issuer certificate); set REQUESTS_CA_BUNDLE to the file of its "
        "certificate authority",
    ),
}


@pytest.mark.parametrize("mistake", AZURE_MISTAKES)
def test_what_is_wrong_with_azure_is_told_in_one_line(
    mistake: str,
    azure: AzureFront,
    mlflow_server: MlflowServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pauses: list[float],
) -> None:
    spool = azure_spool(tmp_path / "spool", azure)
    before = dict(os.environ)
    variables, message = AZURE_MISTAKES[mistake]
    for name, value in variables.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    assert main(["sync", str(spool.folder)]) == 1
    assert pauses == []  # what only a person can fix is tried once
    out, err = capsys.readouterr()
    assert message in out
    assert (out.count("\n"), err) == (1, "")
    nowhere(["wr0ng-and-still-secret", *azure.secrets], tmp_path / "spool")
    assert "wr0ng-and-still-secret" not in out
    os.environ.update(before)
    assert main(["sync", str(spool.folder)]) == 0
    check(spool, only(mlflow_server), overwrites=False)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_workspace_that_is_not_there_is_told_of(
    by_name: bool, azure: AzureFront, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"azureml://{azure.scope}" if by_name else azure.uri
    spool = whole(tmp_path, uri.replace("workspaces/ws", "workspaces/nowhere"))
    assert main(["sync", str(spool.folder)]) == 1
    assert (
        f"the workspace nowhere does not exist in the resource group rg of the subscription {azure.subscription}"
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize("identity", ["managed", "cli", "job"])
def test_other_ways_to_sign_in(identity: str, azure: AzureFront, mlflow_server: MlflowServer, tmp_path: Path) -> None:
    for name in azure.principal:
        del os.environ[name]
    about: dict[str, Any] = {}
    if identity == "managed":
        os.environ |= azure.managed_identity
    elif identity == "cli":
        os.environ |= azure.azure_cli(tmp_path)
    else:
        from mlflow import MlflowClient

        experiment = MlflowClient(mlflow_server.uri).create_experiment("nested")
        job = MlflowClient(mlflow_server.uri).create_run(experiment, start_time=T0, run_name="tnbd_sample")
        os.environ |= azure.job_environment(job.info.run_id, experiment)
        about["server_run"] = job.info.run_id
    spool = whole(tmp_path / "spool", azure.uri, **about)
    (spool.folder / "target.json").write_text(
        json.dumps({"uri": azure.uri, "aml": {"identity": "default" if identity == "job" else identity}})
    )
    assert main(["sync", str(spool.folder)]) == 0
    check(spool, only(mlflow_server), overwrites=False)
    assert len(mlflow_server.find_runs()) == 1


def test_names_that_are_taken_in_azure(azure: AzureFront, mlflow_server: MlflowServer, tmp_path: Path) -> None:
    """Names taken by others, by ourselves before the ledger was lost, and by a reservation without content."""
    said = [start(RUN_ID), artifact("a.txt", "ours"), artifact("b.txt", "same"), artifact("c.txt", "late")]
    spool = write_spool(tmp_path / RUN_ID, said, f"azureml://{azure.scope}")
    first = Spool(spool.folder)
    lines = first.records_path.read_text().splitlines(keepends=True)
    first.records_path.write_text(lines[0])
    assert main(["sync", str(spool.folder)]) == 0
    server = connect(json.loads((spool.folder / "target.json").read_text()))
    run_id = only(mlflow_server)["run_id"]
    for name, content in (("a.txt", "theirs"), ("b.txt", "same")):
        (tmp_path / "file").write_text(content)
        server.upload(run_id, tmp_path / "file", name)
    server._reserve(run_id, "c.txt")  # type: ignore[attr-defined]
    first.records_path.write_text("".join(lines))
    assert main(["sync", str(spool.folder)]) == 0
    assert only(mlflow_server)["artifacts"] == {
        "a.txt": b"theirs",
        "a.2.txt": b"ours",
        "b.txt": b"same",
        "c.2.txt": b"late",
    }
    digest = hashlib.sha256(b"late").hexdigest()
    assert hashlib.sha256(server.artifact(run_id, "c.2.txt") or b"").hexdigest() == digest


def test_a_kill_costs_nothing_in_azure_either(
    azure_front: AzureFront, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    spool = azure_spool(tmp_path, azure_front)
    azure_front.fail("log-batch|artifacts|blob", kind="slow", seconds=0.05)
    variables = environment(**azure_front.workspace_environment)
    for calls in (6, 12):
        azure_front.forget()
        process = subprocess.Popen([*COMMAND, spool.folder], env=variables, stdout=subprocess.DEVNULL)
        while azure_front.count("log-batch|artifacts|blob") < calls:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.06))
        process.kill()
        process.wait()
    shutil.rmtree(spool.folder / "sent")
    azure_front.heal()
    assert subprocess.run([*COMMAND, spool.folder], env=variables).returncode == 0
    check(spool, only(mlflow_server), overwrites=False)
    nothing_twice(azure_front)
