"""Regions of the study by distance from the border of HRRR's domain, the same for trimmed and untrimmed experiments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from anemoi.graphs.edges import KNNEdges

from anemoi_house.boundary.widths import INNER_KM, ZONE_KM
from anemoi_house.geometry import Bools, Floats, LambertGrid, distance_to_km, to_latlon
from anemoi_house.graphs.describe import data_nodes, isolated_data_nodes, load_graph

REGIONS = {
    "deep_interior": "in the LAM, more than 455 km from HRRR's border: the same nodes in every experiment",
    "shallow_interior": "225 to 455 km inside HRRR's border: just inside that of a LAM trimmed by 225 km",
    "strip": "within 225 km inside HRRR's border: nodes 60 km apart untrimmed, global ones in a trimmed run",
    "rim": "outside HRRR's domain, within 1000 km of it: the same nodes in every experiment",
    "globe": "farther away, equatorward of 60 degrees",
    "poles": "farther away, poleward of 60 degrees",
    "isolated_rim": "the nodes of the rim that mmgt isolates",
    "isolated_poles": "the nodes of the poles that mmgt isolates",
}
STRIP_KM, DEEP_KM = INNER_KM, 455.0
"""Distances from HRRR's border within which the outer 4 and 8 rows of its cells lie: 60 km on the map are 57 to 60 km
on the ground."""

_SAME_POINT_KM = 1.0


@dataclass(frozen=True)
class Nodes:
    """Data nodes of one experiment.

    Attributes
    ----------
    points : ndarray, shape (nodes, 3)
        On the unit sphere.
    in_lam : ndarray of bool, shape (nodes,)
    isolated : ndarray of bool, shape (nodes,)
        The node is the source of no encoder edge.
    """

    points: Floats
    in_lam: Bools
    isolated: Bools

    @classmethod
    def of_graph(cls, path: Path, neighbours: int | None = None) -> Nodes:
        """Read the graph of a training; with `neighbours`, isolate nodes as if its encoder had that many."""
        graph = load_graph(path)
        if neighbours is not None:
            edges = KNNEdges("data", "hidden", neighbours).get_edge_index(graph)
            graph["data", "to", "hidden"].edge_index = edges
        nodes = data_nodes(graph, ZONE_KM)
        isolated = np.isin(np.arange(len(nodes.in_lam)), isolated_data_nodes(graph))
        return cls(nodes.points, nodes.in_lam, isolated)


def regions_of(nodes: Nodes, untrimmed: Nodes, grid: LambertGrid) -> tuple[dict[str, Bools], Floats]:
    """Assign nodes to regions by distance from the border of the untrimmed LAM.

    Parameters
    ----------
    nodes : Nodes
    untrimmed : Nodes
        Of mmgt, or as if of it: they define the border, and the nodes that 12 neighbours isolate.
    grid : LambertGrid
        The untrimmed LAM.

    Returns
    -------
    regions : dict of str to ndarray of bool
        By the names of `REGIONS`.
    signed_km : ndarray, shape (nodes,)
        Distance from the border, negative inside.
    """
    lattice = untrimmed.points[untrimmed.in_lam].reshape(*grid.shape, 3)
    border = np.concatenate([lattice[0], lattice[-1], lattice[:, 0], lattice[:, -1]])
    distance = distance_to_km(nodes.points, border)
    signed = np.where(nodes.in_lam | _within(nodes.points, grid), -distance, distance)
    deep = nodes.in_lam & (signed <= -DEEP_KM)
    rim = (signed > 0) & (signed <= ZONE_KM)
    far = signed > ZONE_KM
    poles = far & (np.abs(nodes.points[:, 2]) > np.sin(np.deg2rad(60)))
    to_isolated = distance_to_km(nodes.points, untrimmed.points[untrimmed.isolated], within_km=_SAME_POINT_KM)
    isolated = np.isfinite(to_isolated)
    return {
        "deep_interior": deep,
        "shallow_interior": (signed <= -STRIP_KM) & ~deep,
        "strip": (signed > -STRIP_KM) & (signed <= 0),
        "rim": rim,
        "globe": far & ~poles,
        "poles": poles,
        "isolated_rim": rim & isolated,
        "isolated_poles": poles & isolated,
    }, signed


def _within(points: Floats, grid: LambertGrid) -> Bools:
    """Return which points lie between the outermost rows and columns of a grid."""
    latitudes, longitudes = to_latlon(points)
    x, y = grid.project(np.clip(latitudes, -89, 89), longitudes)
    left, low = grid.project(grid.first_latitude, grid.first_longitude)
    right, high = left + (grid.nx - 1) * grid.spacing_km, low + (grid.ny - 1) * grid.spacing_km
    return (left < x) & (x < right) & (low < y) & (y < high)
