"""Commands on a training before it runs: `explain`, `prepare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from anemoi_house.cli.parser import Commands, add_command, add_config, add_config_name

HARDWARE = ("nodes", "gpus_per_node", "gpus_per_model")


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    text = "Print what a training will use: learning rate, steps, weights of the loss, checkpoints. Nothing is trained."
    parser = add_command(commands, "explain", _explain, text)
    add_config(parser)
    for key in HARDWARE:
        option = f"--{key.replace('_', '-')}"
        parser.add_argument(option, type=int, metavar="N", help=f"system.hardware.num_{key}")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the learning rate")
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    text = "Check the config, data and output directory of a training, and build its graph, before its ranks start."
    add_config_name(add_command(commands, "prepare", _prepare, text))


def _explain(arguments: argparse.Namespace) -> None:
    from anemoi_house.explain.effective import effective
    from anemoi_house.explain.text import as_text

    if arguments.plot:
        from anemoi_house.explain.plot import plot_rate

    asked = {key: getattr(arguments, key) for key in HARDWARE}
    hardware = [f"system.hardware.num_{key}={value}" for key, value in asked.items() if value is not None]
    values = effective(arguments.config, arguments.config_path, [*hardware, *arguments.overrides])
    if arguments.plot:
        plot_rate(values, arguments.plot)
    print(json.dumps(values.as_json(), indent=2) if arguments.json else as_text(values))


def _prepare(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.prepare import prepare

    prepare(arguments.config_name, arguments.overrides)
