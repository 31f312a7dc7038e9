"""Dates that are taken out of a dataset while it is built, with the stock commands around it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr
from anemoi.datasets.create.tasks import run_task
from noaa.files import HRRR, Record, sections, write_file

from anemoi_house.cli import main
from anemoi_house.datasets import missing
from anemoi_house.datasets.recipe import add_missing
from anemoi_house.upstream.errors import CommandError

SMALL = HRRR.thinned(60)
STEP = timedelta(hours=6)
DATES = [datetime(2021, 4, 1) + k * STEP for k in range(12)]
CORRUPT = DATES[6]
RECORDS = ("TMP:2 m above ground", "PRES:surface", "LAND:surface")


@pytest.fixture(autouse=True)
def _stock_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stock commands set how NumPy treats errors, and take seconds to note which packages there are."""
    monkeypatch.setattr("anemoi.utils.provenance.gather_provenance_info", dict)
    with np.errstate():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of three days, with a message in the second that cannot be right."""
    folder = tmp_path_factory.mktemp("archive")
    for date in DATES:
        path = folder / SMALL.path(date, 0)
        placed = write_file(path, SMALL, date, 0, [Record(*record.split(":")) for record in RECORDS])
        if date == CORRUPT:
            content = bytearray(path.read_bytes())
            wrong = placed[1]
            message = bytes(content[wrong.offset : wrong.offset + wrong.length])
            start = wrong.offset + next(start for number, start, _ in sections(message) if number == 5)
            content[start + 11 : start + 15] = np.float32(1e9).astype(">f4").tobytes()  # reference value
            path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe of the three days."""
    source = {
        "model": "hrrr",
        "param": ["t2m", "sp", "lsm"],
        "shape": list(SMALL.grid.shape),
        "roots": [str(folder)],
    }
    content = {
        "dates": {"start": DATES[0], "end": DATES[-1], "frequency": "6h"},
        "input": {"pipe": [{"house-noaa": source}, {"house-same-grid": {}}]},
        "output": {"dtype": "float32", "chunking": {"dates": 1, "ensembles": 1}},
        "statistics": {"tendencies": ["6h"]},
        "build": {"group_by": "daily", "allow_nans": False},
    }
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def begun(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset of which nothing is loaded."""
    path = tmp_path_factory.mktemp("begun") / "small.zarr"
    with np.errstate():
        run_task("init", recipe=str(written), path=str(path))
    return path


@pytest.fixture
def dataset(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(begun, tmp_path / "small.zarr"))


def stock(task: str, path: Path, **options: str) -> None:
    run_task(task, path=str(path), **options)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["missing", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def contents(path: Path) -> dict[str, bytes]:
    """All files of a store but those that tell of the build."""
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    attributes = json.loads(files.pop(".zattrs"))
    of_the_build = ("uuid", "provenance_load", "latest_write_timestamp", "total_size")
    kept = {key: value for key, value in attributes.items() if key not in of_the_build}
    return files | {".zattrs": json.dumps(kept, sort_keys=True).encode()}


@pytest.mark.parametrize("gone", [[6], [6, 4, 5, 7], [6, 11]])
def test_it_becomes_what_a_recipe_with_these_dates_missing_makes(
    dataset: Path, written: Path, tmp_path: Path, gone: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    dates = [DATES[position] for position in gone]
    with pytest.raises(CommandError, match=r"2021-04-02T12: .*PRES surface analysis: damaged: values from"):
        stock("load", dataset)
    capsys.readouterr()
    assert main(["missing", str(dataset)]) == 1
    assert "8 of 12 dates are still to be loaded, in 2 of 3 groups, from 2021-04-02T00 to" in capsys.readouterr().out

    assert main(["missing", str(dataset), *(f"{date:%Y-%m-%dT%H}" for date in dates)]) == 0
    assert f"{8 - len(gone)} of {12 - len(gone)} dates" in capsys.readouterr().out
    stock("load", dataset)
    capsys.readouterr()
    assert main(["missing", str(dataset)]) == 0
    assert "all" in capsys.readouterr().out
    stock("finalise", dataset)

    from_the_start = tmp_path / "from_the_start.yaml"
    from_the_start.write_text(written.read_text())
    add_missing(from_the_start, dates)
    other = tmp_path / "other" / "small.zarr"
    run_task("init", recipe=str(from_the_start), path=str(other))
    stock("load", other)
    stock("finalise", other)
    assert contents(dataset) == contents(other)
    attributes = zarr.open(str(dataset), "r").attrs
    assert attributes["missing_dates"] == [date.isoformat() for date in sorted(dates)]
    data = zarr.open(str(dataset), "r")["data"][:]
    assert sorted(np.flatnonzero(np.isnan(data).any(axis=(1, 2, 3)))) == sorted(gone)
    assert "is finished" in refused(capsys, dataset)


def test_loads_by_parts_go_on_and_are_finished(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock("load", dataset, parts="1/3")
    statistics = Path(f"{dataset}.work_dir")
    assert list(statistics.glob("*.pkl"))
    assert main(["missing", str(dataset), f"{CORRUPT:%Y-%m-%dT%H}"]) == 0
    assert not list(statistics.glob("*.pkl"))
    for part in ("2/3", "3/3"):
        stock("load", dataset, parts=part)
    assert main(["missing", str(dataset)]) == 0
    capsys.readouterr()


def test_what_cannot_be_taken_out_is_refused(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock("load", dataset, parts="1/3")
    before = contents(dataset)
    assert "2021-04-01T06: is already loaded" in refused(capsys, dataset, "2021-04-01T06")
    assert "2021-04-04T00: is not in this dataset, which is from 2021-04-01T00 to" in refused(
        capsys, dataset, "2021-04-04T00"
    )
    assert "2021-04-02T07: is not in this dataset" in refused(capsys, dataset, "2021-04-02T12", "2021-04-02T07")
    assert "DATE: '2021-04-02' is not a date. Give it as" in refused(capsys, dataset, "2021-04-02")
    assert "is not a dataset. Create one with" in refused(capsys, dataset.with_name("other.zarr"))
    assert contents(dataset) == before
    assert main(["missing", str(dataset), "2021-04-02T12"]) == 0
    assert "2021-04-02T12: is already missing" in refused(capsys, dataset, "2021-04-02T12")


def test_groups_that_would_become_others_are_refused(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attributes = json.loads((dataset / ".zattrs").read_text())
    attributes["_recipe"]["build"]["group_by"] = 4
    (dataset / ".zattrs").write_text(json.dumps(attributes))
    before = contents(dataset)
    assert "build.group_by: 4: without 2021-04-02T12 the groups" in refused(capsys, dataset, "2021-04-02T12")
    assert contents(dataset) == before


@pytest.mark.parametrize("gone", [[6], [4, 5, 6, 7]])
@pytest.mark.parametrize("killed_at", ["update_metadata", "_put_in_place"])
def test_a_kill_in_between_stops_the_stock_commands_and_is_mended(
    dataset: Path,
    gone: list[int],
    killed_at: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class KilledError(Exception):
        pass

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    dates = [f"{DATES[position]:%Y-%m-%dT%H}" for position in gone]
    whole = contents(dataset)
    target = missing.Dataset if killed_at == "update_metadata" else missing._Building
    with monkeypatch.context() as patched:
        patched.setattr(target, killed_at, kill)
        with pytest.raises(KilledError):
            main(["missing", str(dataset), *dates])
    with pytest.raises(KeyError, match="_build"):
        stock("load", dataset, parts="1/3")

    assert main(["missing", str(dataset)]) == 1
    if killed_at == "update_metadata":
        assert "12 of 12 dates" in capsys.readouterr().out
        for name in list(dataset.glob("_build.next")):
            shutil.rmtree(name)
        assert contents(dataset) == whole
        assert main(["missing", str(dataset), *dates]) == 0
    left = 12 - len(gone)
    assert f"{left} of {left} dates" in capsys.readouterr().out
    assert sorted(path.name for path in dataset.glob("_build*")) == ["_build"]
    stock("load", dataset)
    assert main(["missing", str(dataset)]) == 0


def test_an_init_that_was_stopped_is_reported(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(dataset / "_build")
    assert "init was stopped. Run it again with --overwrite" in refused(capsys, dataset)
