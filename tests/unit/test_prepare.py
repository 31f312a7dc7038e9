"""Checks before the ranks of a job start, without a job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anemoi_house.errors import HouseError
from anemoi_house.runs.prepare import prepare


@pytest.fixture
def settings(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hydra_cleared: None) -> list[str]:
    """Overrides and environment of a training with valid data and folders."""
    monkeypatch.setenv("HOUSE_SAMPLE", str(sample))
    monkeypatch.chdir(tmp_path)
    return [f"system.input.graph={tmp_path / 'graph.pt'}"]


def test_a_graph_that_cannot_be_read_is_named(settings: list[str], tmp_path: Path) -> None:
    (tmp_path / "graph.pt").write_bytes(b"no graph")
    with pytest.raises(
        HouseError, match=r"^system\.input\.graph: .*graph\.pt does not fit, .*it is cut short or not a graph"
    ):
        prepare("mmgt_sample", [*settings, "graph.overwrite=False"])


def test_the_graph_is_built_once(settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tmp_path / "graph.pt"
    assert prepare("mmgt_sample", settings) == graph
    said, built = capsys.readouterr().out, graph.stat()
    assert re.search(r"graph \S+: [\d,]+ data nodes, 711 hidden nodes$", said, re.MULTILINE), said
    assert prepare("mmgt_sample", settings) == graph
    assert capsys.readouterr().out.splitlines()[-1] == said.splitlines()[-1]
    assert (graph.stat().st_ino, graph.stat().st_mtime_ns) == (built.st_ino, built.st_mtime_ns)
