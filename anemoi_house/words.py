"""Numbers and names in sentences."""

from __future__ import annotations

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
