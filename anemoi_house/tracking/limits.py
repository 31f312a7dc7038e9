"""Limits within which parameters, tags and metrics are recorded: those of the strictest server, Azure ML.

Values over a limit are cut or left out when they are recorded, not when they are sent. So any server can take a record,
and then has what the record has.
"""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

MAX_PARAMS = 190
"""Parameters of a run: Azure ML allows 200, and the sender may add some."""
MAX_TAGS = 45
"""Tags of a run: Azure ML allows about 50, and the sender adds some."""
MAX_KEY = 250
MAX_TAG_KEY = 100
MAX_VALUE = 500
_ELLIPSIS = "..."
_PLAIN = re.compile(r"\w[\w :-]*(?:[/.]\w[\w :-]*)*")
_NOT_IN_A_KEY = re.compile(r"[^\w/. :-]+")


class OverLimit(NamedTuple):
    """Something that went over a limit."""

    what: str
    key: str
    value: str
    why: str


def flatten(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values of nested mappings; lists are values."""
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, settings


def chosen(settings: Any, patterns: Iterable[str]) -> dict[str, str]:
    """Return the flattened settings whose dotted key matches one of the patterns, in the order of the patterns.

    A pattern is a key, the key of a whole branch, or a shell pattern.
    """
    flat = dict(flatten(settings))
    found: dict[str, str] = {}
    for pattern in patterns:
        for key, value in flat.items():
            if key == pattern or key.startswith(f"{pattern}.") or fnmatch.fnmatchcase(key, pattern):
                found[key] = str(value)
    return found


def fit_key(what: str, key: str) -> tuple[str, list[OverLimit]]:
    """Return a key that all servers accept, by its characters and length; keys that are changed stay distinct."""
    longest = MAX_TAG_KEY if what == "tag" else MAX_KEY
    if _PLAIN.fullmatch(key) and len(key) <= longest:
        return key, []
    # Slashes and dots as in the path of a file, which MLflow wants: no `a//b`, no `../a`.
    fitting = posixpath.normpath("/" + _NOT_IN_A_KEY.sub("_", key)).lstrip("/")
    fitting = f"_{fitting}" if fitting.startswith("..") else fitting
    if fitting == key and 0 < len(key) <= longest:
        return key, []
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:8]
    why = f"more than {longest} characters" if len(key) > longest else "characters that servers refuse"
    fitting = f"{fitting[: longest - 9]}-{digest}"
    return fitting, [OverLimit(what, key, "", f"the key has {why}; it is recorded as {fitting}")]


def fit(
    what: str, new: Mapping[str, Any], present: Mapping[str, str], most: int
) -> tuple[dict[str, str], list[OverLimit]]:
    """Return parameters or tags within the limits.

    Parameters
    ----------
    what : str
        `param` or `tag`.
    new : mapping
        What to record.
    present : mapping
        What the run has already. A parameter keeps its first value, a tag takes the last.
    most : int
        How many the run may have.

    Returns
    -------
    dict
        What fits.
    list of OverLimit
        What was cut or left out.
    """
    fitting: dict[str, str] = {}
    over: list[OverLimit] = []
    for given, raw in new.items():
        key, too_long = fit_key(what, str(given))
        over += too_long
        value = str(raw)
        cut = value if len(value) <= MAX_VALUE else value[: MAX_VALUE - len(_ELLIPSIS)] + _ELLIPSIS
        if present.get(key) == cut:
            continue
        if what == "param" and key in present:
            over.append(OverLimit(what, key, value, f"a parameter keeps its first value, {present[key]!r}"))
            continue
        if key not in present and len(present) + len(fitting.keys() - present.keys()) >= most:
            over.append(OverLimit(what, key, value, f"a run can have at most {most} {what}s"))
            continue
        if cut != value:
            over.append(OverLimit(what, key, value, f"the value has more than {MAX_VALUE} characters"))
        fitting[key] = cut
    return fitting, over
