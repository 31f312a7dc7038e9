"""What a graph file holds, in numbers: nodes, edges, and the data nodes that the encoder leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import NodeStorage

from anemoi_house.boundary.regions import REGIONS, ZONE_KM
from anemoi_house.errors import HouseError
from anemoi_house.graphs.coverage import ZONES, DataNodes, reached_nodes

RECORD = "anemoi_house"
"""Name, in the graph, of what `GraphRecord` keeps there."""


def load_graph(path: Path) -> HeteroData:
    """Graph from a file of anemoi-graphs.

    Raises
    ------
    HouseError
        Where there is no such file, or it is cut short or no graph.
    """
    if not path.is_file():
        raise HouseError(f"{path}: there is no such graph file.")
    try:
        graph = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # torch raises whatever it comes across in what is no pickle
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HouseError(
            f"{path} is cut short or no graph file ({reason}). Delete it; the next training or "
            "`anemoi-graphs create` builds it anew."
        ) from None
    if not isinstance(graph, HeteroData):
        raise HouseError(f"{path} holds no graph but a {type(graph).__name__}.")
    return graph


def data_nodes(
    graph: HeteroData,
    boundary_width_km: float,
    data_name: str = "data",
    lam_mask_attr_name: str = "cutout_mask",
) -> DataNodes:
    """Data nodes of a graph and the zones they lie in.

    Raises
    ------
    HouseError
        Where the graph has no such nodes, or no mask of the LAM on them.
    """
    if data_name not in graph.node_types:
        raise HouseError(f"the graph has no nodes '{data_name}' but {', '.join(graph.node_types)}.")
    nodes = graph[data_name]
    if lam_mask_attr_name not in nodes:
        raise HouseError(
            f"the nodes '{data_name}' have no attribute '{lam_mask_attr_name}' that marks the LAM: "
            "this is no graph of a nested grid."
        )
    latitudes, longitudes = np.rad2deg(nodes.x.cpu().numpy().astype(np.float64)).T
    in_lam = nodes[lam_mask_attr_name].squeeze().bool().cpu().numpy()
    return DataNodes(latitudes, longitudes, in_lam, boundary_width_km)


def isolated_data_nodes(graph: HeteroData, data_name: str = "data", hidden_name: str = "hidden") -> np.ndarray:
    """Indices of the data nodes that no encoder edge begins at."""
    sources = _encoder_edges(graph, data_name, hidden_name)[0]
    return np.flatnonzero(~reached_nodes(graph[data_name].num_nodes, sources))


def _encoder_edges(graph: HeteroData, data_name: str, hidden_name: str) -> np.ndarray:
    """Data node and hidden node of every encoder edge, of shape (2, edges)."""
    if (data_name, "to", hidden_name) not in graph.edge_types:
        raise HouseError(f"the graph has no edges from '{data_name}' to '{hidden_name}': there is no encoder in it.")
    return graph[data_name, "to", hidden_name].edge_index.cpu().numpy()


def describe(
    graph: HeteroData,
    boundary_width_km: float = ZONE_KM,
    data_name: str = "data",
    hidden_name: str = "hidden",
    lam_mask_attr_name: str = "cutout_mask",
) -> dict[str, Any]:
    """Numbers of a nested graph.

    Returns
    -------
    dict
        `nodes` by name, with those in the LAM; `edges` by kind; `encoder_neighbours`, the data nodes
        that every hidden node is reached by at least; `isolated`, the isolated data nodes in all and by
        zone; `boundary_width_km`, the width that the rim is counted by; `lam_shape`, rows and columns of
        the (trimmed) LAM where the graph was made with `GraphRecord`; `area_share`, each region's part of the whole
        area, where the data nodes have the regions' weights by `BoundaryRing`.
    """
    nodes = data_nodes(graph, boundary_width_km, data_name, lam_mask_attr_name)
    encoder = _encoder_edges(graph, data_name, hidden_name)[1]
    isolated = isolated_data_nodes(graph, data_name, hidden_name)
    record = getattr(graph, RECORD, None) or {}
    return {
        "nodes": {name: graph[name].num_nodes for name in graph.node_types} | {"lam": int(nodes.in_lam.sum())},
        "edges": {
            f"{source} -> {target}": graph[source, how, target].num_edges for source, how, target in graph.edge_types
        },
        "encoder_neighbours": int(np.bincount(encoder, minlength=graph[hidden_name].num_nodes).min()),
        "boundary_width_km": boundary_width_km,
        "isolated": {"all": len(isolated), **nodes.count(isolated)},
        "lam_shape": record.get("lam_shape"),
        "area_share": _area_share(graph[data_name]),
    }


def _area_share(nodes: NodeStorage) -> dict[str, float] | None:
    """Each region's part of the whole area; None where the nodes have no weights of regions."""
    names = {region: f"region_{region}" for region in REGIONS}
    if any(name not in nodes for name in names.values()):
        return None
    areas = {region: float(nodes[name].sum(dtype=torch.float64)) for region, name in names.items()}
    return {region: area / sum(areas.values()) for region, area in areas.items()}


def as_text(description: dict[str, Any]) -> str:
    """The numbers of `describe` for a person, within 80 columns."""
    nodes, edges, isolated = description["nodes"], description["edges"], description["isolated"]
    lam = f"{nodes['lam']:,} in the LAM"
    if description["lam_shape"]:
        lam += " ({} rows x {} columns)".format(*description["lam_shape"])
    lines = ["nodes"]
    lines += [f"  {name:<20}{count:>12,}" for name, count in nodes.items() if name != "lam"]
    lines[1] += f"   {lam}"
    lines += ["edges"] + [f"  {kind:<20}{count:>12,}" for kind, count in edges.items()]
    lines += [f"encoder neighbours    {description['encoder_neighbours']:>12,}"]
    lines += [f"isolated data nodes   {isolated['all']:>12,}"]
    names = {
        "lam": "in the LAM",
        "rim": f"within {description['boundary_width_km']:g} km of it",
        "poles": "towards the poles",
        "elsewhere": "elsewhere",
    }
    lines += [f"  {names[zone]:<20}{isolated[zone]:>12,}" for zone in ZONES]
    if shares := description["area_share"]:
        lines += ["share of the area"]
        lines += [f"  {region.replace('_', ' '):<20}{share:>12.2%}" for region, share in shares.items()]
    return "\n".join(lines)
