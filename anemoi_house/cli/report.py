"""Commands on trained runs: `skill`, `report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anemoi_house.boundary.widths import INNER_KM, OUTER_KM
from anemoi_house.cli.parser import Commands, add_command, add_run


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    text = "Print the losses of a run, and its errors 6 h ahead next to those of persistence."
    parser = add_command(commands, "skill", _skill, text)
    add_run(parser, "checkpoint directory of a run, or a directory above several, which means the latest", "outputs")

    text = "Compare forecasts of several runs at the boundary: one HTML page, its figures, and all numbers as JSON."
    more = "The runs need forecasts: anemoi-house forecast. Runs whose names differ only in a suffix such as _seed1 "
    parser = add_command(commands, "report", _report, text, f"{more}are trainings of one experiment.")
    text = "checkpoint directory of a run, directory of its forecasts, or a directory above several runs, which means "
    more = "all of them in the order of training. Each is compared with the first"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=f"{text}{more}")
    text = "directory for index.html, report.json and figures"
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help=text)
    text = "default: those of gh_500 t_850 u_850 v_850 that all runs have"
    parser.add_argument("--variables", nargs="+", default=[], metavar="NAME", help=text)
    text = "lead times of the tables; the first one decides the verdict (default: 24h 48h 72h)"
    parser.add_argument("--leads", nargs="+", default=[], metavar="24h", help=text)
    for side, width_km in (("inner", INNER_KM), ("outer", OUTER_KM)):
        text = f"width of the {side} ring at the boundary (default: {width_km:.0f})"
        parser.add_argument(f"--{side}-km", type=float, metavar="KM", help=text)


def _skill(arguments: argparse.Namespace) -> None:
    from anemoi_house.runs.trained import find_run
    from anemoi_house.scores.skill import as_text, losses, skill

    run = find_run(arguments.run_folder)
    print(as_text(run, skill(run), losses(run)))


def _report(arguments: argparse.Namespace) -> None:
    from anemoi_house.report.build import report, settings_of

    settings = settings_of(arguments.variables, arguments.leads, arguments.inner_km, arguments.outer_km)
    print(report(arguments.runs, arguments.output, settings, lambda line: print(line, file=sys.stderr)))
