"""Plot of the learning rate over a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anemoi_house.errors import HouseError
from anemoi_house.explain.effective import Effective
from anemoi_house.figures.files import new_figure, write_figure


def plot_rate(values: Effective, output: Path) -> Path:
    """Plot the learning rate that the optimiser gets at each step, with the settings that determine it.

    Parameters
    ----------
    values : Effective
        Of an experiment.
    output : Path
        File to write; its suffix selects the format.

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    HouseError
        If the training has no steps, or the file cannot be written.
    """
    rate = values.rate
    if not rate.by_step:
        raise HouseError(f"{values.config}: the training has no steps, so there is no rate to plot")
    last, highest = len(rate.by_step) - 1, max(rate.by_step)
    figure = new_figure((8, 4.2))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.plot(range(last + 1), rate.by_step, color="black", linewidth=1.5)
    axes.set(xlabel="step", ylabel="learning rate", xlim=(0, last + 1), ylim=(0, 1.18 * highest))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    text = f"{rate.effective:g} = {rate.local:g} x {values.hardware.models} models"
    axes.annotate(text, (rate.by_step.index(highest), highest), (8, 8), textcoords="offset points")
    if rate.minimum is not None:
        style: dict[str, Any] = {"ha": "right", "arrowprops": {"arrowstyle": "-", "color": "0.6"}}
        end = (last, rate.by_step[-1])
        axes.annotate(f"minimum {rate.minimum:g}", end, (-4, 40), textcoords="offset points", **style)
    axes.set_title(f"{values.config}: {rate.schedule or 'constant'}", loc="left")
    write_figure(figure, output)
    return output
