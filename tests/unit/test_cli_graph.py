from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from anemoi.graphs.edges import KNNEdges
from small_grids import graph_of, mesh_coordinates, nested_coordinates
from torch_geometric.data import HeteroData

from anemoi_house.cli import main


def nested_graph() -> HeteroData:
    data, in_lam = nested_coordinates(2.5, 10.0, seed=1)
    return KNNEdges("data", "hidden", 6).update_graph(graph_of(data, in_lam, mesh_coordinates(2)))


def stripped(graph: HeteroData, part: str) -> HeteroData:
    """Graph without one of its parts."""
    if part == "mask":
        del graph["data"].cutout_mask
    elif part == "edges":
        del graph["data", "to", "hidden"]
    else:
        graph = graph.subgraph({})
        graph["other"].x = torch.zeros(3, 2)
        del graph["data"]
    return graph


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    torch.save(nested_graph(), tmp_path / "graph.pt")
    return tmp_path / "graph.pt"


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Message with which a command ends."""
    assert main(["graph", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("anemoi-house: ")
    assert "Traceback" not in err
    return err


def test_describe_prints_text_for_a_person_and_json_for_a_program(
    graph_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["graph", "describe", str(graph_file)]) == 0
    text = capsys.readouterr().out
    assert main(["graph", "describe", str(graph_file), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)

    graph = nested_graph()
    picked = set(graph["data", "to", "hidden"].edge_index[0].tolist())
    assert described["isolated"]["all"] == graph["data"].num_nodes - len(picked)
    assert described["encoder_neighbours"] == 6
    assert described["nodes"]["lam"] == int(graph["data"].cutout_mask.sum())
    assert max(map(len, text.splitlines())) <= 80
    counts = [line for line in text.splitlines() if not line.endswith("LAM)") and line[-1].isdigit()]
    assert len({len(line) for line in counts}) == 1  # one column


@pytest.mark.parametrize("command", [["describe"], ["plot", "-o", "graph.png"]])
@pytest.mark.parametrize(
    ("part", "message"),
    [("mask", "cutout_mask"), ("edges", "no edges from 'data' to 'hidden'"), ("nodes", "no nodes 'data'")],
)
def test_a_graph_that_is_no_nested_one_ends_in_one_message(
    command: list[str],
    part: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(stripped(nested_graph(), part), "graph.pt")
    assert message in failing(capsys, *command, "graph.pt")


@pytest.mark.parametrize("kept", [0, 1, 100, 5000])
def test_a_truncated_graph_file_ends_in_one_message(
    graph_file: Path, kept: int, capsys: pytest.CaptureFixture[str]
) -> None:
    graph_file.write_bytes(graph_file.read_bytes()[:kept])
    assert "is cut short or not a graph file" in failing(capsys, "describe", graph_file)


@pytest.mark.parametrize("content", [b"nodes: 12\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04 no archive", b"(not a pickle"])
def test_a_file_of_something_else_ends_in_one_message(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "graph.pt").write_bytes(content)
    assert "is cut short or not a graph file" in failing(capsys, "describe", tmp_path / "graph.pt")


def test_a_missing_graph_file_ends_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["describe"], ["plot", "-o", tmp_path / "graph.png"]):
        assert "Give a graph file." in failing(capsys, *command, tmp_path / "graph.pt")


def test_plot_prints_the_name_of_its_picture(
    graph_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["graph", "plot", str(graph_file), "-o", str(tmp_path / "graph.png"), "--width-km", "500"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'graph.png'}\n"
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("registered", "hydra_cleared")
def test_size_prints_a_table_or_json(
    stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [
        f"system.input.dataset.lam={stores[0]}",
        f"system.input.dataset.global={stores[1]}",
        "data.datasets.data.forcing=[orog]",
        "data.datasets.data.diagnostic=[]",
    ]
    assert main(["graph", "size", "mmgt_sample", *overrides]) == 0
    assert "smallest" in capsys.readouterr().out
    assert main(["graph", "size", "--json", "mmgt_sample", *overrides]) == 0
    assert json.loads(capsys.readouterr().out)["encoder"]["neighbours"] == 12


def test_size_without_data_says_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hydra_cleared: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "HOUSE_HRRR" in failing(capsys, "size", "mmgt")
