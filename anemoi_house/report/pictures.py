"""Pictures of a report, by the names under which `templates/figures.html.j2` puts them in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from anemoi_house.report import lines
from anemoi_house.report.lines import Picture
from anemoi_house.report.maps import Atlas
from anemoi_house.report.trained import Graph
from anemoi_house.scores.scored import RunComparison

Pictures = dict[str, list[Picture]]


def draw(numbers: dict[str, Any], comparison: RunComparison, graphs: Mapping[str, Graph]) -> Pictures:
    """Draw all pictures.

    Parameters
    ----------
    numbers : dict
        As `report.json` holds them.
    comparison : RunComparison
        For the maps.
    graphs : mapping of str to Graph
        By experiment.

    Returns
    -------
    dict of list of Picture
        Lists are empty where there is nothing to draw, such as errors without verification.
    """
    atlas, variables = Atlas(comparison), comparison.frame.variables
    drawn: dict[str, Iterable[Picture]] = {
        "by_date": [lines.by_date(numbers)],
        "index": [lines.index_by_lead(numbers)],
        "forecast_jump": lines.by_lead(numbers, "forecast_jump", "analysis_jump"),
        "inner_ring": lines.rings(numbers, "inner_ring"),
        "outer_ring": lines.rings(numbers, "outer_ring"),
        "losses": lines.losses(numbers),
        "faults": atlas.faults(),
        "spectra": lines.spectra(numbers),
        "coverage": atlas.isolated(graphs),
        **{f"fields/{name}": atlas.examples(name) for name in variables},
    }
    if numbers["summary"]["verified"]:
        drawn |= {score: lines.by_lead(numbers, score) for score in ("jump", "kink", "ripple", "drift")}
        drawn |= {"profile": lines.profiles(numbers)}
        drawn |= {f"errors/{name}": [*atlas.errors(name), *atlas.changes(name)] for name in variables}
    return {name: list(pictures) for name, pictures in drawn.items()}
