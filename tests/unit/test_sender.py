from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tracking.memory import (
    T0,
    KilledError,
    Memory,
    MemoryServer,
    StoredRun,
    artifact,
    away,
    end,
    had_rows,
    metrics,
    start,
    wanted_rows,
    write_spool,
)

from anemoi_house.tracking import terminal_log
from anemoi_house.tracking.ledger import Ledger, ledger_path, sender_lock
from anemoi_house.tracking.lock import BusyError
from anemoi_house.tracking.pending import Pending
from anemoi_house.tracking.sender import Sender
from anemoi_house.tracking.servers.failures import GoneError, UnavailableError
from anemoi_house.tracking.spool import Spool
from anemoi_house.tracking.uploads import fitting, numbered

URI = "http://memory"


def send(spool: Spool, server: MemoryServer) -> Sender:
    """Send everything, through all failures except kills."""
    sender = Sender(spool, URI, server)
    ledger_path(spool, URI).parent.mkdir(exist_ok=True)
    while True:
        try:
            if not sender.advance():
                return sender
        except UnavailableError:
            continue


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "run"


def only(memory: Memory) -> StoredRun:
    (run,) = memory.active()
    return run


def test_a_run_arrives_as_it_was_recorded(run_folder: Path) -> None:
    spool = write_spool(
        run_folder,
        [
            start(),
            {"kind": "params", "values": {f"p{number}": str(number) for number in range(10)}},
            {"kind": "tags", "values": {"trim": "15", "stage": "1"}},
            {"kind": "tags", "values": {"stage": "2"}},
            *(metrics(("loss", 1 / (step + 1), step), ("lr", "NaN", step)) for step in range(20)),
            metrics(*((f"m{key}", "-Infinity" if key % 2 else "Infinity", 20) for key in range(20))),
            artifact("plots/a.png", "first"),
            {"kind": "terminal", "text": "one\n"},
            artifact("plots/a.png", "second"),
            {"kind": "terminal", "text": "two\n"},
            {"kind": "over", "t": T0, "what": "param", "key": "long", "value": "x", "why": "too long"},
            end(),
        ],
    )
    memory = Memory()
    assert not Pending(spool).complete
    sender = send(spool, MemoryServer(memory))
    run = only(memory)
    assert (run.name, run.experiment_id, run.start_time) == ("tnbd_sample", "nested", T0)
    assert (run.status, run.end_time) == ("FINISHED", T0 + 10_000)
    assert run.params == {f"p{number}": str(number) for number in range(10)}
    assert {key: run.tags[key] for key in ("trim", "stage", "house.run_id")} == {
        "trim": "15",
        "stage": "2",
        "house.run_id": "run",
    }
    assert had_rows(run) == wanted_rows(spool)
    assert [row[3] for row in run.rows] == sorted(row[3] for row in run.rows)
    assert run.artifacts.keys() == {"plots/a.png", "terminal_log.txt", "over_limits.json"}
    assert run.artifacts["plots/a.png"] == b"second"
    assert run.artifacts["terminal_log.txt"] == b"one\ntwo\n"
    assert json.loads(run.artifacts["over_limits.json"]) == [
        {"t": T0, "what": "param", "key": "long", "value": "x", "why": "too long"}
    ]
    state = Pending(spool)
    assert state.complete
    assert (state.left["records"], state.left["rows"], state.error) == (0, 0, None)
    assert sender.ledger.rows == 60
    assert sender.ledger.refused == []


def test_names_that_cannot_be_used_again_are_counted_on(run_folder: Path) -> None:
    spool = write_spool(
        run_folder,
        [
            start(),
            *(artifact("plots/a.png", f"version {number}") for number in range(3)),
            artifact("plots/a.2.png", "another"),
            {"kind": "terminal", "text": "one\n"},
            {"kind": "over", "what": "tag", "key": "k", "value": "v", "why": "w"},
            end(),
            start(session=1),
            {"kind": "terminal", "text": "two\n"},
            {"kind": "over", "what": "tag", "key": "l", "value": "v", "why": "w"},
            end(at=20_000),
        ],
    )
    memory = Memory()
    send(spool, MemoryServer(memory, overwrites=False))
    run = only(memory)
    assert {name: content.decode() for name, content in run.artifacts.items() if "over" not in name} == {
        "plots/a.png": "version 0",
        "plots/a.2.png": "version 1",
        "plots/a.3.png": "version 2",
        "plots/a.2.2.png": "another",
        "terminal/000.txt": "one\n",
        "terminal/001.txt": "two\n",
    }
    assert len(json.loads(run.artifacts["over_limits.2.json"])) == 2
    assert (run.status, run.end_time) == ("FINISHED", T0 + 20_000)


