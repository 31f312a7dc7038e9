"""Checks of a nested experiment before anything is built: its two datasets, its trim, its graph file."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from anemoi_house.boundary.trim import check_domain, parse_trim, width_to_cells
from anemoi_house.errors import HouseError

LOGGER = logging.getLogger(__name__)

LAM, GLOBAL = "system.input.dataset.lam", "system.input.dataset.global"
TRIM = "dataloader.trim"

BYTES_PER_DATA_NODE = 256
"""Room for a graph file: 150 to 210 bytes a data node on the published grids."""


def checked_cutout(cutout: DictConfig, config: DictConfig) -> dict[str, Any]:
    """Cutout for `open_dataset`, with the trim in cells.

    Parameters
    ----------
    cutout : DictConfig
        As in `dataloader.nested`: the LAM, with a `trim_edge` as users write it, then the global dataset.
    config : DictConfig
        The whole config: which variables are used, where the graph file goes.

    Raises
    ------
    HouseError
        With a message for the user, where a part is missing, unreadable, in the wrong place, lacks a
        variable, disagrees with the other, or cannot be trimmed so; and where the graph file cannot be
        written, or is outdated and must not be overwritten.
    """
    parts, used = (OmegaConf.to_container(part, resolve=True) for part in (cutout, config.data.datasets.data))
    checked = json.loads(_checked_cutout(json.dumps(parts, default=str), json.dumps(used)))
    _check_graph_file(config, checked)
    return checked


def graph_to_build(config: DictConfig) -> bool:
    """Whether the graph file is missing, cut short, or made from other settings or other data."""
    path = _graph_path(config)
    if path is None or not path.exists():
        return True
    cutout = checked_cutout(config.dataloader.nested, _without_overwrite(config))
    outdated = _outdated(path, _graph_settings(config), json.dumps(cutout))
    if outdated:
        LOGGER.warning("The graph file %s is built anew: %s", path, outdated)
    return bool(outdated)


@cache
def _checked_cutout(cutout_json: str, used_json: str) -> str:
    """Cached, since a config refers to its dataset several times."""
    cutout, used = json.loads(cutout_json), json.loads(used_json)
    lam_part, global_part = cutout["cutout"]
    trim = parse_trim(lam_part.pop("trim_edge", None), TRIM)
    lam, globe = _opened(lam_part, LAM), _opened(global_part, GLOBAL)
    for part in (lam_part, global_part):  # absolute, for the checkpoint keeps them and is used from other folders
        if isinstance(part["dataset"], str) and Path(part["dataset"]).exists():
            part["dataset"] = str(Path(part["dataset"]).absolute())

    if _covers_globe(lam) or not _covers_globe(globe):
        raise HouseError(
            f"{LAM} must be the limited-area dataset and {GLOBAL} the global one, but {lam_part['dataset']} spans "
            f"{_span(lam)} and {global_part['dataset']} spans {_span(globe)}. Swap the two paths."
        )
    for dataset, part, key in ((lam, lam_part, LAM), (globe, global_part, GLOBAL)):
        named = {name for use in ("forcing", "diagnostic") for name in used.get(use) or ()}
        if lacking := sorted(named - set(dataset.variables)):
            raise HouseError(
                f"{key}: {part['dataset']} lacks the variable {', '.join(lacking)}, which data.datasets.data names. "
                "Build it with that variable, or take the name out of the config."
            )
    if differing := sorted(set(lam.variables) ^ set(globe.variables)):
        raise HouseError(
            f"the two datasets differ in variables: {', '.join(differing)} stands in one of {lam_part['dataset']} "
            f"({len(lam.variables)} variables) and {global_part['dataset']} ({len(globe.variables)}) alone. Build them "
            "alike, or give the richer one a `drop:` in dataloader.nested."
        )
    if list(lam.variables) != list(globe.variables):
        raise HouseError(
            f"the two datasets have the same variables in another order, {lam_part['dataset']} and "
            f"{global_part['dataset']}. Build them alike, or give both `reorder: sort` in dataloader.nested."
        )
    if _dates(lam) != _dates(globe):
        raise HouseError(
            f"the two datasets differ in dates: {lam_part['dataset']} has {_dates(lam)}, {global_part['dataset']} has "
            f"{_dates(globe)}. Build them alike, or give the longer one `start:` and `end:` in dataloader.nested."
        )
    if trim is not None:
        if len(lam.field_shape) != 2:
            raise HouseError(
                f"{TRIM}: {lam_part['dataset']} has no two-dimensional grid (its field_shape is "
                f"{tuple(lam.field_shape)}), so that it has no edge to trim. Build it from fields that keep their "
                "2-D shape, or set dataloader.trim=null."
            )
        if isinstance(trim, float):
            trim = width_to_cells(trim, lam.latitudes.reshape(lam.field_shape), lam.longitudes.reshape(lam.field_shape))
        check_domain(trim, lam.field_shape, TRIM)
        lam_part["trim_edge"] = list(trim)
    return json.dumps(cutout)


def _opened(part: dict[str, Any], key: str) -> Any:
    from anemoi.datasets import open_dataset

    path = str(part["dataset"])
    local = isinstance(part["dataset"], str) and "://" not in path and (os.sep in path or path.endswith(".zarr"))
    if local and not Path(path).exists():
        raise HouseError(f"{key}: {path} does not exist. Correct the path, or build the dataset first.")
    try:
        dataset = open_dataset(**part)
        latitudes, longitudes = dataset.latitudes, dataset.longitudes
    except Exception as error:  # zarr, fsspec and anemoi-datasets raise whatever they come across
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HouseError(f"{key}: {path} is no anemoi dataset that can be opened ({reason}).") from error
    if broken := int((~np.isfinite(latitudes) | ~np.isfinite(longitudes)).sum()):
        raise HouseError(
            f"{key}: {broken} of the {len(latitudes)} points of {path} have coordinates that are not finite. "
            "Build the dataset anew from fields with a proper grid."
        )
    return dataset


def _covers_globe(dataset: Any) -> bool:
    return bool(np.ptp(dataset.latitudes) > 150)


def _span(dataset: Any) -> str:
    return f"latitudes {dataset.latitudes.min():.1f} to {dataset.latitudes.max():.1f}"


def _dates(dataset: Any) -> str:
    dates = dataset.dates
    return f"{len(dates)} from {str(dates[0])[:13]} to {str(dates[-1])[:13]}"


def _graph_path(config: DictConfig) -> Path | None:
    path = config.system.input.graph
    return Path(path) if path else None


def _check_graph_file(config: DictConfig, cutout: dict[str, Any]) -> None:
    """Refuse a folder that cannot take the graph, and a graph file that is outdated but may not be overwritten."""
    path = _graph_path(config)
    if path is None:
        return
    # An interpolation is our own resolver, which rebuilds what is outdated.
    overwrite = OmegaConf.is_interpolation(config.graph, "overwrite") or bool(config.graph.overwrite)
    if path.exists() and not overwrite:
        if outdated := _outdated(path, _graph_settings(config), json.dumps(cutout)):
            raise HouseError(
                f"system.input.graph: {path} does not fit, and graph.overwrite=False: {outdated}. Name another file, "
                "or leave out graph.overwrite (and graph=existing), so that what is outdated is built anew."
            )
        return
    _check_room(path, json.dumps(cutout))


@cache
def _check_room(path: Path, cutout_json: str) -> None:
    needed = BYTES_PER_DATA_NODE * _coordinates(cutout_json)[0].size
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise HouseError(
            f"system.input.graph: {path.parent} cannot be written ({error.strerror}). Set "
            "system.output.root (or HOUSE_OUTPUT) to a folder of yours."
        ) from None
    if free < needed:
        raise HouseError(
            f"system.input.graph: {path.parent} has {free / 1e6:.0f} MB left, and the graph needs up to "
            f"{math.ceil(needed / 1e6)} MB. Make room, or set system.output.root (or HOUSE_OUTPUT) to another disk."
        )


def _outdated(path: Path, settings_json: str, cutout_json: str) -> str:
    """Why a graph file does not fit, or nothing where it does."""
    from anemoi_house.graphs.describe import RECORD, load_graph
    from anemoi_house.graphs.record import coordinates_digest, data_digest, differences

    try:
        graph = load_graph(path)
    except HouseError as mistake:
        return str(mistake)
    settings, data = json.loads(settings_json), coordinates_digest(*_coordinates(cutout_json))
    if not settings["nodes"]:  # stock `graph: existing`: any graph of these data will do
        return "" if data_digest(graph) == data else "its data nodes are not those of the dataset"
    record = getattr(graph, RECORD, None)
    if not record:
        return "it does not say what it was built from"
    found = differences(record, settings, data)
    return f"it was built from other settings ({'; '.join(found)})" if found else ""


@cache
def _coordinates(cutout_json: str) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes, in degrees, of the data nodes, as single precision has them in the graph."""
    from anemoi.datasets import open_dataset

    dataset = open_dataset(**json.loads(cutout_json))
    radians = (np.deg2rad(part).astype(np.float32) for part in (dataset.latitudes, dataset.longitudes))
    latitudes, longitudes = (np.rad2deg(part) for part in radians)
    return latitudes, longitudes


def _graph_settings(config: DictConfig) -> str:
    """Settings of the graph as JSON, without resolving its dataset, which may be what is being resolved."""
    from anemoi_house.graphs.record import settings

    root = _without_overwrite(config)
    root.dataloader.dataset = None
    return json.dumps(settings(OmegaConf.to_container(root.graph, resolve=True)))  # type: ignore[arg-type]


def _without_overwrite(config: DictConfig) -> DictConfig:
    """Copy of the config in which asking for the graph does not ask for this check again."""
    copy = DictConfig(OmegaConf.to_container(config, resolve=False))
    copy.graph.overwrite = True
    return copy
