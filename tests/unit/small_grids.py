"""Small nested grids, graphs and datasets for the unit tests, made without our code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import zarr
from anemoi.graphs.nodes import TriNodes
from torch_geometric.data import HeteroData

VARIABLES = ("gh_500", "t_850", "orog")
DATES = np.datetime64("2020-01-01T00", "s") + np.arange(5) * np.timedelta64(6, "h")


# Grids


def lam_grid(rows: int = 10, columns: int = 12, step: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Return latitudes and longitudes, each of shape (rows, columns), of a patch over the contiguous US.

    It is slightly skewed, so that no two points share a coordinate.
    """
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return 24 + step * y + 0.05 * x, 245 + step * x - 0.07 * y


def globe_grid(step: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Return cell centres of a regular global grid, north to south, each of shape (rows, columns)."""
    latitudes, longitudes = np.arange(90 - step / 2, -90, -step), np.arange(step / 2, 360, step)
    return tuple(np.meshgrid(latitudes, longitudes, indexing="ij"))


def unit_vectors(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Convert degrees to points on the unit sphere, of shape (n, 3)."""
    lat, lon = np.deg2rad(np.ravel(latitudes)), np.deg2rad(np.ravel(longitudes))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def haversine_km(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return great-circle distances, of shape (len(a), len(b)), for points in degrees on a sphere of 6371.229 km."""
    (lat, lon), (lat_b, lon_b) = np.deg2rad(a)[:, :, None], np.deg2rad(b)[:, None, :]
    h = np.sin((lat - lat_b) / 2) ** 2 + np.cos(lat) * np.cos(lat_b) * np.sin((lon - lon_b) / 2) ** 2
    return 2 * 6371.229 * np.arcsin(np.sqrt(np.clip(h, 0, 1)))


# Graphs


def graph_of(data: np.ndarray, in_lam: np.ndarray, hidden: np.ndarray) -> HeteroData:
    """Return a graph without edges from coordinates in degrees, of shape (n, 2)."""
    graph = HeteroData()
    graph["data"].x = torch.tensor(np.deg2rad(data), dtype=torch.float32)
    graph["data"].cutout_mask = torch.tensor(in_lam)[:, None]
    graph["hidden"].x = torch.tensor(np.deg2rad(hidden), dtype=torch.float32)
    return graph


def nested_coordinates(lam_step: float, globe_step: float, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates, of shape (n, 2), of a lat-lon patch in a global lat-lon grid, and which are in the patch.

    Without a seed the grid is symmetric and full of ties; with one, points are shifted randomly.
    """
    lam = np.stack(
        [field.ravel() for field in np.meshgrid(np.arange(30, 50.1, lam_step), np.arange(250, 280.1, lam_step))]
    )
    globe = np.stack([field.ravel() for field in globe_grid(globe_step)])
    inside = (np.abs(globe[0] - 40) <= 10) & (np.abs(globe[1] - 265) <= 15)
    coordinates = np.concatenate([lam, globe[:, ~inside]], axis=1).T
    if seed is not None:
        coordinates = coordinates + np.random.default_rng(seed).uniform(-0.3, 0.3, coordinates.shape)
    return coordinates, np.arange(len(coordinates)) < lam.shape[1]


def mesh_coordinates(resolution: int) -> np.ndarray:
    """Return nodes of a stock icosahedral mesh, in degrees, of shape (n, 2)."""
    graph = TriNodes(resolution, "hidden").update_graph(HeteroData(), attrs_config={})
    return np.rad2deg(graph["hidden"].x.numpy())


# Datasets


def write_store(
    path: Path,
    latitudes: np.ndarray,
    longitudes: np.ndarray,
    variables: tuple[str, ...] = VARIABLES,
    dates: np.ndarray = DATES,
    field_shape: tuple[int, ...] | None = None,
) -> Path:
    """Write a dataset in the format of anemoi-datasets, with random values.

    Parameters
    ----------
    latitudes, longitudes : ndarray
        Degrees, of the shape of a field.
    field_shape : tuple of int, optional
        Overrides the shape of the coordinates in the metadata.
    """
    shape = (len(dates), len(variables), 1, latitudes.size)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    group = zarr.open_group(str(path), mode="w")
    arrays = {
        "data": values,
        "dates": dates,
        "latitudes": latitudes.ravel(),
        "longitudes": longitudes.ravel(),
        "mean": values.mean(axis=(0, 2, 3)),
        "stdev": values.std(axis=(0, 2, 3)),
        "maximum": values.max(axis=(0, 2, 3)),
        "minimum": values.min(axis=(0, 2, 3)),
    }
    for name, array in arrays.items():
        group.create_dataset(name, data=array, compressor=None)
    group.attrs.update(
        version="0.30",
        frequency="6h",
        resolution="test",
        variables=list(variables),
        field_shape=list(field_shape or latitudes.shape),
        start_date=str(dates[0]),
        end_date=str(dates[-1]),
        missing_dates=[],
        variables_metadata={name: {} for name in variables},
    )
    return path
