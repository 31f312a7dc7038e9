"""Parsing that all commands share."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

Commands = argparse._SubParsersAction
Run = Callable[[argparse.Namespace], int | None]

_INVALID_CHOICE = re.compile(r"argument (.+): invalid choice: '(.*)' \(choose from (.+)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistyped name with the nearest one, in one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2 and a message."""
        found = _INVALID_CHOICE.fullmatch(message)
        if not found:
            super().error(message)
        argument, value, listed = found.groups()
        choices = [choice.strip(" '") for choice in listed.split(",")]
        near = difflib.get_close_matches(value, choices, 1)
        hint = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(choices)}."
        self.exit(2, f"{self.prog}: {argument}: '{value}' is invalid. {hint}\n")


class PrintCompletion(argparse.Action):
    """Print a script that completes commands, options and paths in a shell, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *values: Any) -> NoReturn:
        """Print the script for the shell in `values`."""
        import shtab

        _complete_paths(parser, shtab.FILE)
        print(shtab.complete(parser, values[1]))
        parser.exit()


def _complete_paths(parser: argparse.ArgumentParser, files: Any) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _complete_paths(each, files)
        elif action.type is Path:
            action.complete = files  # type: ignore[attr-defined]


def add_command(commands: Commands, name: str, run: Run, text: str, more: str = "") -> argparse.ArgumentParser:
    """Add a command.

    Parameters
    ----------
    commands : subparsers
        Where it is added.
    name : str
        Its name.
    run : callable
        Takes the parsed arguments, and returns an exit status or None for 0.
    text, more : str
        Its line in the list of commands, and what its own help adds.
    """
    parser = commands.add_parser(name, help=text, description=f"{text} {more}".rstrip())
    parser.set_defaults(run=run, command=parser.prog.partition(" ")[2])
    return parser


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Add a command that has commands of its own, and return where to add these."""
    parser = commands.add_parser(name, help=text, description=text)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_config_name(parser: argparse.ArgumentParser) -> None:
    """Add `--config-name` and the overrides of a config, as `anemoi-training train` takes them."""
    parser.add_argument("--config-name", required=True, metavar="NAME", help="experiment, as for anemoi-training train")
    add_overrides(parser)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add a config by name, its folder and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="experiment, as for anemoi-training train --config-name")
    add_overrides(parser)
    parser.add_argument("--config-path", type=Path, metavar="DIR", help="directory to look for CONFIG in first")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add overrides of a config."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the config")


def add_run(parser: argparse.ArgumentParser, text: str, default: str = "") -> None:
    """Add the directory of a run; `default` is the one that is used without it."""
    path = Path(default or os.environ.get("HOUSE_OUTPUT", "outputs"))
    text = f"{text} (default: {default or '$HOUSE_OUTPUT or outputs'})"
    parser.add_argument("run_folder", type=Path, nargs="?", default=path, metavar="RUN", help=text)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments; overrides of a config may also follow options."""
    arguments, more = parser.parse_known_args(argv)
    # argparse takes a list of positional arguments in one piece only.
    if any(each.startswith("-") for each in more) or (more and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        arguments.overrides = [*arguments.overrides, *more]
    return arguments
