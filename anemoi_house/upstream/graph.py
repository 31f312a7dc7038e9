"""The graph of a config: its settings, its dataset, and building it as the stock trainer does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from anemoi_house.errors import HouseError
from anemoi_house.upstream import keys
from anemoi_house.upstream.keys import DATA, HIDDEN

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData
    from torch_geometric.data.storage import NodeStorage

LAM_MASK = "cutout_mask"
"""Attribute of the data nodes that is true in the LAM, by its stock name."""


def coordinates_of(nodes: NodeStorage) -> tuple[np.ndarray, np.ndarray]:
    """Return the latitudes and longitudes of nodes of a graph, in degrees and double precision, of shape (n,)."""
    latitudes, longitudes = np.rad2deg(nodes.x.cpu().numpy().astype(np.float64)).T
    return latitudes, longitudes


def mask_of(nodes: NodeStorage, name: str) -> np.ndarray:
    """Return an attribute of nodes of a graph as a mask, of shape (n,)."""
    return nodes[name].squeeze().bool().cpu().numpy()


def graph_settings(graph_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that determine a graph, with defaults filled in and without the dataset.

    The dataset is compared by its coordinates instead: moved elsewhere, it still gives the same graph.
    """
    from anemoi.graphs.schemas.base_graph import BaseGraphSchema
    from pydantic import ValidationError

    config = json.loads(json.dumps(graph_config, default=_plain))
    with suppress(ValidationError):  # a builder without a schema: settings are compared as written
        config = BaseGraphSchema(**config).model_dump(by_alias=True)
    parts = json.loads(json.dumps({key: config.get(key) for key in ("nodes", "edges", "post_processors")}))
    for node in (parts["nodes"] or {}).values():
        node["node_builder"].pop("dataset", None)
    return parts


def dataset_in(graph_config: Mapping[str, Any], data_name: str = DATA) -> Any:
    """Return the dataset of the data nodes of a graph config, as its node builder gets it."""
    return graph_config["nodes"][data_name]["node_builder"].get("dataset")


def graph_dataset(config: DictConfig) -> dict[str, Any]:
    """Return the dataset of the data nodes as arguments of `open_dataset`, as `AnemoiTrainer.graph_data` sets it.

    Raises
    ------
    HouseError
        If the config has several datasets.
    """
    from anemoi.models.utils.config import get_multiple_datasets_config
    from anemoi.training.schemas.dataloader import DatasetConfigSchema

    datasets: Any = get_multiple_datasets_config(keys.get(config, keys.TRAINING))
    if list(datasets) != [DATA]:
        raise HouseError(f"{keys.TRAINING}.datasets: must be the one dataset '{DATA}', not {', '.join(datasets)}.")
    reader = keys.plain(datasets, f"{DATA}.dataset_config")
    if not isinstance(reader, dict):
        return {"dataset": reader}
    left_out = set(DatasetConfigSchema.model_fields) - {"dataset"}
    return {key: value for key, value in reader.items() if key not in left_out and value is not None}


def bare_graph(nodes: dict[str, Any], dataset: dict[str, Any]) -> tuple[HeteroData, str]:
    """Build the nodes of a graph without edges and area weights, and return them with the name of the LAM's mask.

    Area weights take minutes on large grids, and do not influence which edges are made.

    Parameters
    ----------
    nodes : dict
        `graph.nodes` of a config, resolved.
    dataset : dict
        From `graph_dataset`.

    Raises
    ------
    HouseError
        If data or hidden nodes are missing, or cannot be built.
    """
    from anemoi.graphs.create import GraphCreator
    from anemoi.utils.config import DotDict
    from hydra.errors import HydraException
    from torch_geometric.data import HeteroData

    if missing := [name for name in (DATA, HIDDEN) if name not in nodes]:
        raise HouseError(f"{keys.GRAPH_NODES}: has no nodes '{missing[0]}', only {', '.join(nodes)}.")
    nodes[DATA]["node_builder"]["dataset"] = dataset
    mask = nodes[HIDDEN]["node_builder"].get("mask_attr_name", LAM_MASK)
    for node in nodes.values():
        attributes = node.get("attributes") or {}
        node["attributes"] = {mask: attributes[mask]} if mask in attributes else {}
    try:
        return GraphCreator(DotDict({"nodes": nodes, "edges": []})).update_graph(HeteroData()), mask
    except HydraException as error:
        raise HouseError(f"{keys.GRAPH_NODES}: the nodes cannot be built: {error}") from None


def built_graph(config: DictConfig) -> HeteroData:
    """Build the graph of a validated config and write its file, by the stock trainer's own code."""
    from anemoi.training.train.train import AnemoiTrainer

    kind: Any = AnemoiTrainer
    trainer = kind.__new__(kind)  # initialising it would start a run
    trainer.config = config
    return trainer.graph_data


def encoder_builder(edges: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings of the encoder's edge builder that picks nearest neighbours.

    Parameters
    ----------
    edges : list of dict
        `graph.edges` of a config, resolved.

    Raises
    ------
    HouseError
        If there is none.
    """
    of_encoder = (each for each in edges if (each["source_name"], each["target_name"]) == (DATA, HIDDEN))
    for builder in chain.from_iterable(each["edge_builders"] for each in of_encoder):
        if "num_nearest_neighbours" in builder:
            return builder
    raise HouseError(
        f"{keys.GRAPH_EDGES}: has no edges from '{DATA}' to '{HIDDEN}' with num_nearest_neighbours, so there is no "
        "number of neighbours to choose."
    )


def _plain(value: Any) -> Any:
    """Return what `json.dumps` writes for a value that it does not know, such as a config of OmegaConf's."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if hasattr(value, "__iter__") else str(value)
