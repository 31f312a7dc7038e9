"""How figures of reports look: told apart in grey print and by colour-blind eyes, readable on a phone."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS_PER_INCH = 144
PANEL_INCHES = (4.7, 3.3)
"""A panel is one picture, at most as wide as a phone: text keeps its size there."""

INK = "#222222"
LABEL_POINTS, LABEL_LETTERS = 8.5, 20
"""Size of the name beside a line, and how many letters of it there is room for."""

# Okabe and Ito's palette without its yellow, dark and light in turn; each comes with a dash and a marker of its own.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")


class Line(NamedTuple):
    """How the line of one experiment looks."""

    color: str
    linestyle: Any
    marker: str


def line_of(number: int) -> Line:
    """Look of the n-th line: no two of the first 35 are drawn alike in black and white."""
    return Line(_COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)], _MARKERS[number % len(_MARKERS)])


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

REFERENCE: dict[str, Any] = {"color": "#777777", "linestyle": "-", "linewidth": 1.0, "marker": None, "zorder": 1.5}
"""The analysis, beside the forecasts."""


def new_panel(title: str, inches: tuple[float, float] = PANEL_INCHES) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, and room for the names of lines on the right.

    The places are fixed: a layout engine would take twice as long as the drawing.
    """
    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.155, 0.165, 0.53, 0.72))
    figure.text(0.02, 0.94, title, fontsize=10.5, weight="bold", color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line at its end, none over another.

    Parameters
    ----------
    axes : Axes
        With its limits set.
    ends : sequence of tuple
        x and y of the end of a line in data units, its name and its colour.
    """
    ends = [end for end in ends if np.isfinite(end[1])]
    if not ends:
        return
    axes.margins(x=0.02)
    low, high = sorted(axes.get_ylim())
    ends = [(x, min(max(y, low), high), name, color) for x, y, name, color in ends]
    size = LABEL_POINTS * min(1.0, LABEL_LETTERS / max(len(name) for *_, name, _ in ends))
    at = [float(axes.transData.transform((x, y))[1]) for x, y, _, _ in ends]
    box = axes.get_window_extent()
    places = _spread(sorted(at), 1.25 * size * DOTS_PER_INCH / 72, box.y0, box.y1)
    for place, number in zip(places, np.argsort(at)):
        x, y, name, color = ends[number]
        axes.annotate(
            name,
            (x, y),
            (1.04, (place - box.y0) / box.height),
            textcoords="axes fraction",
            fontsize=size,
            color=INK,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 1.2, "shrinkA": 1, "shrinkB": 2},
        )


def _spread(places: list[float], apart: float, low: float, high: float) -> list[float]:
    """Places moved as little as it takes for each to be `apart` from the next, within bounds where there is room."""
    moved: list[list[float]] = []  # groups of labels that touch: middle and number
    for place in places:
        moved.append([place, 1])
        while len(moved) > 1 and moved[-1][0] - moved[-2][0] < apart * (moved[-1][1] + moved[-2][1]) / 2:
            middle, number = moved.pop()
            moved[-1][0] = (moved[-1][0] * moved[-1][1] + middle * number) / (moved[-1][1] + number)
            moved[-1][1] += number
        reach = apart * (moved[-1][1] - 1) / 2
        moved[-1][0] = max(min(moved[-1][0], high - reach), low + reach)
    return [middle + apart * (step - (number - 1) / 2) for middle, number in moved for step in range(int(number))]


def pretty(units: str) -> str:
    """Units such as `m s**-1` with raised exponents."""
    return re.sub(r"\*\*(-?\d+)", lambda found: found[1].translate(_RAISED), units)


def png(figure: Figure) -> bytes:
    """The figure as PNG with a palette, a third of the size of one without; rare colours are kept."""
    from PIL import Image

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(buffer, "png", dpi=(figure.dpi, figure.dpi))
    return buffer.getvalue()
