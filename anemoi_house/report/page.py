"""The report as one HTML page: no script, font or picture from elsewhere; it opens from the disk.

Every number in it is looked up in the dict that `report.json` holds, and carries its path there.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache, partial, reduce
from operator import getitem
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


def page(numbers: Numbers, pictures: Pictures) -> str:
    """Return the page.

    Parameters
    ----------
    numbers : dict
        As `report.json` holds them.
    pictures : dict of list of Picture
        From `pictures.draw`.
    """
    template = _templates().get_template("page.html.j2")
    return template.render(numbers, at=partial(_at, numbers), show=partial(_show, numbers), pictures=pictures)


def _at(numbers: Numbers, path: Sequence[str | int]) -> Any:
    """Return what the numbers hold under a path."""
    found: Any = numbers
    return reduce(getitem, path, found)


def _show(numbers: Numbers, path: Sequence[str | int], signed: bool = False, digits: int = 3) -> Markup | str:
    """Return a number as HTML, with its path."""
    value = _at(numbers, path)
    if value is None:
        return significant(None)
    text = f"{value:,}" if isinstance(value, int) else significant(value, signed, digits)
    return Markup('<data value="{}" data-at="{}">{}</data>').format(repr(value), "/".join(map(str, path)), text)


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
