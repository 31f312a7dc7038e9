"""Nodes of the nested grids that the benchmarks run on, made by the stock classes without any dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from anemoi.graphs.nodes import StretchedTriNodes
from anemoi.transform.spatial import cutout_mask
from torch_geometric.data import HeteroData

from anemoi_house.geometry import HRRR_3KM, HRRR_15KM, LambertGrid, global_grid


@dataclass(frozen=True)
class NestedGrid:
    """A LAM in a global grid, and the resolutions of the hidden mesh."""

    lam: LambertGrid
    spacing: float
    trim: int
    drop_rows: int  # polar rows that the global grid goes without
    global_resolution: int
    lam_resolution: int
    margin_km: float = 11  # half the diagonal of a 15 km cell and a little


GRIDS = {
    "tiny": NestedGrid(HRRR_3KM.coarsened(40), 4.0, 0, 0, 3, 5, 88),
    "study": NestedGrid(HRRR_3KM.coarsened(20), 180 / 42, 0, 0, 3, 6, 44),
    "published": NestedGrid(HRRR_15KM, 1.0, 0, 0, 5, 8),
    "production": NestedGrid(HRRR_3KM.coarsened(2), 0.25, 25, 1, 7, 10),
}


def nodes(name: str) -> HeteroData:
    """Graph with data and hidden nodes and no edges."""
    grid = GRIDS[name]
    inner = slice(grid.trim, -grid.trim or None)
    lam_lat, lam_lon = (field[inner, inner].ravel() for field in grid.lam.latlon())
    if grid.drop_rows:  # a grid that has points at the poles, without them
        rows = np.arange(90 - grid.spacing, -90 + grid.spacing / 2, -grid.spacing)
        lat, lon = np.meshgrid(rows, np.arange(0, 360, grid.spacing), indexing="ij")
    else:
        lat, lon = global_grid(grid.spacing)
    lat, lon = lat.ravel(), lon.ravel()
    outside = cutout_mask(lam_lat, lam_lon, lat, lon, min_distance_km=0)

    graph = HeteroData()
    coordinates = np.stack([np.r_[lam_lat, lat[outside]], np.r_[lam_lon, lon[outside]]], axis=1)
    graph["data"].x = torch.tensor(np.deg2rad(coordinates), dtype=torch.float32)
    graph["data"].cutout_mask = torch.arange(len(coordinates))[:, None] < len(lam_lat)
    builder = StretchedTriNodes(
        grid.global_resolution, grid.lam_resolution, "hidden", "data", "cutout_mask", grid.margin_km
    )
    return builder.update_graph(graph)
