"""Picture of the learning rate over a training."""

from __future__ import annotations

from pathlib import Path

from anemoi_house.errors import HouseError
from anemoi_house.explain.effective import Effective
from anemoi_house.figures.files import write_figure


def plot_rate(values: Effective, output: Path) -> Path:
    """Draw the learning rate that the optimiser gets at each step, and what decides on it.

    Parameters
    ----------
    values : Effective
        Of an experiment.
    output : Path
        Picture; its ending names the format.

    Returns
    -------
    Path
        `output`.

    Raises
    ------
    HouseError
        Where the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rate = values.rate
    if not rate.by_step:
        raise HouseError(f"{values.config}: has no steps to draw a rate of")
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(range(len(rate.by_step)), rate.by_step, color="black", linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.set_xlim(0, len(rate.by_step))
    axes.set_ylim(0, 1.18 * max(rate.by_step))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    highest = max(rate.by_step)
    at = rate.by_step.index(highest)
    axes.annotate(
        f"{rate.effective:g} = {rate.local:g} x {values.hardware.models} models",
        (at, highest),
        (8, 8),
        textcoords="offset points",
    )
    if rate.minimum is not None:
        axes.annotate(
            f"minimum {rate.minimum:g}",
            (len(rate.by_step) - 1, rate.by_step[-1]),
            (-4, 40),
            textcoords="offset points",
            ha="right",
            arrowprops={"arrowstyle": "-", "color": "0.6"},
        )
    axes.set_title(f"{values.config}: {rate.schedule or 'constant'}", loc="left")
    write_figure(figure, output)
    return output
