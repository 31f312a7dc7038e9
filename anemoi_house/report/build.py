"""The report on the boundary: forecasts of several runs in, one HTML page with its figures and a JSON out."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.errors import HouseError
from anemoi_house.report.numbers import numbers
from anemoi_house.report.page import page
from anemoi_house.report.pictures import Pictures, draw
from anemoi_house.report.trained import Graph, known_of
from anemoi_house.scores.comparison import compare
from anemoi_house.scores.grid import Widths
from anemoi_house.scores.runs import Settings, find_runs
from anemoi_house.scores.scored import RunComparison
from anemoi_house.words import is_or_are, listed

PAGE, NUMBERS, FIGURES = "index.html", "report.json", "figures"
PACKAGES = ("anemoi-house", "anemoi-training", "anemoi-models", "anemoi-graphs", "anemoi-datasets", "anemoi-inference",
            "numpy", "scipy", "matplotlib")  # fmt: skip


def report(
    paths: Sequence[Path], output: Path, settings: Settings, tell: Callable[[str], None] = lambda line: None
) -> Path:
    """Compare runs at the boundary.

    Parameters
    ----------
    paths : sequence of Path
        Runs: checkpoint folders, folders of forecasts, or folders above several runs. The others are compared with
        the first one.
    output : Path
        Folder for `index.html`, `report.json` and `figures/`. An existing report is replaced once the new one is
        complete.
    settings : Settings
    tell : callable
        Takes a line of progress.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    HouseError
        If runs cannot be compared or have no forecasts, or the folder cannot be written.
    """
    check_output(output)
    runs, left_out = find_runs(paths)
    for line in left_out:
        tell(line)
    comparison = compare(runs, settings, tell)
    arguments = {
        "runs": [str(path) for path in paths],
        "variables": list(settings.variables),
        "leads_h": list(settings.leads_h),
        **settings.widths._asdict(),
    }
    return write_report(comparison, output, arguments, left_out, tell)


def settings_of(
    variables: Sequence[str], leads: Sequence[str], inner_km: float | None, outer_km: float | None
) -> Settings:
    """Return settings from what a user writes: lead times such as `24h` or `24`.

    Raises
    ------
    HouseError
        If a lead time or a width is invalid.
    """
    hours = []
    for lead in leads:
        if not (found := re.fullmatch(r"(\d+)\s*h?", lead)):
            raise HouseError(f"--leads {lead}: not a lead time. Give hours, such as 24h.")
        hours.append(int(found[1]))
    widths = {name: width for name, width in (("inner_km", inner_km), ("outer_km", outer_km)) if width is not None}
    for name, width in widths.items():
        if not (np.isfinite(width) and width > 0):
            raise HouseError(f"--{name.replace('_', '-')} {width:g}: not a valid width. Give kilometres above 0.")
    return Settings(tuple(dict.fromkeys(variables)), tuple(dict.fromkeys(hours)), Widths(**widths))


def write_report(
    comparison: RunComparison,
    output: Path,
    arguments: dict[str, Any],
    notes: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Draw and write the report of a comparison; see `report`.

    Parameters
    ----------
    comparison : RunComparison
    output : Path
    arguments : dict
        Of the command, for `report.json`.
    notes : sequence of str
        What was left out before runs were compared.
    tell : callable
    """
    known: list[dict[str, Any]] = []
    graphs: dict[str, Graph] = {}
    for run in comparison.runs:
        of_run, graph = known_of(run)
        known.append(of_run)
        if graph:
            graphs.setdefault(run.experiment, graph)
    found = numbers(comparison, known, {"versions": _versions(), "arguments": arguments}, notes)
    tell("drawing")
    pictures = draw(found, comparison, graphs)
    _write(output, found, page(found, pictures), pictures)
    return output / PAGE


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def check_output(output: Path) -> None:
    """Refuse a folder that cannot take a report, before anything is computed.

    Raises
    ------
    HouseError
        If it cannot be written, or holds other files under the names of a report.
    """
    is_report = (output / NUMBERS).is_file()
    if not is_report and (taken := [name for name in (PAGE, FIGURES) if (output / name).exists()]):
        raise HouseError(f"{output}: {listed(taken)} {is_or_are(taken)} not of a report. Choose another folder.")
    nearest = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise HouseError(f"{output} cannot be written: {nearest} is not a writable directory. Choose another one.")


def _write(output: Path, found: dict[str, Any], text: str, pictures: Pictures) -> None:
    """Write everything to a temporary folder in the output, then move it into place."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".unfinished-") as folder:
            staging = Path(folder)
            (staging / FIGURES).mkdir()
            for picture in chain.from_iterable(pictures.values()):
                (staging / FIGURES / f"{_file(picture.name)}.png").write_bytes(picture.data)
            (staging / NUMBERS).write_text(json.dumps(found, allow_nan=False, indent=1) + "\n")
            (staging / PAGE).write_text(text)
            shutil.rmtree(output / FIGURES, ignore_errors=True)
            for name in (FIGURES, NUMBERS, PAGE):
                os.replace(staging / name, output / name)
    except OSError as refused:
        raise HouseError(
            f"{output} cannot be written ({refused.strerror}). Free space, or choose a writable directory."
        ) from None


def _file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
