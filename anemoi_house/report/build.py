"""The report on the boundary: forecasts of several runs in, one HTML page with its figures and a JSON out."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.errors import HouseError
from anemoi_house.forecast.read import find_forecasts, forecasts_of
from anemoi_house.graphs.coverage import DataNodes
from anemoi_house.report import lines as lines
from anemoi_house.report.lines import Picture
from anemoi_house.report.maps import Atlas
from anemoi_house.report.page import Group, Section, page
from anemoi_house.report.summary import numbers
from anemoi_house.runs.trained import Run, find_run
from anemoi_house.scores.common_nodes import Widths
from anemoi_house.scores.comparison import Compared, RunComparison, Settings, compare, run_folders
from anemoi_house.scores.skill import losses

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
        Runs: checkpoint folders, folders of forecasts, or folders above several runs. The first one is what the others
        are compared with.
    output : Path
        Folder for `index.html`, `report.json` and `figures/`. A report that is there is replaced when the new one is
        whole.
    settings : Settings
    tell : callable
        Takes a line on how far it has got.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    HouseError
        Where runs cannot be compared, have no forecasts, or the folder cannot be written.
    """
    check_output(output)
    left_out: list[str] = []
    runs = found_runs(paths, left_out.append)
    for line in left_out:
        tell(line)
    comparison = compare(runs, settings, tell)
    comparison = replace(comparison, frame=replace(comparison.frame, notes=(*left_out, *comparison.frame.notes)))
    return write_report(comparison, output, {"runs": [str(path) for path in paths], **arguments_of(settings)}, tell)


def settings_of(
    variables: Sequence[str], leads: Sequence[str], inner_km: float | None, outer_km: float | None
) -> Settings:
    """Settings as a user writes them: lead times such as `24h` or `24`.

    Raises
    ------
    HouseError
        For what is no lead time, or no width.
    """
    hours = []
    for lead in leads:
        if not (found := re.fullmatch(r"(\d+)\s*h?", lead)):
            raise HouseError(f"--leads {lead}: is no lead time; give hours, such as 24h.")
        hours.append(int(found[1]))
    given = {"inner_km": inner_km, "outer_km": outer_km}
    for name, width in given.items():
        if width is not None and not (np.isfinite(width) and width > 0):
            raise HouseError(
                f"--{name.replace('_', '-')} {width:g}: is no width of a ring; give kilometres, more than 0."
            )
    widths = Widths(**{name: width for name, width in given.items() if width is not None})
    return Settings(tuple(dict.fromkeys(variables)), tuple(dict.fromkeys(hours)), widths)


def arguments_of(settings: Settings) -> dict[str, Any]:
    """Settings as `report.json` says them."""
    return {"variables": list(settings.variables), "leads_h": list(settings.leads_h), **settings.widths._asdict()}


def found_runs(paths: Sequence[Path], tell: Callable[[str], None]) -> list[Compared]:
    """Runs at some paths, with their forecasts; `tell` takes a line for each run below a path that has none.

    Raises
    ------
    HouseError
        Where a path has no forecasts at all.
    """
    found = []
    for path in paths:
        folders = run_folders([path])
        lacking: list[HouseError] = []
        for folder in folders:
            try:
                forecasts = forecasts_of(find_forecasts(folder))
            except HouseError as mistake:
                lacking.append(mistake)
                continue
            found.append(Compared(forecasts, _trained(folder, forecasts[0].about.checkpoint)))
        if len(lacking) == len(folders):
            raise lacking[0]
        for reason in lacking:
            tell(f"Left out: {reason}")
    return found


def _trained(folder: Path, checkpoint: str) -> Run | None:
    for place in (folder, Path(checkpoint)):
        try:
            return find_run(place)
        except HouseError:
            continue
    return None


@dataclass(frozen=True)
class _Graph:
    """Data nodes of a run's graph, and which of them are isolated."""

    nodes: DataNodes
    isolated: NDArray[np.intp]


