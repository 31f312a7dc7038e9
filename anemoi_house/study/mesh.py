"""Does a model use its mesh? Its error with the mesh state of another date."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

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
    from anemoi.datasets import open_dataset

    found = find_run(run)
    model = torch.load(found.checkpoint, map_location="cpu", weights_only=False).eval()
    names, test = found.inference["data_indices"], found.dates_of(keys.TEST)
    data = open_dataset(found.dataset_of(keys.TEST)["dataset"], start=test["start"], end=test["end"])
    steps = found.input_steps
    inputs = [data.name_to_index[name] for name in sorted(names["input"], key=names["input"].get)]
    columns = [data.name_to_index[name] for name in VARIABLES]
    outputs = [names["output"][name] for name in VARIABLES]
    lam = int(np.asarray(data.grids)[0])
    kept: dict[str, torch.Tensor] = {}
    model.model.processor.register_forward_hook(lambda module, given, state: kept.setdefault("state", state))

    def predicted(date: int) -> np.ndarray:
        states = np.stack([data[date + step] for step in range(steps)])[:, :, 0]
        with torch.inference_mode():
            answer = model.predict_step({"data": torch.from_numpy(states[:, inputs].transpose(0, 2, 1)[None])})
        fields = answer["data"].numpy()
        return fields.reshape(-1, fields.shape[-1])[:lam, outputs].T

    squares = []
    for date in np.linspace(0, len(data) - steps - OTHER_DATE - 1, dates).astype(int):
        truth, last = (data[int(date) + steps - back][columns, 0, :lam] for back in (0, 1))
        guesses = []
        for mesh_date in (date, date + OTHER_DATE):
            kept.clear()
            predicted(int(mesh_date))  # keeps the mesh state of that date
            guesses.append(predicted(int(date)))
        squares.append([np.mean((guess - truth) ** 2, axis=-1) for guess in (*guesses, last)])
    errors = np.sqrt(np.mean(squares, axis=0))
    return {
        name: dict(zip(("model", "another_mesh", "persistence"), errors[:, row].tolist()))
        for row, name in enumerate(VARIABLES)
    }
