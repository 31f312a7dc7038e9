"""Periods of a training, and the variables that it logs, against its data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from omegaconf import DictConfig

from anemoi_house.errors import HouseError, first_line
from anemoi_house.plugin.cutout import checked_cutout
from anemoi_house.upstream import keys

LOGGER = logging.getLogger(__name__)

STAGES = {"training": keys.TRAINING, "validation": keys.VALIDATION}


def check_use_of_data(config: DictConfig) -> None:
    """Check the periods of a nested training, and the names of variables to log and to plot, against its datasets.

    Parameters
    ----------
    config : DictConfig
        The whole config.

    Raises
    ------
    HouseError
        If a period is invalid, lies outside the data or is too short for one sample, or if a name is not an output.
    """
    if keys.get(config, keys.NESTED) is None:
        return
    from anemoi.datasets import open_dataset

    parts = checked_cutout(keys.get(config, keys.NESTED), config)["cutout"]
    datasets = [open_dataset(**{key: value for key, value in part.items() if key != "trim_edge"}) for part in parts]
    training, validation = (_dates_of(stage, config, datasets) for stage in STAGES)
    if len(shared := np.intersect1d(training, validation)):
        LOGGER.warning(
            "%s and %s share %d dates, from %s to %s: the validation loss is not one of new dates.",
            *(*STAGES.values(), len(shared), str(shared[0])[:13], str(shared[-1])[:13]),
        )
    _check_names(config, datasets[0].variables)


def _dates_of(stage: str, config: DictConfig, datasets: Sequence[Any]) -> np.ndarray:
    """Return the dates of a stage, after its checks."""
    from anemoi.datasets import open_dataset
    from anemoi.training.data.usable_indices import get_usable_indices
    from hydra.utils import instantiate

    key = keys.dates_of(STAGES[stage])
    start, end = (keys.get(config, f"{key}.{name}") for name in ("start", "end"))
    frequency = keys.get(config, f"{key}.dataset_config.frequency")
    there = datasets[0].dates
    first, last = _moment(f"{key}.start", start, there, "first"), _moment(f"{key}.end", end, there, "last")
    inside = int(((there >= first) & (there <= last)).sum())
    found = f"{inside} of the {len(there)} dates of the data, from {str(there[0])[:13]} to {str(there[-1])[:13]},"
    period = f"the period from {start or 'their start'} to {end or 'their end'}"
    if inside < 2:
        raise HouseError(f"{key}: {found} are in {period}. Set `start` and `end` to a period within the data.")
    thinned = {} if frequency is None else {"frequency": frequency}
    try:
        parts = [open_dataset(each, start=start, end=end, **thinned) for each in datasets]
        step = parts[0].frequency
    except ValueError as error:
        raise HouseError(f"{keys.FREQUENCY}: {frequency} is invalid for {period}: {first_line(error)}") from None
    offsets = instantiate(keys.get(config, keys.TASK)).get_offsets(mode=stage)
    steps = [offset / step for offset in offsets]
    if any(each % 1 for each in steps):
        raise HouseError(
            f"{keys.FREQUENCY}: {frequency} does not suit {keys.TASK}: a sample takes dates "
            f"{', '.join(f'{offset.total_seconds() / 3600:g} h' for offset in offsets)} from the start of a forecast."
        )
    missing = set().union(*(each.missing for each in parts))
    if not len(get_usable_indices(missing, len(parts[0].dates), [int(each) for each in steps])):
        raise HouseError(
            f"{key}: {found} are in {period}, {len(missing)} of them missing. None begins a complete sample, which "
            f"takes {len(steps)} dates in a row. Choose a longer period."
        )
    return np.asarray(parts[0].dates)


def _moment(key: str, value: Any, dates: np.ndarray, side: str) -> np.datetime64:
    """Return the first or last moment of a period as anemoi-datasets reads it, but not moved into the data."""
    from anemoi.datasets.usage.misc import as_first_date, as_last_date

    if value is None:
        return np.datetime64(dates[0 if side == "first" else -1])
    relative = "%" in str(value) or ("-" not in str(value) and ":" in str(value))  # a share, or an hour
    parse = as_first_date if side == "first" else as_last_date
    try:
        return parse(value, dates if relative else dates[:0])
    except (ValueError, AssertionError, NotImplementedError):
        raise HouseError(
            f"{key}: '{value}' is not a date. Give a year, month, day or time: 2020, 2020-01, 2020-01-31 or "
            "2020-01-31T06:00:00."
        ) from None


def _check_names(config: DictConfig, variables: Sequence[str]) -> None:
    """Refuse names of variables to log or plot that are not outputs of the model."""
    outputs = [name for name in variables if name not in (keys.get(config, keys.FORCING) or ())]
    for key in (keys.METRICS_TO_LOG, *([keys.PLOTTED] if keys.get(config, keys.PLOTS) else ())):
        for name in keys.get(config, key) or ():
            if name not in (*outputs, "all"):
                close = get_close_matches(name, outputs, n=1)
                way_out = f"Did you mean {close[0]}?" if close else "Name a variable of the data that is not a forcing."
                raise HouseError(f"{key}: '{name}' is not an output of the model. {way_out}")
