"""Training and graph of a compared run, as far as they still exist."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.errors import HouseError, first_line
from anemoi_house.graphs.coverage import DataNodes
from anemoi_house.runs.trained import Run
from anemoi_house.scores.runs import ComparedRun
from anemoi_house.scores.skill import losses

RING_METRIC = re.compile(r"val/mse_((?:inner|outer)_ring/.*)\.step1")


class Graph(NamedTuple):
    """Data nodes of a run's graph, and the indices of the isolated ones."""

    nodes: DataNodes
    isolated: NDArray[np.intp]


def known_of(run: ComparedRun) -> tuple[dict[str, Any], Graph | None]:
    """Return coverage, losses and errors in the rings of a run, with a sentence for each that is missing; its graph."""
    about = run.forecasts[0].about
    lacks: list[str] = []
    known: dict[str, Any] = {"coverage": None, "losses": [], "rings": {}, "lacks": lacks}
    graph = None
    if run.trained is None:
        lacks.append(f"its checkpoint, {about.checkpoint}, is gone: neither its graph nor its training is shown.")
    else:
        known |= {"losses": [list(row) for row in losses(run.trained)], "rings": ring_errors(run.trained)}
        if not run.trained.spool.records_path.is_file():
            lacks.append("its training left no record (a spool): losses and metrics are not shown.")
        elif not known["losses"]:
            lacks.append("its training ended before the first validation: losses and metrics are not shown.")
        try:
            known["coverage"], graph = _coverage(run.trained)
        except HouseError as mistake:
            lacks.append(f"coverage is not shown: {mistake}")
    of_run = {"run_id": run.run_id, "experiment": run.experiment}
    return of_run | {key: getattr(about, key) for key in ("checkpoint", "step", "trim")} | known, graph


def ring_errors(run: Run) -> dict[str, list[list[float]]]:
    """Return mean squared errors in the rings one step ahead, in validation, as [step, value] by ring and variable."""
    if not run.spool.records_path.is_file():
        return {}
    found: dict[str, dict[int, float]] = {}
    for record in run.spool.records():
        if record.data is None or record.data["kind"] != "metrics":
            continue
        for key, value, _, step in record.data["rows"]:
            if metric := RING_METRIC.fullmatch(key):
                found.setdefault(metric[1], {})[step] = float(value)
    return {key: [[step, value] for step, value in sorted(rows.items())] for key, rows in found.items()}


def _coverage(run: Run) -> tuple[dict[str, Any], Graph]:
    """Describe the graph in the checkpoint, which stays when the graph file is moved or rebuilt.

    Raises
    ------
    HouseError
        If the checkpoint cannot be loaded or has no graph.
    """
    import torch

    from anemoi_house.graphs.describe import data_nodes, describe, isolated_data_nodes

    try:
        model = torch.load(run.checkpoint, map_location="cpu", weights_only=False)
    except Exception as error:  # torch raises errors of many kinds
        raise HouseError(f"{run.checkpoint} cannot be loaded ({first_line(error)}).") from None
    graph = getattr(model, "graph_data", None)
    if graph is None:
        raise HouseError(
            f"{run.checkpoint} is a checkpoint without its graph; anemoi-house graph plot draws one from its file."
        )
    return describe(graph, ZONE_KM), Graph(data_nodes(graph, ZONE_KM), isolated_data_nodes(graph))
