"""Whether a trained model has learned anything: its errors one step ahead, beside those of persistence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anemoi_house.errors import HouseError
from anemoi_house.runs.trained import Run

VARIABLES = ("gh_500", "t_850", "u_850", "v_850")
"""What the published experiments are judged by in validation."""

REGIONS = ("lam", "outside")


@dataclass(frozen=True)
class Skill:
    """Root-mean-square errors of one variable in one region, in the variable's units.

    Attributes
    ----------
    variable : str
    region : str
        `lam` or `outside`.
    model, persistence : float
        Errors of the model one step ahead, and of taking the last state for the next one.
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
    """Errors one step ahead on all validation dates of the run.

    Every node inside the LAM counts alike, those outside by the cosine of their latitude.

    Raises
    ------
    HouseError
        Where the model does not predict one of the variables, or the validation data are gone.
    """
    import torch
    from anemoi.datasets import open_dataset

    names = run.metadata["metadata_inference"]["data"]["data_indices"]
    if unknown := sorted(set(variables) - names["output"].keys() & names["input"].keys()):
        raise HouseError(f"{', '.join(unknown)}: no prognostic variable of {run.checkpoint}.")
    validation = run.metadata["config"]["dataloader"]["validation"]["datasets"]["data"]
    try:
        data = open_dataset(validation["dataset_config"]["dataset"], start=validation["start"], end=validation["end"])
    except (OSError, ValueError) as error:
        raise HouseError(f"the validation data of {run.checkpoint} cannot be opened ({error}).") from None

    model = torch.load(run.checkpoint, map_location="cpu", weights_only=False).eval()
    inputs = [data.name_to_index[name] for name in sorted(names["input"], key=names["input"].get)]
    outputs = [names["output"][name] for name in variables]
    columns = [data.name_to_index[name] for name in variables]
    steps = run.metadata["config"]["task"]["multistep_input"]
    in_lam = np.arange(data.shape[-1]) < np.asarray(data.grids)[0]
    weights = {"lam": in_lam.astype(float), "outside": np.where(in_lam, 0, np.cos(np.deg2rad(data.latitudes)))}

    squares: dict[tuple[str, str, str], list[float]] = {}
    for date in range(steps, len(data)):
        states = np.stack([data[date - steps + step] for step in range(steps)])[:, :, 0]  # (step, variable, node)
        batch = torch.from_numpy(states[:, inputs].transpose(0, 2, 1)[None])
        with torch.inference_mode():
            predicted = model.predict_step({"data": batch})["data"].numpy()
        predicted = predicted.reshape(-1, predicted.shape[-1])[:, outputs].T
        truth, last = data[date][columns, 0], states[-1, columns]
        for name, guess in (("model", predicted), ("persistence", last)):
            for region in REGIONS:
                means = np.average((guess - truth) ** 2, axis=-1, weights=weights[region])
                for variable, mean in zip(variables, means):
                    squares.setdefault((variable, region, name), []).append(float(mean))
    return [
        Skill(
            variable,
            region,
            *(float(np.sqrt(np.mean(squares[variable, region, name]))) for name in ("model", "persistence")),
        )
        for variable in variables
        for region in REGIONS
    ]


def losses(run: Run) -> list[tuple[int, float, float]]:
    """Losses of the run by epoch, as (step, training loss, validation loss); empty where it was not tracked."""
    if not run.spool.records_path.is_file():
        return []
    history = run.spool.metrics("train/loss_epoch", "val/loss")
    train, validation = ({step: value for value, _, step in rows} for rows in history.values())
    return [(step, train[step], validation[step]) for step in sorted(train.keys() & validation.keys())]


def as_text(run: Run, errors: list[Skill], history: list[tuple[int, float, float]]) -> str:
    """Losses and errors for a person, within 80 columns."""
    lines = [f"run {run.run_id}"]
    if history:
        lines += ["", f"{'step':>8}{'training loss':>16}{'validation loss':>18}"]
        lines += [f"{step + 1:>8}{train:>16.4f}{validation:>18.4f}" for step, train, validation in history]
    lines += ["", "root-mean-square error 6 h ahead, on the validation dates"]
    lines += [f"{'variable':<10}{'region':<10}{'model':>12}{'persistence':>14}{'ratio':>9}"]
    for entry in errors:
        verdict = "better" if entry.ratio < 1 else "worse"
        lines.append(
            f"{entry.variable:<10}{entry.region:<10}{entry.model:>12.4g}{entry.persistence:>14.4g}"
            f"{entry.ratio:>9.2f}  {verdict}"
        )
    return "\n".join(lines)