def test_a_long_terminal_output_is_cut_at_ends_of_lines(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_log, "PART_BYTES", 10)
    text = "".join(f"line {number}\n" for number in range(5)) + "än" * 12
    spool = write_spool(run_folder, [start(), {"kind": "terminal", "text": text}, end()])
    memory = Memory()
    send(spool, MemoryServer(memory, overwrites=False))
    parts = [content.decode() for name, content in sorted(only(memory).artifacts.items())]
    assert "".join(parts) == text
    assert all(len(part.encode()) <= 10 for part in parts)
    assert parts[0] == "line 0\n"


# Interruptions

_VALUES = st.sampled_from([0.5, -1.0, 2.0, "NaN", "Infinity", "-Infinity"])
_ROWS = st.lists(st.tuples(st.sampled_from(["a", "b"]), _VALUES, st.integers(0, 5)), min_size=1, max_size=12)
_RECORDS = st.one_of(
    _ROWS.map(lambda rows: metrics(*rows)),
    st.builds(
        lambda key, value: {"kind": "tags", "values": {key: value}}, st.sampled_from("xy"), st.sampled_from("12")
    ),
    st.builds(artifact, st.sampled_from(["p.png", "q/p.png"]), st.sampled_from(["one", "two", ""])),
    st.builds(lambda text: {"kind": "terminal", "text": text}, st.sampled_from(["one\n", "tw", "ä\n"])),
    st.just({"kind": "over", "what": "tag", "key": "k", "value": "v", "why": "w"}),
)
_FAULTS = st.dictionaries(
    st.integers(0, 60),
    st.sampled_from(["fails", "answer lost", "killed before", "killed after", "ledger lost", "older ledger"]),
    max_size=8,
)


class Interruptions:
    """Faults at the calls of these numbers, each once."""

    def __init__(self, plan: dict[int, str]) -> None:
        self.plan, self.number, self.struck = dict(plan), -1, ""

    def __call__(self, name: str, done: bool) -> None:
        self.number += not done
        kind = self.plan.get(self.number)
        if kind is None or done != (kind in ("answer lost", "killed after", "ledger lost", "older ledger")):
            return
        self.struck = self.plan.pop(self.number)
        if self.struck in ("fails", "answer lost"):
            raise UnavailableError(self.struck)
        raise KilledError


def send_through(spool: Spool, server: MemoryServer, interruptions: Interruptions) -> None:
    """Send everything, again after each kill, sometimes with a ledger that says too little."""
    path = ledger_path(spool, URI)
    path.parent.mkdir(exist_ok=True)
    older = b""
    while True:
        try:
            send(spool, server)
            return
        except KilledError:
            if interruptions.struck == "ledger lost":
                path.unlink(missing_ok=True)
            elif interruptions.struck == "older ledger":
                now = path.read_bytes() if path.exists() else b""
                path.write_bytes(older)
                older = now
            else:
                older = path.read_bytes() if path.exists() else b""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_RECORDS, max_size=12), _FAULTS, st.booleans())
