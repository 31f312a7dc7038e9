"""A picture of a nested graph: where the boundary is, what the mesh looks like, which data nodes are isolated."""

from __future__ import annotations

import json
import os
import textwrap
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError, cKDTree

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.errors import HouseError
from anemoi_house.geometry import EARTH_RADIUS_KM, distance_to_km, great_circle_km, to_cartesian
from anemoi_house.graphs.coverage import POLAR_LATITUDE, DataNodes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

# Okabe and Ito's palette, told apart by colour-blind eyes; in grey print the markers' shapes and sizes tell.
ISOLATED, MESH, DATA, LAM, COAST = "#D55E00", "#0072B2", "#999999", "#F0E442", "#BBBBBB"
INCHES, DOTS_PER_INCH = (15.0, 9.6), 120
RASTER = 500


@dataclass(frozen=True)
class Projection:
    """An azimuthal map of the unit sphere: a globe as seen from far away, or an equal-area map.

    Attributes
    ----------
    centre : ndarray, shape (3,)
        Unit vector that is drawn at the origin; north is up, and at a pole Greenwich is down (north)
        or up (south).
    globe : bool
        Orthographic (the half that faces the onlooker) rather than Lambert's azimuthal equal-area.
    """

    centre: Floats
    globe: bool

    @property
    def _axes(self) -> Floats:
        """East, north and outward at the centre, of shape (3, 3)."""
        x, y, _ = self.centre
        across = np.hypot(x, y)
        east = np.array([-y, x, 0]) / across if across > 1e-6 else np.array([0.0, 1.0, 0.0])
        return np.stack([east, np.cross(self.centre, east), self.centre])

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Map coordinates, in earth radii, of points of shape (n, 3); NaN where a point is not on the map."""
        x, y, depth = self._axes @ points.T
        if self.globe:
            hidden, stretch = depth < 0, np.ones_like(depth)
        else:
            hidden, stretch = depth < -0.99, np.sqrt(2 / np.maximum(1 + depth, 1e-9))
        x, y = (np.where(hidden, np.nan, part * stretch) for part in (x, y))
        return x, y

    def unproject(self, x: Floats, y: Floats) -> Floats:
        """Points on the unit sphere, of shape (n, 3), at map coordinates of shape (n,); NaN beyond the map's edge."""
        squared = x**2 + y**2
        if self.globe:
            depth, shrink = np.sqrt(np.where(squared <= 1, 1 - squared, np.nan)), np.ones_like(squared)
        else:
            depth, shrink = 1 - squared / 2, np.sqrt(np.where(squared <= 4, 1 - squared / 4, np.nan))
        return np.stack([x * shrink, y * shrink, depth], axis=1) @ self._axes


@dataclass(frozen=True)
class Scene:
    """What is drawn.

    Attributes
    ----------
    data : DataNodes
        n data nodes.
    mesh : ndarray, shape (m, 3)
        Hidden nodes.
    isolated : ndarray of int
        Data nodes that no hidden node picks.
    picks : str
        How many data nodes a hidden node picks, in words.
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
        Picture; its ending says which format. It is written whole or not at all.
    width_km : float
        Width of the rim around the LAM.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    HouseError
        Where the graph is none of a nested grid, or the picture cannot be written.
    """
    from anemoi_house.graphs.describe import data_nodes, describe, isolated_data_nodes, load_graph

    _check_format(output)
    if not 0 < width_km < np.inf:
        raise HouseError(f"--width-km: {width_km:g} is no width; give kilometres, such as 1000.")
    graph = load_graph(graph_path)
    numbers = describe(graph, width_km)
    fewest, edges = numbers["encoder_neighbours"], numbers["edges"]["data -> hidden"]
    latitudes, longitudes = np.rad2deg(graph["hidden"].x.cpu().numpy().astype(np.float64)).T
    scene = Scene(
        data_nodes(graph, width_km),
        to_cartesian(latitudes, longitudes),
        isolated_data_nodes(graph),
        f"{fewest}" if edges == fewest * numbers["nodes"]["hidden"] else f"{fewest} or more",
        graph_path.name,
    )
    if not scene.data.in_lam.any():
        raise HouseError(f"{graph_path}: no data node is marked as one of the LAM: this is no graph of a nested grid.")
    write_figure(draw(scene), output)
    return output


