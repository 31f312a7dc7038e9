"""Commands where the packages of the extras are blocked, as if they were not installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from anemoi_house import cli
from anemoi_house.extras import extras_named

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NEEDS = {
    "recipe gfs_1deg": "datasets",
    "scan recipe.yaml": "datasets",
    "missing data.zarr": "datasets",
    "forecast . --dates 2020-01-01T00 --lead-time 6h": "forecast",
    "report . -o report": "report",
    "graph plot graph.pt -o graph.png": "report",
    "explain tnbd_sample --plot rate.png": "report",
}
"""Commands, and the extra that each needs."""

NEED_NONE = {
    "graph describe graph.pt": "graph.pt",
    "graph size tnbd": "HOUSE_HRRR",
    "explain tnbd --config-path nowhere": "nowhere",
    "prepare --config-name tnbd": "HOUSE_HRRR",
    "skill .": "inference-last.ckpt",
    "runs .": "",
    "sync .": "",
    "resume .": "no checkpoint",
    "sbatch --config-name tnbd --time soon --account mine": "soon",
    "slurm2ddp": "",
    "sample data --dates 1": "dates",
}
"""Commands that need no extra, and part of the line that each prints here about something else."""

BLOCKED = (
    "anemoi.inference",
    "azure",
    "azureml",
    "jinja2",
    "matplotlib",
    "netCDF4",
    "obstore",
    "PIL",
    "ruamel",
    "zarr",
)
ABSENT = ("anemoi.inference", "azure", "azureml")
"""What a plain install really lacks: anemoi brings the others."""

SCRIPT = """
import contextlib, io, json, sys

commands, blocked = map(json.loads, sys.argv[1:])

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == each or name.startswith(each + ".") for each in blocked):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())

from anemoi_house.cli import main

answers = {}
for command in commands:
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
        status = main(command.split())
    answers[command] = [status, told.getvalue()]
print(json.dumps(answers))
"""

Answers = dict[str, tuple[int, str]]


def answers_of(commands: dict[str, str], blocked: tuple[str, ...], folder: Path) -> Answers:
    """Return the status and stderr of each command, from one process."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([*commands]), json.dumps(blocked)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return answers_of(NEEDS, BLOCKED, tmp_path_factory.mktemp("extras"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return answers_of(NEED_NONE, ABSENT, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("command", NEEDS)
def test_a_command_without_its_extra_says_so_in_one_line(command: str, without_extras: Answers) -> None:
    status, told = without_extras[command]
    name = re.match(r"graph \w+|\w+", command)[0]  # type: ignore[index]
    found = re.fullmatch(
        rf"anemoi-house: {name} needs ([\w-]+), which is not installed\. "
        rf"Install it with: pip install 'anemoi-house\[{NEEDS[command]}\]'\n",
        told,
    )
    assert status == 1
    assert found, told
    assert any(line.startswith(found[1]) for line in PROJECT["optional-dependencies"][NEEDS[command]])


@pytest.mark.parametrize("command", NEED_NONE)
def test_the_other_commands_need_no_extra(command: str, plain: Answers) -> None:
    _, told = plain[command]
    assert "not installed" not in told
    assert NEED_NONE[command] in told


def test_every_command_is_tested_above() -> None:
    def names(parser, prefix=()):
        for action in parser._actions:
            if hasattr(action.choices, "items"):
                for name, each in action.choices.items():
                    yield from names(each, (*prefix, name))
                return
        yield " ".join(prefix)

    tested = {re.match(r"graph \w+|\w+", command)[0] for command in (*NEEDS, *NEED_NONE)}  # type: ignore[index]
    assert set(names(cli.make_parser())) == tested


def test_a_missing_package_of_no_extra_is_not_explained_away() -> None:
    with pytest.raises(ModuleNotFoundError), extras_named("sample"):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")


def test_the_plain_install_is_small_and_every_extra_is_in_all() -> None:
    assert len(PROJECT["dependencies"]) <= 15
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"anemoi-house[{','.join(sorted(extras.keys() - {'all', 'test', 'docs'}))}]"
    assert "anemoi-house[all]" in extras["test"]


def test_a_source_without_its_extra_ends_the_stock_command_in_one_line(tmp_path: Path) -> None:
    recipe = (
        "dates: {start: 2021-04-01, end: 2021-04-01, frequency: 6h}\ninput:\n  house-noaa: {model: gfs, param: [t]}\n"
    )
    (tmp_path / "recipe.yaml").write_text(recipe)
    blocker = SCRIPT.partition("from anemoi_house.cli")[0]
    script = f"{blocker}\nfrom anemoi.datasets.__main__ import main\nsys.argv[1:] = commands\nmain()"
    command = ["create", "recipe.yaml", "data.zarr"]
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(command), json.dumps(["obstore"])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "house-noaa needs obstore, which is not installed. Install it with: pip install 'anemoi-house[datasets]'"
    )
