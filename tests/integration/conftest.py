"""Sample data and environments for the tests of the stock commands, made once and used by all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from slurm.ranks import trainings, two_nodes  # noqa: F401  fixtures that two modules share

ROOT = Path(__file__).parents[2]
SAMPLE_DATES = 120  # that the sample experiments train and validate on


@dataclass(frozen=True)
class Environment:
    """A Python environment whose commands run in given folders."""

    prefix: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment; its output, both streams together, is in `stdout`."""
        program, *arguments = map(str, command)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOUSE_", "PYTHON"))}
        return subprocess.run(
            [str(self.prefix / "bin" / program), *arguments],
            cwd=cwd,
            env=clean
            | {"PATH": f"{self.prefix / 'bin'}:{clean['PATH']}", "MPLBACKEND": "Agg"}
            | self.variables
            | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def check(self, *command: str | Path, cwd: Path, **variables: str) -> str:
        """Run a command that must succeed; return its output."""
        done = self.run(*command, cwd=cwd, **variables)
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}"
        return done.stdout


@pytest.fixture(scope="session")
def here() -> Environment:
    """Return the environment that runs the tests."""
    return Environment(Path(sys.prefix))


@pytest.fixture(scope="session")
def sample(here: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the tiny sample datasets, hrrr.zarr and gfs.zarr; return their folder."""
    folder = tmp_path_factory.mktemp("data") / "sample"
    here.check("anemoi-house", "sample", folder, "--dates", str(SAMPLE_DATES), cwd=folder.parent)
    return folder


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Return a function that makes an environment with given requirements, at the tested versions."""
    pytest.importorskip("uv", reason="new environments are made with uv: pip install uv")

    def make(*requirements: str, **variables: str) -> Environment:
        prefix = tmp_path_factory.mktemp("environment")
        for command in (
            ["venv", "--quiet", "--clear", "--python", sys.executable, prefix],
            ["pip", "install", "--quiet", "--python", prefix, "--constraints", ROOT / "constraints.txt", *requirements],
        ):
            subprocess.run([sys.executable, "-m", "uv", *map(str, command)], check=True)
        return Environment(prefix, variables)

    return make


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as for a release."""
    pytest.importorskip("uv", reason="the wheel is built with uv: pip install uv")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "uv", "build", "--quiet", "--wheel", "-o", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(new_environment: Callable[..., Environment], wheel: Path, sample: Path) -> Environment:
    """Return an environment with the wheel, and HOUSE_SAMPLE set."""
    return new_environment(str(wheel), HOUSE_SAMPLE=str(sample))


@pytest.fixture(scope="session")
def without_house(new_environment: Callable[..., Environment]) -> Environment:
    """Return an environment with anemoi-inference and anemoi-datasets, without our package."""
    return new_environment("anemoi-inference", "anemoi-models", "anemoi-datasets")
