"""`anemoi-house sync` and `anemoi-house runs`, with a server in memory."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracking.memory import (
    T0,
    Memory,
    MemoryServer,
    artifact,
    away,
    end,
    had_rows,
    metrics,
    start,
    wanted_rows,
    write_spool,
)

from anemoi_house.cli import main
from anemoi_house.tracking import stepper
from anemoi_house.tracking import sync as syncs
from anemoi_house.tracking.ledger import Ledger, ledger_path, sender_lock
from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.servers import connect
from anemoi_house.tracking.servers.failures import UnavailableError
from anemoi_house.tracking.spool import Spool
from anemoi_house.tracking.writer import SpoolWriter

URI = "http://memory"


class Servers:
    """Servers in memory by their addresses."""

    def __init__(self) -> None:
        self.memories: dict[str, Memory] = {}
        self.fault = lambda name, done: None

    def __call__(self, target: dict[str, str]) -> MemoryServer:
        memory = self.memories.setdefault(target["uri"], Memory())
        return MemoryServer(memory, fault=lambda name, done: self.fault(name, done))

    @property
    def memory(self) -> Memory:
        return self.memories[URI]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Replace real servers, and shorten all pauses."""
    made = Servers()
    monkeypatch.setattr(connect, "connect", made)
    for name in ("POLL_S", "LOOK_AROUND_S", "LINGER_S"):
        monkeypatch.setattr(syncs, name, 0.02)
    for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(stepper, name, 0.02)
    monkeypatch.setattr(syncs, "LAST_TRY_S", 0.3)
    yield made
    logging.disable(logging.NOTSET)


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands use by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOUSE_OUTPUT", raising=False)
    return tmp_path / "outputs" / "logs" / "mlflow" / "spool"


