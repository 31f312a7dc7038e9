"""`anemoi-house forecast`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anemoi_house.cli.parser import Commands, add_command, add_run


def add(commands: Commands) -> None:
    """Add the command of this module."""
    text = "Make forecasts of a run with the stock anemoi-inference: a NetCDF file and its config for each date."
    parser = add_command(commands, "forecast", _forecast, text, "Existing forecasts are kept.")
    text = "checkpoint directory of a run, an inference checkpoint, or a directory above several: the latest of them"
    add_run(parser, text)
    text = "initial dates: 2020-01-27T00, or START/END/STEP such as 2020-01-26T12/2020-01-28T00/12h"
    parser.add_argument("--dates", nargs="+", required=True, metavar="DATE", help=text)
    parser.add_argument("--lead-time", required=True, metavar="T", help="longest lead time: 72h or 3d")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="default: OUTPUTS/forecast/RUN_ID")
    text = "variables to write, or 'all' (default: those in the run's plots and metrics)"
    parser.add_argument("--variables", nargs="+", default=[], metavar="NAME", help=text)
    parser.add_argument("--lam", type=Path, metavar="PATH", help="limited-area dataset, if it has moved")
    parser.add_argument("--global", type=Path, dest="globe", metavar="PATH", help="global dataset, if it has moved")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: the stock runner's choice)")
    parser.add_argument("--config-only", action="store_true", help="only write the configs for anemoi-inference run")


def _forecast(arguments: argparse.Namespace) -> None:
    from anemoi_house.dates import parse_dates, parse_hours
    from anemoi_house.forecast.request import plan
    from anemoi_house.forecast.run import check_runner, run, write_configs
    from anemoi_house.runs.trained import find_run

    dates, lead_h = parse_dates(arguments.dates), parse_hours(arguments.lead_time)
    if not arguments.config_only:
        check_runner(arguments.device)
    options = {key: getattr(arguments, key) for key in ("output", "variables", "lam", "globe", "device")}
    planned = plan(find_run(arguments.run_folder), dates, lead_h, **options)
    for line in planned.summary:
        print(f"anemoi-house forecast: {line}", file=sys.stderr)
    print(*(write_configs if arguments.config_only else run)(planned), sep="\n")
