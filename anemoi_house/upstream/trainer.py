"""Rules of the stock trainer that decide how long a training is, and at which learning rate, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil
from typing import Any

from omegaconf import DictConfig

from anemoi_house.errors import HouseError
from anemoi_house.upstream import keys

LIGHTNING_EPOCHS = 1000
"""Epochs after which Lightning ends a training that has no other end."""
LONGEST = 200_000
"""Steps over which a schedule is followed at most."""
_DEVICES = (keys.NODES, keys.GPUS_PER_NODE, keys.GPUS_PER_MODEL)
_INTERVALS = {"every_n_minutes": "minutes", "every_n_epochs": "epochs", "every_n_train_steps": "steps"}


@dataclass(frozen=True)
class Hardware:
    """What trains, and how many samples it takes at a time.

    Attributes
    ----------
    nodes, gpus_per_node, gpus_per_model : int
        GPUs, or ranks on CPUs.
    models : int
        Data-parallel replicas of the model.
    batch_per_model : int
        Samples per batch of one replica.
    accumulated : int
        Batches of each replica per optimiser step.
    global_batch : int
        Samples per optimiser step.
    """

    nodes: int
    gpus_per_node: int
    gpus_per_model: int
    models: int
    batch_per_model: int
    accumulated: int
    global_batch: int


@dataclass(frozen=True)
class Dates:
    """Dates of the training period in the dataset: how many, indices of the missing ones, and the time between two."""

    count: int
    missing: frozenset[int]
    frequency_s: float


@dataclass(frozen=True)
class Phase:
    """Epochs with the same length of forecasts.

    Attributes
    ----------
    first_epoch, epochs : int
        Counted from 0; `training.max_steps` may cut the last one short.
    rollout : int
        Model steps per forecast.
    hours : float
        Lead time of the last of them.
    samples : int
        Dates from which a forecast can start.
    batches : int
        Per epoch, of each replica.
    steps : int
        Optimiser steps per epoch.
    """

    first_epoch: int
    epochs: int
    rollout: int
    hours: float
    samples: int
    batches: int
    steps: int


@dataclass(frozen=True)
class Rate:
    """Learning rate.

    Attributes
    ----------
    local : float
        `training.optimization.lr`.
    effective : float
        `local` times the number of replicas: what the optimiser gets.
    schedule : str or None
        Class; None for a constant rate.
    warmup, minimum : float or None
        As set for the schedule's class, in its steps and as a rate.
    by_step : tuple of float
        Rate of each step of the training, up to `LONGEST`.
    """

    local: float
    effective: float
    schedule: str | None
    warmup: int | None
    minimum: float | None
    by_step: tuple[float, ...]


def replicas(config: DictConfig) -> float:
    """Return the number of data-parallel replicas, by which the trainer multiplies the learning rate."""
    nodes, per_node, per_model = (keys.get(config, key) for key in _DEVICES)
    return nodes * per_node / per_model


def hardware_of(config: DictConfig) -> Hardware:
    """Return the hardware of a training and its batches.

    Raises
    ------
    HouseError
        If the GPUs cannot be divided among models.
    """
    nodes, per_node, per_model = (keys.get(config, key) for key in _DEVICES)
    models = replicas(config)
    if models < 1 or models % 1:
        raise HouseError(
            f"{keys.GPUS_PER_MODEL}={per_model}: does not divide the {nodes * per_node} GPUs ({nodes} nodes with "
            f"{per_node} each). Set it to a divisor."
        )
    batch, accumulated = keys.get(config, keys.BATCH_SIZE), keys.get(config, keys.ACCUMULATED)
    return Hardware(nodes, per_node, per_model, int(models), batch, accumulated, int(models) * batch * accumulated)


def phases_of(config: DictConfig, hardware: Hardware, dates: Dates) -> tuple[tuple[Phase, ...], int]:
    """Return the phases of a training, as the stock task counts them, and the total number of optimiser steps.

    Raises
    ------
    HouseError
        If the period is too short for one batch.
    """
    from hydra.utils import instantiate

    task = instantiate(keys.get(config, keys.TASK))
    max_steps, max_epochs = keys.get(config, keys.MAX_STEPS) or -1, keys.get(config, keys.MAX_EPOCHS)
    if max_epochs is None:
        max_epochs = LIGHTNING_EPOCHS if max_steps == -1 else max_steps
    phases: list[Phase] = []
    steps = epoch = 0
    offsets: list[Any] = []
    while epoch < max_epochs and (max_steps == -1 or steps < max_steps):
        if task.get_offsets("training") != offsets:
            offsets = task.get_offsets("training")
            phases.append(_phase(config, hardware, dates, epoch, len(task.steps("training")), offsets))
        phases[-1] = replace(phases[-1], epochs=phases[-1].epochs + 1)
        steps += phases[-1].steps
        task.on_train_epoch_end(current_epoch=epoch)
        epoch += 1
    return tuple(phases), steps if max_steps == -1 else min(steps, max_steps)


def _phase(
    config: DictConfig, hardware: Hardware, dates: Dates, epoch: int, rollout: int, offsets: Sequence[Any]
) -> Phase:
    """Return a phase that begins at an epoch, still without epochs."""
    from anemoi.training.data.usable_indices import get_usable_indices

    relative = [int(offset.total_seconds() // dates.frequency_s) for offset in offsets]
    samples = len(get_usable_indices(set(dates.missing), dates.count, relative)) if dates.count else 0
    batches = _batches(config, hardware, samples)
    if not batches:
        raise HouseError(
            f"{keys.dates_of(keys.TRAINING)}: {samples} dates between start and end can begin a forecast of {rollout} "
            f"steps, which is less than a batch for each of {hardware.models} models. Choose a longer period or "
            "smaller batches."
        )
    hours = offsets[-1].total_seconds() / 3600
    return Phase(epoch, 0, rollout, hours, samples, batches, ceil(batches / hardware.accumulated))


def _batches(config: DictConfig, hardware: Hardware, samples: int) -> int:
    """Return the batches per epoch of each replica: each worker of the stock data loader makes batches of its own."""
    of_model = samples // hardware.models
    workers = max(1, keys.get(config, keys.WORKERS))
    parts = [of_model // workers + (part < of_model % workers) for part in range(workers)]
    batches = sum(ceil(part / hardware.batch_per_model) for part in parts)
    limit = keys.get(config, keys.LIMIT_BATCHES)
    if limit is None:
        return batches
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def rate_of(config: DictConfig, hardware: Hardware, phases: Sequence[Phase], steps: int) -> Rate:
    """Return the learning rate of each step, from the stock schedule applied to a dummy optimiser."""
    import torch
    from hydra.utils import instantiate

    chosen = keys.get(config, keys.OPTIMISATION)
    schedule = chosen.get("lr_scheduler")
    effective = chosen.lr * hardware.models
    followed = min(steps, LONGEST)
    if not schedule:
        return Rate(chosen.lr, effective, None, None, None, (effective,) * followed)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=effective)
    scheduler = instantiate(schedule, optimizer=optimiser)
    by_epoch = chosen.pl_lr_scheduler.get("interval", "epoch") == "epoch"
    ends = accumulate(phase.steps for phase in phases for _ in range(phase.epochs))
    epochs_done = {step: epoch for epoch, step in enumerate(ends, 1)}
    rates = []
    for done in range(followed):
        if count := epochs_done.get(done, 0) if by_epoch else done:
            _advance(scheduler, optimiser, count, by_epoch)
        rates.append(optimiser.param_groups[0]["lr"])
    warmup, minimum = schedule.get("warmup_t"), schedule.get("lr_min")
    return Rate(chosen.lr, effective, type(scheduler).__name__, warmup, minimum, tuple(rates))


def _advance(scheduler: Any, optimiser: Any, count: int, by_epoch: bool) -> None:
    """Advance a schedule to a number of epochs or steps, as the stock training module does."""
    if not hasattr(scheduler, "step_update"):  # a schedule of torch
        optimiser.step()
        scheduler.step()
    elif by_epoch:
        scheduler.step(count)
    else:
        scheduler.step_update(count)


def checkpoint_intervals(config: DictConfig) -> list[tuple[int, str, int]]:
    """Return how often checkpoints are written, as a number and a unit, and how many are kept (-1: all)."""
    chosen = keys.get(config, keys.CHECKPOINTING)
    found = [(chosen[key].save_frequency, unit, chosen[key].num_models_saved) for key, unit in _INTERVALS.items()]
    return [each for each in found if each[0] and each[2]]
