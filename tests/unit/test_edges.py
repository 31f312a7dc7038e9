from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anemoi.graphs.create import GraphCreator
from anemoi.graphs.edges import KNNEdges, ReversedKNNEdges
from anemoi.utils.config import DotDict
from hydra.errors import CompactHydraException
from small_grids import globe_grid, graph_of, haversine_km, lam_grid, mesh_coordinates, nested_coordinates, unit_vectors
from torch_geometric.data import HeteroData

from anemoi_house.graphs import BoundaryAwareKNNEdges, CoveringKNNEdges
from anemoi_house.upstream.errors import CommandError


def edges_of(builder: KNNEdges, graph: HeteroData) -> torch.Tensor:
    """Return the edges as the builder registers them in a graph, of shape (2, edges)."""
    graph = HeteroData({name: graph[name] for name in graph.node_types})
    return builder.update_graph(graph)["data", "to", "hidden"].edge_index


def pairs(edges: torch.Tensor) -> set[tuple[int, int]]:
    return set(zip(*edges.tolist()))


@pytest.fixture(scope="module")
def nested() -> HeteroData:
    """Symmetric nested grid in which 12 neighbours are not enough, with a mask on data and hidden nodes."""
    coordinates, in_lam = nested_coordinates(2.0, 5.0)
    graph = graph_of(coordinates, in_lam, mesh_coordinates(3))
    rng = np.random.default_rng(0)
    graph["data"].used = torch.tensor(rng.uniform(size=(len(coordinates), 1)) < 0.8)
    graph["hidden"].used = torch.tensor(rng.uniform(size=(len(graph["hidden"].x), 1)) < 0.9)
    return graph


MASKS = [{}, {"source_mask_attr_name": "used", "target_mask_attr_name": "used"}]


def used(graph: HeteroData, name: str, mask: str | None) -> np.ndarray:
    """Return the nodes that a builder with this mask may use."""
    everything = np.arange(len(graph[name].x))
    return everything[graph[name][mask].squeeze().numpy()] if mask else everything


def zone_nodes(graph: HeteroData, boundary_width_km: float) -> np.ndarray:
    """Return the data nodes in the LAM or within a width of it, from the full distance matrix."""
    coordinates = np.rad2deg(graph["data"].x.numpy().astype(np.float64)).T
    in_lam = graph["data"].cutout_mask.squeeze().numpy()
    away = haversine_km(tuple(coordinates), tuple(coordinates[:, in_lam])).min(axis=1)
    return np.flatnonzero(in_lam | (away <= boundary_width_km))


# BoundaryAwareKNNEdges


def test_a_number_builds_exactly_the_stock_graph(tiny_nodes: HeteroData) -> None:
    ours = edges_of(BoundaryAwareKNNEdges("data", "hidden", 20), tiny_nodes)
    stock = edges_of(KNNEdges("data", "hidden", 20), tiny_nodes)
    assert ours.dtype == stock.dtype
    assert torch.equal(ours, stock)


@pytest.mark.parametrize("masks", MASKS)
def test_auto_builds_the_stock_graph_of_the_smallest_number(nested: HeteroData, masks: dict[str, str]) -> None:
    zone = np.intersect1d(zone_nodes(nested, 1000.0), used(nested, "data", masks.get("source_mask_attr_name")))
    for neighbours in range(4, 256):
        stock = edges_of(KNNEdges("data", "hidden", neighbours, **masks), nested)
        if np.isin(zone, stock[0].numpy()).all():
            break
    builder = BoundaryAwareKNNEdges("data", "hidden", "auto", floor=4, ceiling=256, **masks)
    ours = edges_of(builder, nested)
    assert builder.num_nearest_neighbours == neighbours > 4
    assert ours.dtype == stock.dtype
    assert ours.shape == stock.shape
    assert pairs(ours) == pairs(stock)
    assert torch.equal(ours[1], stock[1])


