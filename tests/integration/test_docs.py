"""Run, compose or parse everything that README and docs show; an unknown kind of block fails.

A separate process (this file, run as a script) runs all blocks in the order of the pages, in a directory with what a
reader has by then: sample data, files that the pages show, a trained run. So Hydra's plugins, including the reader's,
are found as in a user's process.

Trainings are composed, resolved and validated but not run; other tests run them. The published experiments get
the tiny sample data instead of a user's, with their periods, and a smaller trim if theirs would leave nothing of a LAM
of 26 x 44 points: keys and values are tested, not sizes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in (
    "index", "start", "datasets", "experiments", "graphs", "training", "forecasts", "report", "boundary", "study",
    "explain", "slurm", "tracking", "extending", "plugin", "reference", "glossary",
))]  # fmt: skip
NOT_RUN = ("text", "{toctree}", "{eval-rst}")  # output of commands, and what Sphinx runs
FENCE = re.compile(r"^(`{3,})(\S*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
SHOWN_FILE = re.compile(r"# (\S+\.(?:py|ya?ml|toml))\n")

PUBLISHED = ("mmgt", "nbd", "tnbd", "tnbd_covering")
SAMPLE_PERIODS = [
    f"dataloader.{stage}.datasets.data.{key}={date}"
    for stage, dates in (("training", ("2020-01-01", "2020-01-25")), ("validation", ("2020-01-26", "2020-01-30")))
    for key, date in zip(("start", "end"), dates)
]
TINY_TRIM = "dataloader.trim=[2,2,2,2]"
RUN_ID = "RUN_ID"
# The user's own package, as if it were installed.
PACKAGE = "polar"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """Name of the file that the block shows, from a comment in its first line."""
        found = SHOWN_FILE.match(self.text)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """Commands of a shell block."""
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith("#")]


def blocks() -> list[Block]:
    """Return all fenced blocks that show something to run or to write to a file."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            if match[2] not in NOT_RUN:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(str(page.relative_to(ROOT)), line, match[2], match[3]))
    return found


BLOCKS = blocks()


# As a script: run the blocks


