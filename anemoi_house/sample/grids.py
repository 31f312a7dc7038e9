"""The nested grids of samples, tests and benchmarks: a LAM, the global grid around it, and the mesh for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anemoi_house.geometry import HRRR_3KM, HRRR_15KM, Floats, LambertGrid, global_grid

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

PARTS = {"lam": "hrrr.zarr", "global": "gfs.zarr"}
"""The two parts of a nested grid, and the file of each in a sample."""


@dataclass(frozen=True)
class NestedGrid:
    """A LAM in a global grid, and its hidden mesh.

    Attributes
    ----------
    lam : LambertGrid
        The untrimmed LAM.
    global_spacing : float
        Degrees.
    global_resolution, lam_resolution : int
        Of the icosahedral mesh, outside and inside the LAM.
    margin_km : float
        Width by which the fine mesh extends beyond the LAM: a little more than half the diagonal of a cell.
    trim_cells : int
        Cells removed on every side of the LAM.
    on_parallels : bool
        Rows lie on multiples of the spacing, without the poles, as in GFS; otherwise they are cell centres.
    """

    lam: LambertGrid
    global_spacing: float
    global_resolution: int
    lam_resolution: int
    margin_km: float
    trim_cells: int = 0
    on_parallels: bool = False

    def points(self, part: str) -> tuple[Floats, Floats]:
        """Return latitudes and longitudes (degrees) of a part, each with the shape of its grid."""
        if part == "lam":
            inner = slice(self.trim_cells, -self.trim_cells or None)
            latitudes, longitudes = (field[inner, inner] for field in self.lam.latlon())
            return latitudes, longitudes
        if not self.on_parallels:
            return global_grid(self.global_spacing)
        rows = np.arange(90 - self.global_spacing, -90 + self.global_spacing / 2, -self.global_spacing)
        latitudes, longitudes = np.meshgrid(rows, np.arange(0, 360, self.global_spacing), indexing="ij")
        return latitudes, longitudes

    def spacing(self, part: str) -> str:
        """Return the resolution of a part as its dataset's metadata give it."""
        return f"{self.lam.spacing_km:g}km" if part == "lam" else f"{self.global_spacing:g}deg"


GRIDS = {
    "tiny": NestedGrid(HRRR_3KM.coarsened(40), 4.0, 3, 5, margin_km=88),
    "study": NestedGrid(HRRR_3KM.coarsened(20), 180 / 42, 3, 6, margin_km=44),
    "published": NestedGrid(HRRR_15KM, 1.0, 5, 8, margin_km=11),
}
"""Grids of samples, by the name that `anemoi-house sample --grid` takes."""

PRODUCTION = NestedGrid(HRRR_3KM.coarsened(2), 0.25, 7, 10, margin_km=11, trim_cells=25, on_parallels=True)
"""Grids of today's operational size, which no sample has: HRRR at 6 km, trimmed by 150 km, in GFS at 0.25 degrees."""


def nodes(grid: NestedGrid) -> HeteroData:
    """Return a graph with the data and hidden nodes of a grid and no edges, made by the stock classes."""
    import torch
    from anemoi.graphs.nodes import StretchedTriNodes
    from anemoi.transform.spatial import cutout_mask
    from torch_geometric.data import HeteroData

    lam, globe = (np.stack([field.ravel() for field in grid.points(part)], axis=1) for part in PARTS)
    outside = cutout_mask(lam[:, 0], lam[:, 1], globe[:, 0], globe[:, 1], min_distance_km=0)
    coordinates = np.concatenate([lam, globe[outside]])
    graph = HeteroData()
    graph["data"].x = torch.tensor(np.deg2rad(coordinates), dtype=torch.float32)
    graph["data"].cutout_mask = torch.arange(len(coordinates))[:, None] < len(lam)
    resolutions = grid.global_resolution, grid.lam_resolution
    return StretchedTriNodes(*resolutions, "hidden", "data", "cutout_mask", grid.margin_km).update_graph(graph)
