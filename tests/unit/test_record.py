from __future__ import annotations

import copy
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anemoi.graphs.create import GraphCreator
from anemoi.graphs.edges import KNNEdges
from anemoi.utils.config import DotDict
from omegaconf import OmegaConf
from small_grids import lam_grid, write_store
from torch_geometric.data import HeteroData

from anemoi_house.errors import HouseError
from anemoi_house.graphs import GraphRecord
from anemoi_house.graphs.describe import RECORD, describe, load_graph
from anemoi_house.graphs.record import coordinates_digest, differences, lam_shape
from anemoi_house.upstream.errors import CommandError
from anemoi_house.upstream.graph import graph_settings

pytestmark = pytest.mark.usefixtures("registered")

WRITTEN: dict[str, Any] = {
    "overwrite": True,
    "nodes": {
        "data": {"node_builder": {"_target_": "anemoi.graphs.nodes.AnemoiDatasetNodes", "dataset": "a.zarr"}},
        "hidden": {
            "node_builder": {
                "_target_": "anemoi.graphs.nodes.StretchedTriNodes",
                "global_resolution": 3,
                "lam_resolution": 5,
                "reference_node_name": "data",
                "mask_attr_name": "cutout_mask",
                "margin_radius_km": 11,
            }
        },
    },
    "edges": [
        {
            "source_name": "data",
            "target_name": "hidden",
            "edge_builders": [
                {"_target_": "anemoi_house.graphs.BoundaryAwareKNNEdges", "num_nearest_neighbours": "auto"},
            ],
            "attributes": {
                "edge_length": {"_target_": "anemoi.graphs.edges.attributes.EdgeLength", "norm": "unit-max"}
            },
        }
    ],
    "post_processors": [{"_target_": "anemoi_house.graphs.GraphRecord"}],
}
DIGEST = "0" * 64


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the settings with one value changed; numbers in the path are indices of lists."""
    config = copy.deepcopy(WRITTEN)
    *parents, key = path.split(".")
    there: Any = config
    for parent in parents:
        there = there[int(parent) if isinstance(there, list) else parent]
    there[key] = value
    return config


def found(config: Any, data: str = DIGEST) -> list[str]:
    return differences({"settings": graph_settings(WRITTEN), "data": DIGEST}, graph_settings(config), data)


@pytest.fixture
def encoded(tiny_nodes: HeteroData) -> HeteroData:
    """Tiny graph with a stock KNN encoder."""
    return KNNEdges("data", "hidden", 12).update_graph(tiny_nodes)


def recorded(graph: HeteroData, dataset: Any = None) -> HeteroData:
    config = changed("nodes.data.node_builder.dataset", dataset)
    return GraphRecord().update_graph(graph, graph_config=config)


# What makes a difference


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("overwrite", False),
        ("nodes.data.node_builder.dataset", {"cutout": ["b.zarr", "c.zarr"]}),
        ("nodes.hidden.node_builder.margin_radius_km", 11.0),
        ("edges.0.edge_builders.0.boundary_width_km", 1000),
        ("edges.0.edge_builders.0.ceiling", 64),
        ("edges.0.edge_builders.0.source_mask_attr_name", None),
        ("post_processors.0.hidden_name", "hidden"),
        ("encoder_neighbours", 20),
    ],
)
def test_settings_that_mean_the_same(path: str, value: Any) -> None:
    assert found(changed(path, value)) == []


def test_settings_as_omegaconf_or_in_another_order_mean_the_same() -> None:
    assert found(OmegaConf.create(WRITTEN)) == []
    assert found(dict(reversed(WRITTEN.items()))) == []


@pytest.mark.parametrize(
    ("path", "value", "difference"),
    [
        (
            "edges.0.edge_builders.0.num_nearest_neighbours",
            20,
            "edges.0.edge_builders.0.num_nearest_neighbours: auto -> 20",
        ),
        (
            "edges.0.edge_builders.0.boundary_width_km",
            500,
            "edges.0.edge_builders.0.boundary_width_km: 1000.0 -> 500.0",
        ),
        (
            "nodes.hidden.node_builder.lam_resolution",
            6,
            "nodes.hidden.node_builder.lam_resolution: 5 -> 6",
        ),
        (
            "edges.0.attributes.edge_length.norm",
            "unit-std",
            "edges.0.attributes.edge_length.norm: unit-max -> unit-std",
        ),
        ("post_processors", [], "post_processors.0._target_: anemoi_house.graphs.GraphRecord -> not set"),
    ],
)
def test_difference_names_the_key_and_both_values(path: str, value: Any, difference: str) -> None:
    differing = found(changed(path, value))
    assert difference in differing
    assert path == "post_processors" or differing == [difference]


def test_a_further_edge_builder_is_a_difference() -> None:
    config = changed("edges.0.edge_builders", [*WRITTEN["edges"][0]["edge_builders"]] * 2)
    assert "edges.0.edge_builders.1.num_nearest_neighbours: not set -> auto" in found(config)


def test_other_data_are_a_difference() -> None:
    assert found(WRITTEN, "1" * 64) == ["the coordinates of the data"]


def test_settings_of_a_builder_without_a_schema_are_compared_as_written() -> None:
    foreign = changed("edges.0.edge_builders.0._target_", "somebody.Edges")
    assert graph_settings(foreign)["edges"][0]["edge_builders"] == foreign["edges"][0]["edge_builders"]
    assert differences({"settings": graph_settings(foreign), "data": DIGEST}, graph_settings(foreign), DIGEST) == []


def test_settings_survive_a_graph_without_nodes_of_its_own() -> None:
    """Stock `graph: existing` names neither nodes nor edges."""
    assert graph_settings({"overwrite": False}) == {"nodes": None, "edges": None, "post_processors": []}


# Coordinates


def test_digest_changes_with_the_coordinates_alone() -> None:
    latitudes, longitudes = (field.ravel().astype(np.float32) for field in lam_grid())
    digest = coordinates_digest(latitudes, longitudes)
    assert len(digest) == 64
    assert coordinates_digest(latitudes.copy(), longitudes - 360) == digest
    assert coordinates_digest(latitudes.astype(np.float64), longitudes.astype(np.float64)) == digest
    assert coordinates_digest(latitudes[::-1], longitudes[::-1]) != digest
    assert coordinates_digest(longitudes, latitudes) != digest
    assert coordinates_digest(latitudes[:-1], longitudes[:-1]) != digest
    moved = latitudes.copy()
    moved[7] += 0.001
    assert coordinates_digest(moved, longitudes) != digest


def test_digest_at_the_edges_of_the_globe() -> None:
    assert coordinates_digest(np.array([0.0]), np.array([360.0])) == coordinates_digest(np.zeros(1), np.zeros(1))
    assert coordinates_digest(np.array([0.0]), np.array([-1e-9])) == coordinates_digest(np.zeros(1), np.zeros(1))
    assert coordinates_digest(np.array([90.0]), np.zeros(1)) != coordinates_digest(np.array([-90.0]), np.zeros(1))


def test_shape_of_the_trimmed_lam(stores: tuple[Path, Path]) -> None:
    lam, globe = map(str, stores)
    cutout = {"cutout": [{"dataset": lam, "trim_edge": [1, 0, 2, 1]}, {"dataset": globe}], "adjust": "all"}
    assert lam_shape(cutout) == [9, 9]
    assert lam_shape({"dataset": cutout}) == [9, 9]
    assert lam_shape({"cutout": [lam, globe]}) == [10, 12]
    assert lam_shape(lam) is None
    assert lam_shape({"dataset": globe}) is None
    assert lam_shape(None) is None


def test_shape_of_a_lam_without_a_grid(tmp_path: Path, stores: tuple[Path, Path]) -> None:
    flat = write_store(tmp_path / "flat.zarr", *lam_grid(), field_shape=(120,))
    assert lam_shape({"cutout": [str(flat), str(stores[1])]}) is None


# In the graph


def test_record_holds_settings_data_and_coverage(
    encoded: HeteroData, stores: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "anemoi_house"):
        graph = recorded(encoded, {"cutout": [{"dataset": str(path)} for path in stores]})
    record = getattr(graph, RECORD)
    assert sorted(record) == ["coverage", "data", "lam_shape", "settings"]
    assert record["lam_shape"] == record["coverage"]["lam_shape"] == [10, 12]
    assert "dataset" not in record["settings"]["nodes"]["data"]["node_builder"]
    assert differences(record, graph_settings(WRITTEN), record["data"]) == []
    (logged,) = [message for message in caplog.messages if message.startswith("The graph:")]
    assert "isolated data nodes" in logged
    assert "(10 rows x 12 columns)" in logged
    assert max(map(len, logged.splitlines())) <= 80


def test_coverage_in_numbers(encoded: HeteroData) -> None:
    """Against independent counts."""
    coverage = getattr(recorded(encoded), RECORD)["coverage"]
    edges = encoded["data", "to", "hidden"].edge_index
    in_lam = encoded["data"].cutout_mask.squeeze()
    isolated = ~torch.isin(torch.arange(len(in_lam)), edges[0])
    assert coverage["nodes"] == {"data": len(in_lam), "hidden": len(encoded["hidden"].x), "lam": int(in_lam.sum())}
    assert coverage["edges"] == {"data -> hidden": 12 * len(encoded["hidden"].x)}
    assert coverage["encoder_neighbours"] == 12
    assert coverage["boundary_width_km"] == 1000.0
    assert coverage["isolated"]["all"] == int(isolated.sum()) > 0
    assert coverage["isolated"]["lam"] == int((isolated & in_lam).sum())
    zones = ("lam", "rim", "poles", "elsewhere")
    assert sum(coverage["isolated"][zone] for zone in zones) == coverage["isolated"]["all"]
    assert coverage == describe(encoded)


def test_graph_without_a_mask_of_the_lam(encoded: HeteroData) -> None:
    with pytest.raises(CommandError, match="the nodes 'data' have no attribute 'lam' that marks the LAM"):
        GraphRecord(lam_mask_attr_name="lam").update_graph(encoded, graph_config=WRITTEN)


def test_graph_without_such_nodes(encoded: HeteroData) -> None:
    with pytest.raises(HouseError, match="the graph has no nodes 'era', only data, hidden"):
        describe(encoded, data_name="era")


def test_record_survives_saving_and_moving(encoded: HeteroData, tmp_path: Path) -> None:
    graph = recorded(encoded)
    record = copy.deepcopy(getattr(graph, RECORD))
    torch.save(graph, tmp_path / "graph.pt")
    for loaded in (load_graph(tmp_path / "graph.pt"), load_graph(tmp_path / "graph.pt").to("cpu"), copy.copy(graph)):
        assert getattr(loaded, RECORD) == record
        assert torch.equal(loaded["data"].x, graph["data"].x)
        assert loaded.node_types == graph.node_types
        assert loaded.edge_types == graph.edge_types
        assert loaded.num_nodes == graph.num_nodes


def test_graph_file_needs_none_of_our_classes(
    encoded: HeteroData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inference loads the graph on machines without anemoi_house."""
    path = tmp_path / "graph.pt"
    torch.save(recorded(GraphCreator(DotDict()).clean(encoded)), path)
    with zipfile.ZipFile(path) as archive:
        (pickled,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        named = [str(value) for code, value, _ in pickletools.genops(archive.read(pickled)) if code.name == "GLOBAL"]
    assert any(name.startswith("torch_geometric") for name in named)
    assert not [name for name in named if name.startswith(("anemoi", "hydra", "omegaconf", "pydantic"))]

    for name in [name for name in sys.modules if name.split(".")[0] == "anemoi_house"]:
        monkeypatch.setitem(sys.modules, name, None)
    graph = torch.load(path, weights_only=False)
    assert type(getattr(graph, RECORD)) is dict


# Graph files


def test_no_such_graph_file(tmp_path: Path) -> None:
    with pytest.raises(HouseError, match=r"nowhere\.pt: does not exist\. Give a graph file\.$"):
        load_graph(tmp_path / "nowhere.pt")
    with pytest.raises(HouseError, match="is a directory"):
        load_graph(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_graph_file_that_is_cut_short(encoded: HeteroData, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "graph.pt"
    torch.save(encoded, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(HouseError) as caught:
        load_graph(path)
    assert str(caught.value).startswith(f"{path}: is cut short or not a graph file (")
    assert str(caught.value).endswith("). Delete it; the next training or `anemoi-graphs create` rebuilds it.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"a text\n", b"\x80\x05N.", bytes(1000), b"PK\x03\x04" + bytes(100), b"cno.such\nthing\n."]
)
def test_file_that_is_no_graph(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.pt"
    path.write_bytes(content)
    with pytest.raises(HouseError, match=r"is cut short or not a graph file|, not a graph"):
        load_graph(path)


def test_file_of_something_else_that_torch_saved(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "graph.pt")
    with pytest.raises(HouseError, match="holds a dict, not a graph"):
        load_graph(tmp_path / "graph.pt")
