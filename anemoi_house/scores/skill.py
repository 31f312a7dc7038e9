"""Skill of a trained model: its errors one step ahead next to those of persistence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anemoi_house.forecast.one_step import OneStep
from anemoi_house.runs.trained import Run
from anemoi_house.scores.runs import VARIABLES


@dataclass(frozen=True)
class Skill:
    """Root-mean-square errors of one variable in one region, in the variable's units.

    Attributes
    ----------
    variable : str
    region : str
        `lam`, the whole LAM, or `outside`.
    model, persistence : float
        Errors of the model one step ahead, and of the last state taken for the next one.
    """

    variable: str
    region: str
    model: float
    persistence: float

    @property
    def ratio(self) -> float:
        """Model over persistence: below 1 where the model is better."""
        return self.model / self.persistence


def skill(run: Run, variables: tuple[str, ...] = VARIABLES) -> list[Skill]:
    """Compute errors one step ahead over all validation dates of a run.

    Nodes in the LAM have equal weights, those outside the cosine of their latitude.

    Raises
    ------
    HouseError
        If the model does not predict one of the variables, or the validation data cannot be opened.
    """
    model = OneStep(run, variables)
    cosine = np.cos(np.deg2rad(model.latitudes))
    weights = {"lam": model.in_lam.astype(float), "outside": np.where(model.in_lam, 0, cosine)}
    squares: dict[str, list[np.ndarray]] = {region: [] for region in weights}
    for state in map(model.state, model.dates):
        errors = np.stack([state.predicted, state.last]) - state.truth
        for region, each in weights.items():
            squares[region].append(np.average(errors**2, axis=-1, weights=each))
    rms = {region: np.sqrt(np.mean(each, axis=0)) for region, each in squares.items()}
    return [
        Skill(variable, region, *map(float, each[:, number]))
        for number, variable in enumerate(variables)
        for region, each in rms.items()
    ]


def losses(run: Run) -> list[tuple[int, float, float]]:
    """Return the losses of a run by epoch, as (step, training loss, validation loss); none if it was not tracked."""
    if not run.spool.records_path.is_file():
        return []
    history = run.spool.metrics("train/loss_epoch", "val/loss")
    train, validation = ({step: value for value, _, step in rows} for rows in history.values())
    return [(step, train[step], validation[step]) for step in sorted(train.keys() & validation.keys())]


def as_text(run: Run, errors: list[Skill], history: list[tuple[int, float, float]]) -> str:
    """Return losses and errors as text of at most 80 columns."""
    lines = [f"run {run.run_id}"]
    if history:
        lines += ["", f"{'step':>8}{'training loss':>16}{'validation loss':>18}"]
        lines += [f"{step + 1:>8}{train:>16.4f}{validation:>18.4f}" for step, train, validation in history]
    lines += ["", "root-mean-square error 6 h ahead, on the validation dates"]
    lines += [f"{'variable':<10}{'region':<10}{'model':>12}{'persistence':>14}{'ratio':>9}"]
    lines += [
        f"{entry.variable:<10}{entry.region:<10}{entry.model:>12.4g}{entry.persistence:>14.4g}{entry.ratio:>9.2f}  "
        + ("better" if entry.ratio < 1 else "worse")
        for entry in errors
    ]
    return "\n".join(lines)