def write_report(
    comparison: RunComparison, output: Path, arguments: dict[str, Any], tell: Callable[[str], None] = lambda line: None
) -> Path:
    """Draw and write a report; see `report`."""
    check_output(output)
    runs, graphs = [], {}
    for run in comparison.runs:
        known, graph = _known(run)
        runs.append(known)
        if graph and run.experiment not in graphs:
            graphs[run.experiment] = graph
    said = {"versions": _versions(), "arguments": arguments}
    found = numbers(comparison, runs, said)
    tell("drawing")
    first, sections = lines.by_date(found), list(_sections(found, comparison, graphs))
    pictures = [first, *(picture for section in sections for group in section.groups for picture in group.pictures)]
    _write(output, found, page(found, first, sections), pictures)
    return output / PAGE


def _known(run: Compared) -> tuple[dict[str, Any], _Graph | None]:
    """What is known of a run besides its forecasts, with what is not known in words; and its graph."""
    about, lacks = run.forecasts[0].about, []
    history: list[Any] = []
    rings: dict[str, Any] = {}
    coverage, graph = None, None
    if run.trained is None:
        lacks.append(f"its checkpoint, {about.checkpoint}, is gone: neither its graph nor its training is shown.")
    else:
        history = [list(row) for row in losses(run.trained)]
        rings = _rings(run.trained)
        if not run.trained.spool.records_path.is_file():
            lacks.append("its training left no record (a spool), so that losses and metrics are not shown.")
        elif not history:
            lacks.append("its training ended before it was validated, so that losses and metrics are not shown.")
        try:
            coverage, graph = _coverage(run.trained)
        except HouseError as mistake:
            lacks.append(f"coverage is not shown: {mistake}")
    known = {
        "run_id": run.run_id,
        "experiment": run.experiment,
        "checkpoint": about.checkpoint,
        "step": about.step,
        "trim": about.trim,
        "coverage": coverage,
        "losses": history,
        "rings": rings,
        "lacks": lacks,
    }
    return known, graph


def _rings(run: Run) -> dict[str, list[list[float]]]:
    """Mean squared errors in the two rings one step ahead, on the validation dates, by step of the training."""
    if not run.spool.records_path.is_file():
        return {}
    begin = {f"val/mse_{region}/": region for region in ("inner_ring", "outer_ring")}
    found: dict[str, dict[int, float]] = {}
    for record in run.spool.records():
        if record.data is None or record.data["kind"] != "metrics":
            continue
        for key, value, _, step in record.data["rows"]:
            head, _, name = key.rpartition("/")
            if head + "/" in begin and name.endswith(".step1"):
                found.setdefault(f"{begin[head + '/']}/{name.removesuffix('.step1')}", {})[step] = float(value)
    return {key: [[step, value] for step, value in sorted(rows.items())] for key, rows in found.items()}


def _coverage(run: Run) -> tuple[dict[str, Any], _Graph]:
    """Numbers of the graph that the checkpoint holds, whatever became of the graph file.

    Raises
    ------
    HouseError
        Where it holds none.
    """
    import torch

    from anemoi_house.graphs.describe import data_nodes, describe, isolated_data_nodes

    try:
        model = torch.load(run.checkpoint, map_location="cpu", weights_only=False)
    except Exception as error:  # torch raises whatever it comes across
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HouseError(f"{run.checkpoint} cannot be loaded ({reason}).") from None
    graph = getattr(model, "graph_data", None)
    if graph is None:
        raise HouseError(
            f"{run.checkpoint} is a checkpoint without its graph; anemoi-house graph plot draws one from its file."
        )
    return describe(graph, ZONE_KM), _Graph(data_nodes(graph, ZONE_KM), isolated_data_nodes(graph))


