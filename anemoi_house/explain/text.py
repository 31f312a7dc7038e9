"""Effective values as text for a terminal of 80 columns."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

from anemoi_house.explain.effective import Effective
from anemoi_house.upstream.loss import Weight
from anemoi_house.upstream.trainer import Phase, Rate
from anemoi_house.words import counted

WIDTH = 80
_INDENT = 16
_JOINT = "\N{NO-BREAK SPACE}"


def as_text(values: Effective) -> str:
    """Return the effective values of an experiment in lines of at most 80 characters."""
    hardware, loss, last = values.hardware, values.loss, values.phases[-1]
    devices = f"{counted(hardware.nodes, 'node')} with {counted(hardware.gpus_per_node, 'device')} each"
    accumulated = f" x {hardware.accumulated} batches" if hardware.accumulated > 1 else ""
    batch = f"{hardware.models} x {hardware.batch_per_model}{accumulated}"
    before_table = [
        ("models", f"{hardware.models}: {devices}, {hardware.gpus_per_model} to a model"),
        ("batch", f"{counted(hardware.global_batch, 'sample')} a step: {batch}"),
        ("learning rate", _rate(values.rate)),
        ("", _schedule(values.rate)),
        ("length", f"{values.steps:,} steps in {counted(last.first_epoch + last.epochs, 'epoch')}"),
    ]
    after_table = [
        ("LAM", "by area" if loss.lam_share is None else f"{100 * loss.lam_share:g} % of the loss"),
        ("loss", f"{loss.name}, weighted by {', '.join(loss.scalers)}"),
        ("checkpoints", "; ".join(values.checkpoints)),
        ("", f"in {values.folder}, one folder for each run"),
        ("begins with", values.start),
        *(("not known", note) for note in values.notes),
    ]
    heading = f"Weights of the variables, which are those of {values.variables_from}:"
    training = [*_entries(before_table), *_phases(values.phases), *_entries(after_table)]
    weights = [*textwrap.wrap(heading, WIDTH), "", *_weights(loss.weights)]
    return "\n".join([values.config, "", *training, "", *weights])


def _weights(weights: tuple[Weight, ...]) -> list[str]:
    """Return a row for each parameter, with one weight or with those of its levels."""
    lines = []
    for param in dict.fromkeys(each.param for each in weights):
        own = [each for each in weights if each.param == param]
        levels = sorted((each for each in own if each.level is not None), key=lambda each: each.level or 0)
        if len({each.weight for each in own}) == 1:
            where = f"{len(levels)} levels, {levels[0].level} to {levels[-1].level} hPa" if levels else "surface"
            lines.append(f"  {param:<12}{own[0].weight:<12g}{where}")
            continue
        text = "  ".join(f"{each.level} hPa {each.weight:g}".replace(" ", _JOINT) for each in levels or own)
        wrapped = textwrap.wrap(text, WIDTH, initial_indent=f"  {param:<12}", subsequent_indent=" " * 14)
        lines += [line.replace(_JOINT, " ") for line in wrapped]
    smallest = min(weights, key=lambda each: each.weight)
    return [*lines, "", f"  The smallest is {smallest.weight:g}, of {smallest.variable}."]


def _entries(entries: list[tuple[str, str]]) -> list[str]:
    how: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * _INDENT}
    wrapped = (textwrap.wrap(text, WIDTH, initial_indent=f"{name:<{_INDENT}}", **how) for name, text in entries)
    return list(itertools.chain.from_iterable(wrapped))


def _rate(rate: Rate) -> str:
    models = round(rate.effective / rate.local) if rate.local else 1
    return f"{rate.effective:g}" + (f", {rate.local:g} for each of {models} models" if models > 1 else "")


def _schedule(rate: Rate) -> str:
    if rate.schedule is None:
        return "constant"
    highest = max(rate.by_step)
    return (
        f"{rate.schedule}: {rate.by_step[0]:.3g} at step 0, "
        f"{highest:.3g} at step {rate.by_step.index(highest):,}, "
        f"{rate.by_step[-1]:.3g} at step {len(rate.by_step) - 1:,}"
        + (f"; warm-up of {rate.warmup:,}" if rate.warmup else "")
        + (f", minimum {rate.minimum:g}" if rate.minimum is not None else "")
    )


def _phases(phases: tuple[Phase, ...]) -> list[str]:
    """Return a table with a row for each length of forecasts."""
    rows = [["epochs", "forecasts", "dates", "batches", "steps"]]
    for each in phases:
        last = each.first_epoch + each.epochs - 1
        epochs = str(last) if each.epochs == 1 else f"{each.first_epoch} to {last}"
        rows.append([epochs, f"{each.hours:g} h", f"{each.samples:,}", f"{each.batches:,}", f"{each.steps:,}"])
    return [" " * _INDENT + "".join(f"{cell:<12}" for cell in row).rstrip() for row in rows]
