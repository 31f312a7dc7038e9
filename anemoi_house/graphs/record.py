"""What a graph was built from, kept in the graph itself: an anemoi-graphs post-processor."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from anemoi.graphs.processors.post_process import PostProcessor
from anemoi.graphs.schemas.base_graph import BaseGraphSchema
from pydantic import ValidationError
from torch_geometric.data import HeteroData

from anemoi_house.boundary.regions import ZONE_KM
from anemoi_house.errors import HouseError
from anemoi_house.graphs.describe import RECORD, as_text, describe
from anemoi_house.upstream.errors import CommandError

LOGGER = logging.getLogger(__name__)


class GraphRecord(PostProcessor):
    """Keeps settings, data and coverage of a nested graph in the graph, and logs the coverage.

    By the settings and the data a graph file is recognised as outdated: see `differences`.

    Parameters
    ----------
    data_name, hidden_name : str
        Names of the nodes that the encoder joins.
    lam_mask_attr_name : str
        Attribute of the data nodes that is true in the LAM.
    boundary_width_km : float
        Width of the zone around the LAM by which isolated nodes are counted.
    """

    def __init__(
        self,
        data_name: str = "data",
        hidden_name: str = "hidden",
        lam_mask_attr_name: str = "cutout_mask",
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
        names = (self.data_name, self.hidden_name, self.lam_mask_attr_name)
        config = kwargs["graph_config"]
        record: dict[str, Any] = {
            "settings": settings(config),
            "data": data_digest(graph, self.data_name),
            "lam_shape": lam_shape(config["nodes"][self.data_name]["node_builder"].get("dataset")),
        }
        setattr(graph, RECORD, record)
        try:
            record["coverage"] = describe(graph, self.boundary_width_km, *names)
        except HouseError as mistake:
            raise CommandError(str(mistake)) from None
        LOGGER.info("The graph:\n%s", as_text(record["coverage"]))
        return graph


def settings(graph_config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide about a graph, defaults spelled out, without the dataset.

    The dataset is compared by its coordinates instead: moved elsewhere it still gives the same graph.
    """
    config = json.loads(json.dumps(_plain(graph_config)))
    with suppress(ValidationError):  # a builder without a schema: settings are compared as they are written
        config = BaseGraphSchema(**config).model_dump(by_alias=True)
    parts = json.loads(json.dumps({key: config.get(key) for key in ("nodes", "edges", "post_processors")}))
    for node in (parts["nodes"] or {}).values():
        node["node_builder"].pop("dataset", None)
    return parts


def data_digest(graph: HeteroData, data_name: str = "data") -> str:
    """Digest of the coordinates of a graph's data nodes, to be compared with `coordinates_digest` of a dataset."""
    return coordinates_digest(*np.rad2deg(graph[data_name].x.cpu().numpy()).T)


def coordinates_digest(latitudes: np.ndarray, longitudes: np.ndarray) -> str:
    """Digest of the coordinates in degrees, of shape (n,), to a ten-thousandth of a degree."""
    rounded = np.round(np.stack([latitudes, longitudes % 360]) * 1e4).astype(np.int64) % 3_600_000
    return hashlib.sha256(rounded.tobytes()).hexdigest()


def lam_shape(dataset: Any) -> list[int] | None:
    """Rows and columns of the trimmed LAM of a cutout; None for another dataset, or a LAM without a 2-D grid."""
    from anemoi.datasets import open_dataset

    while isinstance(dataset, Mapping) and "cutout" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    if not isinstance(dataset, Mapping) or "cutout" not in dataset:
        return None
    shape = open_dataset(dataset["cutout"][0]).field_shape
    return [int(length) for length in shape] if len(shape) == 2 else None


def differences(record: Mapping[str, Any], settings: Mapping[str, Any], data: str) -> list[str]:
    """What a graph's record and what is asked for now do not agree in, as `key: was -> is`."""
    then, now = dict(_flat(record["settings"])), dict(_flat(settings))
    found = [
        f"{key}: {then.get(key, 'not set')} -> {now.get(key, 'not set')}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]
    if record["data"] != data:
        found.append("the coordinates of the data")
    return found


def _plain(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {str(key): _plain(value) for key, value in config.items()}
    if isinstance(config, str) or not hasattr(config, "__iter__"):
        return config if isinstance(config, str | int | float | bool | type(None)) else str(config)
    return [_plain(value) for value in config]


def _flat(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(config, list):
        config = dict(enumerate(config))
    if not isinstance(config, Mapping):
        return [(prefix, config)]
    return [leaf for key, value in config.items() for leaf in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
