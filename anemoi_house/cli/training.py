"""Commands on a training before it runs: `explain`, `prepare`."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from anemoi_house.cli.parser import Commands, add_command, add_config, add_config_name
from anemoi_house.upstream import keys

HARDWARE = {"nodes": keys.NODES, "gpus_per_node": keys.GPUS_PER_NODE, "gpus_per_model": keys.GPUS_PER_MODEL}


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    text = "Print what a training will use: learning rate, steps, weights of the loss, checkpoints. Nothing is trained."
    parser = add_command(commands, "explain", _explain, text)
    add_config(parser)
    for name, key in HARDWARE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=key)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the learning rate")
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    text = "Check the config, data and output directory of a training, and build its graph, before its ranks start."
    add_config_name(add_command(commands, "prepare", _prepare, text))


def _explain(arguments: argparse.Namespace) -> None:
    from anemoi_house.explain.effective import effective
    from anemoi_house.explain.text import as_text

    if arguments.plot:
        from anemoi_house.explain.plot import plot_rate

    logging.getLogger("anemoi.training.losses").setLevel(logging.WARNING)  # it logs each weight that it computes
    asked = vars(arguments)
    hardware = [f"{key}={asked[name]}" for name, key in HARDWARE.items() if asked[name] is not None]
    values = effective(arguments.config, arguments.config_path, [*hardware, *arguments.overrides])
    if arguments.plot:
        plot_rate(values, arguments.plot)
    print(json.dumps(values.as_json(), indent=2) if arguments.json else as_text(values))


def _prepare(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.prepare import prepare

    prepare(arguments.config_name, arguments.overrides)
