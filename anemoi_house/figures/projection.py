"""Maps of the unit sphere: projections, coastlines, graticules, and the outline of a grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from scipy.spatial import Delaunay, QhullError

from anemoi_house.geometry import Floats, to_cartesian

Lines = list[tuple[Floats, Floats]]
"""Lines as latitudes and longitudes in degrees."""


@dataclass(frozen=True)
class Projection:
    """An azimuthal map of the unit sphere: a globe as seen from far away, or an equal-area map.

    Attributes
    ----------
    centre : ndarray, shape (3,)
        Unit vector drawn at the origin. North is up; at the north pole Greenwich is down, at the south pole up.
    globe : bool
        Orthographic, which shows one hemisphere, rather than Lambert's azimuthal equal-area.
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
        """Return map coordinates, in earth radii, of points of shape (n, 3); NaN for points that are not on the map."""
        x, y, depth = self._axes @ points.T
        if self.globe:
            hidden, stretch = depth < 0, np.ones_like(depth)
        else:
            hidden, stretch = depth < -0.99, np.sqrt(2 / np.maximum(1 + depth, 1e-9))
        x, y = (np.where(hidden, np.nan, part * stretch) for part in (x, y))
        return x, y

    def unproject(self, x: Floats, y: Floats) -> Floats:
        """Return points on the unit sphere, of shape (n, 3), at map coordinates of shape (n,); NaN outside the map."""
        squared = x**2 + y**2
        if self.globe:
            depth, shrink = np.sqrt(np.where(squared <= 1, 1 - squared, np.nan)), np.ones_like(squared)
        else:
            depth, shrink = 1 - squared / 2, np.sqrt(np.where(squared <= 4, 1 - squared / 4, np.nan))
        return np.stack([x * shrink, y * shrink, depth], axis=1) @ self._axes


def coastlines() -> Lines:
    """Return the coastlines of anemoi-training's own maps, as latitudes and longitudes in degrees.

    The list is empty if anemoi-training no longer ships them under this path: a map is readable without.
    """
    path = files("anemoi.training") / "diagnostics" / "evaluation" / "geospatial" / "continents.json"
    try:
        features = json.loads(path.read_text())["features"]
    except OSError:
        return []
    lines = [np.array(feature["geometry"]["coordinates"], dtype=np.float64) for feature in features]
    return [(line[:, 1], line[:, 0]) for line in lines]


@cache
def graticule(step: int, to_latitude: int = 90) -> Floats:
    """Return parallels and meridians every `step` degrees, the meridians up to a latitude on either side, `joined`."""
    along = np.linspace(-180, 180, 721)
    parallels = [(np.full_like(along, latitude), along) for latitude in range(-90 + step, 90, step)]
    across = np.linspace(-to_latitude, to_latitude, 361)
    meridians = [(across, np.full_like(across, longitude)) for longitude in range(-180, 180, step)]
    return joined([*parallels, *meridians])


def joined(lines: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Return lines as one of unit vectors, with gaps of NaN: hundreds of lines would draw slowly."""
    gap = np.full((1, 3), np.nan)
    return np.concatenate([part for line in lines for part in (to_cartesian(*line), gap)] or [gap])


def centre_of(points: Floats) -> Floats:
    """Return the middle of points of shape (n, 3), as a unit vector."""
    mean = points.mean(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 1e-6 else points[0]


def outline(points: Floats) -> list[Floats]:
    """Return closed lines around a grid of points of any shape: its triangulation without the triangles that span gaps.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        On the unit sphere, within a hemisphere.

    Returns
    -------
    list of ndarray, shape (·, 3)
        Each ends where it begins. Empty if the points make no triangle.
    """
    flat = np.stack(Projection(centre_of(points), globe=False).project(points), axis=1)
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
