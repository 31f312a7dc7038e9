"""Where a run continues, with files as a training writes them: whole, cut short and damaged."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from anemoi_house.cli import main
from anemoi_house.errors import HouseError
from anemoi_house.runs.resume import _quoted, resume
from anemoi_house.upstream.checkpoints import fault_of

WEIGHTS = os.urandom(4000)


def write(path: Path, metadata: bool = True) -> Path:
    """Write a checkpoint as torch and then anemoi do: stored parts, and the metadata last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", WEIGHTS)
    if metadata:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/anemoi-metadata/anemoi.json", json.dumps({"run_id": "r"}))
    return path


def by(kind: str, epoch: int, step: int) -> str:
    return f"anemoi-by_{kind}-epoch_{epoch:03d}-step_{step:06d}.ckpt"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint" / "abc"
    for name in (by("epoch", 0, 10), by("epoch", 1, 20), by("time", 2, 25), "last.ckpt"):
        write(folder / name)
    write(folder / ("inference-" + by("epoch", 1, 20)))
    return folder


def test_the_last_end_of_an_epoch_is_where_it_goes_on(run: Path) -> None:
    for folder in (run, run.parents[1]):
        found = resume(folder)
        assert found is not None
        assert (found.run_id, found.checkpoint.step, found.checkpoint.epoch) == ("abc", 20, 1)
        assert found.steps_again == 5
        assert found.passed_over == ()
        assert found.overrides == [
            "training.run_id=abc",
            "training.fork_run_id=null",
            f"system.input.warm_start={run / by('epoch', 1, 20)}",
        ]


def test_in_the_first_epoch_it_goes_on_in_its_middle(run: Path) -> None:
    for path in run.glob("anemoi-by_epoch-*"):
        path.unlink()
    found = resume(run)
    assert found is not None
    assert (found.checkpoint.step, found.steps_again) == (25, 0)
    assert "within an epoch" in found.summary[-1]


def test_steps_are_compared_as_numbers(run: Path) -> None:
    write(run / by("epoch", 1000, 1_000_000))
    found = resume(run)
    assert found is not None
    assert found.checkpoint.step == 1_000_000


@given(cut=st.integers(0, 4400))
def test_a_file_that_was_cut_anywhere_is_no_checkpoint(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("cut") / "last.ckpt")
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    assert fault_of(path) == "it was cut short"
    path.write_bytes(whole)
    assert fault_of(path) == ""


@given(where=st.integers(60, 3900), bit=st.integers(0, 7))
def test_a_bit_that_turned_is_found(where: int, bit: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("bit") / "last.ckpt")
    content = bytearray(path.read_bytes())
    content[where] ^= 1 << bit
    path.write_bytes(content)
    assert "archive/data/0 is damaged" in fault_of(path)


def test_what_is_not_whole_is_passed_over_and_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = run / by("epoch", 1, 20)
    newest.write_bytes(newest.read_bytes()[:2000])
    write(run / "last.ckpt", metadata=False)
    assert main(["resume", str(run.parents[1])]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"system.input.warm_start={run / by('epoch', 0, 10)}"
    assert f"{newest}: it was cut short; skipped" in err
    assert f"{run / 'last.ckpt'}: its metadata was not written; skipped" in err
    assert "run abc continues at step 10" in err


def test_before_the_first_checkpoint_nothing_is_to_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint" / "abc").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "absent"):
        assert main(["resume", str(folder)]) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert "no checkpoint yet" in err


def test_several_runs_are_named(run: Path) -> None:
    other = write(run.parent / "other" / by("epoch", 0, 10)).parent
    with pytest.raises(HouseError, match="holds 2 runs") as caught:
        resume(run.parents[1])
    assert str(other) in str(caught.value)


def test_where_nothing_is_whole_it_says_so(run: Path) -> None:
    for path in run.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(HouseError, match=r"every checkpoint is damaged .*system\.input\.warm_start=FILE"):
        resume(run)


def test_a_file_is_not_a_directory(run: Path) -> None:
    with pytest.raises(HouseError, match="is not a directory"):
        resume(run / "last.ckpt")


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1).filter(lambda text: text.strip() == text))
def test_hydra_reads_a_path_as_it_is(path: str) -> None:
    value = "/" + path
    (override,) = OverridesParser.create().parse_overrides([f"key={_quoted(value)}"])
    assert override.value() == value