@example([metrics(*(("a", 0.5, step) for step in range(12)))], {6: "killed after", 9: "ledger lost"}, False)
def test_whatever_interrupts_it_the_server_has_each_thing_once(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], faults: dict[int, str], overwrites: bool
) -> None:
    spool = write_spool(tmp_path_factory.mktemp("case") / "spool" / "run", [start(), *records, end()])
    memory, interruptions = Memory(), Interruptions(faults)
    send_through(spool, MemoryServer(memory, overwrites, interruptions), interruptions)
    run = only(memory)
    sent, wanted = had_rows(run), wanted_rows(spool)
    assert sent.keys() == wanted.keys()
    assert sent <= wanted  # rows that agree in everything are one row to a server, and may be sent as one
    assert (run.status, run.end_time) == ("FINISHED", T0 + 10_000)
    assert {key: run.tags.get(key) for key in "xy"} == {
        key: next((one["values"][key] for one in reversed(records) if key in one.get("values", {})), None)
        for key in "xy"
    }
    printed = "".join(one["text"] for one in records if one["kind"] == "terminal")
    versions = {
        path: [one["content"] for one in records if one.get("path") == path and one["kind"] == "artifact"]
        for path in ("p.png", "q/p.png")
    }
    had = {name: content.decode() for name, content in run.artifacts.items()}
    if overwrites:
        assert had.get("terminal_log.txt", "") == printed
        assert all(had.get(path) == (contents[-1] if contents else None) for path, contents in versions.items())
    else:
        assert "".join(had[name] for name in sorted(had) if name.startswith("terminal/")) == printed
        for path, contents in versions.items():
            kept = Counter(had[name] for number in range(1, 100) if (name := numbered(path, number)) in had)
            assert kept.keys() == set(contents)
            assert kept <= Counter(contents)  # a file that follows an equal one counts as sent
    assert Pending(spool).complete


def test_what_is_there_is_asked_for_in_doubt_alone(run_folder: Path) -> None:
    spool = write_spool(run_folder, [start(), *(metrics(("a", 0.5, step)) for step in range(100)), end()])
    memory = Memory()
    server = MemoryServer(memory, overwrites=False)
    send(spool, server)
    assert server.calls["history"] == 0

    ledger_path(spool, URI).unlink()
    write_spool(run_folder, [start(session=1), *(metrics(("a", 0.5, step)) for step in range(100, 200)), end()])
    server = MemoryServer(memory, overwrites=False)
    send(spool, server)
    assert server.calls["history"] == 1
    assert had_rows(only(memory)) == wanted_rows(spool)


# The run on the server


def test_two_copies_of_a_folder_make_one_run(tmp_path: Path) -> None:
    """The second begins between any two calls of the first."""
    for at in range(4):
        spool = write_spool(tmp_path / str(at) / "one" / "run", [start(), metrics(("a", 1.0, 0)), end()])
        shutil.copytree(spool.folder, tmp_path / str(at) / "two" / "run")
        copy, memory, calls = Spool(tmp_path / str(at) / "two" / "run"), Memory(), []

        def meanwhile(name: str, done: bool, at: int = at, copy: Spool = copy, memory: Memory = memory) -> None:
            if not done:
                calls.append(name)  # noqa: B023
                if len(calls) == at + 1:  # noqa: B023
                    send(copy, MemoryServer(memory))

        send(spool, MemoryServer(memory, fault=meanwhile))
        assert had_rows(only(memory)) == wanted_rows(spool)
        assert Ledger.of(spool, URI).run_id == Ledger.of(copy, URI).run_id


def test_a_run_deleted_on_the_server_stays_so(run_folder: Path) -> None:
    spool = write_spool(run_folder, [start(), metrics(("a", 1.0, 0))])
    memory = Memory()
    server = MemoryServer(memory)
    sender = send(spool, server)
    next(iter(memory.runs.values())).deleted = True
    write_spool(run_folder, [metrics(("a", 1.0, 1)), end()])
    for again in (sender, Sender(spool, URI, server)):
        with pytest.raises(GoneError, match="was deleted"):
            again.advance()
    ledger_path(spool, URI).unlink()
    with pytest.raises(GoneError, match="was deleted"):
        send(spool, server)
    assert len(memory.runs) == 1
    assert "deleted" in (Pending(spool).error or "")


def test_a_deleted_experiment_is_told_of(run_folder: Path) -> None:
    spool = write_spool(run_folder, [start()])
    with pytest.raises(GoneError, match="'nested' was deleted"):
        send(spool, MemoryServer(Memory(experiments=["deleted:nested"])))


