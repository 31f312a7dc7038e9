"""Numbers of a graph file: nodes, edges, and the data nodes that the encoder does not reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import NodeStorage

from anemoi_house.boundary.regions import REGIONS
from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.errors import HouseError, first_line
from anemoi_house.graphs.coverage import ZONES, DataNodes, reached_nodes
from anemoi_house.upstream.graph import LAM_MASK, coordinates_of, mask_of
from anemoi_house.upstream.keys import DATA, HIDDEN

RECORD = "anemoi_house"
"""Attribute of the graph in which `GraphRecord` keeps its record."""


def load_graph(path: Path) -> HeteroData:
    """Load a graph file of anemoi-graphs.

    Raises
    ------
    HouseError
        If the file does not exist, was cut short, or is not a graph.
    """
    if not path.is_file():
        raise HouseError(f"{path}: {'is a directory' if path.is_dir() else 'does not exist'}. Give a graph file.")
    try:
        graph = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # torch raises all kinds of errors for a file that is not a pickle
        raise HouseError(
            f"{path}: is cut short or not a graph file ({first_line(error)}). Delete it; the next training or "
            "`anemoi-graphs create` rebuilds it."
        ) from None
    if not isinstance(graph, HeteroData):
        raise HouseError(f"{path}: holds a {type(graph).__name__}, not a graph.")
    return graph


def data_nodes(
    graph: HeteroData, boundary_width_km: float, data_name: str = DATA, lam_mask_attr_name: str = LAM_MASK
) -> DataNodes:
    """Return the data nodes of a graph and the zones that they are in.

    Raises
    ------
    HouseError
        If the graph has no such nodes, or they have no mask of the LAM.
    """
    if data_name not in graph.node_types:
        raise HouseError(f"the graph has no nodes '{data_name}', only {', '.join(graph.node_types)}.")
    nodes = graph[data_name]
    if lam_mask_attr_name not in nodes:
        raise HouseError(
            f"the nodes '{data_name}' have no attribute '{lam_mask_attr_name}' that marks the LAM, so the graph is not "
            "of a nested grid."
        )
    return DataNodes(*coordinates_of(nodes), mask_of(nodes, lam_mask_attr_name), boundary_width_km)


def isolated_data_nodes(graph: HeteroData, data_name: str = DATA, hidden_name: str = HIDDEN) -> np.ndarray:
    """Return the indices of the data nodes that no encoder edge starts from."""
    sources, _ = _encoder_edges(graph, data_name, hidden_name)
    return np.flatnonzero(~reached_nodes(graph[data_name].num_nodes, sources))


def _encoder_edges(graph: HeteroData, data_name: str, hidden_name: str) -> np.ndarray:
    """Return the data node and the hidden node of every encoder edge, of shape (2, edges)."""
    if (data_name, "to", hidden_name) not in graph.edge_types:
        raise HouseError(f"the graph has no edges from '{data_name}' to '{hidden_name}', so it has no encoder.")
    return graph[data_name, "to", hidden_name].edge_index.cpu().numpy()


def describe(
    graph: HeteroData,
    boundary_width_km: float = ZONE_KM,
    data_name: str = DATA,
    hidden_name: str = HIDDEN,
    lam_mask_attr_name: str = LAM_MASK,
) -> dict[str, Any]:
    """Count the nodes, edges and isolated data nodes of a nested graph.

    Returns
    -------
    dict
        `nodes` by name, and those in the LAM; `edges` by kind; `encoder_neighbours`, the smallest number of data nodes
        connected to a hidden node; `isolated`, the isolated data nodes in total and by zone; `boundary_width_km`, the
        width of the rim; `lam_shape`, rows and columns of the (trimmed) LAM if the graph was made with `GraphRecord`;
        `area_share`, each region's share of the total area if the data nodes have weights from `BoundaryRing`.
    """
    nodes = data_nodes(graph, boundary_width_km, data_name, lam_mask_attr_name)
    _, targets = _encoder_edges(graph, data_name, hidden_name)
    isolated = isolated_data_nodes(graph, data_name, hidden_name)
    record = getattr(graph, RECORD, None) or {}
    return {
        "nodes": {name: graph[name].num_nodes for name in graph.node_types} | {"lam": int(nodes.in_lam.sum())},
        "edges": {
            f"{source} -> {target}": graph[source, how, target].num_edges for source, how, target in graph.edge_types
        },
        "encoder_neighbours": int(np.bincount(targets, minlength=graph[hidden_name].num_nodes).min()),
        "boundary_width_km": boundary_width_km,
        "isolated": {"all": len(isolated), **nodes.count(isolated)},
        "lam_shape": record.get("lam_shape"),
        "area_share": _area_share(graph[data_name]),
    }


def _area_share(nodes: NodeStorage) -> dict[str, float] | None:
    """Return each region's share of the total area; None if the nodes have no weights of regions."""
    names = {region: f"region_{region}" for region in REGIONS}
    if any(name not in nodes for name in names.values()):
        return None
    areas = {region: float(nodes[name].sum(dtype=torch.float64)) for region, name in names.items()}
    return {region: area / sum(areas.values()) for region, area in areas.items()}


def as_text(description: dict[str, Any]) -> str:
    """Format the numbers of `describe` within 80 columns."""
    nodes, isolated = description["nodes"], description["isolated"]
    where = {
        "lam": "in the LAM",
        "rim": f"within {description['boundary_width_km']:g} km of it",
        "poles": "towards the poles",
        "elsewhere": "elsewhere",
    }
    first, *others = [f"  {name:<20}{count:>12,}" for name, count in nodes.items() if name != "lam"]
    lam = f"   {nodes['lam']:,} in the LAM"
    if description["lam_shape"]:
        lam += " ({} rows x {} columns)".format(*description["lam_shape"])
    lines = [
        "nodes",
        first + lam,
        *others,
        "edges",
        *(f"  {kind:<20}{count:>12,}" for kind, count in description["edges"].items()),
        f"encoder neighbours    {description['encoder_neighbours']:>12,}",
        f"isolated data nodes   {isolated['all']:>12,}",
        *(f"  {where[zone]:<20}{isolated[zone]:>12,}" for zone in ZONES),
    ]
    if shares := description["area_share"]:
        lines += [
            "share of the area",
            *(f"  {region.replace('_', ' '):<20}{share:>12.2%}" for region, share in shares.items()),
        ]
    return "\n".join(lines)
