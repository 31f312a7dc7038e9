"""How many neighbours an encoder needs: a table of isolated data nodes, before any graph is built.

`size_table` has the mathematics (arrays in, numbers out). `size_of` composes an experiment's config and builds the
nodes that a training would build, with the stock classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from omegaconf.errors import OmegaConfBaseException

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.errors import HouseError, first_line
from anemoi_house.graphs import coverage
from anemoi_house.upstream import keys
from anemoi_house.upstream.compose import composed
from anemoi_house.upstream.errors import ResolverError
from anemoi_house.upstream.graph import bare_graph, encoder_builder, graph_dataset

NUMBERS = (3, 6, 9, 12, 16, 20, 24, 32, 48, 64)
"""Numbers of neighbours in every table; 12 and 20 are the published ones."""


@dataclass(frozen=True)
class Encoder:
    """Encoder edges that a config requests.

    Attributes
    ----------
    builder : str
        Class.
    neighbours : int or 'auto'
        Data nodes that each hidden node picks.
    floor : int
        Smallest number that `auto` considers.
    """

    builder: str
    neighbours: int | Literal["auto"]
    floor: int = 1

    def number(self, smallest: int | None) -> int | None:
        """Return the number that a graph gets if `smallest` is sufficient; None if `auto` finds none."""
        if self.neighbours != "auto":
            return self.neighbours
        return None if smallest is None else max(smallest, self.floor)


@dataclass(frozen=True)
class Row:
    """Nearest-neighbour edges with one number of neighbours.

    Attributes
    ----------
    neighbours, edges : int
        Data nodes that each hidden node picks, and the total number of edges.
    isolated : dict
        Number of isolated data nodes: `all`, and in each zone.
    """

    neighbours: int
    edges: int
    isolated: dict[str, int]


@dataclass(frozen=True)
class SizeTable:
    """Isolated data nodes by number of neighbours.

    Attributes
    ----------
    nodes : dict
        Number of `data` and `hidden` nodes, and of data nodes in the `lam`.
    boundary_width_km : float
        Width of the rim around the LAM.
    smallest : int or None
        Smallest number that isolates no data node in the LAM or on its rim; None if even `SEARCH_LIMIT` does.
    rows : tuple of Row
        By increasing number of neighbours.
    """

    nodes: dict[str, int]
    boundary_width_km: float
    smallest: int | None
    rows: tuple[Row, ...]

    def row(self, neighbours: int | None) -> Row | None:
        """Return the row with a number of neighbours; None if there is none."""
        return next((row for row in self.rows if row.neighbours == neighbours), None)


def size_table(
    data: coverage.DataNodes,
    points: NDArray[np.floating],
    mesh: NDArray[np.floating],
    numbers: Iterable[int] = NUMBERS,
    floor: int = 1,
) -> SizeTable:
    """Count isolated data nodes for several numbers of neighbours, with one search.

    If two data nodes are equally far from a hidden node, a builder may pick the other one.

    Parameters
    ----------
    data : coverage.DataNodes
        n data nodes.
    points : ndarray, shape (n, 3)
        The same nodes as unit vectors, in the precision that the graph's builder uses.
    mesh : ndarray, shape (m, 3)
        Hidden nodes.
    numbers : iterable of int
        Numbers to show. Those above n are left out; the smallest sufficient number and the one before it are added.
    floor : int
        The smallest sufficient number from here on is added too: what `auto` chooses.
    """
    zones = data.zone(np.arange(len(points)))
    in_zone = np.isin(zones, ("lam", "rim"))
    reach = max(floor, *numbers)
    limit = max(coverage.SEARCH_LIMIT, reach)
    smallest, first = coverage.smallest_number(points, mesh, lambda some: in_zone[some], 1, limit, reach=reach)
    shown = {*numbers, *((smallest - 1, smallest, max(smallest, floor)) if smallest else ())}

    def row(neighbours: int) -> Row:
        isolated = zones[first > neighbours]
        by_zone = {zone: int(np.count_nonzero(isolated == zone)) for zone in coverage.ZONES}
        return Row(neighbours, neighbours * len(mesh), {"all": len(isolated), **by_zone})

    return SizeTable(
        nodes={"data": len(points), "hidden": len(mesh), "lam": int(np.count_nonzero(data.in_lam))},
        boundary_width_km=data.boundary_width_km,
        smallest=smallest,
        rows=tuple(row(number) for number in sorted(shown) if 1 <= number <= len(points)),
    )


@dataclass(frozen=True)
class Size:
    """Table of an experiment, and the encoder that its config requests."""

    config: str
    encoder: Encoder
    table: SizeTable


def size_of(config_name: str, config_path: Path | None = None, overrides: Sequence[str] = ()) -> Size:
    """Return the table of an experiment, from its config and the coordinates of its data.

    Nothing is written, and no edge is built.

    Parameters
    ----------
    config_name : str
        As for `anemoi-training train --config-name`.
    config_path : Path, optional
        Folder of the user's configs.
    overrides : sequence of str
        In Hydra's syntax.

    Raises
    ------
    HouseError
        If the config and its data do not make a nested graph.
    """
    from anemoi.graphs.generate.transforms import latlon_rad_to_cartesian

    from anemoi_house.graphs.describe import data_nodes

    # With a graph file, our resolvers would prepare its folder.
    config = composed(config_name, config_path, [*overrides, f"++{keys.GRAPH}=null"])
    try:
        nodes, edges = (keys.plain(config, key) for key in (keys.GRAPH_NODES, keys.GRAPH_EDGES))
        dataset = graph_dataset(config)
    except ResolverError as mistake:
        raise HouseError(first_line(mistake)) from None
    except OmegaConfBaseException as error:
        raise HouseError(f"the config {config_name} cannot be resolved: {error}") from None
    builder = encoder_builder(edges)
    neighbours = coverage.neighbours_or_auto(builder["num_nearest_neighbours"])
    floor = builder.get("floor", coverage.FLOOR) if neighbours == "auto" else 1
    encoder = Encoder(builder["_target_"].rpartition(".")[2], neighbours, floor)
    graph, mask = bare_graph(nodes, dataset)
    points, mesh = (latlon_rad_to_cartesian(graph[name].x).cpu().numpy() for name in (keys.DATA, keys.HIDDEN))
    own = () if neighbours == "auto" else (neighbours,)
    if max(own, default=0) > len(points):
        raise HouseError(f"num_nearest_neighbours: {neighbours} is more than the {len(points)} data nodes.")
    data = data_nodes(graph, float(builder.get("boundary_width_km", ZONE_KM)), keys.DATA, mask)
    return Size(config_name, encoder, size_table(data, points, mesh, (*NUMBERS, *own), floor))


def as_text(size: Size) -> str:
    """Format the table within 80 columns."""
    table, nodes = size.table, size.table.nodes
    chosen = size.encoder.number(table.smallest)
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
        effect = "finds no sufficient number"
    elif encoder.builder == "CoveringKNNEdges":
        effect = f"adds an edge for each of the {row.isolated['all']:,} isolated ones"
    else:
        effect = f"{row.isolated['lam'] + row.isolated['rim']:,} isolated {where}"
    smallest = f"{table.smallest}: with fewer, a data node {where} is isolated"
    if table.smallest is None:
        advice = f"refine the hidden mesh, or use\n{'':10}graph=house_covering"
        smallest = f"none up to {coverage.SEARCH_LIMIT} is sufficient: {advice}"
    return [
        f"set       {encoder.neighbours} by this config, {encoder.builder}:",
        f"          {effect}",
        f"smallest  {smallest}",
        f"rim       outside the LAM, within {table.boundary_width_km:g} km of it",
        f"poles     farther from the LAM, poleward of {coverage.POLAR_LATITUDE:g} degrees",
    ]
