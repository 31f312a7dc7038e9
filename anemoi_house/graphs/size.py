"""How many neighbours an encoder needs: a table against isolated data nodes, before any graph is built.

`size_table` is the mathematics (arrays in, numbers out). `size_of` composes an experiment's config and makes the
nodes that a training would make, with the stock classes; what is heavy is imported there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anemoi_house.errors import HouseError
from anemoi_house.graphs.coverage import (
    POLAR_LATITUDE,
    SEARCH_LIMIT,
    ZONES,
    DataNodes,
    NeighbourSearch,
    parse_neighbours,
)
from anemoi_house.upstream.compose import composed
from anemoi_house.upstream.errors import ResolverError

NUMBERS = (3, 6, 9, 12, 16, 20, 24, 32, 48, 64)
"""Neighbours that every table shows; 12 and 20 are the published ones."""

DATA, HIDDEN, LAM_MASK = "data", "hidden", "cutout_mask"


@dataclass(frozen=True)
class Encoder:
    """What a config asks the encoder for.

    Attributes
    ----------
    builder : str
        Class of its edges.
    neighbours : int or 'auto'
        Data nodes that each hidden node picks.
    floor : int
        Where `auto` begins to look.
    """

    builder: str
    neighbours: int | Literal["auto"]
    floor: int = 1

    def number(self, smallest: int | None) -> int | None:
        """Neighbours that a graph gets, where `smallest` holds; None where `auto` finds none."""
        if self.neighbours != "auto":
            return self.neighbours
        return None if smallest is None else max(smallest, self.floor)


@dataclass(frozen=True)
class Row:
    """Nearest-neighbour edges with one number of neighbours.

    Attributes
    ----------
    neighbours, edges : int
        Data nodes that each hidden node picks, and edges in all.
    isolated : dict
        Data nodes that no hidden node picks: in `all`, and in each zone.
    """

    neighbours: int
    edges: int
    isolated: dict[str, int]

    @property
    def at_boundary(self) -> int:
        """Isolated data nodes in the LAM and on its rim; a number of neighbours holds where there is none."""
        return self.isolated["lam"] + self.isolated["rim"]


@dataclass(frozen=True)
class SizeTable:
    """Isolated data nodes by number of neighbours.

    Attributes
    ----------
    nodes : dict
        Number of `data` and `hidden` nodes, and of those in the `lam`.
    boundary_width_km : float
        The rim reaches this far from the LAM.
    smallest : int or None
        Smallest number of neighbours that isolates no data node in the LAM or on its rim; None where even
        `SEARCH_LIMIT` does.
    rows : tuple of Row
        By rising number of neighbours.
    """

    nodes: dict[str, int]
    boundary_width_km: float
    smallest: int | None
    rows: tuple[Row, ...]

    def row(self, neighbours: int | None) -> Row | None:
        """Row with this number of neighbours, if there is one."""
        return next((row for row in self.rows if row.neighbours == neighbours), None)


def size_table(
    data: DataNodes,
    points: NDArray[np.floating],
    mesh: NDArray[np.floating],
    numbers: Iterable[int] = NUMBERS,
    floor: int = 1,
) -> SizeTable:
    """Count isolated data nodes for several numbers of neighbours, with one search.

    Parameters
    ----------
    data : DataNodes
        n data nodes.
    points : ndarray, shape (n, 3)
        The same nodes as unit vectors, in the precision that the graph's builder has them in.
    mesh : ndarray, shape (m, 3)
        Hidden nodes.
    numbers : iterable of int
        Neighbours to show. Those beyond n, which no graph can have, are left out; the smallest that holds and
        the one before it are added.
    floor : int
        The smallest that holds but is not below this is added too: what `auto` takes.

    Returns
    -------
    SizeTable
        Where two data nodes are equally far from a hidden node, a builder may pick the other one of them.
    """
    limit = min(SEARCH_LIMIT, len(points))
    zones = data.zone(np.arange(len(points)))
    boundary = np.isin(zones, ("lam", "rim"))
    search = NeighbourSearch(points, mesh)
    reach = max(floor, *numbers)
    while True:
        first = search.first_pick(reach)
        smallest = int(first[boundary].max(initial=1))
        if smallest <= reach or reach >= limit:
            break
        reach = min(2 * reach, limit)
    holds = smallest <= min(reach, limit)
    wanted = set(numbers)
    if holds:
        wanted |= {smallest - 1, smallest, max(smallest, floor)}

    def isolated(neighbours: int) -> dict[str, int]:
        there = zones[first > neighbours]
        return {"all": len(there)} | {zone: int(np.count_nonzero(there == zone)) for zone in ZONES}

    return SizeTable(
        nodes={"data": len(points), "hidden": len(mesh), "lam": int(np.count_nonzero(data.in_lam))},
        boundary_width_km=data.boundary_width_km,
        smallest=smallest if holds else None,
        rows=tuple(
            Row(number, number * len(mesh), isolated(number)) for number in sorted(wanted) if 1 <= number <= len(points)
        ),
    )


@dataclass(frozen=True)
class Size:
    """An experiment's table, and what its config asks for."""

    config: str
    encoder: Encoder
    table: SizeTable

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and texts for `json.dumps`."""
        return dataclasses.asdict(self)


def size_of(config_name: str, config_path: Path | None = None, overrides: Sequence[str] = ()) -> Size:
    """Table of an experiment, from its config and the coordinates of its data.

    Nothing is written, and no edge is built.

    Parameters
    ----------
    config_name : str
        As for `anemoi-training train --config-name`.
    config_path : Path, optional
        Folder to look in first.
    overrides : sequence of str
        Of the config, in Hydra's notation.

    Raises
    ------
    HouseError
        Where the config or its data make no nested graph.
    """
    # With a graph file our resolvers would prepare its folder.
    config = composed(config_name, config_path, [*overrides, "++system.input.graph=null"])
    try:
        nodes, edges = (_plain(config.graph[part]) for part in ("nodes", "edges"))
        dataset = _dataset(config)
    except ResolverError as mistake:
        raise HouseError(str(mistake).splitlines()[0]) from None
    except OmegaConfBaseException as error:
        raise HouseError(f"the config {config_name} cannot be resolved: {error}") from None
    encoder, width_km = _encoder(edges)
    data, points, mesh = _nodes(nodes, dataset, width_km)
    if encoder.neighbours != "auto" and encoder.neighbours > len(points):
        raise HouseError(
            f"num_nearest_neighbours: {encoder.neighbours} is more than there are data nodes ({len(points)})."
        )
    own = () if encoder.neighbours == "auto" else (encoder.neighbours,)
    return Size(config_name, encoder, size_table(data, points, mesh, (*NUMBERS, *own), encoder.floor))


def as_text(size: Size) -> str:
    """The table for a person, within 80 columns."""
    table, encoder = size.table, size.encoder
    nodes, chosen = table.nodes, encoder.number(table.smallest)
    lines = [
        size.config,
        f"{nodes['data']:,} data nodes, {nodes['lam']:,} of them in the LAM; {nodes['hidden']:,} hidden nodes",
        "",
        f"{'isolated data nodes':>40}",
        f"{'neighbours':>10}{'edges':>12}{'all':>9}{'LAM':>8}{'rim':>8}{'poles':>8}{'elsewhere':>10}",
    ]
    for row in table.rows:
        marks = [mark for number, mark in ((chosen, "set"), (table.smallest, "smallest")) if number == row.neighbours]
        counts = row.isolated
        lines.append(
            f"{row.neighbours:>10}{row.edges:>12,}{counts['all']:>9,}{counts['lam']:>8,}{counts['rim']:>8,}"
            f"{counts['poles']:>8,}{counts['elsewhere']:>10,}" + (f" <- {', '.join(marks)}" if marks else "")
        )
    return "\n".join([*lines, "", *_notes(size, table.row(chosen))])


def _notes(size: Size, row: Row | None) -> list[str]:
    table, encoder = size.table, size.encoder
    where = "in the LAM or on its rim"
    if row is None:
        effect = "finds no number that holds"
    elif encoder.builder == "CoveringKNNEdges":
        effect = f"one further edge reaches each of the {row.isolated['all']:,} isolated ones"
    else:
        effect = f"{row.at_boundary:,} isolated {where}"
    smallest = (
        f"none up to {SEARCH_LIMIT} holds: refine the hidden mesh, or take\n          graph=house_covering"
        if table.smallest is None
        else f"{table.smallest}: with fewer, a data node {where} is isolated"
    )
    return [
        f"set       {encoder.neighbours} by this config, {encoder.builder}:",
        f"          {effect}",
        f"smallest  {smallest}",
        f"rim       outside the LAM, within {table.boundary_width_km:g} km of it",
        f"poles     farther from the LAM, poleward of {POLAR_LATITUDE:g} degrees",
    ]


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def _encoder(edges: Sequence[Mapping[str, Any]]) -> tuple[Encoder, float]:
    """Encoder of a graph config, and the width of the boundary zone that it is judged by."""
    for group in edges:
        if (group["source_name"], group["target_name"]) != (DATA, HIDDEN):
            continue
        for builder in group["edge_builders"]:
            if "num_nearest_neighbours" in builder:
                neighbours = parse_neighbours(builder["num_nearest_neighbours"], auto=True)
                name = builder["_target_"].rpartition(".")[2]
                floor = builder.get("floor", 12) if neighbours == "auto" else 1
                return Encoder(name, neighbours, floor), float(builder.get("boundary_width_km", 1000))
    raise HouseError(
        f"graph.edges: there are no edges from '{DATA}' to '{HIDDEN}' with num_nearest_neighbours, so that there is "
        "no number of neighbours to choose."
    )


def _dataset(config: DictConfig) -> dict[str, Any]:
    """Dataset of the data nodes, as AnemoiTrainer.graph_data hands it to the graph."""
    from anemoi.models.utils.config import get_multiple_datasets_config
    from anemoi.training.schemas.dataloader import DatasetConfigSchema

    datasets = get_multiple_datasets_config(config.dataloader.training)
    if list(datasets) != [DATA]:
        raise HouseError(f"dataloader.training.datasets: {', '.join(datasets)} is not the one dataset '{DATA}'.")
    reader = _plain(datasets)[DATA]["dataset_config"]
    if not isinstance(reader, dict):
        return {"dataset": reader}
    left_out = set(DatasetConfigSchema.model_fields) - {"dataset"}
    return {key: value for key, value in reader.items() if key not in left_out and value is not None}


def _nodes(
    nodes: dict[str, Any], dataset: dict[str, Any], width_km: float
) -> tuple[DataNodes, NDArray[np.floating], NDArray[np.floating]]:
    """Data nodes, their unit vectors and those of the hidden nodes, of a graph without edges."""
    from anemoi.graphs.create import GraphCreator
    from anemoi.graphs.generate.transforms import latlon_rad_to_cartesian
    from anemoi.utils.config import DotDict
    from hydra.errors import HydraException
    from torch_geometric.data import HeteroData

    from anemoi_house.graphs.describe import data_nodes

    if missing := [name for name in (DATA, HIDDEN) if name not in nodes]:
        raise HouseError(f"graph.nodes: there are no nodes '{missing[0]}' but {', '.join(nodes)}.")
    nodes[DATA]["node_builder"]["dataset"] = dataset
    # Area weights take minutes on large grids and have no say in who is picked.
    mask = nodes[HIDDEN]["node_builder"].get("mask_attr_name", LAM_MASK)
    for node in nodes.values():
        attributes = node.get("attributes") or {}
        node["attributes"] = {mask: attributes[mask]} if mask in attributes else {}
    try:
        graph = GraphCreator(DotDict({"nodes": nodes, "edges": []})).update_graph(HeteroData())
    except HydraException as error:
        raise HouseError(f"graph.nodes: the nodes cannot be built: {error}") from None
    points, mesh = (latlon_rad_to_cartesian(graph[name].x).cpu().numpy() for name in (DATA, HIDDEN))
    return data_nodes(graph, width_km, DATA, mask), points, mesh
