"""Faults of servers: those that pass are waited out, the others end in one line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from noaa.files import HRRR, analysis_records, write_date
from noaa.servers import Fault, Server, http_server

from anemoi_house.datasets import stores
from anemoi_house.datasets.archive import Archive
from anemoi_house.datasets.models import model
from anemoi_house.datasets.request import Request
from anemoi_house.datasets.stores import AbsentError, ArchiveError, Store, StoreSettings

DATE = datetime(2021, 4, 1, 6)
LEVELS = [500, 850]
SMALL = HRRR.thinned(60)
FILE = SMALL.path(DATE, 0)
REQUEST = Request.of(model="hrrr", param=["t", "u", "v", "sp", "lsm"], level=LEVELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_date(folder, SMALL, DATE, LEVELS)
    return folder / SMALL.bucket


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with http_server(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "FIRST_PAUSE_S", 0.02)


def archive(server: Server, tmp_path: Path, patience_s: float = 1.0) -> Archive:
    return Archive(model("hrrr"), [StoreSettings(server.url)], patience_s, tmp_path)


def fetch(server: Server, tmp_path: Path, patience_s: float = 1.0) -> list[bytes]:
    found = archive(server, tmp_path, patience_s).fetch(DATE, 0, REQUEST.fields)
    return [message.content for message in found]


def sent(server: Server, expected: int, path: str = "") -> int:
    """Bytes sent so far; the server notes a request a moment after its answer has arrived."""
    until = time.monotonic() + 2
    while server.bytes_sent(path) < expected and time.monotonic() < until:
        time.sleep(0.01)
    return server.bytes_sent(path)


@pytest.fixture(scope="module")
def truth(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    local = Archive(model("hrrr"), [StoreSettings(str(folder))], 1.0, tmp_path_factory.mktemp("indexes"))
    return [message.content for message in local.fetch(DATE, 0, REQUEST.fields)]


def test_only_what_is_asked_for_is_fetched(server: Server, folder: Path, tmp_path: Path, truth: list[bytes]) -> None:
    assert fetch(server, tmp_path) == truth
    # The land mask is the last message, whose length its first 16 bytes say.
    expected = sum(len(message) for message in truth) + (folder / f"{FILE}.idx").stat().st_size + 16
    assert sent(server, expected) == expected < (folder / FILE).stat().st_size / 2


@pytest.mark.parametrize("kind", [429, 500, 503, "reset", "short", "timeout"])
@pytest.mark.parametrize("where", [r"\.idx$", r"\.grib2$"])
def test_what_passes_is_waited_out(server: Server, tmp_path: Path, truth: list[bytes], kind, where: str) -> None:
    # A request is gave up after a third of the patience.
    server.inject(Fault(where, kind, times=1 if kind == "timeout" else 4))
    assert fetch(server, tmp_path, patience_s=3.0 if kind == "timeout" else 20.0) == truth


def test_waiting_is_logged(server: Server, tmp_path: Path, truth: list[bytes], caplog) -> None:
    server.inject(Fault(r"\.grib2$", 503, times=6))
    assert fetch(server, tmp_path, patience_s=20.0) == truth
    assert f"{server.url}/{FILE}: Server returned non-2xx status code: 503" in caplog.text
    assert "retrying in 0.02 s" in caplog.text


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (503, r"503 Service Unavailable.*; gave up after 1 s\. Check that .* is correct and reachable"),
        ("reset", r"gave up after 1 s"),
        ("short", r"gave up after 1 s"),
        (403, r"access denied\. Check the root"),
        (401, r"access denied\. Check the root"),
        ("ignore-range", r"the server does not support byte ranges"),
    ],
)
def test_what_does_not_pass_ends_in_one_line(server: Server, tmp_path: Path, kind, told: str) -> None:
    server.inject(Fault(r"\.grib2$", kind, times=None))
    with pytest.raises(ArchiveError, match=told) as failure:
        fetch(server, tmp_path)
    line = str(failure.value)
    assert "\n" not in line
    assert f"{server.url}/{FILE}" in line
    assert not isinstance(failure.value, AbsentError)


def test_a_page_in_place_of_the_index(server: Server, tmp_path: Path) -> None:
    server.inject(Fault(r"\.idx$", "html", times=None))
    with pytest.raises(ArchiveError, match=r"wrfprsf00\.grib2\.idx line 1 is a web page"):
        fetch(server, tmp_path)


def test_a_file_that_is_cut_short(server: Server, tmp_path: Path, truth: list[bytes]) -> None:
    server.inject(Fault(r"\.grib2$", "truncated", offset=len(truth[0]), times=None))
    with pytest.raises(ArchiveError, match="ends before what its index lists: it is cut short"):
        fetch(server, tmp_path)
    with pytest.raises(ArchiveError, match=r"its last message ends at|ends before what its index lists"):
        archive(server, tmp_path).check(DATE, 0, REQUEST.fields)


def test_a_check_reads_no_field(server: Server, folder: Path, tmp_path: Path, truth: list[bytes]) -> None:
    assert archive(server, tmp_path).check(DATE, 0, REQUEST.fields) == sum(len(message) for message in truth)
    expected = 16 + (folder / f"{FILE}.idx").stat().st_size
    assert sent(server, expected) == expected


def test_a_file_with_bytes_too_many_is_not_that_of_its_index(server: Server, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / FILE
    copy.parent.mkdir(parents=True)
    copy.write_bytes((folder / FILE).read_bytes() * 2)
    Path(f"{copy}.idx").write_bytes(Path(f"{folder / FILE}.idx").read_bytes())
    there = Archive(model("hrrr"), [StoreSettings(str(tmp_path / "copy"))], 1.0, tmp_path)
    with pytest.raises(ArchiveError, match=r"its \.idx is another file's"):
        there.check(DATE, 0, REQUEST.fields)


def test_a_local_file_that_is_cut_short_is_not_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("The file is waited for."))
    copy = tmp_path / "copy" / FILE
    copy.parent.mkdir(parents=True)
    copy.write_bytes((folder / FILE).read_bytes()[:2000])
    Path(f"{copy}.idx").write_bytes(Path(f"{folder / FILE}.idx").read_bytes())
    there = Archive(model("hrrr"), [StoreSettings(str(tmp_path / "copy"))], 300.0, tmp_path)
    for ask in (there.fetch, there.check):
        with pytest.raises(ArchiveError, match="ends before what its index lists: it is cut short"):
            ask(DATE, 0, REQUEST.fields)


def test_threads_do_not_wait_for_each_other(server: Server, tmp_path: Path) -> None:
    """One date that hangs holds up no other."""
    later = SMALL.path(DATE.replace(hour=12), 0)
    server.inject(Fault(later, "timeout", times=None))
    shared = archive(server, tmp_path, patience_s=30.0)
    slow = threading.Thread(target=lambda: suppress_errors(shared, DATE.replace(hour=12)), daemon=True)
    slow.start()
    shared.check(DATE, 0, REQUEST.fields)
    assert slow.is_alive()  # the other date still hangs
    server.heal()
    slow.join()


def suppress_errors(shared: Archive, date: datetime) -> None:
    with suppress(ArchiveError):
        shared.check(date, 0, REQUEST.fields)


def test_an_index_alone_is_no_file(folder: Path, tmp_path: Path) -> None:
    lone = tmp_path / "copy" / f"{FILE}.idx"
    lone.parent.mkdir(parents=True)
    lone.write_bytes(Path(f"{folder / FILE}.idx").read_bytes())
    there = Archive(model("hrrr"), [StoreSettings(str(tmp_path / "copy"))], 1.0, tmp_path)
    with pytest.raises(ArchiveError, match=r"does not exist, only its \.idx"):
        there.check(DATE, 0, REQUEST.fields)
    with pytest.raises(ArchiveError, match="does not exist"):
        there.fetch(DATE, 0, REQUEST.fields)


def test_an_index_of_another_run(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / FILE
    copy.parent.mkdir(parents=True)
    copy.write_bytes((folder / FILE).read_bytes())
    text = Path(f"{folder / FILE}.idx").read_text()
    Path(f"{copy}.idx").write_text(text.replace("d=2021040106", "d=2021040112"))
    there = Archive(model("hrrr"), [StoreSettings(str(tmp_path / "copy"))], 1.0, tmp_path)
    with pytest.raises(
        ArchiveError, match=r"has an \.idx that does not belong to it: of the run 2021-04-01T12, not 2021-04-01T06"
    ):
        there.fetch(DATE, 0, REQUEST.fields)


def test_an_index_is_made_once_where_there_is_none(folder: Path, tmp_path: Path, truth: list[bytes]) -> None:
    copy = tmp_path / "copy" / FILE
    copy.parent.mkdir(parents=True)
    copy.write_bytes((folder / FILE).read_bytes())
    with http_server(tmp_path / "copy") as server:
        assert fetch(server, tmp_path / "kept") == truth
        headers = [request for request in server.requests if request.sent <= 512 and request.path.endswith("grib2")]
        assert len(headers) >= len(analysis_records(LEVELS))
        time.sleep(0.1)
        server.forget()
        assert fetch(server, tmp_path / "kept") == truth
        expected = sum(len(message) for message in truth)
        assert sent(server, expected, r"\.grib2$") == expected


def test_the_second_root_gives_what_the_first_has_damaged(
    server: Server, folder: Path, tmp_path: Path, truth: list[bytes]
) -> None:
    server.inject(Fault(r"\.grib2$", "truncated", offset=len(truth[0]), times=None))
    both = Archive(model("hrrr"), [StoreSettings(server.url), StoreSettings(str(folder))], 1.0, tmp_path)
    messages = both.fetch(DATE, 0, REQUEST.fields)
    assert [message.content for message in messages] == truth
    assert all(str(folder) in message.where for message in messages)


@pytest.mark.parametrize(
    ("root", "told"),
    [
        (
            "http://no-such-host.invalid/archive",
            r"gave up after 1 s\. Check that http://no-such-host.invalid/archive is",
        ),
        ("http://127.0.0.1:9/archive", r"gave up after 1 s\. Check that http://127.0.0.1:9/archive is correct"),
        ("{tmp}/nowhere", "the directory does not exist"),
    ],
)
def test_a_root_that_is_none_ends_in_one_line(tmp_path: Path, root: str, told: str) -> None:
    with pytest.raises(ArchiveError, match=told) as failure:
        Archive(model("hrrr"), [StoreSettings(root.format(tmp=tmp_path))], 1.0, tmp_path).fetch(DATE, 0, REQUEST.fields)
    assert "\n" not in str(failure.value)
    assert not isinstance(failure.value, AbsentError)


def test_patience_has_an_end_that_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that stands still between pauses."""
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(pauses), sleep=pauses.append)
    monkeypatch.setattr(stores, "time", clock)
    server.inject(Fault(".", 503, times=None))
    with pytest.raises(ArchiveError, match="gave up after 2 s"):
        Store(StoreSettings(server.url), patience_s=2.0).get("file")
    assert 1.0 < sum(pauses) <= 2.0 < sum(pauses) + 2 * pauses[-1]


def test_touching_ranges_go_as_one_request(server: Server, folder: Path) -> None:
    content = (folder / FILE).read_bytes()
    store = Store(StoreSettings(server.url), 1.0)
    got = store.ranges(FILE, [(0, 100), (100, 50), (5000, 10)])
    assert got == [content[:100], content[100:150], content[5000:5010]]
    assert sent(server, 160) == 160
    assert sorted(request.sent for request in server.requests) == [10, 150]