def test_the_run_of_a_job_is_adopted(run_folder: Path) -> None:
    memory = Memory(runs={"job": StoredRun("jobs", "job", T0, {})})
    spool = write_spool(run_folder, [start(server_run="job"), metrics(("a", 1.0, 0)), end()])
    send(spool, MemoryServer(memory))
    assert had_rows(only(memory)) == wanted_rows(spool)
    # A server that does not know the job has a run of its own for it.
    other = Memory()
    sender = Sender(spool, "http://other", MemoryServer(other))
    while sender.advance():
        pass
    assert only(other).name == "tnbd_sample"


def test_parents_are_named_as_the_server_knows_them(tmp_path: Path) -> None:
    memory = Memory(runs={"stock": StoredRun("old", "made by others", T0, {})})
    spools = tmp_path / "spool"
    write_spool(spools / "local", [start("local"), metrics(("a", 1.0, 0)), end()])
    cases = {"local": None, "stock": "stock", "nowhere": "nowhere"}
    for given_id, known in cases.items():
        child = write_spool(spools / f"child-of-{given_id}", [start(parent=given_id, fork_of=given_id), end()])
        send(child, MemoryServer(memory))
        tags = next(run.tags for run in memory.active() if run.tags.get("house.run_id") == child.run_id)
        expected = known or next(one for one, run in memory.runs.items() if run.tags.get("house.run_id") == "local")
        assert (tags["mlflow.parentRunId"], tags["forkedRunId"]) == (expected, expected)
    parent = next(run for run in memory.active() if run.tags.get("house.run_id") == "local")
    assert parent.rows == []  # created for its child; its own record is sent later
    send(Spool(spools / "local"), MemoryServer(memory))
    assert len(parent.rows) == 1
    assert len(memory.active()) == 5


def test_a_parent_that_comes_later_is_named_then(tmp_path: Path) -> None:
    memory = Memory()
    child = write_spool(tmp_path / "spool" / "child", [start(parent="elder"), end()])
    assert send(child, MemoryServer(memory)).ledger.lineage == {"mlflow.parentRunId": "elder"}
    elder = write_spool(tmp_path / "spool" / "elder", [start("elder"), end()])
    send(elder, MemoryServer(memory))
    assert send(child, MemoryServer(memory)).ledger.lineage == {}
    run_id = Ledger.of(elder, URI).run_id
    assert (
        next(run for run in memory.active() if run.tags["house.run_id"] == "child").tags["mlflow.parentRunId"] == run_id
    )


# How runs end


