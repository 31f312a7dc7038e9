"""Checks of the graph file of a nested experiment: that it fits, or that there is room to build it."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError
from anemoi_house.upstream import keys

BYTES_PER_DATA_NODE = 256
"""Room for a graph file: it takes 150 to 210 bytes per data node on the published grids."""


def graph_path(config: DictConfig) -> Path | None:
    """Return the path of the graph file; None if the config names none."""
    path = keys.get(config, keys.GRAPH)
    return Path(path) if path else None


def check_graph_file(config: DictConfig, cutout: dict[str, Any]) -> None:
    """Refuse a folder in which no graph can be written, and an outdated graph file that must not be overwritten."""
    path = graph_path(config)
    if path is None:
        return
    # An interpolation is our own resolver, which has an outdated file rebuilt.
    node, _, leaf = keys.OVERWRITE.rpartition(".")
    overwrite = OmegaConf.is_interpolation(keys.get(config, node), leaf) or keys.get(config, keys.OVERWRITE)
    if overwrite or not path.exists():
        _check_room(path, json.dumps(cutout))
    elif reason := outdated(path, config, cutout):
        raise HouseError(
            f"{keys.GRAPH}: {path} does not fit, and {keys.OVERWRITE}=False: {reason}. Name another file, or remove "
            f"{keys.OVERWRITE} (and graph=existing) so that an outdated file is rebuilt."
        )


@cache
def _check_room(path: Path, cutout_json: str) -> None:
    """Check that a graph can be written; once for each file, since a config refers to its dataset several times."""
    needed = BYTES_PER_DATA_NODE * _coordinates(cutout_json).shape[1]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise HouseError(
            f"{keys.GRAPH}: {path.parent} cannot be written ({error.strerror}). Set {keys.OUTPUT} (or HOUSE_OUTPUT) to "
            "a folder of yours."
        ) from None
    if free < needed:
        raise HouseError(
            f"{keys.GRAPH}: {path.parent} has {free / 1e6:.0f} MB left, but the graph needs up to "
            f"{math.ceil(needed / 1e6)} MB. Free some space, or set {keys.OUTPUT} (or HOUSE_OUTPUT) to another disk."
        )


def outdated(path: Path, config: DictConfig, cutout: dict[str, Any]) -> str:
    """Return why a graph file does not fit the config; an empty string if it fits."""
    from anemoi_house.graphs.describe import RECORD, load_graph
    from anemoi_house.graphs.record import coordinates_digest, data_digest, differences

    try:
        graph = load_graph(path)
    except HouseError:
        return "it is cut short or not a graph file"
    settings, data = _settings(config), coordinates_digest(*_coordinates(json.dumps(cutout)))
    if not settings["nodes"]:  # stock `graph: existing`: any graph of these data is right
        return "" if data_digest(graph) == data else "its data nodes are not those of the dataset"
    record = getattr(graph, RECORD, None)
    if not record:
        return "it has no record of what it was built from"
    found = differences(record, settings, data)
    return f"it was built from other settings ({'; '.join(found)})" if found else ""


@cache
def _coordinates(cutout_json: str) -> np.ndarray:
    """Return latitudes and longitudes of the data nodes in degrees, of shape (2, n), in the precision of the graph."""
    from anemoi.datasets import open_dataset

    dataset = open_dataset(**json.loads(cutout_json))
    return np.rad2deg(np.deg2rad([dataset.latitudes, dataset.longitudes]).astype(np.float32))


def _settings(config: DictConfig) -> dict[str, Any]:
    """Return the settings of the graph without resolving its dataset, which may be what is being resolved."""
    from anemoi_house.upstream.graph import graph_settings

    root = without_overwrite(config)
    OmegaConf.update(root, keys.DATASET, None)
    return graph_settings(keys.plain(root, keys.GRAPH_CONFIG))


def without_overwrite(config: DictConfig) -> DictConfig:
    """Return a copy of a config whose graph can be read without the check whether to overwrite it."""
    copy = DictConfig(OmegaConf.to_container(config, resolve=False))
    OmegaConf.update(copy, keys.OVERWRITE, True)
    return copy
