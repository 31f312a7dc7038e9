"""Figures of a report: what is drawn, in which order, under which words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anemoi_house.report import lines
from anemoi_house.report.lines import Picture
from anemoi_house.report.maps import Atlas
from anemoi_house.report.trained import Graph
from anemoi_house.scores.comparison import RunComparison


@dataclass(frozen=True)
class Group:
    """Pictures of one kind.

    Attributes
    ----------
    title : str
        Empty for pictures that are in view; others are folded away behind their title.
    pictures : sequence of Picture
    """

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    text: str
    groups: Sequence[Group]


def sections(numbers: dict[str, Any], comparison: RunComparison, graphs: Mapping[str, Graph]) -> Iterator[Section]:
    """Draw the sections in the order of the page; those without pictures are left out.

    Parameters
    ----------
    numbers : dict
        As `report.json` holds them.
    comparison : RunComparison
        For the maps.
    graphs : mapping of str to Graph
        By experiment.
    """
    atlas = Atlas(comparison)
    verified, lead, variables = numbers["summary"]["verified"], numbers["deciding_lead_h"], comparison.frame.variables

    def by_variable(*draw: Callable[[str], Iterable[Picture]]) -> list[tuple[str, Iterable[Picture]]]:
        """Return a group for each variable, the first one in view."""
        return [
            (name if number else "", [picture for each in draw for picture in each(name)])
            for number, name in enumerate(variables)
        ]

    parts: list[tuple[str, str, list[tuple[str, Iterable[Picture]]]]] = [
        (
            "The index by lead time",
            "Jump across the boundary beyond what the field does elsewhere, in units of the "
            f"{'forecast error' if verified else 'forecast'}. 0: no artifact.",
            [
                ("", [lines.index_by_lead(numbers), *(lines.by_lead(numbers, "jump") if verified else ())]),
                (
                    "The forecast alone, without verification: what can be seen in real time",
                    lines.by_lead(numbers, "forecast_jump", "analysis_jump"),
                ),
                ("Kinks: slopes that break at the boundary", lines.by_lead(numbers, "kink")),
                ("Ripples: short waves along the boundary", lines.by_lead(numbers, "ripple")),
            ],
        ),
        (
            "Error against distance from the boundary",
            "Root-mean-square error over dates. Each run around its own boundary; shaded: inside the LAM.",
            [("", lines.profiles(numbers) if verified else ())],
        ),
        (
            "In training: errors in the rings",
            "Root-mean-square error one step ahead on the validation dates, along each run's own boundary.",
            [("", lines.rings(numbers, "inner_ring")), ("Outer ring", lines.rings(numbers, "outer_ring"))],
        ),
        ("Losses", "As the training recorded them.", [("", lines.losses(numbers))]),
        (
            "Where values are missing",
            "These fields are left out of all means, for every run.",
            [("", atlas.faults())],
        ),
        (
            "Error maps",
            f"Root-mean-square error over the starting dates at +{lead} h, one scale for all runs. Black: the "
            "boundary of the run. Differences are over the nodes that both have; hatched: trimmed in one of the two.",
            by_variable(atlas.errors, atlas.changes) if verified else [],
        ),
        (
            "Forecast maps",
            f"The last starting date, +{lead} h, one scale. Each pixel shows the node nearest to it.",
            by_variable(atlas.examples),
        ),
        (
            "Spectra inside the LAM",
            "Variance by wavelength, forecast over analysis: below 1, the forecast is too smooth; above, too rough. "
            "Means over dates. Ratios beyond 100 are not drawn: there the analysis has next to no variance.",
            [("", lines.spectra(numbers))],
        ),
        (
            "Drift of the LAM mean",
            "Mean over the LAM, forecast minus analysis: what leaks in or out through the boundary shows here.",
            [("", lines.by_lead(numbers, "drift") if verified else ())],
        ),
        (
            "Coverage of the graph",
            "A data node without an encoder edge is isolated: the model never sees its value. Crosses: isolated; "
            "dots: global data nodes; black: the boundary.",
            [("", atlas.isolated(graphs))],
        ),
    ]
    for title, text, drawn in parts:
        groups = [Group(name, pictures) for name, each in drawn if (pictures := list(each))]
        if groups:
            yield Section(title, text, groups)
