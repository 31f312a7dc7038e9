"""Effective values as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from anemoi_house.explain.effective import Effective, Phase, Rate, Weight

WIDTH = 80
_INDENT = 16
_JOINT = "\N{NO-BREAK SPACE}"


def as_text(values: Effective) -> str:
    """All that is told of an experiment, in lines of at most 80 characters."""
    hardware, loss = values.hardware, values.loss
    lines = [values.config, ""]
    lines += _entry("models", _models(values))
    accumulated = f" x {hardware.accumulated} batches" if hardware.accumulated > 1 else ""
    lines += _entry(
        "batch", f"{_count(hardware.global_batch, 'sample')} a step: {hardware.models} x "
        f"{hardware.batch_per_model}{accumulated}"
    )  # fmt: skip
    for name, told in _rate(values.rate):
        lines += _entry(name, told)
    last = values.phases[-1]
    lines += _entry("length", f"{values.steps:,} steps in {_count(last.first_epoch + last.epochs, 'epoch')}")
    lines += _phases(values)
    share = "by area" if loss.lam_share is None else f"{100 * loss.lam_share:g} % of the loss"
    lines += _entry("LAM", share)
    lines += _entry("loss", f"{loss.name}, weighed by {', '.join(loss.scalers)}")
    lines += _entry("checkpoints", "; ".join(values.checkpoints))
    lines += _entry("", f"in {values.folder}, one folder for each run")
    lines += _entry("begins with", values.start)
    for note in values.notes:
        lines += _entry("not known", note)
    lines += ["", *textwrap.wrap(f"Weights of the variables, which are those of {values.variables_from}:", WIDTH), ""]
    lines += weights_table(loss.weights)
    return "\n".join(lines)


def weights_table(weights: tuple[Weight, ...]) -> list[str]:
    """Weights in lines: a row for each parameter, with one weight, or with those of its levels."""
    lines = []
    for param in dict.fromkeys(each.param for each in weights):
        own = [each for each in weights if each.param == param]
        levels = sorted((each for each in own if each.level is not None), key=lambda each: each.level or 0)
        if len({each.weight for each in own}) == 1:
            where = f"{len(levels)} levels, {levels[0].level} to {levels[-1].level} hPa" if levels else "surface"
            lines.append(f"  {param:<12}{own[0].weight:<12g}{where}")
            continue
        told = "  ".join(f"{each.level} hPa {each.weight:g}".replace(" ", _JOINT) for each in levels or own)
        wrapped = textwrap.wrap(told, WIDTH, initial_indent=f"  {param:<12}", subsequent_indent=" " * 14)
        lines += [line.replace(_JOINT, " ") for line in wrapped]
    smallest = min(weights, key=lambda each: each.weight)
    lines += ["", f"  The smallest is {smallest.weight:g}, of {smallest.variable}."]
    return lines


def _entry(name: str, told: str) -> list[str]:
    return textwrap.wrap(
        told,
        WIDTH,
        initial_indent=f"{name:<{_INDENT}}",
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _models(values: Effective) -> str:
    hardware = values.hardware
    devices = _count(hardware.gpus_per_node, "device")
    return (
        f"{hardware.models}: {_count(hardware.nodes, 'node')} with {devices} each, {hardware.gpus_per_model} to a model"
    )


def _rate(rate: Rate) -> Iterator[tuple[str, str]]:
    models = round(rate.effective / rate.local) if rate.local else 1
    local = f", {rate.local:g} for each of {models} models" if models > 1 else ""
    yield "learning rate", f"{rate.effective:g}{local}"
    if rate.schedule is None:
        yield "", "constant"
        return
    highest = max(rate.by_step)
    at = rate.by_step.index(highest)
    told = f"{rate.schedule}: {rate.by_step[0]:.3g} at step 0, {highest:.3g} at step {at:,}, "
    told += f"{rate.by_step[-1]:.3g} at step {len(rate.by_step) - 1:,}"
    if rate.warmup:
        told += f"; warm-up of {rate.warmup:,}"
    if rate.minimum is not None:
        told += f", minimum {rate.minimum:g}"
    yield "", told


def _phases(values: Effective) -> list[str]:
    """A table of the epochs: a row for each length of forecasts."""
    head = ["epochs", "forecasts", "dates", "batches", "steps"]
    rows = [
        [_epochs(each), f"{each.hours:g} h", f"{each.samples:,}", f"{each.batches:,}", f"{each.steps:,}"]
        for each in values.phases
    ]
    return [f"{'':<{_INDENT}}" + "".join(f"{cell:<12}" for cell in row).rstrip() for row in [head, *rows]]


def _epochs(phase: Phase) -> str:
    last = phase.first_epoch + phase.epochs - 1
    return str(last) if phase.epochs == 1 else f"{phase.first_epoch} to {last}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
