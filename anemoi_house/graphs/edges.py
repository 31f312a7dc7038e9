"""Encoder edges that reach the data nodes at the boundary, or all of them: anemoi-graphs builders over `coverage`."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from anemoi.graphs.edges import KNNEdges
from torch_geometric.data.storage import NodeStorage

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.graphs import coverage
from anemoi_house.upstream.errors import CommandError, mistakes_as
from anemoi_house.upstream.graph import LAM_MASK, coordinates_of, mask_of

LOGGER = logging.getLogger(__name__)


class BoundaryAwareKNNEdges(KNNEdges):
    """KNN with a guarantee: every data node of the boundary zone has an edge.

    The zone is the LAM and everything within `boundary_width_km` of it. With a number of neighbours, the graph is that
    of stock `KNNEdges`, and the guarantee is checked. With `auto`, the number is the smallest sufficient one.

    Parameters
    ----------
    source_name, target_name : str
        Names of the nodes.
    num_nearest_neighbours : int or 'auto'
        Data nodes that each hidden node picks.
    boundary_width_km : float
        Width of the zone around the LAM, in km. The published experiments use 1000 km.
    lam_mask_attr_name : str
        Attribute of the source nodes that is true in the LAM.
    floor, ceiling : int
        Range in which `auto` searches.
    source_mask_attr_name, target_mask_attr_name : str, optional
        As in stock KNN; masked nodes are not part of the guarantee.

    Raises
    ------
    CommandError
        If the guarantee cannot be satisfied, or a setting is invalid.
    """

    def __init__(
        self,
        source_name: str,
        target_name: str,
        num_nearest_neighbours: int | Literal["auto"],
        boundary_width_km: float = ZONE_KM,
        lam_mask_attr_name: str = LAM_MASK,
        floor: int = coverage.FLOOR,
        ceiling: int = coverage.CEILING,
        source_mask_attr_name: str | None = None,
        target_mask_attr_name: str | None = None,
    ) -> None:
        with mistakes_as(CommandError):
            neighbours = coverage.neighbours_or_auto(num_nearest_neighbours)
            coverage.check_range(floor, ceiling)
        self.automatic = neighbours == "auto"
        first = floor if neighbours == "auto" else neighbours
        super().__init__(source_name, target_name, first, source_mask_attr_name, target_mask_attr_name)
        self.boundary_width_km = boundary_width_km
        self.lam_mask_attr_name = lam_mask_attr_name
        self.floor = floor
        self.ceiling = ceiling

    def compute_edge_index(self, source_nodes: NodeStorage, target_nodes: NodeStorage) -> torch.Tensor:
        """Return the edges of stock KNN, with a number of neighbours that satisfies the guarantee.

        Returns
        -------
        torch.Tensor, shape (2, hidden nodes x neighbours)
        """
        check_nodes(self, source_nodes, target_nodes)
        data = self._data_nodes(source_nodes)
        if not self.automatic:
            edge_index = super().compute_edge_index(source_nodes, target_nodes)
            if self._missed(edge_index, source_nodes, data):
                raise CommandError(self._missed_message(edge_index, source_nodes, target_nodes, data))
            return edge_index

        found = self._smallest_graph(source_nodes, target_nodes, data, self.floor, self.ceiling)
        if found is None:
            raise CommandError(
                f"num_nearest_neighbours: auto found no number from {self.floor} to {self.ceiling} that reaches every "
                f"data node within {self.boundary_width_km:g} km of the LAM. Raise `ceiling`, refine the hidden mesh, "
                "or use CoveringKNNEdges."
            )
        LOGGER.info("Neighbours chosen: %d (from %d to %d).", self.num_nearest_neighbours, self.floor, self.ceiling)
        return found

    def _smallest_graph(
        self, source_nodes: NodeStorage, target_nodes: NodeStorage, data: coverage.DataNodes, floor: int, ceiling: int
    ) -> torch.Tensor | None:
        """Return the edges of stock KNN with the smallest sufficient number, and make it the builder's number.

        With ties, stock KNN may need a larger number than the search finds; hence the loop.
        """
        source, target = self.get_cartesian_node_coordinates(source_nodes, target_nodes)
        points, mesh = source.cpu().numpy(), target.cpu().numpy()
        smallest, _ = coverage.smallest_number(points, mesh, data.in_boundary_zone, floor, ceiling, in_ties=True)
        for neighbours in range(smallest or ceiling + 1, ceiling + 1):
            self.num_nearest_neighbours = neighbours
            edge_index = super().compute_edge_index(source_nodes, target_nodes)
            if not self._missed(edge_index, source_nodes, data):
                return edge_index
        return None

    def _data_nodes(self, nodes: NodeStorage) -> coverage.DataNodes:
        if self.lam_mask_attr_name not in nodes:
            raise CommandError(
                f"lam_mask_attr_name: the nodes '{self.source_name}' have no attribute '{self.lam_mask_attr_name}' "
                "that marks the LAM. Add it to their attributes, "
                "{_target_: anemoi.graphs.nodes.attributes.CutOutMask}, or name the right one."
            )
        used = unmasked(nodes, self.source_mask_attr_name)
        latitudes, longitudes = coordinates_of(nodes)
        in_lam = mask_of(nodes, self.lam_mask_attr_name)
        return coverage.DataNodes(latitudes[used], longitudes[used], in_lam[used], self.boundary_width_km)

    def _missed(self, edge_index: torch.Tensor, source_nodes: NodeStorage, data: coverage.DataNodes) -> bool:
        """Return True if a node of the boundary zone has no edge."""
        return bool(data.in_boundary_zone(isolated_nodes(self, edge_index, source_nodes)).any())

    def _missed_message(
        self, edge_index: torch.Tensor, source_nodes: NodeStorage, target_nodes: NodeStorage, data: coverage.DataNodes
    ) -> str:
        count = data.count(isolated_nodes(self, edge_index, source_nodes))
        asked = self.num_nearest_neighbours
        found = self._smallest_graph(source_nodes, target_nodes, data, asked + 1, coverage.SEARCH_LIMIT)
        smallest, self.num_nearest_neighbours = self.num_nearest_neighbours, asked
        way_out = (
            f"The smallest sufficient number is {smallest}: set it, or `auto`, which finds it"
            if found is not None
            else f"No number up to {coverage.SEARCH_LIMIT} is sufficient: refine the hidden mesh"
        )
        return (
            f"num_nearest_neighbours: {asked} leaves {count['lam'] + count['rim']} data nodes "
            f"within {self.boundary_width_km:g} km of the LAM without an edge to '{self.target_name}': "
            f"{count['lam']} in the LAM, {count['rim']} on its rim (and, outside the zone, {count['poles']} towards "
            f"the poles, {count['elsewhere']} elsewhere). {way_out}; CoveringKNNEdges reaches every node with any "
            "number."
        )


class CoveringKNNEdges(KNNEdges):
    """KNN, plus an edge to the nearest hidden node for every data node that no hidden node picks.

    No data node is isolated anywhere on the globe, at little cost: 2 % more edges on the published grids. The stock
    pair `KNNEdges` and `ReversedKNNEdges` with one neighbour also covers all nodes, but searches for all of them rather
    than for the few isolated ones, and sorts all edges to remove duplicates (measured in `benchmarks/`).

    Parameters
    ----------
    source_name, target_name : str
        Names of the nodes.
    num_nearest_neighbours : int
        Data nodes that each hidden node picks, before the others are covered.
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
        with mistakes_as(CommandError):
            neighbours = coverage.parse_neighbours(num_nearest_neighbours)
        super().__init__(source_name, target_name, neighbours, source_mask_attr_name, target_mask_attr_name)

    def compute_edge_index(self, source_nodes: NodeStorage, target_nodes: NodeStorage) -> torch.Tensor:
        """Return the edges of stock KNN, followed by one for each data node that they do not reach.

        Returns
        -------
        torch.Tensor, shape (2, hidden nodes x neighbours + isolated data nodes)
        """
        check_nodes(self, source_nodes, target_nodes)
        edge_index = super().compute_edge_index(source_nodes, target_nodes)
        used = unmasked(source_nodes, self.source_mask_attr_name)
        isolated = isolated_nodes(self, edge_index, source_nodes)
        source, target = self.get_cartesian_node_coordinates(source_nodes, target_nodes)
        hosts = coverage.nearest_hidden(source.cpu().numpy()[isolated], target.cpu().numpy())
        hosts = unmasked(target_nodes, self.target_mask_attr_name)[hosts]
        LOGGER.info(
            "Covering: %d data nodes that no hidden node picks get an edge to the nearest one (%d edges by KNN).",
            len(isolated),
            edge_index.shape[1],
        )
        added = torch.from_numpy(np.stack([used[isolated], hosts]))
        return torch.cat([edge_index, added.to(edge_index)], dim=1)