class Workshop:
    """Runs blocks in the working directory, and raises if one is wrong."""

    def __init__(self, sample: Path) -> None:
        self.sample = sample
        self.namespace: dict[str, Any] = {}
        self.programs: dict[str, Callable[[list[str]], None]] = {
            "anemoi-house": self._house,
            "anemoi-training": self._training,
            "anemoi-datasets": self._datasets,
            "anemoi-graphs": self._graphs,
            "anemoi-inference": self._inference,
            "mlflow": self._mlflow,
            "make": self._make,
            "export": self._export,
            "pip": self._pip,
        }

    def run(self, block: Block) -> None:
        {"bash": self._bash, "python": self._python, "yaml": self._yaml, "toml": self._toml}[block.language](block)

    def _bash(self, block: Block) -> None:
        for command in block.commands:
            program, *arguments = shlex.split(command.replace(RUN_ID, self._run_id()))
            if arguments[-2:-1] == [">"]:
                with Path(arguments[-1]).open("w") as file, contextlib.redirect_stdout(file):
                    self.programs[program](arguments[:-2])
            else:
                self.programs[program](arguments)

    def _python(self, block: Block) -> None:
        if block.file is None:
            exec(compile(block.text, str(block), "exec"), self.namespace)
            return
        path = Path(block.file).relative_to(PACKAGE)
        parts = path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts
        importlib.import_module(".".join(parts))

    def _yaml(self, block: Block) -> None:
        shown = yaml.safe_load(block.text)
        assert isinstance(shown, dict)
        if set(shown) == {"input"}:
            from anemoi.datasets.create.recipe import Recipe

            # Part of a recipe; anemoi-datasets has each source and filter check its own keys.
            Recipe(dates={"start": "2021-04-01", "end": "2021-04-02"}, **shown)

    def _toml(self, block: Block) -> None:
        for package in tomllib.loads(block.text)["tool"]["setuptools"]["packages"]:
            assert (Path(block.file or "").parent / package.replace(".", "/") / "__init__.py").is_file(), package

    def _house(self, arguments: list[str]) -> None:
        """Run the command; for a published experiment use its sample, since its mesh alone takes a minute."""
        from anemoi_house.cli import main, make_parser

        if arguments[0] in ("scan", "missing"):
            # These need archives, or a dataset under construction: other tests have both.
            assert arguments[0] == "missing" or Path(arguments[1]).is_file()
            make_parser().parse_args(arguments)
            return
        if arguments[:2] == ["graph", "size"]:
            arguments = [f"{word}_sample" if word in PUBLISHED else word for word in arguments]
        with without_data() if arguments[0] == "explain" else contextlib.nullcontext():
            assert main(arguments) == 0

    def _training(self, arguments: list[str]) -> None:
        """Compose, resolve and validate, as `anemoi-training train` and `config validate` begin."""
        from anemoi.training.schemas.base_schema import BaseSchema
        from hydra import compose, initialize
        from omegaconf import OmegaConf

        assert arguments.pop(0) == "train" or arguments.pop(0) == "validate"
        named = [word.partition("=")[2] for word in arguments if word.startswith("--config-name=")]
        overrides = [word for word in arguments if not word.startswith("--")]
        unknown = {word for word in arguments if word.startswith("--")} - {
            f"--config-name={named[0]}",
            "--cfg=job",
            "--info=searchpath",
        }
        assert not unknown, unknown
        trimmed = named[0].startswith("tnbd") and not named[0].endswith("_sample")
        if trimmed and not any(word.startswith("dataloader.trim=") and "[15" not in word for word in overrides):
            overrides = [*(word for word in overrides if not word.startswith("dataloader.trim=")), TINY_TRIM]
        if not named[0].endswith("_sample"):
            overrides += SAMPLE_PERIODS  # the last of several overrides of a key counts
        with initialize(version_base=None):
            config = compose(named[0], overrides=overrides)
        assert config.config_validation
        OmegaConf.resolve(config)
        BaseSchema(**config)

    def _datasets(self, arguments: list[str]) -> None:
        """Check the recipe and the arguments; other tests build datasets."""
        from anemoi.datasets.commands import COMMANDS
        from anemoi.datasets.create.recipe import loader_recipe_from_yaml
        from anemoi.utils.cli import make_parser

        parsed = make_parser("", COMMANDS).parse_args(arguments)
        if getattr(parsed, "recipe", None):
            loader_recipe_from_yaml(parsed.recipe)

    def _graphs(self, arguments: list[str]) -> None:
        from anemoi.graphs.create import GraphCreator

        command, recipe, graph = arguments
        assert command == "create"
        GraphCreator(config=Path(recipe)).create(save_path=Path(graph), overwrite=True)

    def _inference(self, arguments: list[str]) -> None:
        """Check the config that the page shows; other tests run it."""
        command, config = arguments[0], arguments[1].replace(RUN_ID, self._run_id())
        assert command == "run"
        assert Path(yaml.safe_load(Path(config).read_text())["checkpoint"].replace(RUN_ID, self._run_id())).is_file()

    def _mlflow(self, arguments: list[str]) -> None:
        """Check that the store exists, without starting the server."""
        command, option, store = arguments
        assert (command, option) == ("ui", "--backend-store-uri")
        assert Path(store.removeprefix("sqlite:///")).is_file()

    def _make(self, arguments: list[str]) -> None:
        done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _export(self, arguments: list[str]) -> None:
        (assignment,) = arguments
        name, _, value = assignment.partition("=")
        assert name in ("HOUSE_HRRR", "HOUSE_GFS", "HOUSE_OUTPUT", "HOUSE_SAMPLE", "MLFLOW_TRACKING_URI")
        os.environ[name] = value

    def _pip(self, arguments: list[str]) -> None:
        assert arguments[0] == "install"
        for word in arguments[1:]:
            path = word.partition("[")[0]  # `.[azure]` is this folder with an extra
            assert word == "-c" or (ROOT / path).exists() or Path(path).exists(), word

    @staticmethod
    def _run_id() -> str:
        (checkpoint,) = Path("outputs/checkpoint").iterdir()
        return checkpoint.name


