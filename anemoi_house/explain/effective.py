"""Effective values of a training: what the stock classes make of its config.

The config is composed and checked by the stock schema, and task, schedule and scalers are the stock ones, made from it
as the trainer makes them. Nothing is written. The dataset is opened where it is there, for its variables and dates;
else those of the published datasets stand in for it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError
from anemoi_house.runs.start import source_of
from anemoi_house.upstream.compose import composed, validated

DATA = "data"
LIGHTNING_EPOCHS = 1000
"""Where Lightning ends a training that has no other end."""
LONGEST = 200_000
"""Steps that a schedule is followed for at most."""
_PLACEHOLDERS = {
    "system.input.dataset.lam": "unknown.zarr",
    "system.input.dataset.global": "unknown.zarr",
    "dataloader.dataset": "unknown.zarr",
    "training.load_weights_only": True,
    "diagnostics.log.mlflow.tracking_uri": "unknown",
}
"""What can be resolved only beside the data, the first stage or the server, and stands for it elsewhere."""
_HERE = {"graph.overwrite": False}
"""What decides on work that is not done here."""


@dataclass(frozen=True)
class Hardware:
    """What trains, and on how much at a time.

    Attributes
    ----------
    nodes, gpus_per_node, gpus_per_model : int
        GPUs, or ranks on CPUs.
    models : int
        That train side by side.
    batch_per_model : int
        Samples that one model takes at a time.
    accumulated : int
        Batches of each model that make one step of the optimiser.
    global_batch : int
        Samples of one step.
    """

    nodes: int
    gpus_per_node: int
    gpus_per_model: int
    models: int
    batch_per_model: int
    accumulated: int
    global_batch: int


@dataclass(frozen=True)
class Rate:
    """Learning rate.

    Attributes
    ----------
    local : float
        `training.optimization.lr`.
    effective : float
        Times the models that train side by side: what the optimiser gets.
    schedule : str or None
        Class; None where the rate is constant.
    warmup, minimum : float or None
        As the schedule's class has them, in its steps and as a rate.
    by_step : tuple of float
        Rate of each step of the training, up to `LONGEST`; empty where its length is not known.
    """

    local: float
    effective: float
    schedule: str | None
    warmup: int | None
    minimum: float | None
    by_step: tuple[float, ...]


@dataclass(frozen=True)
class Phase:
    """Epochs with one length of forecasts.

    Attributes
    ----------
    first_epoch, epochs : int
        Counted from 0; the last may be cut short by `training.max_steps`.
    rollout : int
        Steps of the model in a forecast.
    hours : float
        Lead time of the last of them.
    samples : int
        Dates that an epoch begins forecasts at.
    batches : int
        On each model, in an epoch.
    steps : int
        Of the optimiser, in an epoch.
    """

    first_epoch: int
    epochs: int
    rollout: int
    hours: float
    samples: int
    batches: int
    steps: int


@dataclass(frozen=True)
class Weight:
    """Weight of a variable in the loss: product of the loss's scalers of variables."""

    variable: str
    param: str
    level: int | None
    weight: float


@dataclass(frozen=True)
class Loss:
    """What the loss weighs.

    Attributes
    ----------
    name : str
        Class.
    scalers : tuple of str
        That it names.
    weights : tuple of Weight
        Of the outputs, in the data's order.
    lam_share : float or None
        Of all nodes' weights, what the LAM's make; None where areas alone decide.
    """

    name: str
    scalers: tuple[str, ...]
    weights: tuple[Weight, ...]
    lam_share: float | None


