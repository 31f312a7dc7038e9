from __future__ import annotations

import numpy as np
import pytest
import torch
from anemoi.graphs.edges import KNNEdges
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from small_grids import globe_grid, graph_of, haversine_km, mesh_coordinates, nested_coordinates, unit_vectors
from torch_geometric.data import HeteroData

from anemoi_house.errors import HouseError
from anemoi_house.graphs.coverage import (
    ZONES,
    DataNodes,
    first_pick,
    nearest_hidden,
    neighbours_or_auto,
    parse_neighbours,
    reached_nodes,
    smallest_number,
)

random_grids = st.tuples(st.integers(0, 2**32 - 1), st.integers(12, 150), st.integers(3, 60))
"""Seed, data nodes, hidden nodes."""


def random_grid(drawn: tuple[int, int, int]) -> tuple[DataNodes, np.ndarray]:
    """Random data nodes, some of them crowded into a LAM, and a hidden mesh (degrees, of shape (m, 2))."""
    seed, points, mesh = drawn
    rng = np.random.default_rng(seed)
    in_lam = np.arange(points) < points // 3
    latitudes = np.where(in_lam, rng.uniform(30, 40, points), rng.uniform(-90, 90, points))
    longitudes = np.where(in_lam, rng.uniform(250, 260, points), rng.uniform(0, 360, points))
    hidden = np.stack([rng.uniform(-90, 90, mesh), rng.uniform(0, 360, mesh)], axis=1)
    return DataNodes(latitudes, longitudes, in_lam, float(rng.uniform(100, 5000))), hidden


def smallest_in(nodes: DataNodes, hidden: np.ndarray, floor: int, ceiling: int) -> int | None:
    points, mesh = nodes.points, unit_vectors(*hidden.T)
    smallest, _ = smallest_number(points, mesh, nodes.in_boundary_zone, floor, ceiling, reach=2, in_ties=True)
    return smallest


def chords(nodes: DataNodes, hidden: np.ndarray) -> np.ndarray:
    """Straight-line distances from every hidden to every data node, of shape (hidden, data)."""
    return np.linalg.norm(unit_vectors(*hidden.T)[:, None] - nodes.points[None], axis=-1)


def brute_zones(nodes: DataNodes) -> np.ndarray:
    """Zone of every node, from the full distance matrix."""
    lam = nodes.latitudes[nodes.in_lam], nodes.longitudes[nodes.in_lam]
    away = np.full(len(nodes.latitudes), np.inf)
    if nodes.in_lam.any():
        away = haversine_km((nodes.latitudes, nodes.longitudes), lam).min(axis=1)
    zones = np.where(np.abs(nodes.latitudes) >= 60, "poles", "elsewhere")
    zones = np.where(away <= nodes.boundary_width_km, "rim", zones)
    return np.where(nodes.in_lam, "lam", zones)


# Zones


@given(random_grids)
@settings(max_examples=25, deadline=None)
def test_zones_are_those_of_brute_force(drawn: tuple[int, int, int]) -> None:
    nodes, _ = random_grid(drawn)
    everything = np.arange(len(nodes.latitudes))
    expected = brute_zones(nodes)
    assert list(nodes.zone(everything)) == list(expected)
    some = everything[::3]
    assert list(nodes.zone(some)) == list(expected[some])
    assert list(nodes.in_boundary_zone(some)) == [zone in ("lam", "rim") for zone in expected[some]]
    assert nodes.count(everything) == {zone: list(expected).count(zone) for zone in ZONES}


def test_every_node_is_counted_once() -> None:
    coordinates, in_lam = nested_coordinates(1.0, 4.0)
    nodes = DataNodes(*coordinates.T, in_lam, 1000.0)
    count = nodes.count(np.arange(len(coordinates)))
    assert list(count) == ["lam", "rim", "poles", "elsewhere"]
    assert count["lam"] == in_lam.sum()
    assert min(count.values()) > 0
    assert sum(count.values()) == len(coordinates)


def test_zones_of_no_nodes_and_of_a_grid_without_a_lam() -> None:
    lat, lon = (field.ravel() for field in globe_grid(30.0))
    nodes = DataNodes(lat, lon, np.zeros(len(lat), dtype=bool), 1000.0)
    nothing = np.empty(0, dtype=np.intp)
    assert len(nodes.zone(nothing)) == 0
    assert nodes.count(nothing) == dict.fromkeys(ZONES, 0)
    assert nodes.count(np.arange(len(lat))) == {"lam": 0, "rim": 0, "poles": 24, "elsewhere": 48}


