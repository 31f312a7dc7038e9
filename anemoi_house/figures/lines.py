"""Line charts: a line for each experiment, named at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from anemoi_house.figures.files import new_figure, png
from anemoi_house.figures.style import DOTS_PER_INCH, INK, line_of

INCHES = (4.7, 3.3)
"""At most as wide as a phone, where text then keeps its size."""

LABEL_POINTS, LABEL_LETTERS = 8.5, 20
"""Size of the name of a line, and how many letters of it there is room for."""

REFERENCE: dict[str, Any] = {"color": "#777777", "linestyle": "-", "linewidth": 1.0, "marker": None, "zorder": 1.5}
"""Look of a line that others are compared with."""


class LineChart:
    """One pair of axes, with room for the names of lines on the right.

    Parameters
    ----------
    title, x_label, y_label : str
    """

    def __init__(self, title: str, x_label: str, y_label: str) -> None:
        self.figure, self.axes = new_panel(title)
        self.axes.set_xlabel(x_label, fontsize=9, color=INK)
        self.axes.set_ylabel(y_label, fontsize=9, color=INK)
        self._ends: list[tuple[float, float, str, str]] = []

    def line(self, number: int, x: ArrayLike, y: ArrayLike, name: str = "") -> None:
        """Draw the n-th line through its finite values, and name it at its end."""
        # Where there are many, markers of different lines are at different points.
        every = max(1, np.isfinite(np.asarray(y, dtype=np.float64)).sum() // 8)
        shown = (min(number, every - 1), every)
        self._draw(x, y, name, **line_of(number), linewidth=1.6, markersize=4, markevery=shown, zorder=3)

    def reference(self, x: ArrayLike, y: ArrayLike, name: str) -> None:
        """Draw a thin grey line and name it at its end; none without finite values."""
        self._draw(x, y, name, **REFERENCE)

    def lead_axis(self, longest_h: float) -> None:
        """Mark lead times at whole days or parts of one, and the level 0."""
        self.axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        step = next((each for each in (6, 12, 24, 48, 120) if longest_h / each <= 8), 240)
        self.axes.set_xticks(np.arange(0, longest_h + 1, step))

    def boundary(self) -> None:
        """Mark the boundary at distance 0, and shade the LAM at negative distances."""
        axes = self.axes
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.axvspan(axes.get_xlim()[0], 0, color="0.94", zorder=0)
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5, "color": INK}
        for offset, side, text in ((-6, "right", "LAM"), (6, "left", "outside")):
            axes.annotate(text, (0, 0.02), (offset, 0), xycoords=("data", "axes fraction"), ha=side, **style)

    def wavelengths(self, lowest: float, highest: float) -> None:
        """Use logarithmic axes, with long waves on the left, values within bounds, and a grey line at a ratio of 1."""
        axes = self.axes
        axes.axhline(1, **REFERENCE)
        axes.set(xscale="log", yscale="log")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, lowest), min(high, highest))
        axes.invert_xaxis()
        longest, shortest = axes.get_xlim()
        ticks = [wave for wave in (10000, 3000, 1000, 300, 100, 30) if shortest < wave < longest]
        axes.set_xticks(ticks, [f"{wave}" for wave in ticks])
        axes.xaxis.set_minor_locator(NullLocator())

    def logarithmic(self) -> None:
        """Use a logarithmic scale if all lines end above 0."""
        if not all(y > 0 for _, y, *_ in self._ends):
            return
        self.axes.set_yscale("log")
        self.axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        self.axes.yaxis.set_minor_locator(NullLocator())

    def png(self) -> bytes:
        """Write the names of the lines, and return the picture."""
        label_ends(self.axes, self._ends)
        return png(self.figure)

    def _draw(self, x: ArrayLike, y: ArrayLike, name: str, **style: Any) -> None:
        """Draw a line through its finite values, and keep its end for its name; nothing without any."""
        line = np.array([x, y], dtype=np.float64)
        line = line[:, np.isfinite(line[1])]
        if not line.size:
            return
        self.axes.plot(*line, **style)
        if name:
            self._ends.append((float(line[0, -1]), float(line[1, -1]), name, style["color"]))


def dot_chart(title: str, label: str, names: Sequence[str], dots: np.ndarray, marks: ArrayLike) -> bytes:
    """Draw rows of small dots, linked from row to row, each row with a large mark.

    Parameters
    ----------
    title, label : str
        Of the chart and of its axis.
    names : sequence of str
        Of the rows, from the top down.
    dots : ndarray, shape (rows, dots)
    marks : array_like, shape (rows,)
    """
    figure, axes = new_panel(title)
    axes.set_position((0.33, 0.2, 0.64, 0.69))
    rows = np.arange(len(names))
    axes.plot(dots, rows, ".-", color="#999999", linewidth=0.8, zorder=2)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for row, value in enumerate(np.asarray(marks)):
        axes.plot(value, row, **line_of(row), markersize=9, zorder=4)
    axes.set_yticks(rows, names, fontsize=_label_size(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_xlabel(label, fontsize=9, color=INK)
    return png(figure)


def new_panel(title: str) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, at a fixed position: a layout engine takes longer than the drawing."""
    figure = new_figure(INCHES, DOTS_PER_INCH)
    axes = figure.add_axes((0.155, 0.165, 0.53, 0.72))
    figure.text(0.02, 0.94, title, fontsize=10.5, weight="bold", color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line next to its end, without overlaps.

    Parameters
    ----------
    axes : Axes
        With its limits set.
    ends : sequence of tuple
        x and y of the end of a line in data units, its name and its colour.
    """
    if not ends:
        return
    axes.margins(x=0.02)
    low, high = sorted(axes.get_ylim())
    ends = [(x, min(max(y, low), high), name, colour) for x, y, name, colour in ends]
    size = _label_size([name for _, _, name, _ in ends])
    at = [float(axes.transData.transform((x, y))[1]) for x, y, _, _ in ends]
    box = axes.get_window_extent()
    heights = _spread(sorted(at), 1.25 * size * DOTS_PER_INCH / 72, box.y0, box.y1)
    for height, number in zip(heights, np.argsort(at)):
        x, y, name, colour = ends[number]
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 1.2, "shrinkA": 1, "shrinkB": 2}
        style: dict[str, Any] = {"fontsize": size, "color": INK, "va": "center", "arrowprops": arrow}
        place = (1.04, (height - box.y0) / box.height)
        axes.annotate(name, (x, y), place, textcoords="axes fraction", annotation_clip=False, **style)


def _label_size(names: Sequence[str]) -> float:
    return LABEL_POINTS * min(1.0, LABEL_LETTERS / max(map(len, names)))


def _spread(heights: list[float], apart: float, low: float, high: float) -> list[float]:
    """Move heights as little as possible until they are `apart`, within bounds if there is room."""
    groups: list[list[float]] = []  # labels that touch: middle and number
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < apart * (groups[-1][1] + groups[-2][1]) / 2:
            middle, number = groups.pop()
            groups[-1][0] = (groups[-1][0] * groups[-1][1] + middle * number) / (groups[-1][1] + number)
            groups[-1][1] += number
        reach = apart * (groups[-1][1] - 1) / 2
        groups[-1][0] = max(min(groups[-1][0], high - reach), low + reach)
    return [middle + apart * (step - (number - 1) / 2) for middle, number in groups for step in range(int(number))]
