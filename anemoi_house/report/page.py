"""The report as one HTML page: no script, font or picture from elsewhere; it opens from the disk.

Every number in it is looked up in the dict that `report.json` holds, and carries its path there.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from anemoi_house.boundary.significance import BETTER, NOISE, WORSE
from anemoi_house.boundary.widths import ZONE_KM
from anemoi_house.figures.style import pretty
from anemoi_house.report.pictures import Pictures
from anemoi_house.scores import SCORES
from anemoi_house.words import listed, significant

Numbers = dict[str, Any]

SYMBOLS = {BETTER: "▼", WORSE: "▲", NOISE: "="}


class _Numbers:
    """Looks up numbers of the dict and shows them, each with its path."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def at(self, path: Sequence[str | int]) -> Any:
        """Return what the dict holds under a path."""
        value: Any = self._numbers
        for step in path:
            value = value[step]
        return value

    def show(self, path: Sequence[str | int], signed: bool = False, digits: int = 3) -> Markup | str:
        """Return a number as HTML."""
        value = self.at(path)
        if value is None:
            return significant(None)
        text = f"{value:,}" if isinstance(value, int) else significant(value, signed, digits)
        html = Markup('<data value="{}" data-at="{}">{}</data>')
        return html.format(repr(value), "/".join(map(str, path)), text)


def page(numbers: Numbers, pictures: Pictures) -> str:
    """Return the page.

    Parameters
    ----------
    numbers : dict
        As `report.json` holds them.
    pictures : dict of list of Picture
        From `pictures.draw`.
    """
    lookup = _Numbers(numbers)
    template = _templates().get_template("page.html.j2")
    return template.render(numbers, at=lookup.at, show=lookup.show, pictures=pictures)


@cache
def _templates() -> Environment:
    settings: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    found = Environment(loader=PackageLoader("anemoi_house.report"), undefined=StrictUndefined, **settings)
    found.globals |= {"labels": {name: score.label for name, score in SCORES.items()}, "symbols": SYMBOLS}
    found.globals["zone_km"] = f"{ZONE_KM:g}"
    found.filters |= {"pretty": pretty, "listed": listed, "uri": _uri}
    return found


def _uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
