from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_grids import graph_of, haversine_km, mesh_coordinates, nested_coordinates, unit_vectors

from anemoi_house.errors import HouseError
from anemoi_house.graphs import BoundaryAwareKNNEdges
from anemoi_house.graphs.coverage import SEARCH_LIMIT, DataNodes
from anemoi_house.graphs.size import Encoder, Size, SizeTable, as_text, size_of, size_table

WIDTH_KM = 1500.0


def nested(seed: int, lam_step: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coordinates of data nodes, the mask of the LAM, and coordinates of a coarse mesh."""
    data, in_lam = nested_coordinates(lam_step, 6.0, seed)
    return data, in_lam, mesh_coordinates(2)


def table_of(data: np.ndarray, in_lam: np.ndarray, mesh: np.ndarray, **how: object) -> SizeTable:
    nodes = DataNodes(*data.T, in_lam, WIDTH_KM)
    return size_table(nodes, unit_vectors(*data.T), unit_vectors(*mesh.T), **how)


def first_pick(data: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Return the smallest number of neighbours at which each data node is picked, from the full distance matrix."""
    ranks = np.argsort(np.argsort(haversine_km(tuple(mesh.T), tuple(data.T)), axis=1), axis=1)
    return ranks.min(axis=0) + 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counts_and_smallest_number_are_those_of_the_whole_distance_matrix(seed: int) -> None:
    data, in_lam, mesh = nested(seed)
    table = table_of(data, in_lam, mesh, numbers=(1, 3, 8, 20))
    first = first_pick(data, mesh)
    rim = ~in_lam & (haversine_km(tuple(data.T), tuple(data[in_lam].T)).min(axis=1) <= WIDTH_KM)
    outside = ~in_lam & ~rim
    polar = np.abs(data[:, 0]) >= 60
    smallest = first[in_lam | rim].max()

    assert table.nodes == {"data": len(data), "hidden": len(mesh), "lam": in_lam.sum()}
    assert table.smallest == smallest
    assert [row.neighbours for row in table.rows] == sorted({1, 3, 8, 20, smallest - 1, smallest})
    for row in table.rows:
        missed = first > row.neighbours
        assert row.edges == row.neighbours * len(mesh)
        assert row.isolated == {
            "all": missed.sum(),
            "lam": (missed & in_lam).sum(),
            "rim": (missed & rim).sum(),
            "poles": (missed & outside & polar).sum(),
            "elsewhere": (missed & outside & ~polar).sum(),
        }


def test_the_smallest_number_is_what_the_builder_finds() -> None:
    data, in_lam, mesh = nested(seed=4)
    builder = BoundaryAwareKNNEdges("data", "hidden", "auto", WIDTH_KM, floor=1, ceiling=SEARCH_LIMIT)
    graph = graph_of(data, in_lam, mesh)
    builder.compute_edge_index(graph["data"], graph["hidden"])
    assert table_of(data, in_lam, mesh).smallest == builder.num_nearest_neighbours


def test_the_search_goes_on_beyond_the_numbers_shown() -> None:
    data, in_lam, mesh = nested(seed=1)
    assert table_of(data, in_lam, mesh, numbers=(1,)).smallest == table_of(data, in_lam, mesh).smallest


def test_there_is_no_smallest_number_where_the_limit_does_not_hold_either() -> None:
    data, in_lam, mesh = nested(seed=1, lam_step=0.5)
    table = table_of(data, in_lam, mesh)
    assert first_pick(data, mesh)[in_lam].max() > SEARCH_LIMIT
    assert table.smallest is None
    assert f"none up to {SEARCH_LIMIT} is sufficient" in as_text(Size("x", Encoder("KNNEdges", "auto", 12), table))


def test_numbers_that_no_graph_can_have_are_left_out() -> None:
    data, in_lam, mesh = nested(seed=1)
    few = np.r_[np.flatnonzero(in_lam)[:5], np.flatnonzero(~in_lam)[:5]]
    table = table_of(data[few], in_lam[few], mesh, numbers=(3, 12, 64))
    assert [row.neighbours for row in table.rows if row.neighbours > 10] == []


@pytest.mark.parametrize(("neighbours", "floor", "number"), [(7, 1, 7), ("auto", 12, 19), ("auto", 24, 24)])
def test_number_that_a_graph_gets(neighbours: int | str, floor: int, number: int) -> None:
    assert Encoder("BoundaryAwareKNNEdges", neighbours, floor).number(smallest=19) == number


@pytest.mark.parametrize("builder", ["KNNEdges", "BoundaryAwareKNNEdges", "CoveringKNNEdges"])
def test_text_fits_a_terminal_and_marks_what_is_set(builder: str) -> None:
    data, in_lam, mesh = nested(seed=2)
    table = table_of(data, in_lam, mesh)
    lines = as_text(Size("tnbd", Encoder(builder, 12), table)).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if "<- set" in line] == ["12"]
    assert [line.split()[0] for line in lines if line.endswith("smallest")] == [str(table.smallest)]


