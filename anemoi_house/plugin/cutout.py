"""The cutout of a nested experiment, checked before anything is built: its two datasets, its trim, its graph file."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anemoi_house.boundary.trim import parse_trim
from anemoi_house.plugin.checks import CHECKS, Part, trim_in_cells
from anemoi_house.plugin.graph_file import check_graph_file, graph_path, outdated, without_overwrite
from anemoi_house.upstream import keys

LOGGER = logging.getLogger(__name__)


def checked_cutout(cutout: DictConfig, config: DictConfig) -> dict[str, Any]:
    """Return the arguments of `open_dataset` for a cutout, with the trim in cells.

    Parameters
    ----------
    cutout : DictConfig
        As in `dataloader.nested`: the LAM, with a `trim_edge` as users write it, then the global dataset.
    config : DictConfig
        The whole config: for the variables used, and the graph file.

    Raises
    ------
    HouseError
        If a dataset fails one of the checks, the trim is invalid, or the graph file cannot be written, or is outdated
        and must not be overwritten.
    """
    parts, used = OmegaConf.to_container(cutout, resolve=True), keys.plain(config, keys.VARIABLES)
    checked = json.loads(_checked(json.dumps(parts, default=str), json.dumps(used)))
    check_graph_file(config, checked)
    return checked


def graph_to_build(config: DictConfig) -> bool:
    """Return True if the graph file is missing, cut short, or was made from other settings or other data."""
    path = graph_path(config)
    if path is None or not path.exists():
        return True
    cutout = checked_cutout(keys.get(config, keys.NESTED), without_overwrite(config))
    if reason := outdated(path, config, cutout):
        LOGGER.warning("The graph file %s is rebuilt: %s", path, reason)
    return bool(reason)


@cache
def _checked(cutout_json: str, used_json: str) -> str:
    """Check and complete a cutout, once: a config refers to its dataset several times."""
    cutout = json.loads(cutout_json)
    lam_settings, global_settings = cutout["cutout"]
    trim = parse_trim(lam_settings.pop("trim_edge", None), keys.TRIM)
    lam, globe = Part.opened(keys.LAM, lam_settings), Part.opened(keys.GLOBAL, global_settings)
    for check in CHECKS:
        check(lam, globe, json.loads(used_json))
    for settings in (lam_settings, global_settings):  # checkpoints keep the paths, and are used from other folders
        if isinstance(settings["dataset"], str) and Path(settings["dataset"]).exists():
            settings["dataset"] = str(Path(settings["dataset"]).absolute())
    if trim is not None:
        lam_settings["trim_edge"] = trim_in_cells(trim, lam)
    return json.dumps(cutout)
