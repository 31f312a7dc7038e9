"""Compare our graph builders with stock ones: time, memory and edges, as ratios within one run.

Peers: stock `KNNEdges` with the same neighbours on the same nodes, the loop over 12, 13, ... neighbours that users run
today, and the stock pair `KNNEdges` + `ReversedKNNEdges`, which also covers all data nodes.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from anemoi.graphs.edges import KNNEdges, ReversedKNNEdges
from anemoi.graphs.utils import concat_edges
from torch_geometric.data import HeteroData

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.graphs.coverage import DataNodes, reached_nodes
from anemoi_house.graphs.describe import data_nodes
from anemoi_house.graphs.edges import BoundaryAwareKNNEdges, CoveringKNNEdges
from anemoi_house.sample.grids import GRIDS, PRODUCTION, nodes
from anemoi_house.study import records

FLOOR = 12
NESTED = {**GRIDS, "production": PRODUCTION}
PACKAGES = ("anemoi-graphs", "numpy", "scipy", "scikit-learn", "torch", "torch-geometric")


def build(graph: HeteroData, edges: type[KNNEdges], neighbours: int | str) -> np.ndarray:
    """Return the edge index, of shape (2, edges), of one builder."""
    builder = edges("data", "hidden", neighbours)
    return builder.get_edge_index(graph).numpy()


def stock_pair(graph: HeteroData) -> np.ndarray:
    """Cover every data node with stock builders only, as their documentation suggests."""
    parts = (
        edges("data", "hidden", k).get_edge_index(graph) for edges, k in ((KNNEdges, FLOOR), (ReversedKNNEdges, 1))
    )
    return concat_edges(*parts).numpy()


def stock_loop(graph: HeteroData, zone: DataNodes) -> int:
    """Return the neighbours found by building one stock graph after another."""
    neighbours = FLOOR
    while True:
        missed = np.flatnonzero(~reached_nodes(len(zone.in_lam), build(graph, KNNEdges, neighbours)[0]))
        if not zone.in_boundary_zone(missed).any():
            return neighbours
        neighbours += 1


def timed(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return seconds of each task; tasks alternate, so that a busy moment of the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(grid: str, repeats: int) -> dict:
    """Return all numbers of one grid."""
    start = time.perf_counter()
    graph = nodes(NESTED[grid])
    making = time.perf_counter() - start
    zone = data_nodes(graph, boundary_width_km=ZONE_KM)

    automatic, covering, knn = (
        build(graph, edges, neighbours)
        for edges, neighbours in ((BoundaryAwareKNNEdges, "auto"), (CoveringKNNEdges, FLOOR), (KNNEdges, FLOOR))
    )
    chosen = automatic.shape[1] // graph["hidden"].num_nodes
    isolated = {
        name: int((~reached_nodes(len(zone.in_lam), edges[0])).sum())
        for name, edges in (("knn", knn), ("auto", automatic), ("covering", covering))
    }
    pair_edges = stock_pair(graph).shape[1]
    tasks: dict[str, Callable[[], object]] = {
        "stock_knn_12": lambda: build(graph, KNNEdges, FLOOR),
        "stock_knn_chosen": lambda: build(graph, KNNEdges, chosen),
        "auto": lambda: build(graph, BoundaryAwareKNNEdges, "auto"),
        "checked_chosen": lambda: build(graph, BoundaryAwareKNNEdges, chosen),
        "covering_12": lambda: build(graph, CoveringKNNEdges, FLOOR),
        "stock_pair_12": lambda: stock_pair(graph),
        "stock_loop": lambda: stock_loop(graph, zone),
    }
    seconds = timed(tasks, repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "grid": grid,
        "data_nodes": graph["data"].num_nodes,
        "hidden_nodes": graph["hidden"].num_nodes,
        "neighbours_chosen": chosen,
        "neighbours_of_loop": stock_loop(graph, zone),
        "edges": {"knn_12": knn.shape[1], "covering_12": covering.shape[1], "stock_pair_12": pair_edges},
        "isolated": isolated,
        "ratios": {
            "auto / stock build of the same edges": median["auto"] / median["stock_knn_chosen"],
            "stock loop / auto": median["stock_loop"] / median["auto"],
            "check / stock build of the same edges": median["checked_chosen"] / median["stock_knn_chosen"],
            "covering / stock build": median["covering_12"] / median["stock_knn_12"],
            "stock pair / stock build": median["stock_pair_12"] / median["stock_knn_12"],
            "edges of covering / edges of stock": covering.shape[1] / knn.shape[1],
        },
        "median_seconds": median | {"making the nodes": making},
        "seconds": seconds,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        **records.circumstances(PACKAGES),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", choices=NESTED, required=True)
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="default: 7")
    records.add_option(parser)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    records.write(measure(arguments.grid, arguments.repeats), arguments.json)


if __name__ == "__main__":
    main()
