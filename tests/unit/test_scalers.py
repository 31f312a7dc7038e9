from __future__ import annotations

import pytest
import torch
from anemoi.training.losses.scalers import ReweightedGraphNodeAttributeScaler
from torch_geometric.data import HeteroData

from anemoi_house.plugin.scalers import AreaReweightedScaler

LAM, GLOBE = 4, 6


@pytest.fixture
def graph() -> HeteroData:
    """Ten nodes with different areas, the first four in the LAM."""
    graph = HeteroData()
    graph["data"].x = torch.zeros(LAM + GLOBE, 2)
    graph["data"].area_weight = torch.linspace(0.1, 1.0, LAM + GLOBE)[:, None]
    graph["data"].cutout_mask = (torch.arange(LAM + GLOBE) < LAM)[:, None]
    return graph


def weights_of(scaler: type[ReweightedGraphNodeAttributeScaler], graph: HeteroData, share: float) -> torch.Tensor:
    return scaler(graph, "data", "area_weight", "cutout_mask", share).get_scaling_values()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("scaler", [AreaReweightedScaler, ReweightedGraphNodeAttributeScaler])
def test_lam_has_its_share_of_the_total(
    scaler: type[ReweightedGraphNodeAttributeScaler], graph: HeteroData, share: float
) -> None:
    weights = weights_of(scaler, graph, share)
    assert weights.shape == (LAM + GLOBE,)
    assert float(weights[:LAM].sum() / weights.sum()) == pytest.approx(share, rel=1e-5)
    torch.testing.assert_close(weights[LAM:], torch.linspace(0.1, 1.0, LAM + GLOBE)[LAM:])


def test_nodes_of_the_lam_keep_their_weights_relative_to_each_other(graph: HeteroData) -> None:
    area = graph["data"].area_weight.squeeze().clone()
    weights = weights_of(AreaReweightedScaler, graph, 0.5)
    torch.testing.assert_close(weights[:LAM] / weights[0], area[:LAM] / area[0])


def test_graph_that_goes_into_the_checkpoint_is_left_alone(graph: HeteroData) -> None:
    before = graph["data"].area_weight.clone()
    for _ in range(2):  # scalers are created for the loss and again for the metrics
        weights = weights_of(AreaReweightedScaler, graph, 0.5)
    assert torch.equal(graph["data"].area_weight, before)
    assert float(weights[:LAM].sum() / weights.sum()) == pytest.approx(0.5)


def test_upstream_does_neither(graph: HeteroData) -> None:
    """The reason for our scaler. If this fails, upstream is fixed and ours can be removed."""
    before = graph["data"].area_weight.clone()
    weights = weights_of(ReweightedGraphNodeAttributeScaler, graph, 0.5)
    assert len(torch.unique(weights[:LAM])) == 1
    assert not torch.equal(graph["data"].area_weight, before)


@pytest.mark.parametrize("norm", ["unit-sum", "unit-mean"])
def test_normalised_weights_keep_the_share(graph: HeteroData, norm: str) -> None:
    scaler = AreaReweightedScaler(graph, "data", "area_weight", "cutout_mask", 0.5, norm=norm)
    _, weights = scaler.get_scaling()
    assert float(weights[:LAM].sum() / weights.sum()) == pytest.approx(0.5, rel=1e-5)
    total = weights.sum() if norm == "unit-sum" else weights.mean()
    assert float(total) == pytest.approx(1.0, rel=1e-5)


def test_mask_that_is_not_there(graph: HeteroData) -> None:
    with pytest.raises(KeyError, match="scaling_mask_attribute_name 'lam' not found"):
        AreaReweightedScaler(graph, "data", "area_weight", "lam", 0.5)
