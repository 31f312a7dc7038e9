"""Where the boundary is measured: sites along the border of the LAM, each with four boxes of nodes across it.

Arrays in, arrays out: numpy and scipy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.spatial import SphericalVoronoi, cKDTree

from anemoi_house.errors import HouseError
from anemoi_house.geometry import EARTH_RADIUS_KM, Bools, Floats, border_of, chord, great_circle_km, to_latlon

BOXES = ("deep", "inner", "outer", "far")
"""Boxes across the border, from the LAM outwards: `inner` and `outer` meet at it."""

DEPTH, WIDTH = 2.0, 3.0
"""Size of a box across and along the border, in cells: two outer rows give a slope, three columns a mean."""

MINIMUM_SITES = 8
SITES_PER_BLOCK, MOST_BLOCKS = 4, 16

WAVELENGTHS = (20.0, 10.0, 6.0, 4.0, 3.0)
"""Wavelengths of the reference fields, in cells, from smooth to rough; white noise is the last reference."""

DIRECTIONS = 8

_SMALLEST_SHARE = 0.6  # of a box that must be covered by nodes of its side
_FEWEST_NODES = 5
_LARGEST_GAIN = 4.0  # of the variance of white noise, in a step; 5/3 for a box of two rows of three on either side
_SMALLEST_SPREAD = 0.1  # of the nodes of a box across and along the border, in cells
_STRAIGHT = 0.5  # cells by which the border may depart from its tangent along a box


def cell_areas_km2(points: Floats) -> Floats:
    """Return the area of each node's Voronoi cell on the sphere.

    Parameters
    ----------
    points : ndarray, shape (nodes, 3)
        On the unit sphere, without duplicates.

    Returns
    -------
    ndarray, shape (nodes,)
        In km2; they sum to the area of the globe.
    """
    return SphericalVoronoi(points).calculate_areas() * EARTH_RADIUS_KM**2


class _Site(NamedTuple):
    """A site on the border: the nodes of its boxes, box by box, and linear functionals of their values."""

    point: Floats
    nodes: NDArray[np.int64]
    sizes: list[int]  # nodes of each box
    values: Floats  # (6, nodes): before and after each of three places across the border
    slopes: Floats  # (4, nodes): of the plane in each box, per km outwards
    planes: Floats  # (3, nodes): orthonormal in each box, they span its planes
    steps: Floats  # (2, 3, references): mean square jump and kink of each reference field at the three places
    roughness: Floats  # (4, references): variance of each about the plane in each box


@dataclass(frozen=True, eq=False)
class Band:
    """Sites along the border of the LAM, with linear operators that estimate a field on both sides of each.

    At each site four boxes lie in a row across the border, each two cells deep and three cells wide: `deep` and `inner`
    hold nodes of the LAM, `outer` and `far` nodes outside. In each box a plane is fitted to the field by least squares.
    The planes meet at three places: between `deep` and `inner`, at the border, and between `outer` and `far`. A cell is
    as wide as the outer grid's spacing, so that both sides are seen through windows of the same size. Boxes are laid
    out in the tangent plane of the site, so the LAM may contain a pole or cross the date line.

    Attributes
    ----------
    cell_km : float
        Width of a cell.
    sites : ndarray, shape (sites, 3)
        Points on the unit sphere, ordered around the LAM.
    blocks : ndarray of int, shape (sites,)
        Stretch of the border of each site; stretches count as independent in standard errors.
    partners : ndarray of int, shape (pairs, 2)
        Sites about one box width apart along the border.
    used : float
        Share of the border that is measured, without corners and places where a box does not fit.
    nodes : ndarray of int
        Nodes in any of the boxes.
    number_of_nodes : int
        Of the whole grid.
    weights : ndarray, shape (2, 2, sites)
        For jumps and kinks, of their squares inside and outside in the background: with them white noise, of any
        strength on either side, has the same mean square there as at the border.
    smoothness : ndarray, shape (references,)
        Mean square jump over mean square kink (per cell) in the background of the reference fields: isotropic waves of
        `WAVELENGTHS` cells, and white noise.
    ratios : ndarray, shape (5, references, sites)
        Mean square of each reference field at the border over that in the background: of jumps, kinks, and of the
        roughness on both sides, inside, and outside.
    """

    cell_km: float
    sites: Floats
    blocks: NDArray[np.int64]
    partners: NDArray[np.int64]
    used: float
    nodes: NDArray[np.int64]
    number_of_nodes: int
    weights: Floats
    smoothness: Floats
    ratios: Floats
    _values: csr_array
    _slopes: csr_array
    _planes: csr_array
    _boxes: csr_array
    _freedom: Floats

    @property
    def latlon(self) -> tuple[Floats, Floats]:
        """Latitudes and longitudes (0 to 360) of the sites, in degrees."""
        return to_latlon(self.sites)

    @classmethod
    def along_border(cls, points: Floats, in_lam: Bools, areas: ArrayLike, cell_km: float | None = None) -> Band:
        """Build the band of a nested grid.

        Parameters
        ----------
        points : ndarray, shape (nodes, 3)
            On the unit sphere, without duplicates.
        in_lam : ndarray of bool, shape (nodes,)
            Nodes of the limited area.
        areas : array_like, shape (nodes,)
            Area of each node in km2, as from `cell_areas_km2`.
        cell_km : float, optional
            Width of a cell; by default the spacing of the outer grid near the border. With smaller ones, outer boxes
            have too few nodes for a fit.

        Raises
        ------
        HouseError
            If there is no border, or boxes fit at fewer than eight sites.
        """
        areas = np.asarray(areas, dtype=np.float64)
        border = points[border_of(points, in_lam)]
        cell = outer_spacing_km(points, in_lam, areas, border) if cell_km is None else float(cell_km)
        candidates = _spread(_ordered(border, points[in_lam]), cell)
        tree, border_tree = cKDTree(points), cKDTree(border)
        found = [_site(point, cell, in_lam, areas, tree, border_tree) for point in candidates]
        sites = [site for site in found if site is not None]
        if len(sites) < MINIMUM_SITES:
            given = "the spacing of the outer grid" if cell_km is None else "as given"
            raise HouseError(
                f"The boundary cannot be measured with cells of {cell:.0f} km ({given}): their boxes fit at "
                f"{len(sites)} of {len(candidates)} places on the border of the limited area, and {MINIMUM_SITES} are "
                f"needed. The limited area must be at least {5 * cell:.0f} km wide each way, the outer grid must "
                "extend as far around it, and cells must not be narrower than the spacing of the outer grid. Give "
                "another cell_km, a smaller trim, or a finer outer grid."
            )
        return cls._of(sites, len(sites) / len(candidates), cell, len(points))

    @classmethod
    def _of(cls, sites: list[_Site], used: float, cell: float, number_of_nodes: int) -> Band:
        nodes, where = np.unique(np.concatenate([site.nodes for site in sites]), return_inverse=True)
        sizes = np.array([site.sizes for site in sites])

        def rows(parts: list[Floats], lengths: NDArray[np.int64]) -> csr_array:
            """Return a sparse matrix: a row for each functional and each site, or each box, over the nodes."""
            data = np.concatenate(parts, axis=1)
            starts = np.concatenate([[0], np.cumsum(np.tile(lengths, len(data)))])
            shape = (len(data) * len(lengths), len(nodes))
            matrix = csr_array((data.ravel(), np.tile(where, len(data)), starts), shape=shape)
            matrix.eliminate_zeros()
            return matrix

        weights = np.stack([_weights(site) for site in sites], axis=-1)
        steps = np.stack([site.steps for site in sites])
        jumps, kinks = np.einsum("kps,skpr->ksr", weights, steps[:, :, ::2])
        deep, inner, outer, far = np.stack([site.roughness for site in sites], axis=1)
        ripples = [(inner + outer) / (deep + far), inner / deep, outer / far]
        of_sites, of_boxes = sizes.sum(axis=1), sizes.ravel()
        points = np.stack([site.point for site in sites])
        blocks = np.clip(len(sites) // SITES_PER_BLOCK, 2, MOST_BLOCKS)
        return cls(
            cell_km=cell,
            sites=points,
            blocks=np.arange(len(sites)) * blocks // len(sites),
            partners=_partners(points, WIDTH * cell),
            used=used,
            nodes=nodes,
            number_of_nodes=number_of_nodes,
            weights=weights,
            smoothness=jumps.mean(axis=0) / kinks.mean(axis=0),
            ratios=np.stack([steps[:, 0, 1] / jumps, steps[:, 1, 1] / kinks, *ripples]).swapaxes(1, 2),
            _values=rows([site.values for site in sites], of_sites),
            _slopes=rows([site.slopes for site in sites], of_sites),
            _planes=rows([site.planes for site in sites], of_boxes),
            _boxes=rows([np.ones((1, len(site.nodes))) for site in sites], of_boxes),
            _freedom=sizes - 3.0,
        )

    def values(self, field: Floats) -> tuple[Floats, Floats]:
        """Estimate the field from either side of the three places.

        Parameters
        ----------
        field : ndarray, shape (len(self.nodes), fields)
            At `self.nodes`.

        Returns
        -------
        before, after : ndarray, shape (3, sites, fields)
            From the side of the LAM's centre, and from the other.
        """
        before, after = (self._values @ field).reshape(2, 3, len(self.sites), -1)
        return before, after

    def slopes(self, field: Floats) -> Floats:
        """Return slopes across the border, per km outwards, in the boxes: shape (4, sites, fields); see `values`."""
        return (self._slopes @ field).reshape(len(BOXES), len(self.sites), -1)

    def roughness(self, field: Floats) -> Floats:
        """Return the variance about the planes in the boxes: shape (4, sites, fields); see `values`."""
        shape = (-1, len(self.sites), len(BOXES), field.shape[1])
        squares = (self._boxes @ field**2).reshape(shape)[0]
        explained = ((self._planes @ field).reshape(shape) ** 2).sum(axis=0)
        return np.moveaxis(np.maximum(squares - explained, 0) / self._freedom[..., None], 1, 0)

    def ratios_at(self, smoothness: Floats) -> Floats:
        """Return the ratios for fields of given smoothness: shape (5, sites, fields).

        How well a coarse grid resolves a field near its rim depends on where its rows happen to lie. The ratios correct
        for that: they are those of a reference field of the same smoothness.
        """
        last = len(self.smoothness) - 1
        place = np.interp(smoothness, self.smoothness, np.arange(last + 1))
        shares = np.maximum(1 - np.abs(np.nan_to_num(place, nan=last) - np.arange(last + 1)[:, None]), 0)
        return np.swapaxes(self.ratios, 1, 2) @ shares


def outer_spacing_km(points: Floats, in_lam: Bools, areas: Floats, border: Floats) -> float:
    """Return the spacing of the outer grid near the border, normally that between its rows.

    It is a node's area over the distance to its nearest neighbour: on a lat-lon grid, the distance between parallels.
    Median over nodes near the LAM but not next to it, whose areas and neighbours are those of the outer grid only.
    """
    outside, outside_areas = points[~in_lam], areas[~in_lam]
    if len(outside) < 2 * MINIMUM_SITES:
        raise HouseError(f"The boundary cannot be measured with {len(outside)} nodes outside the limited area.")
    tree = cKDTree(outside)
    rough = float(np.sqrt(np.median(outside_areas[np.unique(tree.query(border)[1])])))
    away = great_circle_km(cKDTree(border).query(outside, distance_upper_bound=chord(5 * rough))[0])
    some = (away > 1.5 * rough) & (away < 5 * rough)
    if not some.any():
        some[:] = True
    neighbour = great_circle_km(tree.query(outside[some], k=2)[0][:, 1])
    return float(np.median(outside_areas[some] / neighbour))


def _ordered(border: Floats, lam: Floats) -> Floats:
    """Return border points ordered by azimuth from the centre of the LAM."""
    middle = lam.mean(axis=0)
    middle /= np.linalg.norm(middle)
    east, north = _tangents(middle)
    return border[np.argsort(np.arctan2(border @ north, border @ east), kind="stable")]


def _spread(points: Floats, apart_km: float) -> Floats:
    """Return some of the points, in order, no two closer than `apart_km`."""
    tree = cKDTree(points)
    left = np.ones(len(points), dtype=bool)
    chosen = []
    for index in range(len(points)):
        if left[index]:
            chosen.append(index)
            left[tree.query_ball_point(points[index], chord(apart_km))] = False
    return points[chosen]


def _partners(sites: Floats, apart_km: float) -> NDArray[np.int64]:
    """Pair each site with the one whose distance is nearest to `apart_km`, within a third of it."""
    distance = great_circle_km(np.linalg.norm(sites[:, None] - sites[None], axis=-1))
    off = np.abs(distance - apart_km)
    best = off.argmin(axis=1)
    fits = off[np.arange(len(sites)), best] < apart_km / 3
    pairs = np.stack([np.arange(len(sites)), best], axis=1)[fits]
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _tangents(point: Floats) -> tuple[Floats, Floats]:
    """Return two orthogonal unit vectors tangent to the sphere at a point."""
    axis = np.eye(3)[np.abs(point).argmin()]
    first = np.cross(axis, point)
    first /= np.linalg.norm(first)
    return first, np.cross(point, first)


def _flat(points: Floats, at: Floats, first: Floats, second: Floats) -> Floats:
    """Return azimuthal equidistant coordinates in km around a point: distances from it are true."""
    plane = np.stack([points @ first, points @ second], axis=1)
    length = np.linalg.norm(plane, axis=1)
    angle = np.arctan2(length, points @ at)
    return plane * (EARTH_RADIUS_KM * angle / np.where(length > 0, length, 1))[:, None]


def _weights(site: _Site) -> Floats:
    """Return shares of noise inside and outside in the step at the border, over those in the steps on either side."""
    within = np.arange(len(site.nodes)) < sum(site.sizes[:2])
    steps = np.stack([site.values[3:] - site.values[:3], np.diff(site.slopes, axis=0)], axis=1)
    inside, border, outside = steps**2  # each of jumps and kinks, by node
    shares = border[:, within].sum(axis=1) / inside.sum(axis=1), border[:, ~within].sum(axis=1) / outside.sum(axis=1)
    return np.stack(shares, axis=1)


def _site(point: Floats, cell: float, in_lam: Bools, areas: Floats, tree: cKDTree, border: cKDTree) -> _Site | None:
    """Return boxes and estimates at a point of the border; None if the border bends there or a box does not fit."""
    first, second = _tangents(point)
    along_rim = border.data[border.query_ball_point(point, chord(WIDTH / 2 * cell))]
    rim = _flat(along_rim, point, first, second) / cell
    if len(rim) < 3:
        return None
    offset = rim - rim.mean(axis=0)
    along = np.linalg.svd(offset, full_matrices=False)[2][0]
    outward = np.array([along[1], -along[0]])
    if np.abs(offset @ outward).max() > _STRAIGHT:
        return None

    near = np.array(tree.query_ball_point(point, chord(np.hypot(2 * DEPTH, WIDTH / 2) * cell)))
    flat = _flat(tree.data[near], point, first, second) / cell
    inside = in_lam[near]
    across, aside = flat @ outward, flat @ along
    close = np.abs(across) < DEPTH
    if inside[close & (across > 0)].mean() > inside[close & (across < 0)].mean():
        across = -across
    reached = (np.abs(aside) <= WIDTH / 2) & (np.abs(across) <= 2 * DEPTH)
    # Where the border bends within a box, the side of a node decides.
    spans = [across <= -DEPTH, across > -DEPTH, across <= DEPTH, across > DEPTH]
    members = [np.flatnonzero(reached & (inside == (box < 2)) & span) for box, span in enumerate(spans)]
    smallest_area = _SMALLEST_SHARE * DEPTH * WIDTH * cell**2
    if any(len(box) < _FEWEST_NODES or areas[near[box]].sum() < smallest_area for box in members):
        return None
    return _estimates(point, near, members, across, aside, cell)


def _estimates(
    point: Floats, near: NDArray[np.int64], members: list[NDArray[np.int64]], x: Floats, y: Floats, cell: float
) -> _Site | None:
    """Fit planes in the boxes, as linear functionals, with x across the border and y along it in cells."""
    order = np.concatenate(members)
    sizes = [len(box) for box in members]
    x, y = x[order], y[order]
    level, slope, planes = (np.zeros((rows, len(order))) for rows in (len(BOXES), len(BOXES), 3))
    for box, end in enumerate(np.cumsum(sizes)):
        part = slice(end - sizes[box], end)
        design = np.stack([np.ones(sizes[box]), x[part], y[part]], axis=1)
        hat, triangle = np.linalg.qr(design)
        if np.abs(np.diag(triangle)).min() < _SMALLEST_SPREAD:
            return None
        solution = np.linalg.solve(triangle, hat.T)
        level[box, part], slope[box, part], planes[:, part] = solution[0], solution[1], hat.T

    # What a plane misses of a curved field differs with where the nodes of a coarse grid happen to lie. The curvature
    # comes from the slopes of two boxes on the same side, so that neither a jump nor a kink at the border enters it.
    parabola = x**2 / 2
    curvature = [(slope[b] - slope[a]) / ((slope[b] - slope[a]) @ parabola) for a, b in ((0, 1), (2, 3))]
    at_places = np.stack([curvature[0], (curvature[0] + curvature[1]) / 2, curvature[1]])
    where = np.array([[-DEPTH], [0.0], [DEPTH]])
    planes_at = np.stack([level[:3] + where * slope[:3], level[1:] + where * slope[1:]])  # before and after
    curved = (planes_at * (x - where) ** 2 / 2).sum(axis=-1, keepdims=True) * at_places
    values = (planes_at - curved).reshape(6, -1)
    steps = values[3:] - values[:3]
    if (steps**2).sum(axis=1).max() > _LARGEST_GAIN:
        return None
    squares = _reference_squares(steps, np.diff(slope, axis=0), planes, sizes, x, y)
    return _Site(point, near[order], sizes, values, slope / cell, planes, *squares)


def _reference_squares(
    steps: Floats, kinks: Floats, planes: Floats, sizes: list[int], x: Floats, y: Floats
) -> tuple[Floats, Floats]:
    """Return mean squares of jumps, kinks and roughness of reference fields of mean square one."""
    angles = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    along = x[:, None] * np.cos(angles) + y[:, None] * np.sin(angles)
    phase = (2 * np.pi * along[:, None, :] / np.array(WAVELENGTHS)[:, None]).reshape(len(x), -1)
    box_of = np.repeat(np.arange(len(BOXES)), sizes)
    by_box = [np.where(box_of == box, planes, 0) for box in range(len(BOXES))]
    rows = np.concatenate([steps, kinks, *by_box])
    both = rows @ np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
    waves = (both**2).reshape(len(rows), 2, len(WAVELENGTHS), DIRECTIONS).sum(axis=1).mean(axis=-1)
    squares = np.column_stack([waves, (rows**2).sum(axis=1)])
    number = np.array(sizes)[:, None]
    explained = squares[6:].reshape(len(BOXES), 3, -1).sum(axis=1)
    return squares[:6].reshape(2, 3, -1), (number - explained) / (number - 3)
