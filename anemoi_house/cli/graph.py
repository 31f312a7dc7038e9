"""Commands on graphs: `graph describe`, `graph size`, `graph plot`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.cli.parser import Commands, add_command, add_config, add_group


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    verbs = add_group(commands, "graph", "Inspect a graph, or choose its number of neighbours.")

    parser = add_command(verbs, "describe", _describe, "Count nodes, edges and isolated data nodes.")
    parser.add_argument("graph", type=Path, metavar="GRAPH.pt")
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    text = "Tabulate isolated data nodes by number of encoder neighbours, without building a graph."
    parser = add_command(verbs, "size", _size, text)
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    parser = add_command(verbs, "plot", _plot, "Draw maps of the boundary, the mesh and the isolated data nodes.")
    parser.add_argument("graph", type=Path, metavar="GRAPH.pt")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png", help="picture to write")
    text = f"width of the zone around the LAM (default: {ZONE_KM:.0f})"
    parser.add_argument("--width-km", type=float, default=ZONE_KM, metavar="KM", help=text)


def _describe(arguments: argparse.Namespace) -> None:
    from anemoi_house.graphs.describe import as_text, describe, load_graph

    description = describe(load_graph(arguments.graph))
    print(json.dumps(description) if arguments.json else as_text(description))


def _size(arguments: argparse.Namespace) -> None:
    from anemoi_house.graphs.size import as_text, size_of

    size = size_of(arguments.config, arguments.config_path, arguments.overrides)
    print(json.dumps(dataclasses.asdict(size)) if arguments.json else as_text(size))


def _plot(arguments: argparse.Namespace) -> None:
    from anemoi_house.figures.graph import plot_graph

    print(plot_graph(arguments.graph, arguments.output, arguments.width_km))
