"""Commands on recorded runs: `runs`, `sync`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from anemoi_house.cli.parser import Commands, add_command
from anemoi_house.errors import HouseError


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    text = "List recorded runs, and what of each is not sent yet."
    parser = add_command(commands, "runs", _runs, text)
    _add_run_folders(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array")

    text = "Send unsent records of runs to their tracking servers."
    more = (
        "Nothing is sent twice, even after an interruption. Exit status 1 if something remains unsent, or is "
        "set aside because the server refused it: it gives up "
        "after 3 attempts on a server that cannot be reached, after 6 on one that fails or is overloaded, and after 1 "
        "on a refused sign-in. A run that another process is sending is skipped."
    )
    parser = add_command(commands, "sync", _sync, text, more)
    _add_run_folders(parser)
    parser.add_argument("--to", metavar="URI", help="another server: http://, https://, sqlite:///FILE, azureml://")
    parser.add_argument("--retry-refused", action="store_true", help="send again what a server has refused")
    text = "send everything again, as a new run if the server has lost or deleted the first"
    parser.add_argument("--from-start", action="store_true", help=text)
    parser.add_argument("--watch", action="store_true", help="continue until Ctrl-C, and include new runs")
    parser.add_argument("--until-end", action="store_true", help=argparse.SUPPRESS)  # what the logger starts


def _add_run_folders(parser: argparse.ArgumentParser) -> None:
    text = "directory of a run, its checkpoint directory, or one above (default: $HOUSE_OUTPUT or outputs)"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR", help=text)


def _runs(arguments: argparse.Namespace) -> None:
    from anemoi_house.tracking.listing import as_text, recorded_runs

    found = recorded_runs(arguments.runs)
    print(json.dumps(found) if arguments.json else as_text(found))


def _sync(arguments: argparse.Namespace) -> int:
    from anemoi_house.tracking.sync import sync, until_end

    if arguments.until_end:
        if len(arguments.runs) != 1 or arguments.to or arguments.watch:
            raise HouseError("--until-end: takes one RUN_DIR and no other option.")
        return until_end(arguments.runs[0])
    if arguments.watch and (arguments.from_start or arguments.retry_refused):
        raise HouseError("--watch: does not send again what is sent. Leave --from-start and --retry-refused out.")
    return sync(arguments.runs, arguments.to, arguments.watch, arguments.from_start, arguments.retry_refused)
