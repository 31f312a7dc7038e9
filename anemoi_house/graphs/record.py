"""What a graph was built from, kept in the graph itself: an anemoi-graphs post-processor."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from anemoi.graphs.processors.post_process import PostProcessor
from torch_geometric.data import HeteroData

from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.graphs.describe import RECORD, as_text, describe
from anemoi_house.upstream.errors import CommandError, mistakes_as
from anemoi_house.upstream.graph import LAM_MASK, dataset_in, graph_settings
from anemoi_house.upstream.keys import DATA, HIDDEN

LOGGER = logging.getLogger(__name__)


class GraphRecord(PostProcessor):
    """Keep the settings, data and coverage of a nested graph in the graph, and log the coverage.

    Settings and data show whether a graph file is outdated: see `differences`.

    Parameters
    ----------
    data_name, hidden_name : str
        Names of the nodes that the encoder connects.
    lam_mask_attr_name : str
        Attribute of the data nodes that is true in the LAM.
    boundary_width_km : float
        Width of the zone around the LAM in which isolated nodes are counted as on the rim.
    """

    def __init__(
        self,
        data_name: str = DATA,
        hidden_name: str = HIDDEN,
        lam_mask_attr_name: str = LAM_MASK,
        boundary_width_km: float = ZONE_KM,
    ) -> None:
        self.data_name = data_name
        self.hidden_name = hidden_name
        self.lam_mask_attr_name = lam_mask_attr_name
        self.boundary_width_km = boundary_width_km

    def update_graph(self, graph: HeteroData, **kwargs: Any) -> HeteroData:
        """Add the record, a dict of plain numbers and texts, to the graph.

        Parameters
        ----------
        graph : HeteroData
            The finished graph.
        **kwargs : Any
            `graph_config`: the config that it was built from.
        """
        config = kwargs["graph_config"]
        record: dict[str, Any] = {
            "settings": graph_settings(config),
            "data": data_digest(graph, self.data_name),
            "lam_shape": lam_shape(dataset_in(config, self.data_name)),
        }
        setattr(graph, RECORD, record)
        names = (self.data_name, self.hidden_name, self.lam_mask_attr_name)
        with mistakes_as(CommandError):
            record["coverage"] = describe(graph, self.boundary_width_km, *names)
        LOGGER.info("The graph:\n%s", as_text(record["coverage"]))
        return graph


def data_digest(graph: HeteroData, data_name: str = DATA) -> str:
    """Return a digest of the coordinates of a graph's data nodes, comparable to `coordinates_digest` of a dataset."""
    return coordinates_digest(*np.rad2deg(graph[data_name].x.cpu().numpy()).T)


def coordinates_digest(latitudes: np.ndarray, longitudes: np.ndarray) -> str:
    """Return a digest of coordinates in degrees, of shape (n,), rounded to a ten-thousandth of a degree."""
    rounded = np.round(np.stack([latitudes, longitudes % 360]) * 1e4).astype(np.int64) % 3_600_000
    return hashlib.sha256(rounded.tobytes()).hexdigest()


def lam_shape(dataset: Any) -> list[int] | None:
    """Return rows and columns of the trimmed LAM of a cutout; None for another dataset, or a LAM without a 2-D grid."""
    from anemoi.datasets import open_dataset

    while isinstance(dataset, Mapping) and "cutout" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    if not isinstance(dataset, Mapping) or "cutout" not in dataset:
        return None
    shape = open_dataset(dataset["cutout"][0]).field_shape
    return [int(length) for length in shape] if len(shape) == 2 else None


def differences(record: Mapping[str, Any], settings: Mapping[str, Any], data: str) -> list[str]:
    """Return how a graph's record differs from the current settings and data, each as `key: old -> new`."""
    old, new = dict(_flat(record["settings"])), dict(_flat(settings))
    found = [
        f"{key}: {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if record["data"] != data:
        found.append("the coordinates of the data")
    return found


def _flat(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, Mapping):
        return [(prefix, config)]
    return [leaf for key, value in config.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
