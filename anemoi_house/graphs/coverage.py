"""Which data nodes an encoder reaches, and the smallest number of neighbours that reaches them all.

A nearest-neighbour encoder is centred on its targets: each hidden node picks its K nearest data nodes. A data node that
no hidden node picks is *isolated*: the model never sees its value. This happens at a boundary with a much denser data
grid on one side, and near the poles, where the points of a lat-lon grid crowd together.

Points are unit vectors, of shape (n, 3). Arrays in, arrays out: numpy and scipy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from anemoi_house.errors import HouseError
from anemoi_house.geometry import distance_to_km, to_cartesian

Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

ZONES = ("lam", "rim", "poles", "elsewhere")

POLAR_LATITUDE = 60.0
"""Latitude in degrees beyond which nodes outside the boundary zone count as towards the poles."""

FLOOR, CEILING = 12, 64
"""Range in which `auto` searches by default; 12 is the published number."""
SEARCH_LIMIT = 256
"""Largest number of neighbours that is searched for a message or a table."""


@dataclass(frozen=True)
class DataNodes:
    """The data nodes of a nested grid, and the zones that they are in.

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
        """Return the zone of each of `nodes`: `lam`, `rim` (boundary zone outside the LAM), `poles` or `elsewhere`.

        Distances are computed for `nodes` alone, which are usually few in a large grid.
        """
        zones = np.full(len(nodes), "elsewhere", dtype="<U9")
        zones[np.abs(self.latitudes[nodes]) >= POLAR_LATITUDE] = "poles"
        asked, lam = (to_cartesian(self.latitudes[which], self.longitudes[which]) for which in (nodes, self.in_lam))
        if len(lam):
            zones[np.isfinite(distance_to_km(asked, lam, within_km=self.boundary_width_km))] = "rim"
        zones[self.in_lam[nodes]] = "lam"
        return zones

    def in_boundary_zone(self, nodes: Indices) -> Mask:
        """Return True for each of `nodes` in the LAM or within `boundary_width_km` of it."""
        return np.isin(self.zone(nodes), ("lam", "rim"))

    def count(self, nodes: Indices) -> dict[str, int]:
        """Return the number of `nodes` in each zone."""
        zones = self.zone(nodes)
        return {zone: int(np.count_nonzero(zones == zone)) for zone in ZONES}


def parse_neighbours(value: object, key: str = "num_nearest_neighbours", or_else: str = "") -> int:
    """Return a number of neighbours as a user wrote it, or refuse it.

    Parameters
    ----------
    value : object
        A whole number of at least 1.
    key : str
        Name of the setting, for the message.
    or_else : str
        What is valid too, for the message.

    Raises
    ------
    HouseError
        If it is anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise HouseError(
        f"{key}: {value!r} is not a valid number of neighbours; give a whole number of at least 1{or_else}."
    )


def neighbours_or_auto(value: object) -> int | Literal["auto"]:
    """Return a number of neighbours, or `auto`; see `parse_neighbours`."""
    return "auto" if value == "auto" else parse_neighbours(value, or_else=", or auto")


def check_range(floor: object, ceiling: object) -> None:
    """Refuse a range of neighbours in which `auto` cannot search.

    Raises
    ------
    HouseError
        If an end is not a valid number of neighbours, or the range is empty.
    """
    if parse_neighbours(floor, key="floor") > parse_neighbours(ceiling, key="ceiling"):
        raise HouseError(f"floor: {floor} is more than ceiling: {ceiling}. Lower the floor or raise the ceiling.")


def reached_nodes(num_nodes: int, sources: NDArray[np.integer]) -> Mask:
    """Return True for each data node that is the source of an edge; the others are isolated.

    Parameters
    ----------
    num_nodes : int
        Number of data nodes.
    sources : ndarray of int, shape (edges,)
        Source of each encoder edge.
    """
    return np.isin(np.arange(num_nodes), sources)


def first_pick(
    points: NDArray[np.floating], mesh: NDArray[np.floating], ceiling: int, *, in_ties: bool = False
) -> NDArray[np.int32]:
    """Return the smallest number of neighbours at which some hidden node picks each data node.

    Parameters
    ----------
    points : ndarray, shape (n, 3)
        Data nodes.
    mesh : ndarray, shape (m, 3)
        Hidden nodes.
    ceiling : int
        Largest number that is considered.
    in_ties : bool
        Whether to count each of several equally far nodes as the first of them.

    Returns
    -------
    ndarray of int, shape (n,)
        From 1 to `ceiling`; `ceiling + 1` for a node that is never picked. With K neighbours, the isolated nodes are
        those with a value above K.
    """
    columns = np.arange(1, min(ceiling, len(points)) + 1, dtype=np.int32)
    distances, indices = cKDTree(points).query(mesh, k=columns, workers=-1)
    ranks = np.broadcast_to(columns, indices.shape)
    if in_ties:
        farther = np.diff(distances, axis=1, prepend=-1) > 1e-9 * distances  # than the node before
        ranks = np.maximum.accumulate(np.where(farther, ranks, 1), axis=1)
    first = np.full(len(points), ceiling + 1, dtype=np.int32)
    np.minimum.at(first, indices.ravel(), ranks.ravel())
    return first


def smallest_number(
    points: NDArray[np.floating],
    mesh: NDArray[np.floating],
    in_zone: Callable[[Indices], Mask],
    floor: int,
    ceiling: int,
    *,
    reach: int = 16,
    in_ties: bool = False,
) -> tuple[int | None, NDArray[np.int32]]:
    """Return the smallest number of neighbours, from `floor` to `ceiling`, that isolates no node in a zone.

    The result is exact, and no graph is built for each candidate: one query, widened by doubling, gives the number at
    which each node is first picked.

    Parameters
    ----------
    points, mesh, in_ties
        As for `first_pick`. With `in_ties`, a builder that breaks ties otherwise may need a larger number, but never
        a smaller one.
    in_zone : callable
        Returns True for each of the given nodes that is in the zone.
    floor, ceiling : int
        Range of the search.
    reach : int
        Number of neighbours to begin with.

    Returns
    -------
    smallest : int or None
        None if even `ceiling` neighbours miss a node of the zone.
    first : ndarray of int, shape (n,)
        From `first_pick`, for at least `reach` neighbours.
    """
    ceiling = min(ceiling, len(points))
    reach = min(max(reach, floor), ceiling)
    while True:
        first = first_pick(points, mesh, reach, in_ties=in_ties)
        beyond = np.flatnonzero(first > floor)
        smallest = int(first[beyond[in_zone(beyond)]].max(initial=floor))
        if smallest <= reach or reach == ceiling:
            return (smallest if smallest <= reach else None), first
        reach = min(2 * reach, ceiling)


def nearest_hidden(points: NDArray[np.floating], mesh: NDArray[np.floating]) -> Indices:
    """Return the hidden node nearest to each of `points`, both of shape (·, 3)."""
    return cKDTree(mesh).query(points, workers=-1)[1]
