"""Points on the sphere, the two grids of the nested experiments, and distances in km.

Arrays in, arrays out: numpy and scipy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull, QhullError, cKDTree

from anemoi_house.errors import HouseError

EARTH_RADIUS_KM = 6371.229
"""Radius of the sphere that GFS and HRRR are computed on (GRIB2 shape of the earth 6)."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def to_cartesian(latitudes: ArrayLike, longitudes: ArrayLike) -> Floats:
    """Convert latitudes and longitudes to points on the unit sphere.

    Parameters
    ----------
    latitudes, longitudes : array_like, shape (n,)
        Degrees.

    Returns
    -------
    ndarray, shape (n, 3)
    """
    lat = np.deg2rad(np.asarray(latitudes, dtype=np.float64)).ravel()
    lon = np.deg2rad(np.asarray(longitudes, dtype=np.float64)).ravel()
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def to_latlon(points: ArrayLike) -> tuple[Floats, Floats]:
    """Convert points of shape (n, 3) on the unit sphere to latitudes and longitudes (0 to 360) in degrees."""
    x, y, z = np.asarray(points, dtype=np.float64).T
    return np.rad2deg(np.arctan2(z, np.hypot(x, y))), np.rad2deg(np.arctan2(y, x)) % 360


def chord(distance_km: ArrayLike) -> Floats:
    """Return the length of the chord, on the unit sphere, below a great circle of `distance_km`."""
    angle = np.minimum(np.asarray(distance_km, dtype=np.float64) / EARTH_RADIUS_KM, np.pi)
    return 2 * np.sin(angle / 2)


def great_circle_km(chords: ArrayLike) -> Floats:
    """Return great-circle distances in km for chords on the unit sphere: the inverse of `chord`."""
    half = np.clip(np.asarray(chords, dtype=np.float64) / 2, 0, 1)
    return 2 * EARTH_RADIUS_KM * np.arcsin(half)


def distance_to_km(points: Floats, others: Floats, within_km: float = np.inf) -> Floats:
    """Return the distance from each point to the nearest of `others`.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        On the unit sphere.
    others : ndarray, shape (m, 3)
        On the unit sphere.
    within_km : float
        Points farther away get `inf`. Give it if `points` extend far beyond `others`: distant points on a sphere are
        about equally far, so that the search tree cannot prune and takes minutes for a million points.

    Returns
    -------
    ndarray, shape (n,)
        Great-circle distances in km.
    """
    bound = chord(within_km) if np.isfinite(within_km) else np.inf
    chords, _ = cKDTree(others).query(points, distance_upper_bound=np.nextafter(bound, np.inf), workers=-1)
    return np.where(np.isfinite(chords), great_circle_km(chords), np.inf)


def border_of(points: Floats, inside: Bools) -> Bools:
    """Return the border of a region: its points that have a neighbour outside.

    Neighbours are those of the Delaunay triangulation on the sphere, which is the convex hull of the points. So the
    region may have any shape, contain a pole or cross the date line, and its points may be denser than those around it.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        On the unit sphere, without duplicates.
    inside : ndarray of bool, shape (n,)
        The region.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    HouseError
        If there is no border: all points or none are inside, or there are too few to triangulate.
    """
    if inside.all() or not inside.any():
        raise HouseError(f"The limited area has no border: it holds {int(inside.sum()):,} of {len(inside):,} points.")
    try:
        triangles = ConvexHull(points).simplices
    except (QhullError, ValueError) as error:
        raise HouseError(
            f"The limited area has no border: {len(points):,} points cannot be triangulated "
            f"({str(error).splitlines()[0]})."
        ) from None
    across = triangles[inside[triangles].any(axis=1) & ~inside[triangles].all(axis=1)]
    border = np.zeros(len(points), dtype=bool)
    border[across] = True
    return border & inside


def signed_distance_km(points: Floats, inside: Bools, within_km: float = np.inf) -> Floats:
    """Return the distance of each point from the border of a region: negative inside, 0 on the border.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        On the unit sphere.
    inside : ndarray of bool, shape (n,)
        The region.
    within_km : float
        Points farther away get `-inf` inside and `inf` outside; see `distance_to_km`.

    Returns
    -------
    ndarray, shape (n,)
        Great-circle distances in km to the nearest point of `border_of`, accurate to about the spacing of the
        region's points.

    Raises
    ------
    HouseError
        As `border_of`.
    """
    distances = distance_to_km(points, points[border_of(points, inside)], within_km)
    return np.where(inside, -distances, distances)