def write_figure(figure: Figure, output: Path) -> None:
    """Write a figure, whole or not at all.

    Raises
    ------
    HouseError
        Where the ending names no format, or the file cannot be written.
    """
    _check_format(output)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        figure.savefig(unfinished, format=output.suffix[1:].lower(), dpi=DOTS_PER_INCH)
        os.replace(unfinished, output)
    except OSError as error:
        raise HouseError(
            f"{output} cannot be written ({error.strerror or error}). Name a file in a folder of yours."
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _check_format(output: Path) -> None:
    formats = FigureCanvasAgg.get_supported_filetypes()
    if output.suffix[1:].lower() not in formats:
        raise HouseError(f"{output} ends in no format of pictures; end it in .png, or in one of {', '.join(formats)}.")
    if not output.parent.is_dir():
        raise HouseError(f"{output.parent} is no folder; create it, or name the picture elsewhere.")


def draw(scene: Scene) -> Figure:
    """Figure with a globe and the two polar caps on the left, and the LAM with its rim on the right."""
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    count = scene.data.count(scene.isolated)
    _heading(figure, scene, count)

    centre = _centre(scene.lam)
    _globe(figure.add_axes((0.01, 0.375, 0.32, 0.475)), scene, Projection(centre, globe=True))
    for left, pole, name in ((0.01, 1.0, "North"), (0.175, -1.0, "South")):
        axes = figure.add_axes((left, 0.075, 0.155, 0.2422))
        _cap(axes, scene, Projection(np.array([0.0, 0.0, pole]), globe=False), name)
    _close_up(figure.add_axes((0.36, 0.14, 0.625, 0.67)), scene, Projection(centre, globe=False))
    _legend(figure, scene)
    return figure


def _heading(figure: Figure, scene: Scene, count: dict[Any, int]) -> None:
    total, isolated, width = len(scene.data.in_lam), len(scene.isolated), scene.data.boundary_width_km
    at_boundary = count["lam"] + count["rim"]
    if not isolated:
        verdict = f"Every data node is reached: 0 of {total:,} are isolated"
    elif not at_boundary:
        verdict = f"The boundary is whole: no data node in the LAM or within {width:g} km of it is isolated"
    else:
        nodes = "1 data node is" if at_boundary == 1 else f"{at_boundary:,} data nodes are"
        verdict = f"The boundary has gaps: {nodes} isolated in the LAM or within {width:g} km of it"
    detail = (
        f"{isolated:,} of {total:,} data nodes isolated: {count['lam']:,} in the LAM, {count['rim']:,} on its rim, "
        f"{count['poles']:,} towards the poles, {count['elsewhere']:,} elsewhere"
    )
    figure.text(0.02, 0.955, verdict, fontsize=19, weight="bold", va="center")
    figure.text(0.02, 0.912, f"{detail}.   {scene.name}", fontsize=12.5, va="center", color="#333333")


def _globe(axes: Axes, scene: Scene, projection: Projection) -> None:
    disc = _disc(axes, projection, 1.0)
    _mesh(axes, scene, projection, share=0.12, largest=2)
    _outlines(axes, scene, projection)
    behind = _isolated(axes, scene, projection, largest=7)
    _clip(axes, disc)
    axes.set_title("The globe, seen from above the LAM", fontsize=12.5, weight="bold", pad=7)
    if behind:
        axes.text(0, -1.1, f"and {behind:,} isolated nodes on the far side", ha="center", fontsize=10, color=ISOLATED)


def _cap(axes: Axes, scene: Scene, projection: Projection, name: str) -> None:
    radius = float(np.sqrt(2 - 2 * np.sin(np.deg2rad(POLAR_LATITUDE))))
    disc = _disc(axes, projection, radius)
    _mesh(axes, scene, projection, share=0.2, largest=3)
    _outlines(axes, scene, projection)
    _isolated(axes, scene, projection, largest=4)
    _clip(axes, disc)
    sign = np.sign(projection.centre[2])
    inside = int(np.count_nonzero(sign * scene.data.latitudes[scene.isolated] >= POLAR_LATITUDE))
    axes.set_title(f"{name} of {POLAR_LATITUDE:g}°: {inside:,} isolated", fontsize=10, weight="bold", pad=6)


def _close_up(axes: Axes, scene: Scene, projection: Projection) -> None:
    x, y = projection.project(scene.lam)
    margin = 1.12 * scene.data.boundary_width_km / EARTH_RADIUS_KM
    box = np.array([np.nanmin(x) - margin, np.nanmax(x) + margin, np.nanmin(y) - margin, np.nanmax(y) + margin])
    box = np.clip(box, -2, 2)
    axes.set_xlim(box[0], box[1])
    axes.set_ylim(box[2], box[3])
    axes.set_aspect("equal")
    axes.set(xticks=[], yticks=[], facecolor="white")
    _lines(axes, projection, coastlines(), color=COAST, linewidth=0.8, zorder=1)
    _graticule(axes, projection, 10)
    _data(axes, scene, projection)
    _mesh(axes, scene, projection, share=0.38, largest=4.5)
    _outlines(axes, scene, projection)
    _isolated(axes, scene, projection, largest=9)
    axes.set_title("The LAM and its rim", fontsize=12.5, weight="bold", pad=7)
    _scale_bar(axes, box)


def _disc(axes: Axes, projection: Projection, radius: float) -> Circle:
    """Round frame of a map, with coasts and graticule in it."""
    axes.set_xlim(-1.02 * radius, 1.02 * radius)
    axes.set_ylim(-1.02 * radius, 1.02 * radius)
    axes.set_aspect("equal")
    axes.set_axis_off()
    _lines(axes, projection, coastlines(), color=COAST, linewidth=0.8, zorder=1)
    _graticule(axes, projection, 30)
    disc = Circle((0, 0), radius, facecolor="none", edgecolor="black", linewidth=1)
    axes.add_patch(disc)
    return disc


def _clip(axes: Axes, disc: Circle) -> None:
    for artist in (*axes.collections, *axes.lines, *axes.patches):
        if artist is not disc:
            artist.set_clip_path(disc)


def coastlines() -> list[tuple[Floats, Floats]]:
    """Latitudes and longitudes, in degrees, of the coastlines that anemoi-training draws its own maps with.

    None where it does not ship them at the place known to us: a map is readable without.
    """
    path = files("anemoi.training") / "diagnostics" / "evaluation" / "geospatial" / "continents.json"
    try:
        features = json.loads(path.read_text())["features"]
    except OSError:
        return []
    lines = [np.array(feature["geometry"]["coordinates"], dtype=np.float64) for feature in features]
    return [(line[:, 1], line[:, 0]) for line in lines]


def _graticule(axes: Axes, projection: Projection, step: int) -> None:
    along = np.linspace(-180, 180, 361)
    lines = [(np.full_like(along, latitude), along) for latitude in range(-90 + step, 90, step)]
    lines += [(along / 2, np.full_like(along, longitude)) for longitude in range(-180, 180, step)]
    _lines(axes, projection, lines, color="#DDDDDD", linewidth=0.5, zorder=0.5)


def _lines(axes: Axes, projection: Projection, lines: list[tuple[Floats, Floats]], **style: Any) -> None:
    """Lines given by latitudes and longitudes, as one line with gaps: hundreds of them would draw slowly."""
    gap = [np.full((1, 3), np.nan)]
    points = [part for latitudes, longitudes in lines for part in (to_cartesian(latitudes, longitudes), *gap)]
    axes.plot(*projection.project(np.concatenate(points or gap)), **style)


def _outlines(axes: Axes, scene: Scene, projection: Projection) -> None:
    """The LAM shaded and outlined, and the outer edge of its rim."""
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


def outline(points: Floats) -> list[Floats]:
    """Closed lines around a grid of points, whatever its shape: its triangulation without the triangles that span gaps.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        On the unit sphere, within a hemisphere.

    Returns
    -------
    list of ndarray, shape (·, 3)
        The last point of each is its first one; empty for fewer points than make a triangle.
    """
    flat = np.stack(Projection(_centre(points), globe=False).project(points), axis=1)
    try:
        triangles = Delaunay(flat).simplices
    except (QhullError, ValueError):
        return []
    sides = np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=2)
    longest = np.linalg.norm(points[sides[..., 0]] - points[sides[..., 1]], axis=2).max(axis=1)
    sides = np.sort(sides[longest < 2.5 * np.median(longest)].reshape(-1, 2), axis=1)
    sides, times = np.unique(sides @ (len(points), 1), return_counts=True)
    sides = np.stack(np.divmod(sides[times == 1], len(points)), axis=1)
    following: dict[int, list[int]] = {}
    for one, other in sides.tolist():
        following.setdefault(one, []).append(other)
        following.setdefault(other, []).append(one)
    loops = []
    for start in list(following):
        loop = [start]
        while following[loop[-1]]:
            reached = following[loop[-1]].pop()
            following[reached].remove(loop[-1])
            loop.append(reached)
        if len(loop) > 1:
            loops.append(points[loop])
    return loops