@contextlib.contextmanager
def without_data() -> Iterator[None]:
    """Unset the paths of the data, so that the published periods and trim are used."""
    kept = {name: os.environ.pop(name) for name in ("HOUSE_HRRR", "HOUSE_GFS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def train() -> None:
    """Train a few steps with the reader's builder, through the stock command."""
    from anemoi.training.commands.train import main

    short = ["training.max_steps=2", "dataloader.validation.datasets.data.end=2020-01-26"]
    # The schedule of tnbd_sample, which a page continues.
    short += ["training.optimization.lr_scheduler.t_initial=300"]
    sys.argv = ["anemoi-training train", "--config-name=polar_sample", *short]
    os.environ["ANEMOI_TRAINING_CMD"] = " ".join(sys.argv)  # as the command does, for the ranks that it might start
    main()
    # The pages use the graph of tnbd_sample; this one has the same nodes, and a record of other edges.
    shutil.copy("outputs/graphs/polar_sample.pt", "outputs/graphs/tnbd_sample.pt")


def run_blocks(sample: Path) -> dict[str, str]:
    """Return the error of each block by its page and line, or an empty text."""
    train()
    workshop = Workshop(sample)
    errors = {}
    for block in BLOCKS:
        # The reader's paths become those of the sample data.
        text = block.text.replace("/path/to/outputs", "outputs").replace("/path/to", str(sample))
        told = io.StringIO()
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                workshop.run(Block(block.page, block.line, block.language, text))
            errors[str(block)] = ""
        except BaseException:
            errors[str(block)] = f"{traceback.format_exc()}\nIt printed:\n{told.getvalue()[-3000:]}"
    return errors


# As tests


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """Make a directory with the sample data and all files that the pages show."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "sample").symlink_to(sample)
    for block in BLOCKS:
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text.replace("/path/to/outputs", "outputs").replace("/path/to", str(sample)))
    return folder


@pytest.fixture(scope="session")
def errors(here: Any, workshop: Path, sample: Path) -> dict[str, str]:
    """Return the error of each block, from the process that ran them all."""
    there = workshop / "errors.json"
    here.check("python", __file__, sample, there, cwd=workshop, PYTHONPATH=str(workshop / PACKAGE))
    return json.loads(there.read_text())


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_shown_is_right(block: Block, errors: dict[str, str]) -> None:
    assert not errors[str(block)], errors[str(block)]


def inline_commands() -> Iterator[tuple[str, str]]:
    """Yield page and text of the commands within sentences."""
    for page in PAGES:
        for text in re.findall(r"`((?:make|anemoi-house|anemoi-training) [^`]+)`", FENCE.sub("", page.read_text())):
            yield str(page.relative_to(ROOT)), text


@pytest.mark.parametrize(("page", "command"), sorted(set(inline_commands())))
def test_inline_command_exists(page: str, command: str) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{re.escape(arguments[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "anemoi-house":
        from anemoi_house.cli import make_parser

        if len(arguments) > 1:
            make_parser().parse_args(arguments)
            return
        with pytest.raises(SystemExit) as ended:  # a command's name alone, whatever it needs
            make_parser().parse_args([*arguments, "--help"])
        assert ended.value.code == 0
    else:
        named = [word.partition("=")[2] for word in arguments if word.startswith("--config-name=")]
        assert all((ROOT / "configs" / f"{name}.yaml").is_file() for name in named)


def test_nothing_shown_is_left_out() -> None:
    languages = {match[2] for page in PAGES for match in FENCE.finditer(page.read_text())}
    assert languages <= {"bash", "python", "yaml", "toml", *NOT_RUN}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == {page.name for page in PAGES[1:]}


def test_links_and_pictures_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert "://" in target or (page.parent / target).is_file(), f"{page.name}: {target}"


def test_built_pages_need_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", ROOT / "docs", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in PAGES[1:]:
        text = (tmp_path / page.with_suffix(".html").name).read_text()
        assert not re.search(r"<(script|img)[^>]* src=[\"'](https?:)?//", text), page.name
        assert not re.search(r"<link[^>]* rel=[\"']stylesheet[\"'][^>]* href=[\"'](https?:)?//", text), page.name
    boundary = (tmp_path / "boundary.html").read_text()
    assert boundary.count("<math") > 20
    assert 'class="overline"' in boundary


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run_blocks(Path(sys.argv[1]))))
