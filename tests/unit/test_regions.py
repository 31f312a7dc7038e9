"""Regions by distance from the LAM's border, and their node attribute, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anemoi.graphs.create import GraphCreator
from anemoi.graphs.nodes.attributes import SphericalAreaWeights
from anemoi.training.losses import MSELoss
from anemoi.training.losses.scalers import GraphNodeAttributeScaler
from hypothesis import given
from hypothesis import strategies as st
from small_grids import graph_of, haversine_km, mesh_coordinates, nested_coordinates
from torch_geometric.data import HeteroData

from anemoi_house.boundary.regions import REGIONS, regions
from anemoi_house.errors import HouseError
from anemoi_house.graphs import BoundaryRing
from anemoi_house.plugin.scalers import AreaReweightedScaler
from anemoi_house.upstream.errors import CommandError

INNER, OUTER = 350.0, 600.0


@pytest.fixture(scope="module")
def coordinates() -> tuple[np.ndarray, np.ndarray]:
    """A patch from 30 to 50 N and 250 to 280 E in a global grid: degrees, and which are in the patch."""
    return nested_coordinates(2.0, 5.0)


@pytest.fixture(scope="module")
def expected(coordinates: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Name of each node's region, from all distances to the patch's outermost rows and columns."""
    points, in_lam = coordinates
    lat, lon = points.T
    rim = in_lam & (np.isin(lat, (30, 50)) | np.isin(lon, (250, 280)))
    away = haversine_km(points.T, points[rim].T).min(axis=1)
    inside = np.where(away > INNER, "lam_interior", "inner_ring")
    return np.where(in_lam, inside, np.where(away <= OUTER, "outer_ring", "outside"))


@pytest.fixture
def graph(coordinates: tuple[np.ndarray, np.ndarray]) -> HeteroData:
    graph = graph_of(*coordinates, hidden=mesh_coordinates(1))
    graph["data"].area_weight = SphericalAreaWeights(norm="unit-max").compute(graph, "data")
    return graph


def ring(region: str, **settings: object) -> BoundaryRing:
    return BoundaryRing(region, **{"inner_km": INNER, "outer_km": OUTER, **settings})  # type: ignore[arg-type]


# Distances to regions


@given(
    distances=st.lists(st.floats(-9000, 9000), max_size=40),
    inner=st.floats(1e-3, 3000),
    outer=st.floats(1e-3, 3000),
)
def test_each_distance_is_in_the_region_that_its_definition_says(
    distances: list[float], inner: float, outer: float
) -> None:
    signed = np.array([-np.inf, -inner, 0.0, outer, np.inf, *distances])
    codes = regions(signed, inner, outer)
    assert codes.dtype == np.int8
    assert [REGIONS[code] for code in codes[:5]] == [
        "lam_interior",
        "inner_ring",
        "inner_ring",
        "outer_ring",
        "outside",
    ]
    for code, distance in zip(codes, signed, strict=True):
        assert (
            {
                "lam_interior": distance < -inner,
                "inner_ring": -inner <= distance <= 0,
                "outer_ring": 0 < distance <= outer,
                "outside": distance > outer,
            }
        )[REGIONS[code]]


@pytest.mark.parametrize(
    ("signed", "message"),
    [
        (
            [-100, 0, 100, 500],
            "inner_km: no node lies beyond 225 km inside of the LAM's border (the farthest is 100 km away).",
        ),
        (
            [-500, -300, 100, 500],
            "inner_km: no node lies within 225 km inside of the LAM's border (the nearest is 300 km",
        ),
        (
            [-500, 0, 444, np.inf],
            "outer_km: no node lies within 225 km outside of the LAM's border (the nearest is 444",
        ),
        ([-500, 0, np.inf], "outer_km: no node lies within 225 km outside of the LAM's border (none is near). Give a"),
        (
            [-500, 0, 100],
            "outer_km: no node lies beyond 225 km outside of the LAM's border (the farthest is 100 km away). Give a",
        ),
        ([-500, 0, 100, np.nan], "1 of 4 nodes have no distance from the LAM's border."),
        ([], "inner_km: no node lies beyond 225 km inside of the LAM's border (none"),
    ],
)
def test_a_region_without_nodes_is_an_error(signed: list[float], message: str) -> None:
    with pytest.raises(HouseError) as caught:
        regions(signed)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("width", [0, -1, np.nan, np.inf])
def test_a_width_is_a_width(width: float) -> None:
    with pytest.raises(HouseError, match=r"inner_km: .* is not a valid width of a ring"):
        regions([-500, 0, 100, 500], inner_km=width)
    with pytest.raises(HouseError, match=r"outer_km: .* is not a valid width of a ring"):
        regions([-500, 0, 100, 500], outer_km=width)


