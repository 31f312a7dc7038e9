"""Results of benchmarks and the study: machine, versions, and a readable JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anemoi_house.files import write_whole

_NUMBERS = re.compile(r"\[[^][{}\"]+\]")
"""Innermost lists, which are written on one line."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option `--json`."""
    parser.add_argument("--json", nargs="?", const="-", default="-", metavar="FILE", help="default: standard output")


def circumstances(packages: Sequence[str]) -> dict[str, Any]:
    """Return the machine and the versions of some packages."""
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {package: version(package) for package in packages},
    }


def write(result: dict[str, Any], target: str) -> None:
    """Write a result to a file, whole or not at all, or to standard output for `-`."""
    text = _NUMBERS.sub(lambda found: " ".join(found[0].split()), json.dumps(_rounded(result), indent=2))
    if target == "-":
        print(text)
        return
    write_whole(Path(target), text + "\n")
    print(target)


def _processor() -> str:
    found = re.search(r"^model name\s*: *(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 4) if isinstance(value, float) else value