def test_auto_on_the_tiny_grid_builds_the_stock_graph(tiny_nodes: HeteroData) -> None:
    builder = BoundaryAwareKNNEdges("data", "hidden", "auto")
    ours = edges_of(builder, tiny_nodes)
    assert pairs(ours) == pairs(edges_of(KNNEdges("data", "hidden", builder.num_nearest_neighbours), tiny_nodes))


def test_auto_says_what_it_chose(tiny_nodes: HeteroData, caplog: pytest.LogCaptureFixture) -> None:
    builder = BoundaryAwareKNNEdges("data", "hidden", "auto")
    with caplog.at_level("INFO", "anemoi_house"):
        edges_of(builder, tiny_nodes)
    assert f"Neighbours chosen: {builder.num_nearest_neighbours} (from 12 to 64)." in caplog.messages


def test_one_builder_serves_several_graphs(nested: HeteroData, tiny_nodes: HeteroData) -> None:
    builder = BoundaryAwareKNNEdges("data", "hidden", "auto", floor=4, ceiling=256)
    first = edges_of(builder, nested)
    edges_of(builder, tiny_nodes)
    assert torch.equal(edges_of(builder, nested), first)


@pytest.mark.parametrize("masks", MASKS)
def test_broken_guarantee_gives_counts_and_the_smallest_number(nested: HeteroData, masks: dict[str, str]) -> None:
    with pytest.raises(CommandError) as caught:
        edges_of(BoundaryAwareKNNEdges("data", "hidden", 5, **masks), nested)

    stock = edges_of(KNNEdges("data", "hidden", 5, **masks), nested)
    isolated = np.setdiff1d(used(nested, "data", masks.get("source_mask_attr_name")), stock[0].numpy())
    in_lam = nested["data"].cutout_mask.squeeze().numpy()[isolated]
    in_zone = np.isin(isolated, zone_nodes(nested, 1000.0))
    if "source_mask_attr_name" in masks:  # the zone is around the unmasked nodes of the LAM
        everything = HeteroData(nested.to_dict())
        everything["data"].cutout_mask = nested["data"].cutout_mask & nested["data"].used
        in_zone = np.isin(isolated, zone_nodes(everything, 1000.0))
    polar = np.abs(np.rad2deg(nested["data"].x[:, 0].numpy()))[isolated] >= 60
    rim, poles, elsewhere = (in_zone & ~in_lam).sum(), (~in_zone & polar).sum(), (~in_zone & ~polar).sum()
    chosen = BoundaryAwareKNNEdges("data", "hidden", "auto", floor=5, ceiling=256, **masks)
    edges_of(chosen, nested)
    assert str(caught.value) == (
        f"num_nearest_neighbours: 5 leaves {in_lam.sum() + rim} data nodes within 1000 km of the LAM without an edge "
        f"to 'hidden': {in_lam.sum()} in the LAM, {rim} on its rim (and, outside the zone, {poles} towards the "
        f"poles, {elsewhere} elsewhere). The smallest sufficient number is {chosen.num_nearest_neighbours}: set it, or "
        "`auto`, which finds it; CoveringKNNEdges reaches every node with any number."
    )


@pytest.mark.parametrize(("lam_step", "globe_step", "resolution"), [(2.0, 6.0, 2), (2.5, 10.0, 3), (1.0, 5.0, 2)])
def test_the_number_that_a_broken_guarantee_names_is_sufficient(
    lam_step: float, globe_step: float, resolution: int
) -> None:
    """Also on symmetric grids, where ties may be broken differently than the search assumes."""
    coordinates, in_lam = nested_coordinates(lam_step, globe_step)
    graph = graph_of(coordinates, in_lam, mesh_coordinates(resolution))
    with pytest.raises(CommandError, match="The smallest sufficient number is") as caught:
        edges_of(BoundaryAwareKNNEdges("data", "hidden", 1), graph)
    named = int(str(caught.value).split("sufficient number is ")[1].split(":")[0])
    edges_of(BoundaryAwareKNNEdges("data", "hidden", named), graph)
    with pytest.raises(CommandError):
        edges_of(BoundaryAwareKNNEdges("data", "hidden", named - 1), graph)


