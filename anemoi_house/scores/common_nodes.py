"""Nodes that the grids of all runs have in common.

A trim moves the boundary, so runs are compared twice: each around its own boundary, and on the common nodes: those in
the smallest LAM and those outside the largest. The nodes in between, the trimmed zone, are LAM in one run and global in
another, with different fields as truth: they are in no common score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.regions import regions
from anemoi_house.errors import HouseError
from anemoi_house.geometry import Floats, distance_to_km
from anemoi_house.scores.grid import Grid, region_weights

Indices = NDArray[np.intp]

_ADVICE = "Compare runs whose grids differ in the trim of the LAM alone."


@dataclass(frozen=True)
class CommonNodes:
    """Nodes that are LAM in all grids, and nodes that are outside in all.

    Attributes
    ----------
    nodes : list of ndarray of int
        For each grid, the indices of these nodes, in the same order for all.
    weights : dict of str to ndarray, shape (common nodes,)
        Weight of each in the mean over each region, around the smallest LAM inside and the largest outside.
    lam_nodes : int
    trimmed_nodes : int
        Nodes of the largest LAM that the smallest lacks.
    alike : bool
        Whether all grids are equal.
    """

    nodes: list[Indices]
    weights: dict[str, Floats]
    lam_nodes: int
    trimmed_nodes: int
    alike: bool

    def weights_on(self, number: int, size: int) -> dict[str, Floats]:
        """Return the weights on all nodes of one grid, by the names `common_inner_ring` and so on.

        Parameters
        ----------
        number : int
            Index of the grid.
        size : int
            Number of its nodes.
        """
        found = {region: np.bincount(self.nodes[number], weights, size) for region, weights in self.weights.items()}
        return {f"common_{region}": weights.astype(np.float64) for region, weights in found.items()}


def common_nodes(grids: Sequence[Grid], labels: Sequence[str]) -> CommonNodes:
    """Find the nodes that all grids have in the LAM, and those that all have outside.

    Parameters
    ----------
    grids : sequence of Grid
        One for each run.
    labels : sequence of str
        Of the runs, for messages.

    Raises
    ------
    HouseError
        If two grids differ by more than the trim of the LAM.
    """
    first = grids[0]
    for grid, label in zip(grids[1:], labels[1:]):
        _check_trim_alone(first, grid, labels[0], label)
    lam, outside = (
        reduce(np.intersect1d, (grid.node_ids[grid.in_lam == inside] for grid in grids)) for inside in (True, False)
    )
    wanted = np.concatenate([lam, outside])
    nodes = [_find(wanted, grid.node_ids) for grid in grids]
    signed = np.stack([grid.signed_km[picked] for grid, picked in zip(grids, nodes)])
    inside = np.arange(len(wanted)) < len(lam)
    codes = regions(np.where(inside, signed.max(axis=0), signed.min(axis=0)), *first.widths)
    largest = max(int(grid.in_lam.sum()) for grid in grids)
    return CommonNodes(
        nodes,
        region_weights(codes, first.areas[nodes[0]]),
        len(lam),
        largest - len(lam),
        all(grid.key == first.key for grid in grids[1:]),
    )


def _check_trim_alone(first: Grid, other: Grid, first_label: str, label: str) -> None:
    if first.key == other.key:
        return
    if not np.isin(first.node_ids[first.in_lam], other.node_ids[other.in_lam]).any():
        raise HouseError(
            f"the LAMs of {first_label} ({int(first.in_lam.sum()):,} nodes) and {label} "
            f"({int(other.in_lam.sum()):,} nodes) share no node: their area or spacing differs. {_ADVICE}"
        )
    lam = np.concatenate([grid.points[grid.in_lam] for grid in (first, other)])
    named = (first, first_label), (other, label)
    for (one, one_label), (another, another_label) in (named, named[::-1]):
        alone = ~one.in_lam & ~np.isin(one.node_ids, another.node_ids[~another.in_lam])
        # Global nodes that the larger LAM replaces lie among its nodes, or within a cell of them.
        far = np.isinf(distance_to_km(one.points[alone], lam, within_km=one.band.cell_km)).sum() if alone.any() else 0
        if far:
            raise HouseError(
                f"{int(far):,} nodes of {one_label} outside the LAM are not in {another_label}: the global grids "
                f"differ. {_ADVICE}"
            )


def _find(wanted: NDArray[np.int64], ids: NDArray[np.int64]) -> Indices:
    order = np.argsort(ids)
    return order[np.searchsorted(ids, wanted, sorter=order)]
