"""Names of metrics: those of anemoi-training, and those under which they are recorded."""

from __future__ import annotations

import functools
import re

_NAMES = (
    (re.compile(r"train_multi_dataset_loss(_step)?"), "train/loss"),
    (re.compile(r"train_multi_dataset_loss_epoch"), "train/loss_epoch"),
    (re.compile(r"val_multi_dataset_loss_step"), "val/loss_step"),
    (re.compile(r"val_multi_dataset_loss(_epoch)?"), "val/loss"),
    (re.compile(r"val_data_(\w+)_metric/data/([^/]+)/(\d+)(_epoch)?"), "val/{}/{}.step{}"),
    (re.compile(r"val_data_(\w+)_metric/data/([^/]+?)(_epoch)?"), "val/{}/{}"),
    (re.compile(r"lr-AdamW"), "learning_rate"),
)
"""Names in a training on one dataset called `data`, optimised by AdamW, as the published experiments are."""


@functools.cache
def metric_name(name: str) -> str:
    """Return the name under which a metric of anemoi-training is recorded.

    Dashboards group names by their part before the last slash: `train/loss`, `val/loss`,
    `val/mse_inner_ring/t_850.step1` (the number counts the steps ahead). Other names are kept.
    """
    name = str(name)
    for pattern, replacement in _NAMES:
        if found := pattern.fullmatch(name):
            return replacement.format(*found.groups())
    return name
