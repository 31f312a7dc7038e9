"""Numbers and names in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 date`, `2,000 dates`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[object], last: str = "and") -> str:
    """Return names as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    *first, final = map(str, names)
    return f"{', '.join(first)} {last} {final}" if first else final


def is_or_are(names: Sequence[object]) -> str:
    """Return the verb that fits a list of names."""
    return "is" if len(names) == 1 else "are"


def significant(value: float | None, signed: bool = False, digits: int = 3) -> str:
    """Return a number with a few significant digits: `1,234`, `−0.0123`, `1.00e-05`; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if not size:
        return "0"
    if 1e-3 <= size < 1e5:
        text = f"{size:,.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    else:
        text = f"{size:.{digits - 1}e}"
    return ("−" if value < 0 else "+" if signed else "") + text
