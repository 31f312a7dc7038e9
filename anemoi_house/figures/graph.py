"""A picture of a nested graph: where the boundary is, what the mesh looks like, which data nodes are isolated."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.errors import HouseError
from anemoi_house.figures.files import DOTS_PER_INCH, check_format, new_figure, write_figure
from anemoi_house.figures.maps import View
from anemoi_house.figures.projection import Projection, centre_of, coastlines, graticule, joined, outline
from anemoi_house.figures.style import DATA, ISOLATED, LAM
from anemoi_house.geometry import EARTH_RADIUS_KM, Floats, distance_to_km, great_circle_km, to_cartesian
from anemoi_house.graphs.coverage import POLAR_LATITUDE, DataNodes
from anemoi_house.upstream.graph import coordinates_of
from anemoi_house.words import counted

MESH, COAST = "#0072B2", "#BBBBBB"
INCHES = (15.0, 9.6)
RASTER = 500
"""Points each way at which the distance from the LAM is computed, for the line around its rim."""


@dataclass(frozen=True)
class Scene:
    """A graph as it is drawn.

    Attributes
    ----------
    data : DataNodes
    mesh : ndarray, shape (m, 3)
        Hidden nodes.
    isolated : ndarray of int
        Data nodes without an encoder edge.
    picks : str
        Number of data nodes that a hidden node picks, in words.
    name : str
        Of the graph.
    """

    data: DataNodes
    mesh: Floats
    isolated: NDArray[np.intp]
    picks: str
    name: str

    @property
    def lam(self) -> Floats:
        """Points of the LAM, of shape (·, 3)."""
        return self.data.points[self.data.in_lam]

    @cached_property
    def outline(self) -> list[Floats]:
        """Closed lines around the LAM."""
        return outline(self.lam)


def plot_graph(graph_path: Path, output: Path, width_km: float = ZONE_KM) -> Path:
    """Draw a graph file.

    Parameters
    ----------
    graph_path : Path
        Graph of a nested grid, as a training writes it.
    output : Path
        Picture; its suffix names the format. It is written whole or not at all.
    width_km : float
        Width of the rim around the LAM.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    HouseError
        If the graph has no LAM, or the picture cannot be written.
    """
    from anemoi_house.graphs.describe import data_nodes, describe, isolated_data_nodes, load_graph

    check_format(output)
    if not 0 < width_km < np.inf:
        raise HouseError(f"--width-km: {width_km:g} is not a valid width. Give kilometres, such as 1000.")
    graph = load_graph(graph_path)
    numbers = describe(graph, width_km)
    fewest, edges = numbers["encoder_neighbours"], numbers["edges"]["data -> hidden"]
    scene = Scene(
        data_nodes(graph, width_km),
        to_cartesian(*coordinates_of(graph["hidden"])),
        isolated_data_nodes(graph),
        f"{fewest}" if edges == fewest * numbers["nodes"]["hidden"] else f"{fewest} or more",
        graph_path.name,
    )
    if not scene.data.in_lam.any():
        raise HouseError(f"{graph_path}: no data node belongs to a LAM. Give the graph of a nested grid.")
    write_figure(draw(scene), output)
    return output


def draw(scene: Scene) -> Figure:
    """Draw a globe and the two polar caps on the left, the LAM with its rim on the right."""
    figure = new_figure(INCHES)
    count = scene.data.count(scene.isolated)
    _heading(figure, scene, count)

    globe = Projection(centre_of(scene.lam), globe=True)
    _globe(figure.add_axes((0.01, 0.375, 0.32, 0.475)), scene, globe)
    for left, pole, name in ((0.01, 1.0, "North"), (0.175, -1.0, "South")):
        axes = figure.add_axes((left, 0.075, 0.155, 0.2422))
        _cap(axes, scene, Projection(np.array([0.0, 0.0, pole]), globe=False), name)
    _close_up(figure.add_axes((0.36, 0.14, 0.625, 0.67)), scene)
    _legend(figure, scene)
    return figure


def _heading(figure: Figure, scene: Scene, count: dict[Any, int]) -> None:
    total, isolated, width = len(scene.data.in_lam), len(scene.isolated), scene.data.boundary_width_km
    at_boundary = count["lam"] + count["rim"]
    where = f"in the LAM or within {width:g} km of it"
    if not isolated:
        verdict = f"Every data node is reached: 0 of {total:,} are isolated"
    elif not at_boundary:
        verdict = f"The boundary is whole: no data node {where} is isolated"
    else:
        verdict = f"The boundary has gaps: {counted(at_boundary, 'data node is', 'data nodes are')} isolated {where}"
    detail = (
        f"{isolated:,} of {total:,} data nodes isolated: {count['lam']:,} in the LAM, {count['rim']:,} on its rim, "
        f"{count['poles']:,} towards the poles, {count['elsewhere']:,} elsewhere"
    )
    figure.text(0.02, 0.955, verdict, fontsize=19, weight="bold", va="center")
    figure.text(0.02, 0.912, f"{detail}.   {scene.name}", fontsize=12.5, va="center", color="#333333")


def _globe(axes: Axes, scene: Scene, projection: Projection) -> None:
    behind = _round(axes, scene, projection, radius=1.0, share=0.12, dot=2, cross=7)
    axes.set_title("The globe, seen from above the LAM", fontsize=12.5, weight="bold", pad=7)
    if behind:
        axes.text(0, -1.1, f"and {behind:,} isolated nodes on the far side", ha="center", fontsize=10, color=ISOLATED)


def _cap(axes: Axes, scene: Scene, projection: Projection, name: str) -> None:
    radius = float(np.sqrt(2 - 2 * np.sin(np.deg2rad(POLAR_LATITUDE))))
    _round(axes, scene, projection, radius, share=0.2, dot=3, cross=4)
    sign = np.sign(projection.centre[2])
    inside = int(np.count_nonzero(sign * scene.data.latitudes[scene.isolated] >= POLAR_LATITUDE))
    axes.set_title(f"{name} of {POLAR_LATITUDE:g}°: {inside:,} isolated", fontsize=10, weight="bold", pad=6)


def _close_up(axes: Axes, scene: Scene) -> None:
    view = View.around(scene.lam, 1.12 * scene.data.boundary_width_km)
    projection, (left, right, bottom, top) = view.projection, view.box
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[], facecolor="white")
    _lines(axes, projection, step=10)
    _data(axes, scene, projection)
    _mesh(axes, scene, projection, share=0.38, largest=4.5)
    _outlines(axes, scene, projection)
    _isolated(axes, scene, projection, largest=9)
    axes.set_title("The LAM and its rim", fontsize=12.5, weight="bold", pad=7)
    _scale_bar(axes, view)


def _round(
    axes: Axes, scene: Scene, projection: Projection, radius: float, share: float, dot: float, cross: float
) -> int:
    """Draw a map in a round frame, with dots and crosses up to a size; return how many isolated nodes are not on it."""
    bounds = (-1.02 * radius, 1.02 * radius)
    axes.set(xlim=bounds, ylim=bounds, aspect="equal")
    axes.set_axis_off()
    _lines(axes, projection, step=30)
    _mesh(axes, scene, projection, share, dot)
    _outlines(axes, scene, projection)
    hidden = _isolated(axes, scene, projection, cross)
    inside = (*axes.collections, *axes.lines, *axes.patches)
    disc = axes.add_patch(Circle((0, 0), radius, facecolor="none", edgecolor="black", linewidth=1))
    for artist in inside:
        artist.set_clip_path(disc)
    return hidden


def _lines(axes: Axes, projection: Projection, step: int) -> None:
    """Draw coasts, and a graticule every `step` degrees."""
    axes.plot(*projection.project(joined(coastlines())), color=COAST, linewidth=0.8, zorder=1)
    axes.plot(*projection.project(graticule(step)), color="#DDDDDD", linewidth=0.5, zorder=0.5)


def _outlines(axes: Axes, scene: Scene, projection: Projection) -> None:
    """Shade and outline the LAM, and dash the outer border of its rim."""
    lam, width = scene.lam, scene.data.boundary_width_km
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = np.meshgrid(np.linspace(left, right, RASTER), np.linspace(bottom, top, RASTER))
    points = projection.unproject(x.ravel(), y.ravel())
    on_map = np.isfinite(points).all(axis=1)
    bound = 1.2 * width
    distance = np.full(len(points), np.nan)
    distance[on_map] = np.minimum(distance_to_km(points[on_map], lam, within_km=bound), bound)
    distance = distance.reshape(x.shape)
    if np.nanmin(distance) < width < np.nanmax(distance):
        axes.contour(x, y, distance, levels=[width], colors="black", linewidths=1.3, linestyles="dashed", zorder=4)
    for loop in scene.outline:
        x, y = projection.project(loop)
        axes.fill(x, y, facecolor=LAM, alpha=0.35, linewidth=0, zorder=1.5)
        axes.plot(x, y, color="black", linewidth=1.8, zorder=4)


def _spacing_km(points: Floats) -> Floats:
    """Return the distance from each point to its nearest neighbour."""
    if len(points) < 2:
        return np.full(len(points), EARTH_RADIUS_KM)
    return great_circle_km(cKDTree(points).query(points, k=2, workers=-1)[0][:, 1])


def _room(axes: Axes, spacing_km: Floats) -> Floats:
    """Return typographic points on paper between neighbours that are `spacing_km` apart."""
    axes.apply_aspect()
    width = axes.get_window_extent().width * 72 / DOTS_PER_INCH
    left, right = axes.get_xlim()
    return spacing_km / EARTH_RADIUS_KM * width / (right - left)


def _mesh(axes: Axes, scene: Scene, projection: Projection, share: float, largest: float) -> None:
    """Draw hidden nodes as dots that fill a `share` of the room between them, up to a `largest` size."""
    size = np.clip(share * _room(axes, _spacing_km(scene.mesh)), 0.35, largest)
    _markers(axes, projection, scene.mesh, size, color=MESH, linewidths=0, alpha=0.75, zorder=3)


def _data(axes: Axes, scene: Scene, projection: Projection) -> None:
    """Draw data nodes as rings where there is room; the LAM is shaded anyway."""
    room = _room(axes, _spacing_km(scene.data.points))
    shown = room >= 3.5
    size = np.clip(0.45 * room[shown], 1.2, 2.6)
    ring = {"facecolor": "none", "edgecolor": DATA, "linewidths": 0.7}
    _markers(axes, projection, scene.data.points[shown], size, **ring, zorder=2)


def _isolated(axes: Axes, scene: Scene, projection: Projection, largest: float) -> int:
    """Draw isolated data nodes as crosses, small where they crowd; return how many are not on the map."""
    points = scene.data.points[scene.isolated]
    size = np.clip(0.7 * _room(axes, _spacing_km(points)), 2.2, largest)
    large = size > 4.5
    cross = {"marker": "X", "linewidths": 0}
    _markers(axes, projection, points, size + 2, **cross, color="white", zorder=5)
    _markers(axes, projection, points[large], size[large] + 1, **cross, color="black", zorder=5.5)
    return _markers(axes, projection, points, size, **cross, color=ISOLATED, zorder=6)


def _markers(axes: Axes, projection: Projection, points: Floats, size: Floats, **style: Any) -> int:
    """Draw markers of `size` typographic points; return how many are not on the map."""
    x, y = projection.project(points)
    shown = np.isfinite(x)
    axes.scatter(x[shown], y[shown], s=size[shown] ** 2, rasterized=True, **style)
    return int(np.count_nonzero(~shown))


def _scale_bar(axes: Axes, view: View) -> None:
    left, right, bottom, top = view.box
    width, height = right - left, top - bottom
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
    length_km = max(step for step in steps if step < width * EARTH_RADIUS_KM / 8)
    x, y = left + 0.02 * width, bottom + 0.03 * height
    end = x + length_km / EARTH_RADIUS_KM
    axes.plot([x, end], [y, y], color="black", linewidth=3, solid_capstyle="butt", zorder=7)
    white_rim = [withStroke(linewidth=3, foreground="white")]
    axes.text(x, y + 0.012 * height, f"{length_km} km", fontsize=10, zorder=7, path_effects=white_rim)


def _legend(figure: Figure, scene: Scene) -> None:
    mark = partial(Line2D, [], [], linestyle="none", markersize=5)
    cross: dict[str, Any] = {"marker": "X", "markersize": 9, "markeredgecolor": "black", "markeredgewidth": 0.5}
    entries = {
        "isolated data node": mark(color=ISOLATED, **cross),
        "data node": mark(marker="o", markerfacecolor="none", markeredgecolor=DATA),
        "hidden node (the mesh)": mark(marker="o", color=MESH, markeredgewidth=0),
        "LAM": Patch(facecolor=LAM, alpha=0.5, edgecolor="black", linewidth=1.8),
        f"rim: within {scene.data.boundary_width_km:g} km of the LAM": Line2D([], [], color="black", linestyle="--"),
    }
    spacing = {"handletextpad": 0.5, "columnspacing": 1.4}
    style: dict[str, Any] = {"loc": "center", "ncols": 5, "frameon": False, "fontsize": 11, **spacing}
    figure.legend(entries.values(), entries.keys(), bbox_to_anchor=(0.672, 0.095), **style)
    explanation = (
        f"The encoder carries data to the mesh: here each hidden node picks {scene.picks} data nodes, the nearest "
        "ones. A data node that no hidden node picks is isolated: the model never sees its value."
    )
    figure.text(0.672, 0.045, textwrap.fill(explanation, 115), fontsize=10.5, ha="center", va="center", color="#333333")