def _sections(found: dict[str, Any], comparison: RunComparison, graphs: dict[str, _Graph]) -> Iterable[Section]:
    atlas, names = Atlas(comparison), comparison.frame.variables
    verified, lead = found["summary"]["verified"], found["deciding_lead_h"]
    first = list(lines.index_by_lead(found))
    yield _section(
        "The index by lead time",
        "Jump across the boundary beyond what the field does elsewhere. In units: of the "
        f"{'forecast error' if verified else 'forecast'}; 0 is no artifact.",
        ("", [*first, *lines.by_lead(found, "jump", "jump of the error")] if verified else first),
        (
            "The forecast alone, without verification: what can be seen in real time",
            lines.by_lead(found, "forecast_jump", "jump of the forecast", "analysis_jump"),
        ),
        ("Kinks: slopes that break at the boundary", lines.by_lead(found, "kink", "kink of the error", per="100 km")),
        ("Ripples: short waves along the boundary", lines.by_lead(found, "ripple", "ripple of the error")),
    )
    if verified:
        yield _section(
            "Error against distance from the boundary",
            "Root-mean-square error over dates. Each run around its own boundary; shaded: inside the LAM.",
            ("", lines.profiles(found)),
        )
    yield _section(
        "In training: errors in the rings",
        "Root-mean-square error one step ahead on the validation dates, along each run's own boundary.",
        ("", lines.rings(found, "inner_ring")),
        ("Outer ring", lines.rings(found, "outer_ring")),
    )
    yield _section("Losses", "As the training recorded them.", ("", lines.losses(found)))
    yield _section(
        "Where values are missing",
        "These fields are left out of all means, for every run.",
        ("", atlas.faults()),
    )
    if verified:
        yield _section(
            "Error maps",
            f"Root-mean-square error over the starting dates at +{lead} h, one scale for all runs. Black: the "
            "boundary of the run. Differences are over the nodes that both have; hatched: one is trimmed there.",
            *(
                (name if number else "", [*atlas.errors(name), *atlas.changes(name)])
                for number, name in enumerate(names)
            ),
        )
    yield _section(
        "Forecast maps",
        f"The last starting date, +{lead} h, one scale. Each pixel shows the node nearest to it.",
        *((name if number else "", atlas.examples(name)) for number, name in enumerate(names)),
    )
    yield _section(
        "Spectra inside the LAM",
        "Variance by wavelength, forecast over analysis: below 1, the forecast is too smooth there; above, too rough. "
        "Means over dates. Beyond 100 it is not drawn: there the analysis has next to no variance.",
        ("", lines.spectra(found)),
    )
    if verified:
        yield _section(
            "Drift of the LAM mean",
            "Mean over the LAM, forecast less analysis: what leaks in or out through the boundary shows here.",
            ("", lines.drift(found)),
        )
    yield _section(
        "Coverage of the graph",
        "A data node that no encoder edge begins at is isolated: the model never sees its value. Crosses: isolated; "
        "dots: global data nodes; black: the boundary.",
        ("", [atlas.isolated(name, graph.nodes, graph.isolated) for name, graph in graphs.items()]),
    )


def _section(title: str, text: str, *groups: tuple[str, Iterable[Picture]]) -> Section:
    drawn = [Group(name, list(pictures)) for name, pictures in groups]
    return Section(title, text, [group for group in drawn if group.pictures])


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def check_output(output: Path) -> None:
    """Refuse a folder that cannot take a report, before anything is computed.

    Raises
    ------
    HouseError
        Where it cannot be written to, or holds files of these names that are no report.
    """
    ours = (output / NUMBERS).is_file()
    if not ours and (taken := [name for name in (PAGE, FIGURES) if (output / name).exists()]):
        raise HouseError(f"{output}: holds {' and '.join(taken)} that are no report. Name another folder.")
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise HouseError(f"{output} cannot be written: {there} is no folder of yours. Name another one.")


def _write(output: Path, found: dict[str, Any], text: str, pictures: Sequence[Picture]) -> None:
    """Write everything beside its place, then put it there."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".unfinished-") as folder:
            staging = Path(folder)
            (staging / FIGURES).mkdir()
            for picture in pictures:
                (staging / FIGURES / f"{_file(picture.name)}.png").write_bytes(picture.data)
            (staging / NUMBERS).write_text(json.dumps(found, allow_nan=False, indent=1) + "\n")
            (staging / PAGE).write_text(text)
            shutil.rmtree(output / FIGURES, ignore_errors=True)
            for name in (FIGURES, NUMBERS, PAGE):
                os.replace(staging / name, output / name)
    except OSError as refused:
        raise HouseError(
            f"{output} cannot be written ({refused.strerror}). Make room, or name a folder of yours."
        ) from None


def _file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