@pytest.fixture
def experiment(stores: tuple[Path, Path], registered: None, hydra_cleared: None) -> list[str]:
    """Overrides that run a sample experiment on the small datasets of the tests."""
    return [
        f"system.input.dataset.lam={stores[0]}",
        f"system.input.dataset.global={stores[1]}",
        "data.datasets.data.forcing=[orog]",
        "data.datasets.data.diagnostic=[]",
        "graph.nodes.hidden.node_builder.global_resolution=1",
        "graph.nodes.hidden.node_builder.lam_resolution=3",
        "graph.nodes.hidden.node_builder.margin_radius_km=250",
    ]


def test_size_of_an_experiment_is_that_of_its_graph_and_writes_nothing(
    experiment: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    size = size_of("nbd_sample", overrides=[*experiment, "graph.encoder_neighbours=7"])
    assert list(tmp_path.iterdir()) == []
    assert size.encoder == Encoder("BoundaryAwareKNNEdges", 7)
    assert size.table.nodes["lam"] == 120
    assert size.table.row(7) is not None
    assert json.loads(json.dumps(dataclasses.asdict(size)))["table"]["smallest"] == size.table.smallest


def test_the_trim_counts(experiment: list[str]) -> None:
    size = size_of("mmgt_sample", overrides=[*experiment, "dataloader.trim=[1,0,2,1]"])
    assert size.table.nodes["lam"] == 9 * 9


def test_a_config_of_the_users_own_is_found(experiment: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [mmgt_sample, _self_]\ngraph: {encoder_neighbours: 5}\n")
    assert size_of("mine", tmp_path, experiment).encoder == Encoder("KNNEdges", 5)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mgmt", [], "there is no config 'mgmt' .* Did you mean 'mmgt'[?]"),
        ("mmgt_sample", ["graph.neighbours=9"], "graph.neighbours"),
        ("mmgt_sample", ["graph.encoder_neighbours=many"], "'many' is not a valid number of neighbours"),
        ("mmgt_sample", ["graph.encoder_neighbours=99999"], "more than the .* data nodes"),
        ("mmgt_sample", ["dataloader.trim=[9,9]"], "dataloader.trim"),
        ("mmgt_sample", ["system.input.dataset.lam=/nowhere/hrrr.zarr"], "/nowhere/hrrr.zarr does not exist"),
        ("mmgt_sample", ["graph.edges=[]"], "no edges from 'data' to 'hidden'"),
    ],
)
def test_a_mistake_ends_in_one_message(experiment: list[str], name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(HouseError, match=message) as mistake:
        size_of(name, overrides=[*experiment, *overrides])
    assert "full_key" not in str(mistake.value)


def test_a_missing_config_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HouseError, match="nowhere is not a directory"):
        size_of("mmgt", tmp_path / "nowhere")


def test_points_in_the_precision_of_the_graph_give_the_same_table() -> None:
    data, in_lam, mesh = nested(seed=3)
    single = [torch.tensor(unit_vectors(*part.T), dtype=torch.float32).numpy() for part in (data, mesh)]
    assert size_table(DataNodes(*data.T, in_lam, WIDTH_KM), *single) == table_of(data, in_lam, mesh)
