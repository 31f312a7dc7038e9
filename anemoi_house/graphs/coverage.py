"""Which data nodes an encoder reaches, and the smallest number of neighbours that reaches them.

A nearest-neighbour encoder is centred on its targets: each hidden node picks its K nearest data
nodes. A data node that no hidden node picks is *isolated*: the model never sees its value. That
happens where the data grid is much denser than the mesh on one side of a boundary, and where a
lat-lon grid crowds together at the poles.

Points are unit vectors, of shape (n, 3). Arrays in, arrays out: numpy and scipy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from anemoi_house.errors import HouseError
from anemoi_house.geometry import distance_to_km, to_cartesian

Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

Zone = Literal["lam", "rim", "poles", "elsewhere"]
ZONES: tuple[Zone, ...] = get_args(Zone)

POLAR_LATITUDE = 60.0
"""Degrees: poleward of this, nodes outside the boundary zone count as towards the poles."""

SEARCH_LIMIT = 256
"""Neighbours beyond which nobody would go: the search for a number that holds ends here."""


@dataclass(frozen=True)
class DataNodes:
    """The data nodes of a nested grid, and the zones they lie in.

    Attributes
    ----------
    latitudes, longitudes : ndarray, shape (n,)
        Degrees.
    in_lam : ndarray of bool, shape (n,)
        True for the nodes of the limited-area grid.
    boundary_width_km : float
        The boundary zone is the LAM and everything within this distance of its nodes.
    """

    latitudes: NDArray[np.floating]
    longitudes: NDArray[np.floating]
    in_lam: Mask
    boundary_width_km: float

    @property
    def points(self) -> NDArray[np.float64]:
        """Unit vectors, of shape (n, 3)."""
        return to_cartesian(self.latitudes, self.longitudes)

    def zone(self, nodes: Indices) -> NDArray[np.str_]:
        """Zone of each of `nodes`: `lam`, `rim` (boundary zone outside the LAM), `poles` or `elsewhere`.

        Distances are computed for `nodes` alone: they are few where it matters, the grid is large.
        """
        zones = np.full(len(nodes), "elsewhere", dtype="<U9")
        zones[np.abs(self.latitudes[nodes]) >= POLAR_LATITUDE] = "poles"
        lam = self.in_lam[nodes]
        outside = np.flatnonzero(~lam)
        if len(outside) and self.in_lam.any():
            there = nodes[outside]
            away = to_cartesian(self.latitudes[there], self.longitudes[there])
            grid = to_cartesian(self.latitudes[self.in_lam], self.longitudes[self.in_lam])
            near = np.isfinite(distance_to_km(away, grid, within_km=self.boundary_width_km))
            zones[outside[near]] = "rim"
        zones[lam] = "lam"
        return zones

    def in_boundary_zone(self, nodes: Indices) -> Mask:
        """Which of `nodes` lie in the LAM or within `boundary_width_km` of it."""
        return np.isin(self.zone(nodes), ("lam", "rim"))

    def count(self, nodes: Indices) -> dict[Zone, int]:
        """Number of `nodes` in each zone."""
        zones = self.zone(nodes)
        return {zone: int(np.count_nonzero(zones == zone)) for zone in ZONES}


@overload
def parse_neighbours(value: object, *, auto: Literal[False] = False, key: str = ...) -> int: ...
@overload
def parse_neighbours(value: object, *, auto: Literal[True], key: str = ...) -> int | Literal["auto"]: ...
def parse_neighbours(
    value: object, *, auto: bool = False, key: str = "num_nearest_neighbours"
) -> int | Literal["auto"]:
    """Number of neighbours as a user wrote it.

    Parameters
    ----------
    value : object
        A whole number of at least 1 or, where `auto` allows it, the word `auto`.
    auto : bool
        Whether the word will do.
    key : str
        Name of the setting, for the message.

    Raises
    ------
    HouseError
        For anything else.
    """
    if auto and value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    way_out = "a whole number of at least 1" + (", or auto" if auto else "")
    raise HouseError(f"{key}: {value!r} is no number of neighbours; give {way_out}.")


def check_range(floor: object, ceiling: object) -> None:
    """Refuse a range of neighbours that `auto` could not look through.

    Raises
    ------
    HouseError
        Where an end is no number of neighbours, or the range is empty.
    """
    if parse_neighbours(floor, key="floor") > parse_neighbours(ceiling, key="ceiling"):
        raise HouseError(f"floor: {floor} is more than ceiling: {ceiling}; lower the one or raise the other.")


def reached_nodes(num_nodes: int, sources: NDArray[np.integer]) -> Mask:
    """Which data nodes are the source of an edge; the others are isolated.

    Parameters
    ----------
    num_nodes : int
        Number of data nodes.
    sources : ndarray of int, shape (edges,)
        Data node at which each encoder edge begins.
    """
    reached = np.zeros(num_nodes, dtype=bool)
    reached[sources] = True
    return reached


@dataclass(frozen=True)
class Neighbours:
    """Nearest data nodes of every hidden node.

    Attributes
    ----------
    indices : ndarray of int, shape (m, k)
        Data nodes, the nearest first.
    tied : ndarray of int
        Hidden nodes at which the k-th and the next data node are equally far, so that which
        of the two is a neighbour depends on who searches.
    """

    indices: Indices
    tied: Indices


class NeighbourSearch:
    """Searches for the data nodes nearest to the hidden nodes, widened only as far as is asked.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        Data nodes.
    mesh : ndarray, shape (m, 3)
        Hidden nodes.
    """

    def __init__(self, points: NDArray[np.floating], mesh: NDArray[np.floating]) -> None:
        self._tree = cKDTree(np.asarray(points, dtype=np.float64))
        self._mesh = np.asarray(mesh, dtype=np.float64)
        self._num_points = len(points)
        self._distances = np.empty((len(mesh), 0))
        self._indices = np.empty((len(mesh), 0), dtype=np.intp)

    def nearest(self, neighbours: int) -> Neighbours:
        """The `neighbours` nearest data nodes of every hidden node."""
        self._widen(neighbours + 1)
        tied = np.empty(0, dtype=np.intp)
        if neighbours < self._num_points:
            last, following = self._distances[:, neighbours - 1], self._distances[:, neighbours]
            tied = np.flatnonzero(_tied(last, following))
        return Neighbours(self._indices[:, :neighbours], tied)

    def first_pick(self, ceiling: int) -> NDArray[np.int32]:
        """Smallest number of neighbours at which each data node is picked by some hidden node.

        Returns
        -------
        ndarray of int, shape (n,)
            From 1 to `ceiling`; `ceiling + 1` for a node that is not picked at all. The nodes
            isolated with K neighbours are those with a value above K.
        """
        self._widen(ceiling)
        first = np.full(self._num_points, ceiling + 1, dtype=np.int32)
        for rank in range(min(ceiling, self._num_points), 0, -1):
            first[self._indices[:, rank - 1]] = rank
        return first

    def smallest(self, nodes: DataNodes, floor: int, ceiling: int) -> int | None:
        """Smallest number of neighbours, from `floor` to `ceiling`, that isolates no node of the boundary zone.

        Exact, and without a graph for every number tried: one query tells at which number each
        node is first picked. The query is widened by doubling. Where a tie decides, it is decided
        in favour of the node: a builder that breaks ties otherwise may need a larger number, never
        a smaller one.

        Returns
        -------
        int or None
            None where even `ceiling` neighbours miss a node of the zone.
        """
        ceiling = min(ceiling, self._num_points)
        reach = min(max(2 * floor, 16), ceiling)
        while True:
            first = self._first_pick_in_ties(reach)
            beyond = np.flatnonzero(first > floor)
            beyond = beyond[nodes.in_boundary_zone(beyond)]
            smallest = int(first[beyond].max(initial=floor))
            if smallest <= reach:
                return smallest
            if reach == ceiling:
                return None
            reach = min(2 * reach, ceiling)

    def _first_pick_in_ties(self, ceiling: int) -> NDArray[np.int32]:
        """`first_pick`, with every one of several equally far nodes counted as the first of them."""
        first = self.first_pick(ceiling)
        distances = self._distances[:, :ceiling]
        rows, columns = np.nonzero(_tied(distances[:, :-1], distances[:, 1:]))
        columns += 1
        ranks = columns.copy()  # in each row, a run of ties gets the rank at which it begins
        for entry in np.flatnonzero((rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1] + 1)) + 1:
            ranks[entry] = ranks[entry - 1]
        np.minimum.at(first, self._indices[rows, columns], ranks.astype(np.int32))
        return first

    def _widen(self, neighbours: int) -> None:
        neighbours = min(neighbours, self._num_points)
        if neighbours > self._indices.shape[1]:
            self._distances, self._indices = self._tree.query(self._mesh, k=range(1, neighbours + 1), workers=-1)


def _tied(distances: NDArray[np.floating], following: NDArray[np.floating]) -> Mask:
    return following - distances <= 1e-9 * following


def nearest_hidden(points: NDArray[np.floating], mesh: NDArray[np.floating]) -> Indices:
    """Hidden node nearest to each of `points`, both of shape (·, 3)."""
    return cKDTree(mesh).query(points, workers=-1)[1]