def _centre(points: Floats) -> Floats:
    mean = points.mean(axis=0)
    return mean / np.linalg.norm(mean)


def _spacing_km(points: Floats) -> Floats:
    """Distance from each point to the nearest other one."""
    if len(points) < 2:
        return np.full(len(points), EARTH_RADIUS_KM)
    return great_circle_km(cKDTree(points).query(points, k=2, workers=-1)[0][:, 1])


def _room(axes: Axes, spacing_km: Floats) -> Floats:
    """Typographic points on the paper between neighbours that are `spacing_km` apart."""
    axes.apply_aspect()
    width = axes.get_window_extent().width * 72 / DOTS_PER_INCH
    left, right = axes.get_xlim()
    return spacing_km / EARTH_RADIUS_KM * width / (right - left)


def _mesh(axes: Axes, scene: Scene, projection: Projection, share: float, largest: float) -> None:
    """Hidden nodes as dots that fill a `share` of the room between them, up to a `largest` size."""
    size = np.clip(share * _room(axes, _spacing_km(scene.mesh)), 0.35, largest)
    _markers(axes, projection, scene.mesh, size, color=MESH, linewidths=0, alpha=0.75, zorder=3)


def _data(axes: Axes, scene: Scene, projection: Projection) -> None:
    """Data nodes as rings, where there is room for them; the LAM is shaded anyway."""
    room = _room(axes, _spacing_km(scene.data.points))
    shown = room >= 3.5
    size = np.clip(0.45 * room[shown], 1.2, 2.6)
    _markers(
        axes, projection, scene.data.points[shown], size, facecolor="none", edgecolor=DATA, linewidths=0.7, zorder=2
    )


