"""Maps of fields and nodes around a LAM, with its boundary, coasts and a graticule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from anemoi_house.figures.files import new_figure, png
from anemoi_house.figures.projection import Projection, centre_of, coastlines, graticule, joined
from anemoi_house.figures.style import DATA, DOTS_PER_INCH, INK, ISOLATED, LAM
from anemoi_house.geometry import EARTH_RADIUS_KM, Bools, Floats

INCHES = (4.7, 4.0)
PIXELS = 420
"""Of a map, across: each shows the value of the node nearest to it."""
MARGIN_KM = 900.0


@dataclass(frozen=True)
class View:
    """Section of the globe that a map shows: equal-area around the LAM, which may hold a pole or cross the date line.

    Attributes
    ----------
    projection : Projection
    box : tuple of float
        Left, right, bottom and top in earth radii.
    """

    projection: Projection
    box: tuple[float, float, float, float]

    @classmethod
    def around(cls, lam: Floats, margin_km: float = MARGIN_KM) -> View:
        """Return the view of points of shape (n, 3) with a margin."""
        projection = Projection(centre_of(lam), globe=False)
        x, y = projection.project(lam)
        margin = margin_km / EARTH_RADIUS_KM
        bounds = [np.nanmin(x) - margin, np.nanmax(x) + margin, np.nanmin(y) - margin, np.nanmax(y) + margin]
        left, right, bottom, top = np.clip(bounds, -2, 2).tolist()
        return cls(projection, (left, right, bottom, top))

    @cached_property
    def pixels(self) -> tuple[Floats, Floats]:
        """Map coordinates of the pixels, each of shape (rows, columns)."""
        left, right, bottom, top = self.box
        rows = max(2, round(PIXELS * (top - bottom) / (right - left)))
        x, y = np.meshgrid(_middles(left, right, PIXELS), _middles(bottom, top, rows))
        return x, y

    def nearest(self, points: Floats) -> NDArray[np.intp]:
        """Return which of `points`, of shape (n, 3), is nearest to each pixel; -1 for pixels outside the projection."""
        x, y = self.pixels
        pixels = self.projection.unproject(x.ravel(), y.ravel())
        on_map = np.isfinite(pixels).all(axis=1)
        found = np.full(len(pixels), -1)
        found[on_map] = cKDTree(points).query(pixels[on_map], workers=-1)[1]
        return found.reshape(x.shape)

    def holds(self, x: Floats, y: Floats, margin: float = 0.0) -> Bools:
        """Return which map coordinates are in the box, or within a margin of it."""
        left, right, bottom, top = self.box
        with np.errstate(invalid="ignore"):
            return (x > left - margin) & (x < right + margin) & (y > bottom - margin) & (y < top + margin)


class Map:
    """One map.

    Parameters
    ----------
    view : View
    title : str
    """

    def __init__(self, view: View, title: str) -> None:
        self._view = view
        self._figure = new_figure(INCHES, DOTS_PER_INCH)
        self._axes = self._figure.add_axes((0.02, 0.165, 0.96, 0.77), anchor="N")
        self._figure.text(0.02, 0.955, title, fontsize=10, weight="bold", color=INK)
        self._keep_box()
        self._axes.set(aspect="equal", xticks=[], yticks=[])

    def field(
        self,
        values: Floats,
        nearest: NDArray[np.intp],
        colours: str,
        scale: Normalize,
        label: str | None = None,
        dotted_above: float = np.inf,
    ) -> None:
        """Draw a field.

        Parameters
        ----------
        values : ndarray, shape (nodes,)
            Missing ones are hatched.
        nearest : ndarray of int
            Node of each pixel, from `View.nearest`.
        colours : str
            Colour map.
        scale : Normalize
        label : str, optional
            Of the colour bar; without it there is none.
        dotted_above : float
            Larger values are dotted, to tell them from low ones in black and white.
        """
        pixels = np.where(nearest >= 0, values[np.maximum(nearest, 0)], np.nan)
        grid: dict[str, Any] = {"extent": self._view.box, "origin": "lower", "interpolation": "nearest"}
        image = self._axes.imshow(pixels, cmap=colours, norm=scale, **grid)
        self._hatch((nearest >= 0) & ~np.isfinite(pixels), "xxxx")
        self._hatch(np.nan_to_num(pixels) > dotted_above, "....")
        if label is not None:
            bar_axes = self._figure.add_axes((0.08, 0.115, 0.84, 0.025))
            bar = self._figure.colorbar(image, cax=bar_axes, orientation="horizontal", extend="both")
            bar.set_label(label, fontsize=9, color=INK)
            bar.ax.tick_params(labelsize=8.5)

    def boundary(self, outline: Sequence[Floats], shaded: bool = False) -> None:
        """Draw coasts, a graticule, and closed lines around the LAM, which may be shaded."""
        lines: list[tuple[Floats, dict[str, Any]]] = [
            (graticule(10, to_latitude=80), {"color": "white", "linewidth": 0.9, "alpha": 0.35}),
            (graticule(10, to_latitude=80), {"color": "black", "linewidth": 0.35, "alpha": 0.5}),
            (_coasts(), {"color": "white", "linewidth": 1.6, "alpha": 0.7}),
            (_coasts(), {"color": "#333333", "linewidth": 0.7}),
        ]
        for line, style in lines:
            x, y = self._view.projection.project(line)
            x[~self._view.holds(x, y, margin=0.2)] = np.nan
            self._axes.plot(x, y, **style, zorder=3)
        for loop in outline:
            x, y = self._view.projection.project(loop)
            self._axes.plot(x, y, color="white", linewidth=3.4, zorder=4)
            if shaded:
                self._axes.fill(x, y, facecolor=LAM, alpha=0.35, linewidth=0, zorder=0.5)
            self._axes.plot(x, y, color="black", linewidth=1.6, zorder=4.1)
        self._keep_box()

    def nodes(self, points: Floats) -> None:
        """Draw nodes of shape (n, 3) as small dots."""
        self._scatter(points, s=1.5, color=DATA, linewidths=0, rasterized=True)

    def isolated(self, points: Floats) -> None:
        """Draw isolated nodes of shape (n, 3) as crosses."""
        self._scatter(points, s=42, marker="X", color=ISOLATED, edgecolors="black", linewidths=0.6, zorder=5)

    def caption(self, text: str) -> None:
        """Write a text below the map."""
        self._axes.set_xlabel(text, fontsize=9, color=INK)

    def png(self) -> bytes:
        """Return the picture."""
        return png(self._figure)

    def _scatter(self, points: Floats, **style: Any) -> None:
        x, y = self._view.projection.project(points)
        shown = self._view.holds(x, y)
        self._axes.scatter(x[shown], y[shown], **style)

    def _hatch(self, pixels: Bools, hatch: str) -> None:
        if pixels.any():
            style: dict[str, Any] = {"levels": [0.5, 1.5], "colors": "none", "hatches": [hatch]}
            self._axes.contourf(*self._view.pixels, pixels.astype(float), **style)

    def _keep_box(self) -> None:
        left, right, bottom, top = self._view.box
        self._axes.set(xlim=(left, right), ylim=(bottom, top))


@cache
def _coasts() -> Floats:
    return joined(coastlines())


def _middles(low: float, high: float, number: int) -> Floats:
    return low + (high - low) / number * (np.arange(number, dtype=np.float64) + 0.5)
