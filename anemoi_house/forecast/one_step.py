"""States that a trained model predicts one step ahead, on the validation or test dates of its run."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anemoi_house.errors import HouseError
from anemoi_house.runs.trained import Run
from anemoi_house.upstream import keys


class State(NamedTuple):
    """The model's prediction for a date, the analysis, and the last state before it, each (variables, nodes)."""

    predicted: NDArray[np.float32]
    truth: NDArray[np.float32]
    last: NDArray[np.float32]


class OneStep:
    """A trained model with its data.

    Parameters
    ----------
    run : Run
    variables : sequence of str
        Prognostic variables.
    stage : str
        `keys.VALIDATION` or `keys.TEST`.

    Raises
    ------
    HouseError
        If the model does not predict one of the variables, or the data cannot be opened.
    """

    def __init__(self, run: Run, variables: tuple[str, ...], stage: str = keys.VALIDATION) -> None:
        from anemoi.datasets import open_dataset

        self._run, self._variables = run, variables
        names = run.inference["data_indices"]
        if unknown := sorted(set(variables) - names["output"].keys() & names["input"].keys()):
            raise HouseError(f"{', '.join(unknown)}: not a prognostic variable of {run.checkpoint}.")
        config = run.dates_of(stage)
        try:
            self._data = open_dataset(run.dataset_of(stage)["dataset"], start=config["start"], end=config["end"])
        except (OSError, ValueError) as error:
            raise HouseError(
                f"the {stage.rpartition('.')[2]} data of {run.checkpoint} cannot be opened ({error})."
            ) from None
        self._inputs = sorted(names["input"], key=names["input"].get)
        self._outputs = [names["output"][name] for name in variables]

    @property
    def latitudes(self) -> NDArray[np.float64]:
        """Degrees, of shape (nodes,)."""
        return np.asarray(self._data.latitudes)

    @property
    def in_lam(self) -> NDArray[np.bool_]:
        """Nodes of the LAM, of shape (nodes,)."""
        return np.arange(self._data.shape[-1]) < np.asarray(self._data.grids)[0]

    @property
    def dates(self) -> range:
        """Indices of the dates that have enough states before them."""
        return range(self._run.input_steps, len(self._data))

    @cached_property
    def model(self) -> Any:
        """The model, on the CPU."""
        import torch

        return torch.load(self._run.checkpoint, map_location="cpu", weights_only=False).eval()

    def state(self, date: int) -> State:
        """Predict one of the `dates`."""
        import torch

        data, steps, name = self._data, self._run.input_steps, self._run.dataset_name
        inputs, columns = ([data.name_to_index[name] for name in names] for names in (self._inputs, self._variables))
        before = np.stack([data[date - steps + step] for step in range(steps)])[:, :, 0]  # (step, variable, node)
        batch = torch.from_numpy(before[:, inputs].transpose(0, 2, 1)[None])
        with torch.inference_mode():
            predicted = self.model.predict_step({name: batch})[name].numpy()
        predicted = predicted.reshape(-1, predicted.shape[-1])[:, self._outputs].T
        return State(predicted, data[date][columns, 0], before[-1, columns])