def _isolated(axes: Axes, scene: Scene, projection: Projection, largest: float) -> int:
    """Isolated data nodes as crosses, small ones where they crowd; returns how many are not on the map."""
    points = scene.data.points[scene.isolated]
    size = np.clip(0.7 * _room(axes, _spacing_km(points)), 2.2, largest)
    large = size > 4.5
    cross = {"marker": "X", "linewidths": 0}
    _markers(axes, projection, points, size + 2, **cross, color="white", zorder=5)
    _markers(axes, projection, points[large], size[large] + 1, **cross, color="black", zorder=5.5)
    return _markers(axes, projection, points, size, **cross, color=ISOLATED, zorder=6)


def _markers(axes: Axes, projection: Projection, points: Floats, size: Floats, **style: Any) -> int:
    """Markers of `size` typographic points; returns how many are not on the map."""
    x, y = projection.project(points)
    shown = np.isfinite(x)
    axes.scatter(x[shown], y[shown], s=size[shown] ** 2, rasterized=True, **style)
    return int(np.count_nonzero(~shown))


def _scale_bar(axes: Axes, box: Floats) -> None:
    across_km = (box[1] - box[0]) * EARTH_RADIUS_KM
    length_km = max(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if step < across_km / 8)
    length, height = length_km / EARTH_RADIUS_KM, box[3] - box[2]
    left, bottom = box[0] + 0.02 * (box[1] - box[0]), box[2] + 0.03 * height
    axes.plot([left, left + length], [bottom, bottom], color="black", linewidth=3, solid_capstyle="butt", zorder=7)
    axes.text(
        left,
        bottom + 0.012 * height,
        f"{length_km} km",
        fontsize=10,
        zorder=7,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _legend(figure: Figure, scene: Scene) -> None:
    def marker(shape: str, **how: Any) -> Line2D:
        return Line2D([], [], linestyle="none", marker=shape, **how)

    entries = {
        "isolated data node": marker("X", color=ISOLATED, markeredgecolor="black", markersize=9, markeredgewidth=0.5),
        "data node": marker("o", markerfacecolor="none", markeredgecolor=DATA, markersize=5),
        "hidden node (the mesh)": marker("o", color=MESH, markeredgewidth=0, markersize=5),
        "LAM": Patch(facecolor=LAM, alpha=0.5, edgecolor="black", linewidth=1.8),
        f"rim: within {scene.data.boundary_width_km:g} km of the LAM": Line2D([], [], color="black", linestyle="--"),
    }
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="center",
        bbox_to_anchor=(0.672, 0.095),
        ncols=5,
        frameon=False,
        fontsize=11,
        handletextpad=0.5,
        columnspacing=1.4,
    )
    explanation = (
        f"The encoder carries data to the mesh: here each hidden node picks {scene.picks} data nodes, the nearest "
        "ones. A data node that no hidden node picks is isolated: the model never sees its value."
    )
    figure.text(0.672, 0.045, textwrap.fill(explanation, 115), fontsize=10.5, ha="center", va="center", color="#333333")
