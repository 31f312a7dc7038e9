"""Recipes of the published datasets: as shipped, for other dates, and as a batch script."""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from anemoi.datasets.create.recipe import Recipe

from anemoi_house.cli import main
from anemoi_house.datasets.recipe import add_missing, archive_entries, names, recipe
from anemoi_house.datasets.request import Request
from anemoi_house.errors import HouseError
from anemoi_house.shipped import config_folder

LEVELS = [100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000]
SURFACE = ["sp", "u10", "v10", "t2m", "t_surface", "sh2", "u80", "v80", "accum_tp", "lsm", "orog"]
FORCINGS = [f"{of}_{name}" for of in ("cos", "sin") for name in ("latitude", "longitude", "julian_day", "local_time")]
FORCINGS.append("insolation")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["recipe", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["recipe", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def variables(content: dict) -> list[str]:
    """What anemoi-datasets will name the variables of one of our recipes."""
    found = []
    for entry in archive_entries(content["input"]):
        for field in Request.of(**entry.settings).fields:
            level = "" if field.level_hpa is None else f"_{field.level_hpa}"
            found.append(f"{field.variable.param}{level}")
    return found + content["input"]["pipe"][0]["join"][1]["forcings"]["param"]


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_that_of_the_published_dataset(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, name)
    assert text == (config_folder() / "datasets" / f"{name}.yaml").read_text()
    content = yaml.safe_load(text)
    on_levels = [f"{param}_{level}" for param in ("gh", "u", "v", "w", "t", "q") for level in LEVELS]
    assert len(variables(content)) == 92
    assert set(variables(content)) == {*on_levels, *SURFACE, *FORCINGS}
    read = Recipe(**content)
    assert len(read.dates.full_dates_list()) == 13147
    assert read.dates.missing == [datetime(2015, 8, 2, 12), datetime(2016, 10, 22, 12)]
    assert read.dates.values[0] == datetime(2015, 2, 1, 6)
    start, end = read.statistics.statistics_dates(read.dates.full_dates_list())
    assert (str(start), str(end)) == ("2015-02-01T06:00:00.000000", "2023-01-31T18:00:00.000000")
    assert read.build.allow_nans is False


def test_the_two_recipes_give_the_same_variables() -> None:
    assert names() == ["gfs_1deg", "hrrr_15km"]
    gfs, hrrr = (variables(yaml.safe_load(recipe(name))) for name in names())
    assert gfs == hrrr


def test_another_period_takes_statistics_and_missing_dates_along(capsys: pytest.CaptureFixture[str]) -> None:
    whole_days = yaml.safe_load(printed(capsys, "hrrr_15km", "--start", "2021-04-01", "--end", "2021-04-02"))
    assert whole_days["dates"] == {
        "start": datetime(2021, 4, 1, 0),
        "end": datetime(2021, 4, 2, 18),
        "frequency": "6h",
    }
    assert whole_days["statistics"] == {"tendencies": ["6h"]}

    text = printed(capsys, "gfs_1deg", "--start", "2016-01-01T06", "--end", "2023-02-28T12:00")
    longer = yaml.safe_load(text)
    assert longer["dates"]["start"] == datetime(2016, 1, 1, 6)
    assert longer["dates"]["end"] == datetime(2023, 2, 28, 12)
    assert longer["dates"]["missing"] == [datetime(2016, 10, 22, 12)]
    assert longer["statistics"]["end"] == datetime(2023, 1, 31, 18)
    shipped = recipe("gfs_1deg")
    assert [line for line in shipped.splitlines() if "#" in line] == [line for line in text.splitlines() if "#" in line]


def test_another_period_of_a_recipe_that_lists_no_missing_dates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(recipe("hrrr_15km"))
    del content["dates"]["missing"], content["statistics"]["end"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("anemoi_house.datasets.recipe._folder", lambda: tmp_path)
    found = yaml.safe_load(recipe("mine", "2021-04-01", "2021-04-02"))
    assert found["dates"] == {"start": datetime(2021, 4, 1), "end": datetime(2021, 4, 2, 18), "frequency": "6h"}
    assert found["statistics"] == {"tendencies": ["6h"]}


def test_other_levels_and_roots_reach_every_source_that_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--levels", "850", "500", "--root", "s3://mine/archive", "--root", "https://host/x"]
    content = yaml.safe_load(printed(capsys, "hrrr_15km", *options))
    analysis, rain = (entry.settings for entry in archive_entries(content["input"]))
    assert analysis["level"] == [850, 500]
    assert "level" not in rain
    assert analysis["roots"] == rain["roots"] == ["s3://mine/archive", "https://host/x"]
    assert [len(Request.of(**settings).fields) for settings in (analysis, rain)] == [22, 1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["hrrr_3km"], "is not a recipe. Use gfs_1deg or hrrr_15km."),
        (["hrrr_15km", "--start", "yesterday"], "--start: 'yesterday' is not a date. Give it as"),
        (["hrrr_15km", "--end", "2021-02-30"], "--end: '2021-02-30' is not in the calendar"),
        (["hrrr_15km", "--start", "2021-04-01T03"], "not on the 6 h cycle. Give T00, T06, T12 or T18"),
        (["hrrr_15km", "--start", "2021-04-02", "--end", "2021-04-01"], "the end is before the start"),
        (["hrrr_15km", "--start", "2025-01-01"], "--end 2024-01-31T18: the end is before the start"),
        (["hrrr_15km", "--levels", "500", "low"], "--levels 500 low: invalid. Give different pressures in whole hPa"),
        (["hrrr_15km", "--levels", "500", "500"], "--levels 500 500: invalid. Give different pressures"),
        (["hrrr_15km", "--root", "ftp://host"], "ftp:// is not supported"),
        (["hrrr_15km", "--sbatch", "0"], "--sbatch 0: invalid. Give the number of parts"),
        (["hrrr_15km", "--sbatch", "2", "--output", "x.nc"], "ends in .zarr"),
        (["hrrr_15km", "--account", "mine"], "--account: is only valid with --sbatch N"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refused(capsys, *arguments)


USERS = """\
# mine
description: "quoted"   # why
dates:
    start: 2021-04-01T00:00:00
    end: 2021-04-03T18:00:00   # all
    frequency: 6h
{missing}input:
    join:
    - house-noaa: {{model: hrrr, param: [sp]}}  # the source
"""


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("", [1, 9]),
        ("    missing: []  # none\n", [1, 9]),
        ("    missing:   # none\n", [1, 9]),
        ("    missing: [2021-04-01T18:00:00]\n", [1, 3, 9]),
        ("    missing: [2021-04-01 00:00:00,\n      2021-04-03T18:00:00]\n", [0, 1, 9, 11]),
        ("    missing:  # seen\n    - 2021-04-01T18:00:00  # no file\n", [1, 3, 9]),
        ("    missing:\n\n      - '2021-04-01T18:00:00'\n      # later\n      - 2021-04-03T18:00:00\n", [1, 3, 9, 11]),
        ("    missing:\n    - start: 2021-04-01T12:00:00\n      end: 2021-04-01T18:00:00\n", [1, 2, 3, 9]),
    ],
)
def test_missing_dates_go_into_a_users_recipe_and_nothing_else_changes(
    tmp_path: Path, before: str, expected: list[int]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(USERS.format(missing=before))
    path.chmod(0o640)
    add_missing(path, [datetime(2021, 4, 1, 6), datetime(2021, 4, 3, 6)])
    text = path.read_text()
    dates = Recipe(**yaml.safe_load(text)).dates
    assert [(date - dates.start) // dates.frequency for date in dates.missing] == expected
    kept = re.sub(r"2021-04-0(1T06|3T06):00:00|[\s,\[\]-]|missing:", "", text)
    assert kept == re.sub(r"[\s,\[\]-]|missing:", "", USERS.format(missing=before))
    assert text.splitlines()[:3] == USERS.splitlines()[:3]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_missing_dates_go_into_dates_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("dates: {start: 2021-04-01, end: 2021-04-02, frequency: 6h} # all\n")
    add_missing(path, [datetime(2021, 4, 1, 6)])
    assert path.read_text() == (
        "dates: {start: 2021-04-01, end: 2021-04-02, frequency: 6h, missing: [2021-04-01T06:00:00]} # all\n"
    )


def test_missing_dates_go_below_the_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for last in ("  frequency: 6h # h", "  frequency: 6h"):
        path.write_text(f"dates:\n  start: 2021-04-01\n{last}")
        add_missing(path, [datetime(2021, 4, 1, 6)])
        assert path.read_text() == f"dates:\n  start: 2021-04-01\n{last}\n  missing:\n    - 2021-04-01T06:00:00"
    path.write_text("dates:\n  start: 2021-04-01\n  more: {a: 1}\n")
    add_missing(path, [datetime(2021, 4, 1, 6)])
    assert yaml.safe_load(path.read_text())["dates"]["missing"] == [datetime(2021, 4, 1, 6)]


def test_missing_dates_that_cannot_be_written_are_printed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "some: &them [2021-04-02T00:00:00]\ndates: {missing: *them}\n"
    path.write_text(text)
    with pytest.raises(HouseError, match="Add these to its missing: 2021-04-01T06:00:00"):
        add_missing(path, [datetime(2021, 4, 1, 6)])
    assert path.read_text() == text


FAKES = {
    "squeue": '[ -e busy ] && echo "1 batch load"; true',
    # Runs every job immediately, in the order of submission, as SLURM's spooled copy of the script.
    "sbatch": """
        tasks=none
        while [ "${1#--}" != "$1" ]; do
            case $1 in
                --array=*) tasks=$(seq -s' ' ${1#--array=1-}) ;;
                --dependency=afterok:7) [ ! -e failed ] || exit 0 ;;
                --dependency=*) echo "$1" >&2; exit 1 ;;
            esac
            shift
        done
        cp "$1" spooled.sh
        for task in $tasks; do
            SLURM_ARRAY_TASK_ID=$task bash spooled.sh "$2" >>jobs.log 2>&1 || touch failed
        done
        echo "7;cluster"
    """,
    "anemoi-datasets": """
        echo "$*" >>commands
        case $1 in
            init) cp "$2" read.yaml; mkdir -p "$3/_build"; [ ! -e stop ] || exit 1 ;;
            load) [ "$4" != 2/3 ] || [ ! -e corrupt ] || exit 1; touch "$2/_build/${4%/*}" ;;
            finalise) rm -r "$2/_build" ;;
        esac
    """,
    "anemoi-house": '[ -e "$2/_build/1" ] && [ -e "$2/_build/2" ] && [ -e "$2/_build/3" ]',
}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Environment in which commands are small stand-ins that note how they are called."""
    for name, body in FAKES.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/bash\n{body}\n")
        command.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def test_batch_script_builds_resumes_and_stops_when_it_is_done(
    tmp_path: Path, cluster: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    options = ["--start", "2021-04-01", "--end", "2021-04-03"]
    batch = ["--sbatch", "3", "--output", "my data.zarr", "--account", "mine", "--partition", "p", "--time", "1:00:00"]
    (folder / "build.sh").write_text(script := printed(capsys, "hrrr_15km", *options, *batch))
    for line in ("#SBATCH --account=mine", "#SBATCH --partition=p", "#SBATCH --time=1:00:00"):
        assert script.index(line) < script.index("set -euo pipefail")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(folder / "build.sh")], cwd=tmp_path, env=cluster, capture_output=True, text=True
        )

    def commands() -> list[str]:
        lines = (folder / "commands").read_text().splitlines()
        (folder / "commands").unlink()
        return lines

    (folder / "stop").touch()  # at the end of init
    assert run().returncode == 1
    assert not (folder / "my data.zarr").exists()
    init = "init hrrr_15km.yaml my data.init.zarr --overwrite"
    assert commands() == [init]
    assert (folder / "read.yaml").read_text() == printed(capsys, "hrrr_15km", *options)

    (folder / "stop").unlink()
    (folder / "corrupt").touch()  # part 2
    (folder / "hrrr_15km.yaml").write_text("edited: true\n")
    assert run().returncode == 0
    loads = [f"load my data.zarr --parts {part}/3" for part in (1, 2, 3)]
    assert commands() == [init, *loads]
    assert (folder / "read.yaml").read_text() == "edited: true\n"

    (folder / "busy").touch()
    assert "jobs of this name already exist" in run().stderr
    (folder / "busy").unlink()

    for name in ("corrupt", "failed"):
        (folder / name).unlink()
    statistics = folder / "my data.zarr.work_dir" / "statistics_000000-000000000-000000003.pkl"
    statistics.parent.mkdir()
    statistics.touch()
    assert run().returncode == 0
    assert commands() == [*loads, "finalise my data.zarr"]
    assert not statistics.exists()
    done = run()
    assert (done.returncode, done.stdout) == (0, "")
    assert not (folder / "commands").exists()


def test_batch_script_does_not_finish_what_is_not_loaded(
    tmp_path: Path, cluster: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "build.sh").write_text(printed(capsys, "gfs_1deg", "--sbatch", "3"))
    (tmp_path / "gfs_1deg.zarr" / "_build").mkdir(parents=True)
    finalise = subprocess.run(["bash", "build.sh", "finalise"], cwd=tmp_path, env=cluster)
    assert finalise.returncode != 0
    assert not (tmp_path / "commands").exists()
    assert subprocess.run(["bash", "build.sh", "other"], cwd=tmp_path, capture_output=True).returncode == 2


def test_batch_script_is_plain_bash(capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, "hrrr_15km", "--sbatch", "3", "--output", "it's.zarr")
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "@" not in script.replace("${", "")
    shell = script.split("submit()")[0] + 'printf %s "$name $parts"'
    told = subprocess.run(["bash"], input=shell, text=True, capture_output=True).stdout
    assert told == "it's 3"
    assert json.dumps(script).count("#SBATCH") == 3