def test_a_run_without_an_end_is_killed_once_its_writer_is_gone(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = write_spool(run_folder, [start(), metrics(("a", 1.0, 7)), {"kind": "terminal", "text": "x"}])
    memory, alive = Memory(), True
    monkeypatch.setattr(Spool, "writer_alive", lambda self: alive)
    sender = send(spool, MemoryServer(memory))
    assert only(memory).status == "RUNNING"
    assert not Pending(spool).complete
    alive = False
    assert not sender.advance()
    assert (only(memory).status, only(memory).end_time) == ("KILLED", T0 + 700)
    assert only(memory).artifacts["terminal_log.txt"] == b"x"
    assert Pending(spool).complete

    alive = True
    write_spool(run_folder, [start(session=1), metrics(("a", 2.0, 8))])
    send(spool, MemoryServer(memory))
    assert (only(memory).status, only(memory).end_time) == ("RUNNING", None)
    write_spool(run_folder, [end("FAILED")])
    send(spool, MemoryServer(memory))
    assert (only(memory).status, only(memory).end_time) == ("FAILED", T0 + 10_000)


def test_what_is_said_after_the_end_changes_nothing_about_it(run_folder: Path) -> None:
    spool = write_spool(run_folder, [start(), end(), {"kind": "terminal", "text": "bye\n"}, artifact("late.txt", "x")])
    memory = Memory()
    send(spool, MemoryServer(memory))
    run = only(memory)
    assert (run.status, run.end_time) == ("FINISHED", T0 + 10_000)
    assert run.artifacts == {"late.txt": b"x", "terminal_log.txt": b"bye\n"}
    assert Pending(spool).complete


# What cannot be sent


def test_what_a_server_does_not_take_is_set_aside_and_the_rest_arrives(run_folder: Path) -> None:
    spool = write_spool(
        run_folder,
        [
            start(),
            {"kind": "params", "values": {"good": "1", "bad": "2", "better": "3"}},
            {"kind": "params", "values": {"good": "changed", "best": "4"}},
            metrics(*((key, 1.0, step) for step in range(5) for key in ("good", "bad", "better"))),
            {"kind": "tags", "values": {"bad": "1", "good": "2"}},
            end(),
        ],
    )
    memory = Memory()
    server = MemoryServer(memory, overwrites=False, refuses=lambda key: key == "bad")
    ledger = send(spool, server).ledger
    run = only(memory)
    assert server.calls["log_metrics"] < 20
    assert run.params == {"good": "1", "better": "3", "best": "4"}
    assert run.tags["good"] == "2"
    assert had_rows(run) == {row: 1 for row in wanted_rows(spool) if row[0] != "bad"}
    told = [one["what"] for one in ledger.refused]
    assert told == ["parameter bad", "parameter good", *(f"metric bad at step {step}" for step in range(5)), "tag bad"]
    assert {one["reason"] for one in ledger.refused} == {
        "refused by the server",
        "Changing param values is not allowed.",
    }
    assert ledger.refused_count == 8


def test_damaged_lines_and_files_are_left_out_and_told_of(run_folder: Path) -> None:
    spool = write_spool(
        run_folder, [start(), artifact("c.txt", "c"), *(artifact(name, "x") for name in ("a.txt", "c.txt"))]
    )
    (run_folder / "artifacts" / "000002.txt").unlink()
    (run_folder / "artifacts" / "000003.txt").write_bytes(b"longer")
    with spool.records_path.open("a") as lines:
        lines.write('{"kind":"metrics","rows":[["a",1.0\n\x00\x00\n[1]\n{"kind":"hologram"}\n')
        for odd in (
            {"kind": "metrics", "rows": [["a", 1.0, 0]]},
            {"kind": "metrics"},
            {"kind": "params", "values": 1},
            {"kind": "artifact", "path": "passwd", "file": "../../../etc/passwd", "size": 1, "sha256": "x"},
            {"kind": "artifact", "path": "passwd", "file": "/etc/passwd", "size": 1, "sha256": "x"},
            {"kind": "end", "t": 0, "status": "EATEN"},
            {"kind": "start"},
            {"kind": "terminal", "text": None},
        ):
            lines.write(json.dumps(odd) + "\n")
    write_spool(run_folder, [metrics(("a", 1.0, 0)), end()])
    with spool.records_path.open("a") as lines:
        lines.write('{"kind":"metr')
    memory = Memory()
    ledger = send(spool, MemoryServer(memory)).ledger
    assert only(memory).artifacts == {"c.txt": b"c"}
    assert [row[0] for row in only(memory).rows] == ["a"]
    assert ledger.damaged == 11
    assert [one["what"] for one in ledger.refused] == ["artifact a.txt", "artifact c.txt", "hologram"]
    assert Pending(spool).complete


def test_a_failure_is_in_the_ledger_until_a_call_succeeds(run_folder: Path) -> None:
    spool = write_spool(run_folder, [start(), metrics(("a", 1.0, 0)), metrics(("b", 1.0, 0))])
    ledger_path(spool, URI).parent.mkdir()
    sender = Sender(spool, URI, MemoryServer(Memory(), fault=away))
    for _ in range(2):
        with pytest.raises(UnavailableError):
            sender.advance()
    state = Pending(spool)
    assert state.error == "cannot connect to memory (connection refused)"
    assert state.attempted_at is not None
    assert state.ledger.error is not None
    assert state.ledger.error["since"] < state.attempted_at
    assert (state.left["records"], state.left["rows"]) == (3, 2)
    sender.server.fault = lambda name, done: None  # type: ignore[attr-defined]
    assert sender.advance()
    assert Pending(spool).error is None


# One at a time


def test_a_second_sync_learns_who_is_at_it(run_folder: Path) -> None:
    spool = write_spool(run_folder, [start()])
    with sender_lock(spool, URI), pytest.raises(BusyError, match=r"process \d+ is sending it"):
        sender_lock(spool, URI)
    sender_lock(spool, URI).release()


@pytest.mark.parametrize(("silent_s", "busy"), [(60, True), (200, False)])
def test_a_holder_on_another_host_is_known_by_its_beat(run_folder: Path, silent_s: int, busy: bool) -> None:
    import os
    import time

    spool = write_spool(run_folder, [start()])
    lock = ledger_path(spool, URI).with_suffix(".lock")
    lock.parent.mkdir()
    lock.write_text('{"host": "elsewhere", "pid": 1}')
    os.utime(lock, (time.time() - silent_s,) * 2)
    if busy:
        with pytest.raises(BusyError, match="process 1 on elsewhere"):
            sender_lock(spool, URI)
    else:
        sender_lock(spool, URI).release()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"offset": 10000000, "uri": "x"}', b'{"unknown": 1}'])
