"""What `anemoi-house scan` finds in an archive with holes, and how an interrupted scan continues."""

from __future__ import annotations

import errno
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import yaml
from anemoi.datasets.create.recipe import Recipe
from noaa.files import HRRR, write_date
from noaa.servers import Fault, Server, http_server

from anemoi_house.cli import main
from anemoi_house.datasets import scan as scanning
from anemoi_house.datasets import scan_state, stores
from anemoi_house.datasets.recipe import recipe
from anemoi_house.datasets.request import _archive

SMALL = HRRR.thinned(60)
STEP = timedelta(hours=6)
START = datetime(2021, 4, 1)
DATES = [START + k * STEP for k in range(10)]
ABSENT, NO_RAIN, SHORT, FOREIGN, LACKING = (DATES[k] for k in (1, 3, 5, 6, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of ten dates, five of which have a fault that stays."""
    folder = tmp_path_factory.mktemp("archive")
    for date in DATES:
        write_date(folder, SMALL, date, [500] if date == LACKING else [500, 850])
    bucket = folder / SMALL.bucket

    def remove(run: datetime, lead: int) -> None:
        for path in bucket.glob(f"{SMALL.path(run, lead)}*"):
            path.unlink()

    remove(ABSENT, 0)
    remove(NO_RAIN - STEP, 6)
    whole = (bucket / SMALL.path(SHORT, 0)).read_bytes()
    (bucket / SMALL.path(SHORT, 0)).write_bytes(whole[: len(whole) // 2])
    index = (bucket / (SMALL.path(DATES[0], 0) + ".idx")).read_bytes()
    (bucket / (SMALL.path(FOREIGN, 0) + ".idx")).write_bytes(index)
    return bucket


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(stores, "FIRST_PAUSE_S", 0.02)
    _archive.cache_clear()
    with http_server(folder) as running:
        yield running


def written(tmp_path: Path, root: str, patience_s: float | None = None, end: datetime = DATES[-1]) -> Path:
    """Recipe of the ten dates, with a comment to lose."""
    text = recipe("hrrr_15km", f"{START:%Y-%m-%dT%H}", f"{end:%Y-%m-%dT%H}", [root], ["500", "850"])
    if patience_s:
        text = text.replace("model: hrrr", f"model: hrrr\n                    patience_s: {patience_s}")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def missing(path: Path) -> list[datetime]:
    return Recipe(**yaml.safe_load(path.read_text())).dates.missing


def asked_for(server: Server) -> set[str]:
    """Runs that a server was asked for."""
    paths = [request.path for request in server.requests]
    return {path.split("/")[1][5:] + path.split("hrrr.t")[1][:2] for path in paths}


def test_faults_that_stay_are_missing_dates_with_a_reason(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, server.url)
    before = path.read_text()
    assert main(["scan", str(path), "--jobs", "3"]) == 0
    bad = [ABSENT, NO_RAIN, SHORT, FOREIGN, LACKING]
    assert missing(path) == bad
    lines = [f"    - {date:%Y-%m-%dT%H:%M:%S}" for date in bad]
    assert [line for line in path.read_text().splitlines() if line not in [*lines, "  missing:"]] == before.splitlines()

    report = json.loads((tmp_path / "mine.scan.json").read_text())
    assert (report["good"], report["listed"], report["unknown"]) == (5, 0, [])
    assert [datetime.fromisoformat(entry["date"]) for entry in report["missing"]] == bad
    reasons = ["has no hrrr.20210401/conus/", "+6h: ", "it is cut short", "does not belong to it", "HGT 850 mb"]
    for entry, reason in zip(report["missing"], reasons):
        assert reason in entry["reason"]
    text = capsys.readouterr().out
    assert "10 dates" in text
    assert all(f"{date:%Y-%m-%dT%H}  " in text for date in bad)

    assert main(["scan", str(path), "--report", str(tmp_path / "again.json")]) == 0
    assert missing(path) == bad
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["good"], again["listed"], again["missing"]) == (5, 5, [])


def test_a_server_that_does_not_answer_makes_no_date_missing(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, server.url, 0.2)
    server.inject(Fault(r"hrrr\.20210402/.*t00z.*f00", 503), Fault(r"hrrr\.20210403/.*t00z.*f00", 403))
    assert main(["scan", str(path)]) == 1
    unknown = [DATES[4], DATES[8]]
    bad = [ABSENT, NO_RAIN, SHORT, FOREIGN]
    assert missing(path) == bad
    report = json.loads((tmp_path / "mine.scan.json").read_text())
    assert [entry["date"] for entry in report["unknown"]] == [date.isoformat() for date in unknown]
    assert "gave up after 0.2 s" in report["unknown"][0]["reason"]
    assert "access denied" in report["unknown"][1]["reason"]

    server.heal()
    server.forget()
    assert main(["scan", str(path)]) == 0
    assert missing(path) == [*bad, LACKING]
    # Dates that were good are not asked for again; rain comes from the run before.
    assert asked_for(server) == {f"{run:%Y%m%d%H}" for date in unknown for run in (date, date - STEP)}
    capsys.readouterr()


def test_a_scan_gives_up_where_nothing_answers(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scanning, "GIVE_UP_AFTER", 3)
    path = written(tmp_path, server.url, 0.05)
    before = path.read_text()
    server.inject(Fault("", 500))
    assert main(["scan", str(path), "--jobs", "1"]) == 1
    assert path.read_text() == before
    unknown = json.loads((tmp_path / "mine.scan.json").read_text())["unknown"]
    assert len(unknown) == len(DATES)
    assert sum("not asked for" in entry["reason"] for entry in unknown) == len(DATES) - 3
    assert "unknown  10" in capsys.readouterr().out


def test_a_wrong_root_leaves_the_recipe_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    path = written(tmp_path, str(tmp_path / "empty"))
    before = path.read_text()
    assert main(["scan", str(path)]) == 1
    assert "no date is good, so the recipe is unchanged. Check its roots" in capsys.readouterr().err
    assert path.read_text() == before

    path = written(tmp_path, str(tmp_path / "nowhere"))
    before = path.read_text()
    assert main(["scan", str(path)]) == 1
    assert "the directory does not exist" in capsys.readouterr().out
    assert path.read_text() == before


def test_a_killed_scan_continues(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, server.url)
    assert main(["scan", str(path)]) == 0
    found = missing(path)
    state = tmp_path / "mine.scan.jsonl"
    lines = state.read_text().splitlines()
    assert len(lines) == 1 + len(DATES)
    good = [line for line in lines if '"good"' in line]

    # Killed while it wrote about the third good date, before it wrote the recipe.
    written(tmp_path, server.url)
    state.write_text("\n".join([lines[0], *good[:2], good[2][:30]]))
    server.forget()
    assert main(["scan", str(path)]) == 0
    assert "2 dates are already known to be good, 8 are left" in capsys.readouterr().err
    assert missing(path) == found
    torn = datetime.fromisoformat(json.loads(good[2])["date"])
    assert f"{torn:%Y%m%d%H}" in asked_for(server)
    assert all(isinstance(json.loads(line), dict) for line in state.read_text().splitlines())

    # A recipe of other fields knows nothing of these dates.
    path.write_text(path.read_text().replace("level: [500, 850]", "level: [500]"))
    assert main(["scan", str(path)]) == 0
    assert "of other requests than the recipe's; starting again" in capsys.readouterr().err


def test_ctrl_c_ends_immediately_and_says_how_to_continue(tmp_path: Path, server: Server) -> None:
    path = written(tmp_path, server.url, 60.0)
    server.inject(Fault(r"hrrr\.20210402/.*t00z.*f00", 503))
    command = [sys.executable, "-m", "anemoi_house", "scan", str(path), "--jobs", "4"]
    # As from a terminal: where the tests run in the background, Ctrl-C is ignored, and so it would be here.
    ctrl_c = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=ctrl_c)
    state = tmp_path / "mine.scan.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (state.exists() and len(state.read_text().splitlines()) > 9):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (1, "")
    expected = r"anemoi-house: interrupted after 9 of 10 dates\. Run the same command to continue\."
    assert re.fullmatch(expected, err.splitlines()[-1])
    assert "Traceback" not in err
    assert missing(path) == []


def test_sources_in_a_concat_are_asked_for_their_dates_alone(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, str(folder))
    content = yaml.safe_load(path.read_text())
    analysis, rain = content["input"]["pipe"][0]["join"][0]["pipe"][0]["join"]
    first = {"dates": {"start": DATES[0], "end": DATES[4], "frequency": "6h"}, **analysis}
    second = {"dates": {"start": DATES[5], "end": DATES[9], "frequency": "6h"}, **rain}
    content["input"] = {"concat": [first, second]}
    path.write_text(yaml.safe_dump(content))
    assert main(["scan", str(path)]) == 0
    assert missing(path) == [ABSENT]
    capsys.readouterr()


def without(key: str) -> str:
    content = yaml.safe_load(recipe("hrrr_15km"))
    del content[key]
    return yaml.safe_dump(content)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("a: [1", "not valid YAML"),
        ("- a\n", "not a recipe"),
        (without("dates"), "'dates' is required"),
        (without("input"), "has no house-noaa"),
        (recipe("hrrr_15km").replace("frequency: 6h", "frequency: often"), "often"),
        (recipe("hrrr_15km").replace("model: hrrr", "model: rap"), "model: 'rap' is unknown. Use gfs or hrrr."),
        (recipe("hrrr_15km").replace("param:", "params:", 1), "'params' is not a setting of this source"),
        (recipe("hrrr_15km").replace("house-noaa", "house-noah"), "house_noah"),
        (recipe("hrrr_15km").replace("2015-02-01", "2013-02-01"), "input.pipe.0.join.0.pipe.0.join.0.house-noaa: hrrr"),
        (recipe("gfs_1deg").replace("frequency: 6h", "frequency: 3h"), "gfs runs every 6 hours"),
    ],
)
def test_a_recipe_that_is_none_ends_in_one_line(
    text: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["scan", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == (["mine.yaml"] if text is not None else [])


def test_a_state_that_cannot_be_written_ends_in_one_line(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = written(tmp_path, str(folder))
    with monkeypatch.context() as patched:
        patched.setattr(scan_state, "write_whole", full)
        assert main(["scan", str(path)]) == 1
    error = capsys.readouterr().err
    assert "mine.scan.jsonl: cannot be written (No space left on device)" in error
    assert error.count("\n") == 1
    assert main(["scan", str(path), "--jobs", "0"]) == 1
    assert "--jobs 0: invalid. Give 1 or more" in capsys.readouterr().err