def test_the_number_that_a_broken_guarantee_names_is_sufficient_where_a_tie_decides() -> None:
    """Two rows mirrored at the equator and a hidden node on it: both nodes of a pair are equally far, exactly."""
    data = np.array([(latitude, longitude) for latitude in (0.5, -0.5) for longitude in range(10)])
    graph = graph_of(data, np.ones(20, dtype=bool), np.array([[0.0, 0.2]]))
    with pytest.raises(CommandError, match="The smallest sufficient number is 20: "):
        edges_of(BoundaryAwareKNNEdges("data", "hidden", 1), graph)


def in_a_row(points: int) -> HeteroData:
    """Data nodes in a row, all in the LAM, and one hidden node before them: only all of them are sufficient."""
    data = np.stack([np.zeros(points), np.linspace(10, 20, points)], axis=1)
    return graph_of(data, np.ones(points, dtype=bool), np.array([[0.0, 9.0]]))


def test_guarantee_that_no_number_keeps() -> None:
    with pytest.raises(CommandError, match=r"12 leaves 288 data nodes .* No number up to 256 is sufficient: refine"):
        edges_of(BoundaryAwareKNNEdges("data", "hidden", 12), in_a_row(300))


def test_auto_that_finds_none() -> None:
    with pytest.raises(CommandError) as caught:
        edges_of(BoundaryAwareKNNEdges("data", "hidden", "auto", boundary_width_km=500), in_a_row(300))
    assert str(caught.value) == (
        "num_nearest_neighbours: auto found no number from 12 to 64 that reaches every data node within 500 km of the "
        "LAM. Raise `ceiling`, refine the hidden mesh, or use CoveringKNNEdges."
    )


def test_all_nodes_as_neighbours() -> None:
    graph = in_a_row(30)
    assert edges_of(BoundaryAwareKNNEdges("data", "hidden", 30), graph).shape == (2, 30)
    assert edges_of(BoundaryAwareKNNEdges("data", "hidden", "auto"), graph).shape == (2, 30)


def test_nodes_outside_the_zone_are_not_part_of_the_guarantee(tiny_nodes: HeteroData) -> None:
    edges = edges_of(BoundaryAwareKNNEdges("data", "hidden", 12, boundary_width_km=1.0), tiny_nodes)
    assert len(np.setdiff1d(np.arange(len(tiny_nodes["data"].x)), edges[0].numpy())) > 0


# CoveringKNNEdges


@pytest.mark.parametrize("neighbours", [1, 5, 12])
@pytest.mark.parametrize("masks", MASKS)
def test_covering_adds_an_edge_to_the_nearest_hidden_node(
    nested: HeteroData, masks: dict[str, str], neighbours: int
) -> None:
    stock = edges_of(KNNEdges("data", "hidden", neighbours, **masks), nested)
    ours = edges_of(CoveringKNNEdges("data", "hidden", neighbours, **masks), nested)
    count = stock.shape[1]
    assert ours.dtype == stock.dtype
    assert torch.equal(ours[:, :count], stock)

    data = used(nested, "data", masks.get("source_mask_attr_name"))
    hidden = used(nested, "hidden", masks.get("target_mask_attr_name"))
    sources, hosts = ours[:, count:].numpy()
    assert len(sources) > 0
    assert sorted(sources) == sorted(np.setdiff1d(data, stock[0].numpy()))  # each isolated node once
    assert np.isin(hosts, hidden).all()
    points, mesh = (
        unit_vectors(*np.rad2deg(nested[name].x.numpy().astype(np.float64)).T) for name in ("data", "hidden")
    )
    distances = np.linalg.norm(points[sources, None] - mesh[None, hidden], axis=-1)
    taken = np.linalg.norm(points[sources] - mesh[hosts], axis=-1)
    np.testing.assert_allclose(taken, distances.min(axis=1), rtol=1e-5)


