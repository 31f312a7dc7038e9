"""The one form in which parameters, tags and metrics are recorded: what every server takes, Azure ML the strictest.

What is over a limit is cut or left out when it is recorded, rather than when it is sent, so that a record can go to any
server, and that server then has what the record has.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

MAX_PARAMS = 190
"""Parameters of a run: Azure ML takes 200, and the drain may add some."""
MAX_TAGS = 45
"""Tags of a run: Azure ML takes about 50, and the drain adds some."""
MAX_KEY = 250
MAX_TAG_KEY = 100
MAX_VALUE = 500
_ELLIPSIS = "..."
_NOT_IN_A_KEY = re.compile(r"[^\w/. :-]+")


class Over(NamedTuple):
    """Something that went over a limit."""

    what: str
    key: str
    value: str
    why: str


def flatten(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings; lists stay values."""
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, settings


def chosen(settings: Any, patterns: Iterable[str]) -> dict[str, str]:
    """Flattened settings whose dotted key matches one of the patterns, in the order of the patterns.

    A pattern is a key, a key whose whole branch is meant, or a shell pattern.
    """
    flat = dict(flatten(settings))
    found: dict[str, str] = {}
    for pattern in patterns:
        for key, value in flat.items():
            if key == pattern or key.startswith(f"{pattern}.") or fnmatch.fnmatchcase(key, pattern):
                found[key] = str(value)
    return found


def fit_key(what: str, key: str) -> tuple[str, list[Over]]:
    """A key that servers take: of their characters, and not too long; two long keys stay two."""
    longest = MAX_TAG_KEY if what == "tag" else MAX_KEY
    fitting = _NOT_IN_A_KEY.sub("_", key)
    if len(fitting) <= longest:
        return fitting, []
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{fitting[: longest - 9]}-{digest}", [Over(what, key, "", f"the key has over {longest} characters")]


def fit(what: str, new: Mapping[str, Any], present: Mapping[str, str], most: int) -> tuple[dict[str, str], list[Over]]:
    """Parameters or tags as servers take them.

    Parameters
    ----------
    what : str
        `param` or `tag`.
    new : mapping
        What is to be recorded.
    present : mapping
        What the run has. A parameter keeps its first value, a tag takes the last.
    most : int
        How many the run may have.

    Returns
    -------
    dict
        What to record.
    list of Over
        What was cut, or left out.
    """
    fitting: dict[str, str] = {}
    over: list[Over] = []
    for given, raw in new.items():
        key, too_long = fit_key(what, str(given))
        over += too_long
        value = str(raw)
        cut = value if len(value) <= MAX_VALUE else value[: MAX_VALUE - len(_ELLIPSIS)] + _ELLIPSIS
        if present.get(key) == cut:
            continue
        if what == "param" and key in present:
            over.append(Over(what, key, value, f"a parameter keeps its first value, {present[key]!r}"))
            continue
        if key not in present and len(present) + len(fitting.keys() - present.keys()) >= most:
            over.append(Over(what, key, value, f"a run has {most} {what}s at most"))
            continue
        if cut != value:
            over.append(Over(what, key, value, f"the value has over {MAX_VALUE} characters"))
        fitting[key] = cut
    return fitting, over
