"""Variables and dates of the training period: of the dataset, or of the published ones if it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from anemoi_house.upstream import keys
from anemoi_house.upstream.trainer import Dates


@dataclass(frozen=True)
class TrainingData:
    """Variables and dates of the training period.

    Attributes
    ----------
    source : str
        Where they come from, in words.
    variables : sequence of str
        In the dataset's order.
    metadata : dict or None
        The dataset's `variables_metadata`.
    dates : Dates
        Of the period.
    """

    source: str
    variables: Sequence[str]
    metadata: dict[str, Any] | None
    dates: Dates


def training_data(config: DictConfig, missing: str) -> TrainingData:
    """Return the training data of a validated config, in which the dataset `missing` means that it cannot be opened."""
    period = keys.get(config, keys.dates_of(keys.TRAINING))
    start, end = period.get("start"), period.get("end")
    dataset = keys.plain(config, keys.DATASET)
    if dataset == missing:
        return _published(keys.get(config, keys.VARIABLES).forcing, start, end)
    from anemoi.datasets import open_dataset

    opened = open_dataset(dataset, start=start, end=end)
    missing_dates = frozenset(int(index) for index in opened.missing)
    dates = Dates(len(opened.dates), missing_dates, opened.frequency.total_seconds())
    return TrainingData("the dataset", opened.variables, opened.variables_metadata, dates)


def _published(forcing: Sequence[str], start: Any, end: Any) -> TrainingData:
    """Return the training data of the datasets that our recipes make, without opening them."""
    from anemoi.datasets.usage.misc import as_first_date, as_last_date

    from anemoi_house.sample.atmosphere import variable_names
    from anemoi_house.shipped import config_folder

    recipe: Any = OmegaConf.load(config_folder() / "datasets" / "hrrr_15km.yaml").dates
    hours = int(str(recipe.frequency).removesuffix("h"))
    dates = np.arange(np.datetime64(recipe.start), np.datetime64(recipe.end) + 1, np.timedelta64(hours, "h"))
    first = dates[0] if start is None else as_first_date(start, dates)
    last = dates[-1] if end is None else as_last_date(end, dates)
    dates = dates[(dates >= first) & (dates <= last)]
    missing = np.flatnonzero(np.isin(dates, [np.datetime64(date) for date in recipe.missing]))
    source = "the published datasets, in place of those that are missing"
    period = Dates(len(dates), frozenset(missing.tolist()), hours * 3600)
    return TrainingData(source, list(dict.fromkeys([*variable_names(), *forcing])), None, period)
