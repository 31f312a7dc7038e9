"""Encoder edges that leave no data node out: anemoi-graphs edge builders over `coverage`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from anemoi.graphs.edges import KNNEdges
from anemoi.graphs.edges.builders.base import TORCH_CLUSTER_AVAILABLE
from scipy.sparse import coo_matrix
from torch_geometric.data.storage import NodeStorage

from anemoi_house.boundary.regions import ZONE_KM
from anemoi_house.errors import HouseError
from anemoi_house.graphs.coverage import (
    SEARCH_LIMIT,
    DataNodes,
    NeighbourSearch,
    check_range,
    nearest_hidden,
    parse_neighbours,
    reached_nodes,
)
from anemoi_house.upstream.errors import CommandError

LOGGER = logging.getLogger(__name__)


class BoundaryAwareKNNEdges(KNNEdges):
    """KNN with a promise: no data node of the boundary zone is left without an edge.

    The zone is the LAM and everything within `boundary_width_km` of it. With a number of neighbours
    the graph is that of stock `KNNEdges`, and the promise is checked; with `auto` the number is the
    smallest that keeps it.

    Parameters
    ----------
    source_name, target_name : str
        Names of the nodes.
    num_nearest_neighbours : int or 'auto'
        Data nodes that each hidden node picks.
    boundary_width_km : float
        Width, in km, of the zone around the LAM. The published experiments judge by 1000 km.
    lam_mask_attr_name : str
        Attribute of the source nodes that is true in the LAM.
    floor, ceiling : int
        `auto` looks from `floor` (12, what the published base takes) to `ceiling`.
    source_mask_attr_name, target_mask_attr_name : str, optional
        As in stock KNN; masked nodes are not part of the promise.

    Raises
    ------
    CommandError
        Where the promise cannot be kept, or a setting makes no sense.
    """

    def __init__(
        self,
        source_name: str,
        target_name: str,
        num_nearest_neighbours: int | Literal["auto"],
        boundary_width_km: float = ZONE_KM,
        lam_mask_attr_name: str = "cutout_mask",
        floor: int = 12,
        ceiling: int = 64,
        source_mask_attr_name: str | None = None,
        target_mask_attr_name: str | None = None,
    ) -> None:
        with _as_command_error():
            neighbours = parse_neighbours(num_nearest_neighbours, auto=True)
            check_range(floor, ceiling)
        self.automatic = neighbours == "auto"
        super().__init__(
            source_name,
            target_name,
            floor if neighbours == "auto" else neighbours,
            source_mask_attr_name,
            target_mask_attr_name,
        )
        self.boundary_width_km = boundary_width_km
        self.lam_mask_attr_name = lam_mask_attr_name
        self.floor = floor
        self.ceiling = ceiling

    def compute_edge_index(self, source_nodes: NodeStorage, target_nodes: NodeStorage) -> torch.Tensor:
        """Edges of stock KNN with a number of neighbours that keeps the promise.

        Returns
        -------
        torch.Tensor, shape (2, hidden nodes x neighbours)
        """
        check_nodes(self, source_nodes, target_nodes)
        data = self._data_nodes(source_nodes)
        if not self.automatic:
            edge_index = super().compute_edge_index(source_nodes, target_nodes)
            if self._missed(edge_index, source_nodes, data):
                raise CommandError(self._broken_promise(edge_index, source_nodes, target_nodes, data))
            return edge_index

        found = self._smallest_graph(source_nodes, target_nodes, data, self.floor, self.ceiling)
        if found is not None:
            LOGGER.info("Neighbours chosen: %d (from %d to %d).", self.num_nearest_neighbours, self.floor, self.ceiling)
            return found
        raise CommandError(
            f"num_nearest_neighbours: auto found no number from {self.floor} to {self.ceiling} that reaches every "
            f"data node within {self.boundary_width_km:g} km of the LAM. Raise `ceiling`, refine the hidden mesh, "
            "or take CoveringKNNEdges."
        )

    def _smallest_graph(
        self, source_nodes: NodeStorage, target_nodes: NodeStorage, data: DataNodes, floor: int, ceiling: int
    ) -> torch.Tensor | None:
        """Edges of stock KNN with the smallest number that keeps the promise, which becomes the builder's number.

        Where ties decide, stock may need a larger number than the search finds, hence the loop.
        """
        search = self._search(source_nodes, target_nodes)
        smallest = search.smallest(data, floor, ceiling)
        for neighbours in range(smallest or ceiling + 1, ceiling + 1):
            self.num_nearest_neighbours = neighbours
            edge_index = self._stock_edges(search, source_nodes, target_nodes)
            if not self._missed(edge_index, source_nodes, data):
                return edge_index
        return None

    def _data_nodes(self, nodes: NodeStorage) -> DataNodes:
        if self.lam_mask_attr_name not in nodes:
            raise CommandError(
                f"lam_mask_attr_name: the nodes '{self.source_name}' have no attribute '{self.lam_mask_attr_name}' "
                "that marks the LAM. Add it to their attributes, "
                "{_target_: anemoi.graphs.nodes.attributes.CutOutMask}, or name the right one."
            )
        used = unmasked(nodes, self.source_mask_attr_name)
        latitudes, longitudes = np.rad2deg(nodes.x.cpu().numpy().astype(np.float64)).T
        in_lam = nodes[self.lam_mask_attr_name].squeeze().bool().cpu().numpy()
        return DataNodes(latitudes[used], longitudes[used], in_lam[used], self.boundary_width_km)

    def _missed(self, edge_index: torch.Tensor, source_nodes: NodeStorage, data: DataNodes) -> bool:
        """Whether a node of the boundary zone is the source of no edge."""
        return bool(data.in_boundary_zone(self._isolated(edge_index, source_nodes)).any())

    def _isolated(self, edge_index: torch.Tensor, source_nodes: NodeStorage) -> np.ndarray:
        """Isolated nodes, as indices in the unmasked ones."""
        reached = reached_nodes(len(source_nodes.x), edge_index[0].cpu().numpy())
        return np.flatnonzero(~reached[unmasked(source_nodes, self.source_mask_attr_name)])

    def _search(self, source_nodes: NodeStorage, target_nodes: NodeStorage) -> NeighbourSearch:
        source, target = self.get_cartesian_node_coordinates(source_nodes, target_nodes)
        return NeighbourSearch(source.cpu().numpy(), target.cpu().numpy())

    def _stock_edges(
        self, search: NeighbourSearch, source_nodes: NodeStorage, target_nodes: NodeStorage
    ) -> torch.Tensor:
        """What stock KNN builds, from the search that is made already.

        Only where the last neighbour and the next node are equally far is stock asked which one it takes.
        """
        if TORCH_CLUSTER_AVAILABLE:
            return super().compute_edge_index(source_nodes, target_nodes)
        nearest = search.nearest(self.num_nearest_neighbours)
        indices = nearest.indices
        if len(nearest.tied):
            source, target = self.get_cartesian_node_coordinates(source_nodes, target_nodes)
            of_stock: coo_matrix = self._compute_adj_matrix_sklearn(source, target[nearest.tied])
            indices = indices.copy()
            indices[nearest.tied] = of_stock.col.reshape(len(nearest.tied), -1)
        rows = np.repeat(np.arange(len(indices)), indices.shape[1])
        adjacency = coo_matrix((np.ones(len(rows), dtype=bool), (rows, indices.ravel())))
        adjacency = self.undo_masking_adj_matrix(adjacency, source_nodes, target_nodes)
        return torch.from_numpy(np.stack([adjacency.col, adjacency.row]))

    def _broken_promise(
        self, edge_index: torch.Tensor, source_nodes: NodeStorage, target_nodes: NodeStorage, data: DataNodes
    ) -> str:
        count = data.count(self._isolated(edge_index, source_nodes))
        asked = self.num_nearest_neighbours
        found = self._smallest_graph(source_nodes, target_nodes, data, asked + 1, SEARCH_LIMIT)
        smallest, self.num_nearest_neighbours = self.num_nearest_neighbours, asked
        way_out = (
            f"The smallest number that holds is {smallest}: set it, or `auto`, which finds it"
            if found is not None
            else f"No number up to {SEARCH_LIMIT} holds: refine the hidden mesh"
        )
        return (
            f"num_nearest_neighbours: {asked} leaves {count['lam'] + count['rim']} data nodes "
            f"within {self.boundary_width_km:g} km of the LAM without an edge to '{self.target_name}': "
            f"{count['lam']} in the LAM, {count['rim']} on its rim (and, outside the promise, {count['poles']} towards "
            f"the poles, {count['elsewhere']} elsewhere). {way_out}; CoveringKNNEdges reaches every node with any "
            "number."
        )


class CoveringKNNEdges(KNNEdges):
    """KNN, plus an edge to the nearest hidden node for every data node that no hidden node picked.

    No data node is isolated anywhere on the globe, at almost no cost: on the published grids 2 % more
    edges. The stock pair `KNNEdges` and `ReversedKNNEdges` with one neighbour covers too, but searches
    for all data nodes rather than for the few that are left over, and sorts all edges to remove doubles
    (measured in `benchmarks/`).

    Parameters
    ----------
    source_name, target_name : str
        Names of the nodes.
    num_nearest_neighbours : int
        Data nodes that each hidden node picks, before the rest is covered.
    source_mask_attr_name, target_mask_attr_name : str, optional
        As in stock KNN; masked nodes are not covered.
    """

    def __init__(
        self,
        source_name: str,
        target_name: str,
        num_nearest_neighbours: int,
        source_mask_attr_name: str | None = None,
        target_mask_attr_name: str | None = None,
    ) -> None:
        with _as_command_error():
            neighbours = parse_neighbours(num_nearest_neighbours)
        super().__init__(source_name, target_name, neighbours, source_mask_attr_name, target_mask_attr_name)

    def compute_edge_index(self, source_nodes: NodeStorage, target_nodes: NodeStorage) -> torch.Tensor:
        """Edges of stock KNN, followed by one for each data node that they leave out.

        Returns
        -------
        torch.Tensor, shape (2, hidden nodes x neighbours + isolated data nodes)
        """
        check_nodes(self, source_nodes, target_nodes)
        edge_index = super().compute_edge_index(source_nodes, target_nodes)
        used = unmasked(source_nodes, self.source_mask_attr_name)
        reached = reached_nodes(len(source_nodes.x), edge_index[0].cpu().numpy())
        left_over = np.flatnonzero(~reached[used])
        source, target = self.get_cartesian_node_coordinates(source_nodes, target_nodes)
        hosts = nearest_hidden(source.cpu().numpy()[left_over], target.cpu().numpy())
        hosts = unmasked(target_nodes, self.target_mask_attr_name)[hosts]
        LOGGER.info(
            "Covering: %d data nodes that no hidden node picks get an edge to the nearest one (%d edges by KNN).",
            len(left_over),
            edge_index.shape[1],
        )
        added = torch.from_numpy(np.stack([used[left_over], hosts]))
        return torch.cat([edge_index, added.to(edge_index)], dim=1)


def check_nodes(builder: KNNEdges, source_nodes: NodeStorage, target_nodes: NodeStorage) -> None:
    """Refuse nodes that no nearest neighbour can be found among.

    Raises
    ------
    CommandError
        Where a coordinate is not finite, or more neighbours are asked for than there are source nodes.
    """
    for name, nodes in ((builder.source_name, source_nodes), (builder.target_name, target_nodes)):
        broken = int((~torch.isfinite(nodes.x)).any(dim=1).sum())
        if broken:
            raise CommandError(
                f"{broken} of the {len(nodes.x)} nodes '{name}' have coordinates that are not finite: "
                "mend the latitudes and longitudes of the dataset that they come from."
            )
    available = len(unmasked(source_nodes, builder.source_mask_attr_name))
    if builder.num_nearest_neighbours > available:
        raise CommandError(
            f"num_nearest_neighbours: {builder.num_nearest_neighbours} is more than there are nodes "
            f"'{builder.source_name}' ({available}); give fewer."
        )


def unmasked(nodes: NodeStorage, mask_attr_name: str | None) -> np.ndarray:
    """Indices of the nodes that a builder with this mask uses."""
    if mask_attr_name is None:
        return np.arange(len(nodes.x))
    return np.flatnonzero(nodes[mask_attr_name].squeeze().cpu().numpy())


@contextmanager
def _as_command_error() -> Iterator[None]:
    try:
        yield
    except HouseError as mistake:
        raise CommandError(str(mistake)) from None