# Searches


@given(random_grids, st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_first_pick_is_that_of_brute_force(drawn: tuple[int, int, int], ceiling: int) -> None:
    nodes, hidden = random_grid(drawn)
    ranks = np.argsort(np.argsort(chords(nodes, hidden), axis=1), axis=1) + 1
    expected = np.minimum(ranks.min(axis=0), ceiling + 1)
    assert list(first_pick(nodes.points, unit_vectors(*hidden.T), ceiling)) == list(expected)


def brute_smallest(nodes: DataNodes, hidden: np.ndarray, floor: int, ceiling: int) -> int | None:
    """Smallest number at which each node of the zone is picked, by counting the nodes nearer to a hidden node."""
    distances = chords(nodes, hidden)
    nearer = [np.searchsorted(np.sort(row), row * (1 - 1e-9)) for row in distances]
    needed = np.min(nearer, axis=0) + 1
    zone = np.isin(brute_zones(nodes), ["lam", "rim"])
    smallest = int(needed[zone].max(initial=floor))
    return smallest if smallest <= ceiling else None


@given(random_grids, st.integers(1, 12), st.integers(12, 64))
@settings(max_examples=40, deadline=None)
def test_smallest_is_that_of_brute_force(drawn: tuple[int, int, int], floor: int, ceiling: int) -> None:
    nodes, hidden = random_grid(drawn)
    expected = brute_smallest(nodes, hidden, floor, min(ceiling, len(nodes.latitudes)))
    assert smallest_in(nodes, hidden, floor, ceiling) == expected


@pytest.mark.parametrize(("lam_step", "globe_step", "resolution"), [(2.0, 5.0, 2), (2.5, 10.0, 3)])
def test_smallest_counts_ties_in_favour_of_the_node(lam_step: float, globe_step: float, resolution: int) -> None:
    coordinates, in_lam = nested_coordinates(lam_step, globe_step)
    nodes = DataNodes(*coordinates.T, in_lam, 1000.0)
    hidden = np.round(mesh_coordinates(resolution), 3)
    expected = brute_smallest(nodes, hidden, 3, 64)
    assert smallest_in(nodes, hidden, 3, 64) == expected


def test_smallest_of_a_grid_that_needs_more_than_the_ceiling() -> None:
    """100 nodes in a row, seen from one end: the last is the hundredth neighbour."""
    nodes = DataNodes(np.zeros(100), np.arange(100) * 0.1, np.ones(100, dtype=bool), 1000.0)
    hidden = np.array([[0.0, -1.0]])
    assert smallest_in(nodes, hidden, 12, 99) is None
    assert smallest_in(nodes, hidden, 12, 100) == 100
    assert smallest_in(nodes, hidden, 12, 5000) == 100


@pytest.mark.parametrize("sources", [[], [0, 0, 3], [0, 1, 2, 3]])
def test_reached_nodes(sources: list[int]) -> None:
    expected = [node in sources for node in range(4)]
    assert list(reached_nodes(4, np.array(sources, dtype=np.int32))) == expected


@given(random_grids)
@settings(max_examples=20, deadline=None)
def test_nearest_hidden_is_that_of_brute_force(drawn: tuple[int, int, int]) -> None:
    nodes, hidden = random_grid(drawn)
    distances = chords(nodes, hidden)
    hosts = nearest_hidden(nodes.points, unit_vectors(*hidden.T))
    assert np.array_equal(hosts, distances.argmin(axis=0))


# Against trial and error with stock edges


def stock_loop(graph: HeteroData, nodes: DataNodes, floor: int, ceiling: int) -> int | None:
    """Return the first number from `floor` at which stock KNN reaches every node of the zone."""
    zone = np.isin(brute_zones(nodes), ["lam", "rim"])
    for neighbours in range(floor, ceiling + 1):
        edges = KNNEdges("data", "hidden", neighbours).compute_edge_index(graph["data"], graph["hidden"])
        reached = np.zeros(len(zone), dtype=bool)
        reached[edges[0].numpy()] = True
        if reached[zone].all():
            return neighbours
    return None


def float32_nodes(graph: HeteroData, boundary_width_km: float) -> DataNodes:
    """Data nodes with the coordinates of the graph, in single precision."""
    coordinates = np.rad2deg(graph["data"].x.numpy().astype(np.float64))
    return DataNodes(*coordinates.T, graph["data"].cutout_mask.squeeze().numpy(), boundary_width_km)


def auto(graph: HeteroData, boundary_width_km: float, floor: int, ceiling: int) -> int | None:
    from anemoi_house.graphs import BoundaryAwareKNNEdges
    from anemoi_house.upstream.errors import CommandError

    builder = BoundaryAwareKNNEdges("data", "hidden", "auto", boundary_width_km, floor=floor, ceiling=ceiling)
    try:
        edges = builder.compute_edge_index(graph["data"], graph["hidden"])
    except CommandError:
        return None
    return edges.shape[1] // len(graph["hidden"].x)


@pytest.mark.parametrize("floor", [3, 12])
def test_auto_is_the_users_loop_on_the_tiny_grid(tiny_nodes: HeteroData, floor: int) -> None:
    nodes = float32_nodes(tiny_nodes, 1000.0)
    expected = stock_loop(tiny_nodes, nodes, floor, 64)
    assert expected is not None
    assert auto(tiny_nodes, 1000.0, floor, 64) == expected


@pytest.mark.parametrize("boundary_width_km", [500.0])
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("lam_step", "globe_step", "resolution"), [(2.0, 6.0, 2), (2.5, 10.0, 3)])
def test_auto_is_the_users_loop_on_nested_grids(
    lam_step: float, globe_step: float, resolution: int, seed: int | None, boundary_width_km: float
) -> None:
    """Without a seed the data grid is symmetric: stock KNN chooses among equally far nodes."""
    coordinates, in_lam = nested_coordinates(lam_step, globe_step, seed)
    graph = graph_of(coordinates, in_lam, mesh_coordinates(resolution))
    expected = stock_loop(graph, float32_nodes(graph, boundary_width_km), 2, 30)
    assert auto(graph, boundary_width_km, 2, 30) == expected