def test_a_ledger_that_cannot_be_made_out_is_as_none(run_folder: Path, content: bytes) -> None:
    spool = write_spool(run_folder, [start(), metrics(("a", 1.0, 0)), end()])
    memory = Memory()
    send(spool, MemoryServer(memory))
    ledger_path(spool, URI).write_bytes(content)
    send(spool, MemoryServer(memory))
    assert had_rows(only(memory)) == wanted_rows(spool)


# One thing that fails holds up nothing else


def advance_to_the_end(sender: Sender) -> None:
    while sender.advance():
        pass


def failing(*kinds: str, failure: Exception) -> Any:
    """Return a fault of all calls of these kinds."""

    def fault(name: str, done: bool) -> None:
        if name in kinds and not done:
            raise failure

    return fault


def test_records_pass_an_artifact_that_waits(run_folder: Path) -> None:
    files = [artifact("a.png", "first"), artifact("b.png", "b"), artifact("a.png", "last")]
    spool = write_spool(
        run_folder, [start(), *files, {"kind": "terminal", "text": "x\n"}, metrics(("a", 1.0, 0)), end()]
    )
    memory = Memory()
    server = MemoryServer(memory, fault=failing("upload", failure=UnavailableError("access denied (403)", 1)))
    ledger_path(spool, URI).parent.mkdir()
    sender = Sender(spool, URI, server)
    with pytest.raises(UnavailableError):
        advance_to_the_end(sender)
    assert had_rows(only(memory)) == wanted_rows(spool)
    assert only(memory).status == "FINISHED"
    state = Pending(spool)
    assert not state.complete
    assert state.left["artifacts"] == 2  # of one name, only the last is due
    server.fault = lambda name, done: None
    send(spool, server)
    assert only(memory).artifacts == {"a.png": b"last", "b.png": b"b", "terminal_log.txt": b"x\n"}
    assert Pending(spool).complete


def test_an_artifact_that_never_arrives_holds_up_no_other(run_folder: Path) -> None:
    spool = write_spool(run_folder, [start(), *(artifact(f"{number}.png", str(number)) for number in range(9)), end()])
    memory = Memory()

    class Picky(MemoryServer):
        def upload(self, run_id: str, local: Path, name: str) -> None:
            if name in ("0.png", "1.png", "2.png", "3.png"):
                raise UnavailableError("fails (500)", 6)
            super().upload(run_id, local, name)

    ledger_path(spool, URI).parent.mkdir()
    sender = Sender(spool, URI, Picky(memory))
    for _ in range(3):
        with pytest.raises(UnavailableError):
            advance_to_the_end(sender)
    assert only(memory).artifacts.keys() == {f"{number}.png" for number in range(4, 9)}
    assert Pending(spool).left["artifacts"] == 4


def test_what_a_server_fails_at_is_set_aside_if_it_takes_the_rest(run_folder: Path) -> None:
    """As PostgreSQL does at a text with a NUL."""
    spool = write_spool(
        run_folder,
        [start(), {"kind": "params", "values": {"a": "1", "bad": "2", "c": "3"}}, metrics(("a", 1.0, 0)), end()],
    )
    memory = Memory()

    class Failing(MemoryServer):
        def log_params(self, run_id: str, params: dict[str, str]) -> None:
            if "bad" in params:
                raise UnavailableError("fails (500)", 6, own=True)
            super().log_params(run_id, params)

    ledger = send(spool, Failing(memory)).ledger
    assert only(memory).params == {"a": "1", "c": "3"}
    assert [one["what"] for one in ledger.refused] == ["parameter bad"]
    assert had_rows(only(memory)) == wanted_rows(spool)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 40), max_size=4), st.booleans())