# On a graph


@pytest.mark.parametrize("region", REGIONS)
def test_attribute_weighs_the_nodes_of_its_region_by_area(region: str, graph: HeteroData, expected: np.ndarray) -> None:
    values = ring(region).compute(graph, "data")
    assert values.dtype == torch.float32
    assert values.shape == graph["data"].area_weight.shape
    area = graph["data"].area_weight.numpy()[:, 0]
    np.testing.assert_array_equal(values.numpy()[:, 0], np.where(expected == region, area, 0))
    alike = ring(region, weight_attr_name=None).compute(graph, "data")
    np.testing.assert_array_equal(alike.numpy()[:, 0], expected == region)


def test_metrics_of_the_regions_are_their_means_and_add_up_to_the_whole(
    graph: HeteroData, expected: np.ndarray
) -> None:
    """Through the stock scaler and the stock loss."""
    for region in REGIONS:
        graph["data"][f"region_{region}"] = ring(region).compute(graph, "data")
    before = {name: value.clone() for name, value in graph["data"].items() if torch.is_tensor(value)}
    nodes = len(expected)
    generator = torch.Generator().manual_seed(1)
    forecast, truth = (torch.randn(1, 1, 1, nodes, 2, generator=generator) for _ in range(2))

    def mean_of(scaler: GraphNodeAttributeScaler) -> float:
        loss = MSELoss(ignore_nans=True)
        loss.add_scaler(*scaler.get_scaling(), name="nodes")
        return float(loss(forecast, truth, scaler_indices=(..., [1])))

    squared = ((forecast - truth) ** 2).numpy()[0, 0, 0, :, 1].astype(np.float64)
    area = graph["data"].area_weight.numpy()[:, 0].astype(np.float64)
    in_lam = graph["data"].cutout_mask.numpy()[:, 0]
    weights = np.where(in_lam, area / area[in_lam].sum(), area / area[~in_lam].sum()) / 2
    contributions = 0.0
    for region in REGIONS:
        there = expected == region
        mean = mean_of(GraphNodeAttributeScaler(graph, "data", f"region_{region}", norm="unit-sum"))
        assert mean == pytest.approx(np.average(squared[there], weights=area[there]), rel=1e-5)
        contributions += weights[there].sum() * mean
    whole = AreaReweightedScaler(graph, "data", "area_weight", "cutout_mask", 0.5, norm="unit-sum")
    assert mean_of(whole) == pytest.approx(contributions, rel=1e-5)
    for name, value in before.items():
        assert torch.equal(graph["data"][name], value), name


def test_graph_keeps_the_weights_and_nothing_else_of_ours(graph: HeteroData) -> None:
    for region in REGIONS:
        graph["data"][f"region_{region}"] = ring(region).compute(graph, "data")
    cleaned = GraphCreator(config={"nodes": {}, "edges": []}).clean(graph)
    assert {name for name in cleaned["data"] if "region" in name} == {f"region_{region}" for region in REGIONS}


def test_other_widths_of_one_graph_are_other_regions(graph: HeteroData, expected: np.ndarray) -> None:
    ring("outer_ring").compute(graph, "data")
    wider = ring("outer_ring", outer_km=2 * OUTER).compute(graph, "data")
    assert int((wider > 0).sum()) > (expected == "outer_ring").sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_km": 5000.0}, "BoundaryRing: inner_km: no node lies beyond 5000 km inside of the LAM's border ("),
        ({"outer_km": 10.0}, "BoundaryRing: outer_km: no node lies within 10 km outside of the LAM's border ("),
        (
            {"lam_mask_attr_name": "lam_mask"},
            "BoundaryRing: lam_mask_attr_name: the nodes have no attribute 'lam_mask'. Add it to their attributes",
        ),
        ({"weight_attr_name": "area"}, "BoundaryRing: weight_attr_name: the nodes have no attribute 'area'. Add it"),
    ],
)
def test_mistake_gets_one_message(settings: dict[str, object], message: str, graph: HeteroData) -> None:
    with pytest.raises(CommandError) as caught:
        ring("outer_ring", **settings).compute(graph, "data")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_grid_that_is_not_nested_gets_one_message(graph: HeteroData) -> None:
    graph["data"].cutout_mask = torch.zeros_like(graph["data"].cutout_mask)
    with pytest.raises(
        CommandError,
        match=r"BoundaryRing: The limited area has no border: it holds 0 of [\d,]+ points",
    ):
        ring("lam_interior").compute(graph, "data")


def test_unknown_region_gets_one_message() -> None:
    with pytest.raises(CommandError, match="region: 'rim' is not one of lam_interior, inner_ring, outer_ring, outside"):
        BoundaryRing("rim")