@pytest.mark.parametrize("masks", MASKS)
def test_covering_leaves_nobody_out_as_the_stock_pair_does(nested: HeteroData, masks: dict[str, str]) -> None:
    ours = edges_of(CoveringKNNEdges("data", "hidden", 5, **masks), nested)
    graph = HeteroData({name: nested[name] for name in nested.node_types})
    for builder in (KNNEdges("data", "hidden", 5, **masks), ReversedKNNEdges("data", "hidden", 1, **masks)):
        graph = builder.update_graph(graph)
    pair = graph["data", "to", "hidden"].edge_index
    data = used(nested, "data", masks.get("source_mask_attr_name"))
    assert np.array_equal(np.unique(ours[0]), data)
    assert np.array_equal(np.unique(pair[0]), data)
    assert pairs(edges_of(KNNEdges("data", "hidden", 5, **masks), nested)) <= pairs(ours)
    assert len(pairs(ours)) == ours.shape[1] <= pair.shape[1]


def test_covering_where_nobody_is_left_out() -> None:
    graph = in_a_row(30)
    ours = edges_of(CoveringKNNEdges("data", "hidden", 30), graph)
    assert torch.equal(ours, edges_of(KNNEdges("data", "hidden", 30), graph))


def test_covering_on_the_tiny_grid_costs_few_edges(tiny_nodes: HeteroData) -> None:
    ours = edges_of(CoveringKNNEdges("data", "hidden", 12), tiny_nodes)
    assert len(torch.unique(ours[0])) == len(tiny_nodes["data"].x)
    stock = edges_of(KNNEdges("data", "hidden", 12), tiny_nodes)
    assert stock.shape[1] < ours.shape[1] <= 1.5 * stock.shape[1]


# Bad input

BUILDERS = [BoundaryAwareKNNEdges, CoveringKNNEdges]


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("neighbours", [0, 2.5, "lots", None, -1])
def test_bad_number_of_neighbours(builder: type[KNNEdges], neighbours: Any) -> None:
    with pytest.raises(CommandError) as caught:
        builder("data", "hidden", neighbours)
    way_out = "a whole number of at least 1" + (", or auto" if builder is BoundaryAwareKNNEdges else "")
    assert str(caught.value) == (
        f"num_nearest_neighbours: {neighbours!r} is not a valid number of neighbours; give {way_out}."
    )


def test_covering_has_no_auto() -> None:
    with pytest.raises(CommandError, match="'auto' is not a valid number of neighbours"):
        CoveringKNNEdges("data", "hidden", "auto")


@pytest.mark.parametrize("builder", BUILDERS)
def test_more_neighbours_than_nodes(builder: type[KNNEdges]) -> None:
    with pytest.raises(CommandError) as caught:
        edges_of(builder("data", "hidden", 31), in_a_row(30))
    assert str(caught.value) == "num_nearest_neighbours: 31 is more than the 30 nodes 'data'. Give a smaller number."


