"""Regions of a nested grid by distance from the LAM's edge: the LAM's interior, a ring on either side, the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anemoi_house.errors import HouseError

REGIONS = ("lam_interior", "inner_ring", "outer_ring", "outside")
"""Names of the regions, from the inside out; a region's code is its place here."""

INNER_KM = 225.0
"""Width of the inner ring: that of the published trim, 15 cells of 15 km."""

OUTER_KM = 225.0
"""Width of the outer ring: as wide as the inner one, two cells of GFS at 1 degree."""

ZONE_KM = 1000.0
"""Width of the zone around the LAM in which isolated data nodes count as at the boundary: that of the published
experiments, some nine cells of GFS at 1 degree."""


def regions(signed_km: ArrayLike, inner_km: float = INNER_KM, outer_km: float = OUTER_KM) -> NDArray[np.int8]:
    """Region of each node.

    Parameters
    ----------
    signed_km : array_like, shape (nodes,)
        Distance from the LAM's edge in km, negative inside: `geometry.signed_distance_km`. It may be infinite beyond
        the rings.
    inner_km, outer_km : float
        Widths of the rings in km. The nodes of the edge itself (0) are in the inner ring, those at exactly
        `-inner_km` and `outer_km` in their rings.

    Returns
    -------
    ndarray of int8, shape (nodes,)
        Codes, which are places in `REGIONS`.

    Raises
    ------
    HouseError
        Where a width is no positive number, a distance is missing, or a region holds no node.
    """
    for name, width in (("inner_km", inner_km), ("outer_km", outer_km)):
        if not (np.isfinite(width) and width > 0):
            raise HouseError(f"{name}: {width:g} is no width of a ring; give kilometres, more than 0.")
    distance = np.asarray(signed_km, dtype=np.float64)
    missing = int(np.isnan(distance).sum())
    if missing:
        raise HouseError(f"{missing:,} of {distance.size:,} nodes have no distance from the LAM's edge.")
    edges = (-inner_km, np.nextafter(0, 1), np.nextafter(outer_km, np.inf))
    codes = np.digitize(distance, edges).astype(np.int8)
    counts = np.bincount(codes, minlength=len(REGIONS))
    for name, count in zip(REGIONS, counts, strict=True):
        if not count:
            raise HouseError(_empty(name, distance, inner_km, outer_km))
    return codes


def _empty(name: str, distance: NDArray[np.float64], inner_km: float, outer_km: float) -> str:
    """What is wrong where a region holds no node, and the way out."""
    if name == "lam_interior":
        return (
            f"inner_km: {inner_km:g} leaves no node of the LAM beyond its inner ring ({int((distance <= 0).sum()):,} "
            "nodes are in the LAM). Give a narrower ring."
        )
    if name == "outside":
        return f"outer_km: {outer_km:g} leaves no node beyond the outer ring. Give a narrower ring."
    key, width, side = ("inner_km", inner_km, "inside") if name == "inner_ring" else ("outer_km", outer_km, "outside")
    there = np.abs(distance[distance <= 0 if name == "inner_ring" else distance > 0])
    nearest = f"the nearest is {there.min():.0f} km away" if np.isfinite(there).any() else "none is near"
    return f"{key}: no node lies within {width:g} km {side} of the LAM's edge ({nearest}). Give a wider ring."
