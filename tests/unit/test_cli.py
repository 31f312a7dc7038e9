"""What all commands share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anemoi_house import cli


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the message with which the parser refuses arguments."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_failure(unbuffered: str) -> None:
    """As `head` may, here before the first line."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "anemoi_house", "slurm2ddp"]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


def test_another_broken_pipe_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(cli.jobs, "_slurm2ddp", fails)
    with pytest.raises(BrokenPipeError):
        cli.main(["slurm2ddp"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reprot"], "anemoi-house: COMMAND: 'reprot' is invalid. Did you mean report?\n"),
        (["graph", "plt"], "anemoi-house graph: COMMAND: 'plt' is invalid. Did you mean plot?\n"),
        (["sample", "x", "--grid", "tny"], "anemoi-house sample: --grid: 'tny' is invalid. Did you mean tiny?\n"),
        (["sample", "x", "--grid", "9"], "--grid: '9' is invalid. Choose from tiny, study, published.\n"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = failing(capsys, *arguments)
    assert told.endswith(message)
    assert told.count("\n") == 1


@pytest.mark.parametrize("arguments", [["runs", "--jsn"], ["slurm2ddp", "x"], ["explain", "tnbd", "--x", "a=1"]])
def test_other_arguments_are_refused_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments" in failing(capsys, *arguments)


def test_overrides_may_follow_options() -> None:
    arguments = cli.parse(cli.make_parser(), ["explain", "tnbd", "a=1", "--nodes", "2", "b=2", "c=3"])
    assert arguments.overrides == ["a=1", "b=2", "c=3"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_can_complete_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--print-completion", shell])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert all(name in script for name in ("sample", "slurm2ddp", "--print-completion", "config-only"))
    assert "until-end" not in script


def test_bash_completes_commands_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--print-completion", "bash"])
    (tmp_path / "complete.sh").write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        shell = f"""
        source {tmp_path / "complete.sh"}
        COMP_WORDS=({" ".join(("anemoi-house", *words))}); COMP_CWORD={len(words)}
        {completer} anemoi-house; echo "${{COMPREPLY[@]}}"
        """
        return set(subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True).stdout.split())

    found = re.search(r"-F (\S+) anemoi-house", (tmp_path / "complete.sh").read_text())
    assert found
    completer = found[1]
    assert completed("re") == {"recipe", "resume", "report"}
    assert completed("graph", "p") == {"plot"}
    assert completed("sample", "x", "--ov") == {"--overwrite"}