def lattice(step: float, rows: int, columns: int, offset: float = 0.0) -> np.ndarray:
    """Coordinates, of shape (n, 2), of a lat-lon patch around the equator."""
    fields = np.meshgrid(np.arange(rows) * step + offset, np.arange(columns) * step + offset, indexing="ij")
    return np.stack([field.ravel() for field in fields], axis=1)


@given(
    step=st.sampled_from([0.5, 1.0, 2.0]),
    rows=st.integers(4, 9),
    columns=st.integers(4, 9),
    coarser=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    offset=st.sampled_from([0.0, 0.25, 0.5]),
    floor=st.integers(1, 6),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_auto_is_the_users_loop_on_lattices(
    step: float, rows: int, columns: int, coarser: float, offset: float, floor: int
) -> None:
    """Every hidden node is at the centre of a cell or on a node: ties everywhere."""
    data = lattice(step, rows, columns)
    extent = int(rows / coarser) + 1, int(columns / coarser) + 1
    hidden = lattice(step * coarser, *extent, offset=offset * step)
    assume(len(data) > 12)
    graph = graph_of(data, np.arange(len(data)) < len(data) // 2, hidden)
    nodes = float32_nodes(graph, 1000.0)
    ceiling = min(24, len(data))
    expected = stock_loop(graph, nodes, floor, ceiling)
    assert auto(graph, 1000.0, floor, ceiling) == expected


def test_the_graph_is_not_touched_by_the_search(tiny_nodes: HeteroData) -> None:
    before = {name: tiny_nodes[name].x.clone() for name in ("data", "hidden")}
    auto(tiny_nodes, 1000.0, 12, 64)
    assert all(torch.equal(tiny_nodes[name].x, x) for name, x in before.items())
    assert tiny_nodes.edge_types == []


# Numbers of neighbours as users write them


@pytest.mark.parametrize("value", [1, 12, 20, 256])
def test_number_of_neighbours(value: int) -> None:
    assert parse_neighbours(value) == value
    assert neighbours_or_auto(value) == value


def test_automatic_number_of_neighbours() -> None:
    assert neighbours_or_auto("auto") == "auto"


@pytest.mark.parametrize("value", [0, -3, 2.5, 20.0, True, "lots", "20", "Auto", None, [12], float("nan")])
def test_bad_number_of_neighbours(value: object) -> None:
    with pytest.raises(HouseError) as caught:
        neighbours_or_auto(value)
    assert str(caught.value) == (
        f"num_nearest_neighbours: {value!r} is not a valid number of neighbours; give a whole number of at "
        "least 1, or auto."
    )


def test_auto_where_there_is_none() -> None:
    with pytest.raises(
        HouseError, match=r"'auto' is not a valid number of neighbours; give a whole number of at least 1\.$"
    ):
        parse_neighbours("auto")
