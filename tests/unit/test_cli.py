"""What every command has in common."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from anemoi_house import cli


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_failure(unbuffered: str) -> None:
    """As `head` does; here before the first line."""
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

    monkeypatch.setattr(cli, "_slurm2ddp", fails)
    with pytest.raises(BrokenPipeError):
        cli.main(["slurm2ddp"])
