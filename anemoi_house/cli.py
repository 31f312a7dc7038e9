"""`anemoi-house ...`: parse, call, print; no logic."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anemoi_house import __version__
from anemoi_house.errors import HouseError


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except HouseError as mistake:
        print(f"anemoi-house: {mistake}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anemoi-house", description=__doc__)
    parser.add_argument("--version", action="version", version=f"anemoi-house {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_sample(commands)
    return parser


def _add_sample(commands: argparse._SubParsersAction) -> None:
    text = "Build two sample datasets, hrrr.zarr and gfs.zarr, with the stock anemoi-datasets."
    parser = commands.add_parser("sample", help=text, description=text)
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder for the two datasets")
    parser.add_argument("--grid", choices=["tiny", "published"], default="tiny", help="default: tiny")
    parser.add_argument("--dates", type=int, default=120, metavar="N", help="number of 6-hourly dates (default: 120)")
    parser.add_argument("--overwrite", action="store_true", help="replace datasets that are already there")
    parser.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> None:
    from anemoi_house.sample.build import build_sample

    for path in build_sample(arguments.directory, arguments.grid, arguments.dates, overwrite=arguments.overwrite):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