def test_all_runs_are_sent_the_oldest_first(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    child = start("a-child", parent="elder") | {"t": T0 + 5, "run_name": "child"}
    write_spool(outputs / "a-child", [child, metrics(("a", 1.0, 0)), end()])
    write_spool(outputs / "elder", [start("elder"), metrics(("a", 1.0, 0)), end()])
    assert main(["sync"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "tnbd_sample elder: complete at http://memory",
        "child a-child: complete at http://memory",
    ]
    assert err == ""
    elder, younger = servers.memory.runs.items()
    assert younger[1].tags["mlflow.parentRunId"] == elder[0]
    assert main(["sync"]) == 0
    assert capsys.readouterr().out == out


def test_a_checkpoint_folder_and_a_variable_name_runs_too(
    outputs: Path, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spool(outputs / "run", [start(), end()])
    (tmp_path / "outputs" / "checkpoint" / "run").mkdir(parents=True)
    assert main(["sync", "outputs/checkpoint/run"]) == 0
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOUSE_OUTPUT", str(tmp_path / "outputs"))
    assert main(["sync"]) == 0
    assert capsys.readouterr().out == "tnbd_sample run: complete at http://memory\n" * 2


@pytest.mark.parametrize("path", ["nowhere", "empty", "outputs/empty"])
def test_what_is_no_run_is_named(
    path: str, outputs: Path, servers: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for command in (["sync", path], ["runs", path], ["sync", path, "--until-end"]):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith((f"anemoi-house: {path}: does not exist. Give ", f"anemoi-house: {path}: holds no run"))


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("ftp://x", "ftp:// is not known"),
        ("mlflow.db", "has no scheme"),
        ("https://me:hunter2@x", "MLFLOW_TRACKING_USERNAME"),
        ("https://x/?token=hunter2", "MLFLOW_TRACKING_TOKEN"),
        ("https://hunter2@x", "MLFLOW_TRACKING_TOKEN"),
        ("https://", "names no server"),
        ("sqlite://", "names no file"),
    ],
)
def test_an_address_that_is_none_is_refused(
    to: str, message: str, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spool(outputs / "run", [start(), end()])
    assert main(["sync", "--to", to]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert "hunter2" not in out + err


def test_another_server_has_a_ledger_of_its_own(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = write_spool(outputs / "run", [start(), metrics(("a", 1.0, 0)), end()])
    assert main(["sync", "--to", "http://other"]) == 0
    assert not Pending(spool).complete
    assert main(["sync"]) == 0
    assert {uri: len(memory.runs) for uri, memory in servers.memories.items()} == {URI: 1, "http://other": 1}
    (spool.folder / "target.json").unlink()
    capsys.readouterr()
    assert main(["sync"]) == 1
    assert capsys.readouterr().out == "tnbd_sample run: it names no server; give one with --to URI\n"


def test_a_server_that_is_away_is_given_up_and_asked_no_more(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_spool(outputs / "one", [start("one"), metrics(("a", 1.0, 0)), end()])
    two = write_spool(outputs / "two", [start("two"), end()])
    asked = []

    def fault(name: str, done: bool) -> None:
        asked.append(name)
        away(name, done)

    servers.fault = fault
    assert main(["sync"]) == 1
    reason = "cannot connect to memory (connection refused); run again: anemoi-house sync"
    assert capsys.readouterr().out.splitlines() == [
        f"tnbd_sample one: 3 records still to send: {reason} {one.folder.relative_to(Path.cwd())}",
        f"tnbd_sample two: 2 records still to send: {reason} {two.folder.relative_to(Path.cwd())}",
    ]
    assert len(asked) == 3
    servers.fault = lambda name, done: None
    assert main(["sync"]) == 0
    assert len(servers.memory.active()) == 2


def test_what_a_person_has_to_mend_is_tried_once(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    write_spool(outputs / "run", [start(), end()])
    asked = []

    def fault(name: str, done: bool) -> None:
        asked.append(name)
        raise UnavailableError("sign-in refused", 1)

    servers.fault = fault
    assert main(["sync"]) == 1
    assert len(asked) == 1


def test_what_is_left_out_is_told_of(outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    spool = write_spool(outputs / "run", [start(), {"kind": "params", "values": {"p": "1"}}, artifact("a.txt", "x")])
    write_spool(outputs / "run", [{"kind": "params", "values": {"p": "2"}}])
    with spool.records_path.open("a") as lines:
        lines.write("{nonsense\n")
    write_spool(outputs / "run", [end()])
    assert main(["sync"]) == 1
    assert capsys.readouterr().out == (
        "tnbd_sample run: complete at http://memory; 1 refused there: parameter p: Changing param values is not "
        "allowed.; to send it again: anemoi-house sync --retry-refused; 1 damaged line in the record left out\n"
    )
    assert main(["sync"]) == 1
    (run,) = servers.memory.active()
    run.params.clear()
    assert main(["sync", "--retry-refused"]) == 1  # the first value is sent again too, and the second refused again
    run.params["p"] = "2"
    spool.records_path.write_text(spool.records_path.read_text().replace('{"p":"1"}', '{"p":"2"}'))
    assert main(["sync", "--retry-refused"]) == 0
    assert Pending(spool).ledger.refused_count == 0


def test_a_run_that_the_server_has_lost_is_sent_from_its_start(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [start(), metrics(("a", 1.0, 0)), artifact("a.txt", "x"), end()]
    spool = write_spool(outputs / "run", records)
    assert main(["sync"]) == 0
    for lost in (True, False):
        if lost:
            servers.memory.runs.clear()
        else:
            servers.memory.active()[0].deleted = True
        write_spool(outputs / "run", [metrics(("a", 2.0, 1)), end()])
        assert main(["sync"]) == 1
        assert f"anemoi-house sync --from-start {spool.folder.relative_to(Path.cwd())}" in capsys.readouterr().out
        assert main(["sync", "--from-start"]) == 0
        (run,) = servers.memory.active()
        assert had_rows(run) == wanted_rows(spool)
        assert run.artifacts == {"a.txt": b"x"}
    assert main(["sync", "--from-start"]) == 0
    assert [len(run.rows) for run in servers.memory.active()] == [3]
    assert main(["sync", "--from-start", "--watch"]) == 1


def test_a_run_that_another_process_is_sending_is_left_to_it(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = write_spool(outputs / "run", [start(), end()])
    with sender_lock(spool, URI):
        assert main(["sync"]) == 1
    assert capsys.readouterr().out == f"tnbd_sample run: process {os.getpid()} is sending it; nothing to do here\n"


def test_ctrl_c_ends_in_one_line(outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    spool = write_spool(outputs / "run", [start(), *(metrics(("a", 1.0, step)) for step in range(50)), end()])
    calls = []

    def fault(name: str, done: bool) -> None:
        calls.append(name)
        if calls.count("log_metrics") == 3:
            raise KeyboardInterrupt

    for options in ([], ["--watch"]):
        calls.clear()
        servers.fault = fault
        assert main(["sync", *options]) == 130
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "stopped; the same command continues from here\n"
    servers.fault = lambda name, done: None
    assert main(["sync"]) == 0
    (run,) = servers.memory.active()
    assert had_rows(run) == wanted_rows(spool)


def test_progress_is_one_line_that_fits_a_terminal(
    outputs: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a name that somebody has taken care to make long"
    records = [start(run_name=name), artifact("a", "a"), *(metrics(("a", 1.0, step)) for step in range(100))]
    write_spool(outputs / ("f" * 32), [*records, artifact("b", "b"), end()])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    servers.fault = lambda name, done: time.sleep(0.02)
    assert main(["sync"]) == 0
    lines = capsys.readouterr().err.split("\r")
    assert all(len(line) <= 79 for line in lines)
    assert any(line.rstrip().endswith(" of 100 rows, 1 of 2 artifacts") for line in lines)
    assert lines[-1] == ""  # cleared


def test_watching_finds_what_is_new(outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "--watch"]) == 1
    assert capsys.readouterr().err.startswith("anemoi-house: outputs: does not exist")
    outputs.mkdir(parents=True)
    threading.Timer(0.2, write_spool, [outputs / "one", [start("one")]]).start()
    stage = []

    def later(name: str, done: bool) -> None:
        if not stage:
            stage.append("first")
            raise UnavailableError("cannot connect")
        if stage == ["first"] and name == "set_status" and done:  # the first run is complete
            stage.append("second")
            write_spool(outputs / "two", [start("two"), metrics(("a", 1.0, 0)), end()])
        elif len(stage) == 2 and name == "set_status" and done:
            raise KeyboardInterrupt

    servers.fault = later
    assert main(["sync", "--watch"]) == 130
    assert capsys.readouterr().out.splitlines() == [
        "tnbd_sample one: cannot connect; trying again",
        "tnbd_sample one: complete at http://memory",
    ]
    assert {run.status for run in servers.memory.active()} == {"KILLED", "FINISHED"}


# One bad run

NOT_A_RECORD = '{"kind":"metrics","t":1}\n'


def damage(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do to the folder of a run what happens to folders."""
    records, target = folder / "records.jsonl", folder / "target.json"
    really = Path.open

    def refusing(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.parent.name == folder.name and path.name == "records.jsonl":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, *arguments, **settings)

    match name:
        case "no start":
            records.write_text("".join(records.read_text(encoding="utf-8").splitlines(keepends=True)[1:]))
        case "empty target":
            target.write_text("")
        case "list as target":
            target.write_text("[1]")
        case "number as address":
            target.write_text('{"uri": 1}')
        case "another user's":
            monkeypatch.setattr(Path, "open", refusing)
        case "ledger is a folder":
            ledger_path(Spool(folder), URI).mkdir(parents=True)
        case "ledger of other types":
            ledger_path(Spool(folder), URI).parent.mkdir()
            ledger_path(Spool(folder), URI).write_text('{"uri": "http://memory", "offset": "x", "error": 3}')


@pytest.mark.parametrize(
    "what",
    ["no start", "empty target", "list as target", "number as address", "another user's", "ledger is a folder",
     "ledger of other types"],
)  # fmt: skip
def test_a_bad_run_fails_alone(
    what: str, outputs: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad", "one", "two"):
        write_spool(outputs / name, [start(name), metrics(("a", 1.0, 0)), end()])
    damage(what, outputs / "bad", monkeypatch)
    assert main(["sync"]) == 1
    out, err = capsys.readouterr()
    assert sorted(line for line in out.splitlines() if "bad" not in line) == [
        "tnbd_sample one: complete at http://memory", "tnbd_sample two: complete at http://memory"
    ]  # fmt: skip
    assert len(out.splitlines()) == 3
    assert err == ""
    assert main(["runs"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("complete at http://memory") == 2
    assert main(["runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_records_without_their_fields_are_damaged_lines(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = write_spool(outputs / "run", [start(), metrics(("a", 1.0, 0))])
    with spool.records_path.open("a") as lines:
        lines.write(NOT_A_RECORD)
    write_spool(outputs / "run", [end()])
    assert main(["sync"]) == 0
    assert capsys.readouterr().out == (
        "tnbd_sample run: complete at http://memory; 1 damaged line in the record left out\n"
    )
    assert main(["runs"]) == 0
    assert "1 damaged line in the record" in capsys.readouterr().out


def test_a_folder_that_is_removed_under_a_watch_leaves_the_others(
    outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bad", "one"):
        write_spool(outputs / name, [start(name), metrics(("a", 1.0, 0)), end()])

    def later(name: str, done: bool) -> None:
        if (outputs / "bad").exists():
            shutil.rmtree(outputs / "bad")
        if name == "set_status" and done:
            raise KeyboardInterrupt

    servers.fault = later
    assert main(["sync", "--watch"]) == 130
    assert "bad: its folder was removed" in capsys.readouterr().out
    assert {run.status for run in servers.memory.active() if run.rows} == {"FINISHED"}


# Next to a training


class Training:
    """A writer, and its sender as a thread."""

    def __init__(self, folder: Path) -> None:
        self.spool = write_spool(folder, [])
        self.writer = SpoolWriter(folder, report=lambda line: None)
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.status = syncs._UntilEnd(self.spool).run()

    def start(self) -> None:
        self._thread.start()

    def put(self, *records: dict[str, object]) -> None:
        for record in records:
            self.writer.put(record)
        assert self.writer.flush(5)

    def wait(self) -> int:
        self._thread.join(10)
        assert self.status is not None
        return self.status


def eventually(check: object, wait_s: float = 5) -> None:
    until = time.monotonic() + wait_s
    while not check():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.01)


def test_beside_a_training_records_go_on_as_they_come(outputs: Path, servers: Servers) -> None:
    training = Training(outputs / "run")
    training.start()
    time.sleep(0.1)  # there is no record yet
    training.put(start(), metrics(("a", 1.0, 0)))
    eventually(lambda: URI in servers.memories and [run for run in servers.memory.active() if run.rows])
    servers.fault = away
    training.put(metrics(("a", 1.0, 1)))
    eventually(lambda: Pending(training.spool).error)
    assert Pending(training.spool).error == "cannot connect to memory (connection refused)"
    servers.fault = lambda name, done: None
    eventually(lambda: not Pending(training.spool).left["records"])
    training.put(metrics(("a", 1.0, 2)), end())
    assert training.wait() == 0
    assert Pending(training.spool).complete
    (run,) = servers.memory.active()
    assert had_rows(run) == wanted_rows(training.spool)
    assert run.status == "FINISHED"
    training.writer.close(1)


def test_beside_a_training_an_end_is_tried_at_once(
    outputs: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepper, "FIRST_PAUSE_S", 60)
    monkeypatch.setattr(stepper, "LONGEST_PAUSE_S", 60)
    servers.fault = away
    training = Training(outputs / "run")
    training.put(start())
    training.start()
    eventually(lambda: Pending(training.spool).error)
    servers.fault = lambda name, done: None
    training.put(end())
    assert training.wait() == 0
    training.writer.close(1)


def test_beside_a_training_that_is_gone_it_gives_up_in_the_end(outputs: Path, servers: Servers) -> None:
    servers.fault = away
    training = Training(outputs / "run")
    training.put(start())
    training.start()
    eventually(lambda: Pending(training.spool).error)
    time.sleep(0.4)
    assert training.status is None  # as long as it lives
    training.writer.close(1)
    assert training.wait() == 1
    assert Pending(training.spool).left["records"] == 1


def test_beside_a_training_that_was_killed_it_says_so(outputs: Path, servers: Servers) -> None:
    training = Training(outputs / "run")
    training.put(start(), metrics(("a", 1.0, 7)))
    training.start()
    training.writer.close(1)
    assert training.wait() == 0
    (run,) = servers.memory.active()
    assert (run.status, run.end_time) == ("KILLED", T0 + 700)


def test_beside_a_training_it_waits_for_a_sync_of_the_user(outputs: Path, servers: Servers) -> None:
    training = Training(outputs / "run")
    training.put(start())
    lock = sender_lock(training.spool, URI)
    training.start()
    time.sleep(0.1)
    assert URI not in servers.memories
    lock.release()
    training.put(end())
    assert training.wait() == 0
    training.writer.close(1)


def test_a_failure_without_a_sender_is_in_the_ledger_too(
    outputs: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(target: dict[str, str]) -> MemoryServer:
        raise UnavailableError("no such package", 1)

    monkeypatch.setattr(connect, "connect", broken)
    training = Training(outputs / "run")
    training.put(start(), end())
    training.writer.close(1)
    training.start()
    assert training.wait() == 1
    assert Pending(training.spool).error == "no such package"


# Listing


def test_runs_are_listed_in_80_columns(outputs: Path, servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ["0123456789abcdef", "0123456789fedcba", "f" * 32]
    long = {
        "run_name": "a name that somebody has taken care to make long",
        "experiment": "an experiment of such a name",
    }
    write_spool(outputs / ids[0], [start(ids[0]), metrics(("a", 1.0, 0)), end()])
    write_spool(outputs / ids[1], [start(ids[1], **long), metrics(*(("a", 1.0, step) for step in range(12345)))])
    write_spool(outputs / ids[2], [start(ids[2]), end("FAILED"), start(ids[2], session=1), artifact("a", "a")])
    assert main(["sync", str(outputs / ids[0])]) == 0
    servers.fault = away
    assert main(["sync", str(outputs / ids[1])]) == 1
    capsys.readouterr()
    writer = SpoolWriter(outputs / ids[2], report=lambda line: None)
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["runs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    writer.close(1)

    assert all(len(line) <= 80 for line in lines if not line.startswith(" "))
    assert lines[0].split() == ["id", "name", "experiment", "started", "status", "restarts", "rows"]
    assert [line.split()[0] for line in lines if not line.startswith(" ")][1:] == [ids[0][:11], ids[1][:11], "f" * 11]
    assert [line.split()[-3:] for line in lines if not line.startswith(" ")][1:] == [
        ["finished", "0", "1"],
        ["killed", "0", "12,345"],
        ["running", "1", "0"],
    ]
    assert lines[2] == "  complete at http://memory"
    assert lines[4].startswith("  2 records to send to http://memory: cannot connect to memory (connection refused) (2")
    assert lines[6] == "  4 records to send to http://memory"
    assert [run["status"] for run in told] == ["finished", "killed", "running"]
    assert told[1]["servers"][0]["rows"] == 12345


def test_neither_command_imports_what_takes_seconds(outputs: Path) -> None:
    write_spool(outputs / "run", [start(), end()])
    heavy = "mlflow torch azure azureml anemoi requests numpy"
    code = (
        "import sys; from anemoi_house.cli import main; main(['runs']); import anemoi_house.tracking.sync; "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_a_ledger_says_of_another_version_is_left_out(outputs: Path) -> None:
    spool = write_spool(outputs / "run", [start()])
    path = ledger_path(spool, URI)
    path.parent.mkdir()
    path.write_text(json.dumps({"uri": URI, "run_id": "x", "later": 1}))
    assert Ledger.of(spool, URI).run_id == "x"
