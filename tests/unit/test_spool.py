"""The record of a run on disk: what is written is read, whatever happened in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anemoi_house.errors import HouseError
from anemoi_house.tracking.lock import DEAD_AFTER_S
from anemoi_house.tracking.pending import counts
from anemoi_house.tracking.records import metric_value
from anemoi_house.tracking.spool import Spool, find_spools
from anemoi_house.tracking.writer import SpoolWriter

START = {
    "kind": "start", "t": 1000, "session": 0, "run_id": "r", "run_name": "tnbd", "experiment": "nested", "parent": None,
}  # fmt: skip


@pytest.fixture
def reported():
    return []


@pytest.fixture
def writer(tmp_path, reported):
    writer = SpoolWriter(tmp_path / "spool" / "run", reported.append)
    yield writer
    writer.close(1)


def data_of(folder):
    return [record.data for record in Spool(folder).records()]


def test_records_come_back_in_order(writer):
    records = [START, {"kind": "metrics", "rows": [["loss", 0.1, 5, 1]]}, {"kind": "terminal", "text": "é\n\u2028"}]
    for record in records:
        writer.put(record)
    assert writer.flush(5)
    assert data_of(writer.folder) == records


def test_reading_goes_on_where_it_ended(writer):
    writer.put({"kind": "params", "values": {"a": "1"}})
    writer.flush(5)
    (first,) = Spool(writer.folder).records()
    writer.put({"kind": "params", "values": {"b": "2"}})
    writer.flush(5)
    (second,) = Spool(writer.folder).records(first.end)
    assert second.data == {"kind": "params", "values": {"b": "2"}}
    assert second.begin == first.end


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(JSON, min_size=1, max_size=6), data=st.data())
def test_a_spool_that_was_cut_anywhere_gives_all_complete_records_and_can_be_gone_on_with(
    tmp_path_factory, texts, data
):
    folder = tmp_path_factory.mktemp("cut")
    lines = [json.dumps({"kind": "later", "text": text}).encode() + b"\n" for text in texts]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    (folder / "records.jsonl").write_bytes(whole[:cut])
    ends = [sum(map(len, lines[: number + 1])) for number in range(len(lines))]
    complete = sum(end <= cut for end in ends)
    reader = Spool(folder)
    assert [record.data["text"] for record in reader.records()] == texts[:complete]
    assert reader.torn() == cut - ([0, *ends])[complete]

    writer = SpoolWriter(folder, lambda line: None)
    writer.put({"kind": "terminal", "text": "after"})
    writer.close(5)
    found = [record.data for record in reader.records()]
    whole_but_for_its_newline = cut + 1 in ends
    assert [record["text"] for record in found if record] == [*texts[: complete + whole_but_for_its_newline], "after"]
    # Another piece is a line of its own, which cannot be read.
    assert found.count(None) == reader.summary().damaged == (cut not in (0, *ends) and not whole_but_for_its_newline)


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise_is_damaged_lines_and_nothing_worse(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("noise")
    good = json.dumps(START).encode() + b"\n"
    (folder / "records.jsonl").write_bytes(noise + b"\n" + good)
    summary = Spool(folder).summary()
    assert summary.name == "tnbd"
    assert summary.sessions == 1


FIELDS = ("t", "rows", "values", "file", "path", "sha256", "text", "run_name", "experiment", "status", "size")
KINDS = ("start", "metrics", "params", "tags", "artifact", "terminal", "over", "end", "later")
ODD = JSON | st.integers() | st.dictionaries(st.text(max_size=3), JSON, max_size=2)
ROW = st.tuples(st.text() | ODD, st.floats() | ODD, st.integers() | ODD, st.integers() | ODD)


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(
        st.fixed_dictionaries({"kind": st.sampled_from(KINDS)}, optional=dict.fromkeys(FIELDS, ODD | st.lists(ROW))),
        max_size=6,
    )
)
def test_records_of_any_shape_are_counted_or_damaged(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("odd")
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    spool = Spool(folder)
    summary = spool.summary()
    assert summary.damaged == sum(record.data is None for record in spool.records())
    assert sum(map(len, spool.metrics(*summary.metrics).values())) == summary.rows == counts(spool, 0)["rows"]
    assert isinstance(spool.start().get("run_name", ""), str)
    spool.ended()


def logged_on_disk(folder, step):
    """Return whether a step is in the spool."""
    return any(row[3] == step for record in Spool(folder).records() for row in record.data["rows"])


def test_a_kill_costs_at_most_a_moment(tmp_path):
    script = (
        "import sys, time, pathlib\n"
        "from anemoi_house.tracking.writer import SpoolWriter\n"
        "writer = SpoolWriter(pathlib.Path(sys.argv[1]), print)\n"
        "for step in range(10**6):\n"
        "    writer.put({'kind': 'metrics', 'rows': [['loss', 0.5, int(time.time() * 1000), step]]})\n"
        "    print(step, flush=True)\n"
        "    time.sleep(0.005)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    logged = int([process.stdout.readline() for _ in range(200)][-1])
    while not logged_on_disk(tmp_path, logged):  # nobody flushes: the writing thread writes on its own
        assert process.poll() is None
    assert Spool(tmp_path).writer_alive()
    process.send_signal(signal.SIGKILL)
    process.stdout.readlines()
    process.wait()
    rows = [row for record in Spool(tmp_path).records() for row in record.data["rows"]]
    assert [row[3] for row in rows] == list(range(len(rows)))
    assert len(rows) > logged
    assert not Spool(tmp_path).writer_alive()


def test_one_writer_at_a_time(writer):
    assert Spool(writer.folder).writer_alive()
    with pytest.raises(HouseError, match=rf"process {os.getpid()}, another training, .*training\.run_id"):
        SpoolWriter(writer.folder, print)


def test_a_writer_on_another_host_lives_as_long_as_its_beat(writer):
    lock = writer.folder / "writer.lock"
    writer.close(1)
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert Spool(writer.folder).writer_alive()
    long_ago = time.time() - DEAD_AFTER_S - 60
    os.utime(lock, (long_ago, long_ago))
    assert not Spool(writer.folder).writer_alive()


def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HouseError, match=r"file.run: .* cannot be written .*system\.output\.root"):
        SpoolWriter(tmp_path / "file" / "run", print)


def test_a_disk_that_refuses_loses_nothing_once_it_is_mended(writer, reported, monkeypatch):
    really, room = os.write, 10
    full = True

    def write(descriptor, data):
        if not full:
            return really(descriptor, data)
        nonlocal room
        if room:  # the last bytes of a disk are taken before it refuses
            taken, room = really(descriptor, bytes(data[:room])), 0
            return taken
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    records = [{"kind": "params", "values": {str(number): "x" * 50}} for number in range(20)]
    for record in records:
        writer.put(record)
    assert not writer.flush(1)
    assert len(reported) == 1
    assert "No space left on device" in reported[0]
    assert "kept in memory" in reported[0]
    full = False
    assert writer.flush(5)
    assert data_of(writer.folder) == records
    assert reported[1:] == [f"{writer.folder}: can be written to again; no record was lost."]


def test_an_artifact_that_a_full_disk_refused_is_said_to_be_lost(writer, reported, tmp_path, monkeypatch):
    full = [True]
    really = os.write

    def write(descriptor, data):
        if full:
            raise OSError(28, "No space left on device")
        return really(descriptor, data)

    def refuse(source):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    writer.put({"kind": "params", "values": {"a": "1"}})
    assert not writer.flush(1)
    (tmp_path / "a.png").write_bytes(b"picture")
    said = []
    writer.put_artifact(tmp_path / "a.png", "a.png", refuse, said.append)
    assert not writer.flush(1)
    assert said == ["No space left on device"]
    full.clear()
    assert writer.flush(5)
    assert reported[1:] == [f"{writer.folder}: can be written to again; lost so far: 1 artifact."]


def test_what_is_written_is_brought_to_the_disk_within_seconds_and_at_the_end(tmp_path, monkeypatch):
    from anemoi_house.tracking import writer as writers

    monkeypatch.setattr(writers, "SYNC_EVERY_S", 0.01)
    synced, really = [], os.fsync

    def fsync(descriptor):
        really(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    writer = SpoolWriter(tmp_path, print)
    writer.put({"kind": "params", "values": {"a": "1"}})
    writer.flush(5)
    while not synced:
        time.sleep(0.01)
    monkeypatch.setattr(writers, "SYNC_EVERY_S", 1000)
    writer.put({"kind": "params", "values": {"b": "2"}})
    writer.close(5)
    assert synced[-1] == (tmp_path / "records.jsonl").stat().st_size


def test_what_a_disk_never_takes_is_counted(tmp_path, reported, monkeypatch):
    writer = SpoolWriter(tmp_path, reported.append)
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for _ in range(3):
        writer.put({"kind": "params", "values": {}})
    writer.close(0.5)
    assert reported[-1].startswith(f"{tmp_path}: 3 records could not be written")


def test_a_record_that_json_cannot_hold_is_counted_and_ends_nothing(writer, reported):
    for value in (object(), 1j, 10**5000, {1: {2}}):
        writer.put({"kind": "metrics", "rows": [["loss", value, 1, 1]]})
    writer.put(START)
    assert writer.flush(5)
    assert data_of(writer.folder) == [START]
    (line,) = reported
    assert line.startswith(f"{writer.folder}: a record of metrics cannot be written and is lost (")
    writer.close(1)
    assert reported[1].startswith(f"{writer.folder}: 4 records could not be written and are lost (")


@pytest.mark.parametrize(("mode", "wanted"), [(0o600, 0o600), (0o640, 0o640), (0o444, 0o644)])
def test_who_may_not_read_a_file_may_not_read_its_copy(writer, mode, wanted, tmp_path):
    before = os.umask(0o022)
    try:
        (tmp_path / "a.txt").write_text("text")
        (tmp_path / "a.txt").chmod(mode)
        writer.put_artifact(tmp_path / "a.txt", "a.txt")
        assert writer.flush(5)
    finally:
        os.umask(before)
    (copy,) = (writer.folder / "artifacts").iterdir()
    assert copy.stat().st_mode & 0o777 == wanted


def test_artifacts_are_copies_with_a_digest(writer, tmp_path):
    import hashlib

    source = tmp_path / "plot.png"
    for content in (b"first", b"second"):
        source.write_bytes(content)
        writer.put_artifact(source, "plots/plot.png")
    source.unlink()
    writer.flush(5)
    first, second = data_of(writer.folder)
    assert (writer.folder / first["file"]).read_bytes() == b"first"
    assert (writer.folder / second["file"]).read_bytes() == b"second"
    assert first["sha256"] == hashlib.sha256(b"first").hexdigest()
    assert second["size"] == 6
    assert not list(writer.folder.rglob("*.part"))
    writer.close(1)
    again = SpoolWriter(writer.folder, print)
    source.write_bytes(b"third")
    again.put_artifact(source, "plots/plot.png")
    again.close(5)
    assert len({record["file"] for record in data_of(writer.folder)}) == 3


def test_the_summary(writer):
    for record in (
        START,
        {"kind": "params", "values": {"lr": "1e-3"}},
        {"kind": "tags", "values": {"a": "1"}},
        {"kind": "tags", "values": {"a": "2"}},
        {"kind": "metrics", "rows": [["loss", 0.5, 2000, 1], ["loss", "NaN", 3000, 2]]},
        {"kind": "end", "t": 4000, "status": "FAILED"},
    ):
        writer.put(record)
    writer.flush(5)
    summary = Spool(writer.folder).summary()
    assert (summary.run_id, summary.name, summary.experiment, summary.sessions) == ("run", "tnbd", "nested", 1)
    assert (summary.started, summary.ended, summary.status, summary.rows) == (1000, 4000, "FAILED", 2)
    assert summary.params == {"lr": "1e-3"}
    assert summary.tags == {"a": "2"}
    writer.put({**START, "t": 5000, "session": 1})
    writer.flush(5)
    summary = Spool(writer.folder).summary()
    assert (summary.sessions, summary.started, summary.ended, summary.status) == (2, 1000, None, "RUNNING")


def test_finding_spools(tmp_path):
    root = tmp_path / "outputs"
    for run in ("a", "b"):
        folder = root / "logs" / "mlflow" / "spool" / run
        folder.mkdir(parents=True)
        (folder / "records.jsonl").touch()
        (root / "checkpoint" / run).mkdir(parents=True)
    assert [each.run_id for each in find_spools(tmp_path)] == ["a", "b"]
    assert [each.run_id for each in find_spools(root / "checkpoint" / "b")] == ["b"]
    assert [each.run_id for each in find_spools(root / "logs" / "mlflow" / "spool" / "a")] == ["a"]
    assert find_spools(tmp_path / "nothing") == []


def test_spools_behind_links_are_found_once(tmp_path):
    (tmp_path / "scratch" / "mlflow" / "spool" / "a").mkdir(parents=True)
    (tmp_path / "scratch" / "mlflow" / "spool" / "a" / "records.jsonl").touch()
    (tmp_path / "scratch" / "checkpoint" / "a").mkdir(parents=True)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / "logs").symlink_to(tmp_path / "scratch")
    (outputs / "logs" / "again").symlink_to(outputs)  # a circle
    (outputs / "checkpoint").symlink_to(tmp_path / "scratch" / "checkpoint")
    (found,) = find_spools(outputs)
    assert found.folder == outputs / "logs" / "mlflow" / "spool" / "a"
    assert [each.folder for each in find_spools(outputs / "checkpoint" / "a")] == [found.folder]


@pytest.mark.parametrize(
    ("value", "written"), [(0.1, 0.1), (float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity")]
)
def test_values_of_metrics_are_json(value, written):
    assert metric_value(value) == written
    assert json.loads(json.dumps(metric_value(value), allow_nan=False)) == written
