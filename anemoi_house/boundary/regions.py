"""Regions of a nested grid by distance from the LAM's border: LAM interior, a ring on either side, the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anemoi_house.boundary.widths import INNER_KM, OUTER_KM
from anemoi_house.errors import HouseError

REGIONS = ("lam_interior", "inner_ring", "outer_ring", "outside")
"""Names of the regions, from the inside out; the code of a region is its index here."""


def regions(signed_km: ArrayLike, inner_km: float = INNER_KM, outer_km: float = OUTER_KM) -> NDArray[np.int8]:
    """Return the region of each node.

    Parameters
    ----------
    signed_km : array_like, shape (nodes,)
        Distance from the LAM's border in km, negative inside: `geometry.signed_distance_km`. It may be infinite beyond
        the rings.
    inner_km, outer_km : float
        Widths of the rings in km. Nodes on the border (0) belong to the inner ring, nodes at exactly `-inner_km` and
        `outer_km` to their rings.

    Returns
    -------
    ndarray of int8, shape (nodes,)
        Codes: indices into `REGIONS`.

    Raises
    ------
    HouseError
        If a width is not positive, a distance is missing, or a region is empty.
    """
    for name, width in (("inner_km", inner_km), ("outer_km", outer_km)):
        if not (np.isfinite(width) and width > 0):
            raise HouseError(f"{name}: {width:g} is not a valid width of a ring. Give kilometres, more than 0.")
    distance = np.asarray(signed_km, dtype=np.float64)
    if missing := int(np.isnan(distance).sum()):
        raise HouseError(f"{missing:,} of {distance.size:,} nodes have no distance from the LAM's border.")
    limits = (-inner_km, np.nextafter(0, 1), np.nextafter(outer_km, np.inf))
    codes = np.digitize(distance, limits).astype(np.int8)
    for code, name in enumerate(REGIONS):
        if not (codes == code).any():
            raise HouseError(_empty(name, distance, inner_km, outer_km))
    return codes


def _empty(name: str, distance: NDArray[np.float64], inner_km: float, outer_km: float) -> str:
    """Return the message for an empty region."""
    beyond, inside = name in ("lam_interior", "outside"), name in ("lam_interior", "inner_ring")
    key, width, side = ("inner_km", inner_km, "inside") if inside else ("outer_km", outer_km, "outside")
    where, extreme, advice = ("beyond", "farthest", "narrower") if beyond else ("within", "nearest", "wider")
    away = np.abs(distance[np.isfinite(distance) & ((distance <= 0) == inside)])
    found = f"the {extreme} is {away.max() if beyond else away.min():.0f} km away" if len(away) else "none is near"
    return f"{key}: no node lies {where} {width:g} km {side} of the LAM's border ({found}). Give a {advice} ring."
