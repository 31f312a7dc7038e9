"""Figures as files: PNG for pages, any format for a picture of its own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anemoi_house.errors import HouseError
from anemoi_house.files import whole

DOTS_PER_INCH = 120
"""Of pictures in files of their own."""


def new_figure(inches: tuple[float, float], dots_per_inch: int = DOTS_PER_INCH) -> Figure:
    """Return an empty white figure, drawn without a display."""
    figure = Figure(figsize=inches, dpi=dots_per_inch, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG with a palette, a third of the size of one without; rare colours are kept."""
    from PIL import Image

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(buffer, "png", dpi=(figure.dpi, figure.dpi))
    return buffer.getvalue()


def check_format(output: Path) -> None:
    """Refuse a picture that could not be written, before anything is computed.

    Raises
    ------
    HouseError
        If the suffix names no format, or the directory does not exist.
    """
    formats = FigureCanvasAgg.get_supported_filetypes()
    if output.suffix[1:].lower() not in formats:
        raise HouseError(f"{output}: the suffix is not a picture format. Use .png, or one of {', '.join(formats)}.")
    if not output.parent.is_dir():
        raise HouseError(f"{output.parent} is not a directory. Create it, or write the picture elsewhere.")


def write_figure(figure: Figure, output: Path) -> None:
    """Write a figure, whole or not at all, in the format that the suffix names.

    Raises
    ------
    HouseError
        If the suffix names no format, or the file cannot be written.
    """
    check_format(output)
    try:
        with whole(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:].lower(), dpi=DOTS_PER_INCH)
    except OSError as error:
        raise HouseError(
            f"{output} cannot be written ({error.strerror or error}). Free space, or choose a writable directory."
        ) from None
