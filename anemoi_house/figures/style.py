"""Style of figures: distinct in black and white and to colour-blind eyes, readable on a phone."""

from __future__ import annotations

import re
from typing import Any

DOTS_PER_INCH = 144
"""Of the pictures of a page."""

INK = "#222222"

# Okabe and Ito's palette, for colour-blind eyes; in black and white, markers differ in shape and size.
ISOLATED, DATA, LAM = "#D55E00", "#999999", "#F0E442"

# The same palette without its yellow, dark and light in turn; each comes with a dash and a marker of its own.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")


_LOOKS = {"color": _COLOURS, "linestyle": _DASHES, "marker": _MARKERS}


def line_of(number: int) -> dict[str, Any]:
    """Return the look of the n-th line, for `plot`; the first 35 all differ in black and white."""
    return {key: looks[number % len(looks)] for key, looks in _LOOKS.items()}


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def pretty(units: str) -> str:
    """Return units such as `m s**-1` with raised exponents."""
    return re.sub(r"\*\*(-?\d+)", lambda found: found[1].translate(_RAISED), units)
