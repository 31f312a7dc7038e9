"""`anemoi-house ...`: parse, call, print; no logic.

One module for each group of commands.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence

from anemoi_house import __version__
from anemoi_house.cli import data, forecast, graph, jobs, report, tracking, training
from anemoi_house.cli.parser import Parser, PrintCompletion, parse
from anemoi_house.errors import HouseError
from anemoi_house.extras import extras_named

GROUPS = (data, graph, training, jobs, forecast, report, tracking)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    arguments = parse(make_parser(), argv)
    try:
        with extras_named(arguments.command):
            status = arguments.run(arguments) or 0
        sys.stdout.flush()
        return status
    except HouseError as mistake:
        print(f"anemoi-house: {mistake}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 1


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="anemoi-house",
        description="Sample data, recipes, graphs, forecasts, reports and tracked runs of nested experiments. "
        "The stock commands train, infer and build datasets: anemoi-training, anemoi-inference, anemoi-datasets.",
    )
    parser.add_argument("--version", action="version", version=f"anemoi-house {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        default=argparse.SUPPRESS,
        help="print a script that completes these commands in a shell",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    return parser


def _reader_is_gone() -> bool:
    """Return whether stdout was closed, as by `head`; if so, discard what is left to write."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not poll.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return True
