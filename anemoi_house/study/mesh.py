"""Does a model use its mesh? Its error with the mesh state of another date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anemoi_house.forecast.one_step import OneStep
from anemoi_house.runs.trained import find_run
from anemoi_house.study.plan import VARIABLES
from anemoi_house.upstream import keys

OTHER_DATE = 7
"""Dates between the two states: 42 h, so that the hour of the day differs too."""


def mesh_use(run: Path, dates: int = 12) -> dict[str, dict[str, float]]:
    """Return root-mean-square errors in the LAM one step ahead, over some test dates.

    The state of the hidden nodes after the processor is all that the decoder knows of other data nodes. If that state
    is from another date, a node sees only its own value of the right one.

    Returns
    -------
    dict of str to dict
        For each variable, the error of the `model`, of the model with `another_mesh`, and of `persistence`.
    """
    model = OneStep(find_run(run), VARIABLES, keys.TEST)
    kept: dict[str, Any] = {}
    model.model.model.processor.register_forward_hook(lambda module, given, state: kept.setdefault("state", state))
    squares = []
    for date in np.linspace(model.dates[0], model.dates[-1] - OTHER_DATE, dates).astype(int).tolist():
        states = []
        for mesh_date in (date, date + OTHER_DATE):
            kept.clear()
            model.state(mesh_date)  # keeps the mesh state of that date
            states.append(model.state(date))
        right, other = states
        errors = np.stack([right.predicted, other.predicted, right.last]) - right.truth
        squares.append(np.mean(errors[..., model.in_lam] ** 2, axis=-1))
    roots = np.sqrt(np.mean(squares, axis=0))
    return {
        name: dict(zip(("model", "another_mesh", "persistence"), roots[:, row].tolist()))
        for row, name in enumerate(VARIABLES)
    }
