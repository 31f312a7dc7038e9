"""Effective values of a training: what the stock classes make of its config.

The config is composed and checked by the stock schemas. Task, schedule and scalers are the stock ones, created from it
as the trainer creates them. Nothing is written. The dataset is opened, if it exists, for its variables and dates;
otherwise those of the published datasets are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError, first_line
from anemoi_house.explain.data import training_data
from anemoi_house.plugin.periods import check_use_of_data
from anemoi_house.runs.start import source_of
from anemoi_house.upstream import keys
from anemoi_house.upstream.compose import composed, validated
from anemoi_house.upstream.loss import Loss, loss_of
from anemoi_house.upstream.trainer import Hardware, Phase, Rate, checkpoint_intervals, hardware_of, phases_of, rate_of
from anemoi_house.words import counted

_MISSING = "unknown.zarr"
_PLACEHOLDERS = {
    keys.LAM: _MISSING,
    keys.GLOBAL: _MISSING,
    keys.DATASET: _MISSING,
    keys.WEIGHTS_ONLY: True,
    keys.TRACKING_URI: "unknown",
}
"""Values for settings that can only be resolved where the data, the first stage or the server are."""
_POINTS_OF_CURVE = 200


@dataclass(frozen=True)
class Effective:
    """Everything a training will use.

    Attributes
    ----------
    config : str
        Name of the experiment.
    variables_from : str
        Dataset that the variables are from, in words.
    hardware, rate, loss
        See these classes.
    steps : int
        Of the whole training.
    phases : tuple of Phase
        All epochs.
    checkpoints : tuple of str
        How often they are written, and how many are kept, in words.
    folder : str
        Where they are written.
    start : str
        What the training begins with, in words.
    notes : tuple of str
        What is not known here, and why.
    """

    config: str
    variables_from: str
    hardware: Hardware
    rate: Rate
    steps: int
    phases: tuple[Phase, ...]
    loss: Loss
    checkpoints: tuple[str, ...]
    folder: str
    start: str
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers and texts for `json.dumps`; the rate at some 200 steps, with the first and the last."""
        values = dataclasses.asdict(self)
        rates = self.rate.by_step
        every = max(1, len(rates) // _POINTS_OF_CURVE)
        steps = sorted({*range(0, len(rates), every), len(rates) - 1}) if rates else []
        values["rate"]["by_step"] = [[step, rates[step]] for step in steps]
        return values


def effective(config_name: str, config_path: Path | None = None, overrides: Sequence[str] = ()) -> Effective:
    """Return the values that a training of an experiment will use.

    Parameters
    ----------
    config_name : str
        As for `anemoi-training train --config-name`.
    config_path : Path, optional
        Folder of the user's configs.
    overrides : sequence of str
        In Hydra's syntax.

    Raises
    ------
    HouseError
        If the config cannot be composed, is not valid, or has no date to train on.
    """
    import anemoi.training.schemas.base_schema  # noqa: F401  our plugin widens the schemas that are loaded

    config = composed(config_name, config_path, overrides)
    start = _start(config)
    notes = _replace_unknown(config)
    if keys.get(config, keys.DATASET) != _MISSING:
        check_use_of_data(config)
    valid = validated(config, config_name)
    data = training_data(valid, _MISSING)
    hardware = hardware_of(valid)
    phases, steps = phases_of(valid, hardware, data.dates)
    loss, left_out = loss_of(valid, data.variables, data.metadata)
    notes += [
        f"The scaler {name} needs the statistics of the data, and is left out of the weights." for name in left_out
    ]
    return Effective(
        config=config_name,
        variables_from=data.source,
        hardware=hardware,
        rate=rate_of(valid, hardware, phases, steps),
        steps=steps,
        phases=phases,
        loss=loss,
        checkpoints=_checkpoints(valid),
        folder=str(keys.get(valid, keys.CHECKPOINTS)),
        start=start,
        notes=tuple(notes),
    )


def _start(config: DictConfig) -> str:
    source = source_of(config)
    try:
        weights_only = bool(keys.get(config, keys.WEIGHTS_ONLY))
    except HouseError:  # a second stage whose first stage is missing
        weights_only = True
    if source is None:
        return "the weights of a first stage" if weights_only else "a new model"
    what = "weights alone" if weights_only else "weights, optimiser, schedule and step"
    return f"{source.checkpoint}: {what}, into {'the same run' if keys.continues_run(config) else 'a new run'}"


def _replace_unknown(config: DictConfig) -> list[str]:
    """Replace settings that cannot be resolved here, and return the reasons, one for all datasets together."""
    notes: dict[str, str] = {}
    for key, placeholder in _PLACEHOLDERS.items():
        try:
            keys.plain(config, key)
        except HouseError as mistake:
            reason = first_line(mistake)
            dataset_missing = reason.startswith(f"{keys.DATASETS}.")
            if key == keys.DATASET and not dataset_missing:
                raise HouseError(reason) from None
            notes.setdefault("data" if dataset_missing else key, reason)
            OmegaConf.update(config, key, placeholder)
    OmegaConf.update(config, keys.OVERWRITE, False)  # no graph is built here
    OmegaConf.update(config, keys.CALLBACKS, [])  # they check the start, which `_start` describes
    return list(dict.fromkeys(notes.values()))


def _checkpoints(config: DictConfig) -> tuple[str, ...]:
    """Return how often checkpoints are written and how many are kept, in words."""
    return tuple(
        f"every {unit.removesuffix('s') if every == 1 else counted(every, unit.removesuffix('s'))}, "
        f"{'all' if kept == -1 else f'the last {kept}'} kept"
        for every, unit, kept in checkpoint_intervals(config)
    )