@dataclass(frozen=True)
class Effective:
    """All of it.

    Attributes
    ----------
    config : str
        Name of the experiment.
    variables_from : str
        Dataset, or what stands in for it.
    hardware, rate, loss
        See there.
    steps : int
        Of the whole training.
    phases : tuple of Phase
        Of all its epochs.
    checkpoints : tuple of str
        How often they are written, and how many are kept, in words.
    folder : str
        Where.
    start : str
        What it begins with, in words.
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
        """Plain numbers and texts for `json.dumps`; the rate at some hundred steps, first and last among them."""
        told = dataclasses.asdict(self)
        rates = told["rate"].pop("by_step")
        steps = sorted({*range(0, len(rates), max(1, len(rates) // 200)), len(rates) - 1}) if rates else []
        told["rate"]["by_step"] = [[step, rates[step]] for step in steps]
        return told


@dataclass(frozen=True)
class _Data:
    """Variables and dates of the training period."""

    source: str
    variables: Sequence[str]
    metadata: dict[str, Any] | None
    dates: int
    missing: frozenset[int]
    frequency_s: float


def effective(config_name: str, config_path: Path | None = None, overrides: Sequence[str] = ()) -> Effective:
    """Values that a training of an experiment will use.

    Parameters
    ----------
    config_name : str
        As for `anemoi-training train --config-name`.
    config_path : Path, optional
        Folder of configs of one's own.
    overrides : sequence of str
        Of the config, in Hydra's notation.

    Raises
    ------
    HouseError
        Where the config cannot be composed, is not valid, or has no date to train on.
    """
    import anemoi.training.schemas.base_schema  # noqa: F401  our plugin widens the schemas that are loaded

    config = composed(config_name, config_path, overrides)
    start = _start(config)
    notes = _stand_ins(config)
    valid = validated(config, config_name)
    data = _data(valid)
    hardware = _hardware(valid)
    phases, steps = _phases(valid, hardware, data)
    return Effective(
        config=config_name,
        variables_from=data.source,
        hardware=hardware,
        rate=_rate(valid, hardware, steps, phases),
        steps=steps,
        phases=phases,
        loss=_loss(valid, data, notes),
        checkpoints=tuple(_checkpoints(valid)),
        folder=str(valid.system.output.checkpoints.root),
        start=start,
        notes=tuple(notes),
    )


def _start(config: DictConfig) -> str:
    source = source_of(config)
    try:
        weights_only = bool(config.training.load_weights_only)
    except HouseError:  # the second stage, and its first is not here
        weights_only = True
    if source is None:
        return "the weights of a first stage" if weights_only else "a new model"
    goes_on = config.training.run_id and not config.training.fork_run_id
    what = "weights alone" if weights_only else "weights, optimiser, schedule and step"
    return f"{source.checkpoint}: {what}, into {'the same run' if goes_on else 'a new run'}"


def _stand_ins(config: DictConfig) -> list[str]:
    """Replace what cannot be resolved here; says what, and why."""
    notes: dict[str, str] = {}  # one for each part of the config: where a dataset is missing, all of them are
    for key, value in _PLACEHOLDERS.items():
        try:
            found = OmegaConf.select(config, key)
            if isinstance(found, DictConfig):
                OmegaConf.to_container(found, resolve=True)
        except HouseError as mistake:
            told = str(mistake).splitlines()[0]
            of_data = told.startswith("system.input.dataset.")
            if not of_data and key == "dataloader.dataset":
                raise HouseError(told) from None
            notes.setdefault("data" if of_data else key, told)
            OmegaConf.update(config, key, value)
    for key, value in _HERE.items():
        OmegaConf.update(config, key, value)
    # What the callbacks check is the start's, and told above.
    OmegaConf.update(config, "diagnostics.callbacks", [])
    return list(dict.fromkeys(notes.values()))


def _data(config: DictConfig) -> _Data:
    period = config.dataloader.training.datasets[DATA]
    start, end = period.get("start"), period.get("end")
    dataset = config.dataloader.dataset
    if dataset != _PLACEHOLDERS["dataloader.dataset"]:
        from anemoi.datasets import open_dataset

        plain = OmegaConf.to_container(dataset) if OmegaConf.is_config(dataset) else dataset
        opened = open_dataset(plain, start=start, end=end)
        return _Data(
            source="the dataset",
            variables=opened.variables,
            metadata=opened.variables_metadata,
            dates=len(opened.dates),
            missing=frozenset(int(index) for index in opened.missing),
            frequency_s=opened.frequency.total_seconds(),
        )
    return _published(config.data, start, end)


def _published(data: DictConfig, start: Any, end: Any) -> _Data:
    """The datasets of our recipes, as far as they are known without them."""
    from anemoi.datasets.usage.misc import as_first_date, as_last_date

    from anemoi_house.sample.atmosphere import variable_names
    from anemoi_house.shipped import config_folder

    recipe: Any = OmegaConf.load(config_folder() / "datasets" / "hrrr_15km.yaml").dates
    hours = int(str(recipe.frequency).removesuffix("h"))
    all_dates = np.arange(np.datetime64(recipe.start), np.datetime64(recipe.end) + 1, np.timedelta64(hours, "h"))
    kept = np.ones(len(all_dates), bool)
    if start is not None:
        kept &= all_dates >= as_first_date(start, all_dates)
    if end is not None:
        kept &= all_dates <= as_last_date(end, all_dates)
    dates = all_dates[kept]
    forcings = [name for name in data.datasets[DATA].forcing if name not in variable_names()]
    return _Data(
        source="the published datasets, in place of those that are not here",
        variables=[*variable_names(), *forcings],
        metadata=None,
        dates=len(dates),
        missing=frozenset(np.flatnonzero(np.isin(dates, [np.datetime64(date) for date in recipe.missing])).tolist()),
        frequency_s=hours * 3600,
    )


def _hardware(config: DictConfig) -> Hardware:
    found = config.system.hardware
    nodes, per_node, per_model = found.num_nodes, found.num_gpus_per_node, found.num_gpus_per_model
    models = nodes * per_node // per_model
    if models < 1 or nodes * per_node % per_model:
        raise HouseError(
            f"system.hardware.num_gpus_per_model={per_model}: does not divide the {nodes * per_node} GPUs of "
            f"{nodes} nodes with {per_node} each"
        )
    batch, accumulated = config.dataloader.batch_size.training, config.training.accum_grad_batches
    return Hardware(nodes, per_node, per_model, models, batch, accumulated, models * batch * accumulated)


def _phases(config: DictConfig, hardware: Hardware, data: _Data) -> tuple[tuple[Phase, ...], int]:
    """Phases of the training, by the stock task's own counting, and all its steps."""
    from anemoi.training.data.usable_indices import get_usable_indices
    from hydra.utils import instantiate

    task = instantiate(config.task)
    max_steps, max_epochs = config.training.max_steps or -1, config.training.max_epochs
    if max_epochs is None:
        max_epochs = LIGHTNING_EPOCHS if max_steps == -1 else max_steps
    phases: list[Phase] = []
    steps = epoch = 0
    offsets: list[Any] = []
    while epoch < max_epochs and (max_steps == -1 or steps < max_steps):
        if task.get_offsets("training") != offsets:
            offsets = task.get_offsets("training")
            relative = [int(offset.total_seconds() // data.frequency_s) for offset in offsets]
            samples = len(get_usable_indices(set(data.missing), data.dates, relative)) if data.dates else 0
            batches = _batches(samples, config.dataloader, hardware)
            if not batches:
                raise HouseError(
                    f"dataloader.training.datasets.{DATA}: {samples} dates from start to end can begin a forecast of "
                    f"{len(task.steps('training'))} steps, which is less than a batch for each of {hardware.models} "
                    "models. Choose a longer period or smaller batches."
                )
            hours = offsets[-1].total_seconds() / 3600
            in_epoch = ceil(batches / hardware.accumulated)
            phases.append(Phase(epoch, 0, len(task.steps("training")), hours, samples, batches, in_epoch))
        phases[-1] = dataclasses.replace(phases[-1], epochs=phases[-1].epochs + 1)
        steps += phases[-1].steps
        task.on_train_epoch_end(current_epoch=epoch)
        epoch += 1
    return tuple(phases), steps if max_steps == -1 else min(steps, max_steps)


def _batches(samples: int, dataloader: DictConfig, hardware: Hardware) -> int:
    """Batches of an epoch on each model: each worker of the stock data loader makes its own of its dates."""
    of_model = samples // hardware.models
    workers = max(1, dataloader.num_workers.training)
    parts = [of_model // workers + (part < of_model % workers) for part in range(workers)]
    batches = sum(ceil(part / hardware.batch_per_model) for part in parts)
    limit = dataloader.limit_batches.training
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def _rate(config: DictConfig, hardware: Hardware, steps: int, phases: Sequence[Phase]) -> Rate:
    """The rate that the stock schedule gives to a stand-in for the optimiser, step by step."""
    import torch
    from hydra.utils import instantiate

    chosen = config.training.optimization
    effective_rate = chosen.lr * hardware.models
    followed = min(steps, LONGEST)
    if not chosen.get("lr_scheduler"):
        return Rate(chosen.lr, effective_rate, None, None, None, (effective_rate,) * followed)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=effective_rate)
    scheduler = instantiate(chosen.lr_scheduler, optimizer=optimizer)
    epoch_ends = {}
    step = 0
    for phase in phases:
        for epoch in range(phase.first_epoch, phase.first_epoch + phase.epochs):
            step += phase.steps
            epoch_ends[step] = epoch + 1
    by_epoch = chosen.pl_lr_scheduler.get("interval", "epoch") == "epoch"
    rates = []
    for done in range(followed):
        is_due = done in epoch_ends if by_epoch else done > 0
        if is_due:
            count = epoch_ends[done] if by_epoch else done
            if hasattr(scheduler, "step_update"):  # of timm
                (scheduler.step if by_epoch else scheduler.step_update)(count)
            else:
                optimizer.step()
                scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return Rate(
        local=chosen.lr,
        effective=effective_rate,
        schedule=type(scheduler).__name__,
        warmup=chosen.lr_scheduler.get("warmup_t"),
        minimum=chosen.lr_scheduler.get("lr_min"),
        by_step=tuple(rates),
    )


def _loss(config: DictConfig, data: _Data, notes: list[str]) -> Loss:
    from anemoi.models.data_indices.collection import IndexCollection
    from anemoi.training.losses.scalers.variable import BaseVariableLossScaler
    from anemoi.training.utils.variables_metadata import ExtractVariableGroupAndLevel
    from hydra.utils import get_class, instantiate

    chosen = config.training.training_loss.datasets[DATA]
    configs = config.training.scalers.datasets[DATA]
    indices: Any = IndexCollection(
        config.data.datasets[DATA], {variable: index for index, variable in enumerate(data.variables)}
    )
    extractor = ExtractVariableGroupAndLevel(config.training.variable_groups.datasets[DATA], data.metadata)
    outputs = indices.model.output.name_to_index
    factors = np.ones(max(outputs.values()) + 1)
    lam_share = None
    names = tuple(configs) if "*" in chosen.get("scalers", ()) else tuple(chosen.get("scalers", ()))
    for name in names:
        kind = get_class(configs[name]._target_)
        if issubclass(kind, BaseVariableLossScaler):
            try:
                with _quiet("anemoi.training.losses"):
                    scaler = instantiate(configs[name], data_indices=indices, metadata_extractor=extractor)
            except TypeError:
                notes.append(f"The scaler {name} needs the data's statistics, and is left out of the weights.")
                continue
            with _quiet("anemoi.training.losses"):
                factors = factors * scaler.get_scaling()[1].numpy()[: len(factors)]
        elif (share := configs[name].get("weight_frac_of_total")) is not None:
            lam_share = float(share)
    weights = []
    for variable, index in outputs.items():
        _, param, level = extractor.get_group_and_level(variable)
        weights.append(Weight(variable, param, None if level is None else int(level), float(factors[index])))
    return Loss(chosen._target_.rpartition(".")[2], names, tuple(weights), lam_share)


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Within it, a logger tells of no more than warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _checkpoints(config: DictConfig) -> list[str]:
    units = {"every_n_minutes": "minutes", "every_n_epochs": "epochs", "every_n_train_steps": "steps"}
    told = []
    for key, unit in units.items():
        chosen = config.diagnostics.checkpoint[key]
        if not chosen.save_frequency or not chosen.num_models_saved:
            continue
        kept = "all kept" if chosen.num_models_saved == -1 else f"the last {chosen.num_models_saved} kept"
        every = unit.removesuffix("s") if chosen.save_frequency == 1 else f"{chosen.save_frequency} {unit}"
        told.append(f"every {every}, {kept}")
    return told