def test_what_was_accepted_and_is_not_there_is_sent_again(
    tmp_path_factory: pytest.TempPathFactory, ignored: set[int], overwrites: bool
) -> None:
    """As after a proxy that answers 200 by itself."""
    rows = [metrics(*(("a", 1.0, 8 * call + row) for row in range(8))) for call in range(30)]
    spool = write_spool(tmp_path_factory.mktemp("case") / "run", [start(), *rows, artifact("a.png", "a"), end()])
    memory = Memory()
    number = iter(range(1000))

    class Ignoring(MemoryServer):
        def log_metrics(self, run_id: str, points: Any) -> None:
            if next(number) not in ignored:
                super().log_metrics(run_id, points)

        def upload(self, run_id: str, local: Path, name: str) -> None:
            if next(number) not in ignored or not self.overwrites:
                super().upload(run_id, local, name)

    server = Ignoring(memory, overwrites)
    ledger_path(spool, URI).parent.mkdir()
    for _ in range(3):
        try:
            sender = Sender(spool, URI, server)
            advance_to_the_end(sender)
        except UnavailableError as lacking:
            assert "does not have all of it" in str(lacking)  # noqa: PT017
            assert not Pending(spool).complete
    if Pending(spool).complete:
        assert had_rows(only(memory)) == wanted_rows(spool)
        assert only(memory).artifacts == {"a.png": b"a"}
    else:
        assert ignored & set(range(31, 70))  # also the second time


def test_a_server_that_never_has_everything_gets_it_twice_and_not_for_ever(tmp_path: Path) -> None:
    spool = write_spool(tmp_path / "run", [start(), metrics(("a", 1.0, 0), ("a", 2.0, 1)), end()])
    sent = []

    class Forgetful(MemoryServer):
        def log_metrics(self, run_id: str, points: Any) -> None:
            sent.append(len(points))
            if kept := [point for point in points if point.step != 1]:
                super().log_metrics(run_id, kept)

    ledger_path(spool, URI).parent.mkdir()
    server, outdated = Forgetful(Memory(), True), []
    sender = Sender(spool, URI, server)
    for _ in range(5):
        with pytest.raises(UnavailableError, match="does not have all of it"):
            advance_to_the_end(sender)
        outdated.append(sender.outdated)
        if sender.outdated:
            sender = Sender(spool, URI, server)
    assert outdated == [True, False, False, False, False]
    assert len(sent) == 2
    assert not Pending(spool).complete


def test_artifacts_that_wait_are_tried_with_growing_pauses_while_metrics_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anemoi_house.tracking import sender as senders

    now, tries = [0.0], []
    monkeypatch.setattr(senders, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    monkeypatch.setattr(Spool, "writer_alive", lambda self: True)

    class NoStore(MemoryServer):
        def upload(self, run_id: str, local: Path, name: str) -> None:
            tries.append(now[0])
            raise UnavailableError("the store is away")

    spool = write_spool(tmp_path / "run", [start(), artifact("a.png", "a")])
    ledger_path(spool, URI).parent.mkdir()
    memory = Memory()
    sender = Sender(spool, URI, NoStore(memory, True))
    for second in range(100):
        now[0] = float(second)
        with (spool.folder / "records.jsonl").open("a") as file:
            file.write(json.dumps(metrics(("a", 1.0, second))) + "\n")
        with suppress(UnavailableError):
            while sender.advance():
                pass
    pauses = np.diff(tries[1:])
    assert list(pauses) == sorted(pauses)
    assert len(tries) < 10
    assert len(had_rows(only(memory))) == 100


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
@example("a?b.png", "a_b.png")
@example("%41.png", "A.png")
@example("x" * 300, "x" * 299)
def test_names_of_artifacts_stay_apart_and_are_kept(one: str, other: str) -> None:
    from urllib.parse import unquote

    assert (fitting(one) == fitting(other)) == (one == other)
    assert fitting(fitting(one)) == fitting(one)
    assert unquote(fitting(one)) == fitting(one)
    assert all(len(part.encode()) <= 255 for part in fitting(one).split("/"))
    assert not set("?#\n\r") & set(fitting(one))