def check_nodes(builder: KNNEdges, source_nodes: NodeStorage, target_nodes: NodeStorage) -> None:
    """Refuse nodes among which nearest neighbours cannot be found.

    Raises
    ------
    CommandError
        If a coordinate is not finite, or there are fewer source nodes than neighbours.
    """
    for name, nodes in ((builder.source_name, source_nodes), (builder.target_name, target_nodes)):
        if broken := int((~torch.isfinite(nodes.x)).any(dim=1).sum()):
            raise CommandError(
                f"{broken} of the {len(nodes.x)} nodes '{name}' have coordinates that are not finite: "
                "correct the latitudes and longitudes of their dataset."
            )
    available = len(unmasked(source_nodes, builder.source_mask_attr_name))
    if builder.num_nearest_neighbours > available:
        raise CommandError(
            f"num_nearest_neighbours: {builder.num_nearest_neighbours} is more than the {available} nodes "
            f"'{builder.source_name}'. Give a smaller number."
        )


def isolated_nodes(builder: KNNEdges, edge_index: torch.Tensor, source_nodes: NodeStorage) -> np.ndarray:
    """Return the isolated source nodes, as indices into the unmasked ones."""
    reached = coverage.reached_nodes(len(source_nodes.x), edge_index[0].cpu().numpy())
    return np.flatnonzero(~reached[unmasked(source_nodes, builder.source_mask_attr_name)])


def unmasked(nodes: NodeStorage, mask_attr_name: str | None) -> np.ndarray:
    """Return the indices of the nodes that a builder with this mask uses."""
    return np.arange(len(nodes.x)) if mask_attr_name is None else np.flatnonzero(mask_of(nodes, mask_attr_name))