@dataclass(frozen=True)
class LambertGrid:
    """A Lambert conformal grid with one standard parallel, on the sphere.

    Attributes
    ----------
    nx, ny : int
        Points along x (eastward at the central meridian) and y.
    spacing_km : float
        Grid spacing at the standard parallel.
    first_latitude, first_longitude : float
        Of the point with the smallest x and y, in degrees.
    parallel, meridian : float
        Where the cone touches the sphere, and where x points east, in degrees.
    """

    nx: int
    ny: int
    spacing_km: float
    first_latitude: float
    first_longitude: float
    parallel: float
    meridian: float

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx), the order of a field in memory."""
        return self.ny, self.nx

    @property
    def _cone(self) -> tuple[float, float]:
        """Cone constant, and the radius scale in km (Snyder, Map Projections, 1987, p. 106)."""
        parallel = np.deg2rad(self.parallel)
        n = np.sin(parallel)
        scale = EARTH_RADIUS_KM * np.cos(parallel) * np.tan(np.pi / 4 + parallel / 2) ** n / n
        return float(n), float(scale)

    def project(self, latitudes: ArrayLike, longitudes: ArrayLike) -> tuple[Floats, Floats]:
        """Return plane coordinates x, y in km, relative to the pole of the projection."""
        n, scale = self._cone
        lat = np.deg2rad(np.asarray(latitudes, dtype=np.float64))
        theta = n * np.deg2rad((np.asarray(longitudes, dtype=np.float64) - self.meridian + 180) % 360 - 180)
        rho = scale / np.tan(np.pi / 4 + lat / 2) ** n
        return rho * np.sin(theta), -rho * np.cos(theta)

    def latlon(self) -> tuple[Floats, Floats]:
        """Return latitudes and longitudes (0 to 360) of all points, in degrees, each of shape (ny, nx)."""
        x0, y0 = self.project(self.first_latitude, self.first_longitude)
        x = x0 + self.spacing_km * np.arange(self.nx)[None, :]
        return self._unproject(x, y0 + self.spacing_km * np.arange(self.ny)[:, None])

    def _unproject(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return latitudes and longitudes (0 to 360) of plane coordinates: the inverse of `project`."""
        n, scale = self._cone
        lat = 2 * np.arctan((scale / np.hypot(x, y)) ** (1 / n)) - np.pi / 2
        lon = self.meridian + np.rad2deg(np.arctan2(x, -y)) / n
        return np.rad2deg(lat), lon % 360

    def coarsened(self, cells: int) -> LambertGrid:
        """Return the grid of the centres of `cells` x `cells` blocks; incomplete blocks at the high end are dropped."""
        x0, y0 = self.project(self.first_latitude, self.first_longitude)
        shift_km = self.spacing_km * (cells - 1) / 2
        lat, lon = (float(part) for part in self._unproject(x0 + shift_km, y0 + shift_km))
        nx, ny = self.nx // cells, self.ny // cells
        return LambertGrid(nx, ny, self.spacing_km * cells, lat, lon, self.parallel, self.meridian)


HRRR_3KM = LambertGrid(
    nx=1799,
    ny=1059,
    spacing_km=3.0,
    first_latitude=21.138123,
    first_longitude=237.280472,
    parallel=38.5,
    meridian=262.5,
)
"""NOAA's HRRR grid over the contiguous US."""

HRRR_15KM = HRRR_3KM.coarsened(5)
"""The LAM grid of the published experiments: 359 x 211 (x, y) centres of 5 x 5 blocks."""


def global_grid(spacing: float) -> tuple[Floats, Floats]:
    """Return cell centres of a regular global grid, north to south and eastward from Greenwich.

    Parameters
    ----------
    spacing : float
        In degrees; a divisor of 180.

    Returns
    -------
    latitudes, longitudes : ndarray, shape (180 / spacing, 360 / spacing)
        Degrees. A spacing of 1 gives the GFS grid of the published experiments:
        89.5 ... -89.5 by 0.5 ... 359.5.
    """
    rows, columns = round(180 / spacing), round(360 / spacing)
    lat = 90 - spacing * (np.arange(rows) + 0.5)
    lon = spacing * (np.arange(columns) + 0.5)
    latitudes, longitudes = np.meshgrid(lat, lon, indexing="ij")
    return latitudes, longitudes


def spacing_km(latitudes: ArrayLike, longitudes: ArrayLike) -> tuple[float, float]:
    """Return the median distance between neighbours of a two-dimensional grid.

    Parameters
    ----------
    latitudes, longitudes : array_like, shape (ny, nx)
        Degrees.

    Returns
    -------
    dy, dx : float
        Great-circle distances in km between rows and between columns.
    """
    shape = np.shape(latitudes)
    points = to_cartesian(latitudes, longitudes).reshape(*shape, 3)
    dy = great_circle_km(np.linalg.norm(np.diff(points, axis=0), axis=-1))
    dx = great_circle_km(np.linalg.norm(np.diff(points, axis=1), axis=-1))
    return float(np.median(dy)), float(np.median(dx))