@pytest.mark.parametrize("builder", BUILDERS)
def test_more_neighbours_than_nodes_under_a_mask(builder: type[KNNEdges]) -> None:
    graph = in_a_row(30)
    graph["data"].used = torch.arange(30)[:, None] < 13
    with pytest.raises(CommandError, match="20 is more than the 13 nodes 'data'"):
        edges_of(builder("data", "hidden", 20, source_mask_attr_name="used"), graph)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("name", ["data", "hidden"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_coordinates_that_are_not_finite(builder: type[KNNEdges], name: str, value: float) -> None:
    graph = in_a_row(30)
    graph[name].x = graph[name].x.clone()
    graph[name].x[0, 1] = value
    with pytest.raises(CommandError) as caught:
        edges_of(builder("data", "hidden", 12), graph)
    assert str(caught.value) == (
        f"1 of the {len(graph[name].x)} nodes '{name}' have coordinates that are not finite: correct the latitudes and "
        "longitudes of their dataset."
    )


def test_nodes_without_a_mask_of_the_lam() -> None:
    graph = in_a_row(30)
    with pytest.raises(CommandError) as caught:
        edges_of(BoundaryAwareKNNEdges("data", "hidden", 12, lam_mask_attr_name="lam"), graph)
    assert str(caught.value) == (
        "lam_mask_attr_name: the nodes 'data' have no attribute 'lam' that marks the LAM. Add it to their attributes, "
        "{_target_: anemoi.graphs.nodes.attributes.CutOutMask}, or name the right one."
    )


def test_a_mistake_ends_every_stock_command_with_its_message() -> None:
    with pytest.raises(CommandError) as caught:
        CoveringKNNEdges("data", "hidden", 0)
    assert isinstance(caught.value, SystemExit)
    assert isinstance(caught.value, CompactHydraException)
    assert caught.value.code == str(caught.value)


# As in a recipe of anemoi-graphs


def recipe(folder: Path, builder: dict[str, Any]) -> dict[str, Any]:
    coordinates = np.concatenate([np.stack([f.ravel() for f in grid()], axis=1) for grid in (lam_grid, globe_grid)])
    np.savetxt(folder / "data.txt", coordinates.T)  # one row of latitudes, one of longitudes
    np.savetxt(folder / "hidden.txt", mesh_coordinates(2).T)

    def nodes(name: str) -> dict[str, Any]:
        target = "anemoi.graphs.nodes.TextNodes"
        return {"_target_": target, "dataset": str(folder / name), "idx_lon": 1, "idx_lat": 0}

    return {
        "nodes": {"data": {"node_builder": nodes("data.txt")}, "hidden": {"node_builder": nodes("hidden.txt")}},
        "edges": [
            {
                "source_name": "data",
                "target_name": "hidden",
                "edge_builders": [builder],
                "attributes": {"edge_length": {"_target_": "anemoi.graphs.edges.attributes.EdgeLength"}},
            }
        ],
    }


def test_covering_edges_in_a_recipe(tmp_path: Path) -> None:
    builder = {"_target_": "anemoi_house.graphs.CoveringKNNEdges", "num_nearest_neighbours": 3}
    graph = GraphCreator(DotDict(recipe(tmp_path, builder))).create(tmp_path / "graph.pt")
    edges = graph["data", "to", "hidden"]
    assert (tmp_path / "graph.pt").exists()
    assert len(torch.unique(edges.edge_index[0])) == graph["data"].num_nodes == 120 + 648
    assert edges.edge_length.shape == (edges.num_edges, 1)
    assert edges.edge_type == "CoveringKNNEdges"


def test_boundary_aware_edges_in_a_recipe(tmp_path: Path) -> None:
    """The mask comes from an attribute that any recipe can have; here it is added to existing nodes."""
    builder = {"_target_": "anemoi_house.graphs.BoundaryAwareKNNEdges", "num_nearest_neighbours": "auto"}
    written = recipe(tmp_path, {**builder, "floor": 3, "lam_mask_attr_name": "lam"})
    nodes_only = GraphCreator(DotDict(nodes=written.pop("nodes"))).update_graph(HeteroData())
    nodes_only["data"].lam = torch.arange(nodes_only["data"].num_nodes)[:, None] < 120
    graph = GraphCreator(DotDict(written)).update_graph(nodes_only)
    edges = graph["data", "to", "hidden"]
    assert np.isin(np.arange(120), edges.edge_index[0]).all()
    assert edges.edge_type == "BoundaryAwareKNNEdges"


def test_an_empty_range_for_auto_is_refused() -> None:
    with pytest.raises(CommandError, match=r"floor: 20 is more than ceiling: 12\. Lower the floor"):
        BoundaryAwareKNNEdges("data", "hidden", "auto", floor=20, ceiling=12)
    with pytest.raises(CommandError, match="floor: 0 is not a valid number of neighbours"):
        BoundaryAwareKNNEdges("data", "hidden", "auto", floor=0)
