"""Recipes for `anemoi-datasets`: ours for other dates, levels and places, and edits that keep a user's comments."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.timestamp import TimeStamp

from anemoi_house.datasets.stores import Root
from anemoi_house.errors import HouseError
from anemoi_house.shipped import config_folder

STEP = timedelta(hours=6)
"""Between the dates of our recipes."""

SOURCE = "house-noaa"

_FORMATS = ("%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
_ROUND_TRIP = YAML()
_ROUND_TRIP.indent(mapping=2, sequence=4, offset=2)
_ROUND_TRIP.width = 120
_ROUND_TRIP.preserve_quotes = True


def names() -> list[str]:
    """Names of our recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def recipe(
    name: str,
    start: str | None = None,
    end: str | None = None,
    roots: Sequence[str] = (),
    levels: Sequence[str] = (),
) -> str:
    """Text of one of our recipes, with its comments.

    Parameters
    ----------
    name : str
        One of `names()`.
    start, end : str, optional
        First and last date, such as `2021-04-01T06`; of a day alone, its first or last date. By default the recipe's.
    roots : sequence of str
        Places to look in, in this order; by default the public archives.
    levels : sequence of str
        Pressure levels in hPa; by default the recipe's.

    Raises
    ------
    HouseError
        For anything that is not so.
    """
    if name not in names():
        raise HouseError(f"{name}: there is no such recipe; there are {', '.join(names())}")
    content = _ROUND_TRIP.load((_folder() / f"{name}.yaml").read_text())
    _set_period(content, start, end)
    for entry in archive_entries(content["input"]):
        if roots:
            entry.settings["roots"] = _flow([Root.of(root).url for root in roots])
        if levels and "level" in entry.settings:
            entry.settings["level"][:] = _levels(levels)
    text = io.StringIO()
    _ROUND_TRIP.dump(content, text)
    return text.getvalue()


def batch_script(
    name: str,
    text: str,
    parts: int,
    output: str | None = None,
    account: str | None = None,
    partition: str | None = None,
    time: str | None = None,
) -> str:
    """Script that builds the dataset of a recipe in parallel with SLURM: `bash build.sh`.

    Parameters
    ----------
    name : str
        Of the recipe; its file is written beside the script.
    text : str
        Of the recipe.
    parts : int
        Jobs side by side.
    output : str, optional
        Dataset, relative to the folder of the script; by default `NAME.zarr`.
    account, partition, time : str, optional
        As sbatch takes them; by default its own.

    Raises
    ------
    HouseError
        For a number below 1, or an output that is no `.zarr`.
    """
    if parts < 1:
        raise HouseError(f"--sbatch {parts}: give the number of parts that are built side by side, 1 or more")
    dataset = (output or f"{name}.zarr").rstrip("/")
    if not dataset.endswith(".zarr"):
        raise HouseError(f"--output {output}: anemoi-datasets wants a name that ends in .zarr")
    wanted = {"account": account, "partition": partition, "time": time}
    values = {
        "SBATCH": "".join(f"#SBATCH --{key}={value}\n" for key, value in wanted.items() if value),
        "PARTS": str(parts),
        "RECIPE": shlex.quote(f"{name}.yaml"),
        "DATASET": shlex.quote(dataset),
        "TEXT": text,
    }
    script = Path(__file__).with_name("build.sh").read_text()
    for key, value in values.items():
        script = script.replace(f"@{key}@\n" if key in ("SBATCH", "TEXT") else f"@{key}@", value)
    return script


@dataclass(frozen=True)
class Entry:
    """One `house-noaa` in a recipe.

    Attributes
    ----------
    where : str
        Its keys from the top, such as `input.join.0.house-noaa`.
    settings : dict
        As in the recipe.
    periods : tuple
        Settings of `dates` of each `concat` that it is in.
    """

    where: str
    settings: dict[str, Any]
    periods: tuple[Any, ...] = ()


def archive_entries(action: Any, where: str = "input", periods: tuple[Any, ...] = ()) -> Iterator[Entry]:
    """All `house-noaa` in the `input` of a recipe, wherever they are."""
    if isinstance(action, list):
        for index, item in enumerate(action):
            yield from archive_entries(item, f"{where}.{index}", periods)
    if isinstance(action, dict):
        inner = (*periods, action["dates"]) if "dates" in action else periods
        for key, value in action.items():
            if str(key).replace("_", "-") == SOURCE:
                yield Entry(f"{where}.{key}", value if isinstance(value, dict) else {}, inner)
            elif key != "dates":
                yield from archive_entries(value, f"{where}.{key}", inner)


def add_missing(path: Path, dates: Sequence[datetime]) -> None:
    """Write dates into `dates.missing` of a recipe file, whole or not at all; every other character of it stays.

    Raises
    ------
    HouseError
        For a file that cannot be read or written to, or is laid out in a way that is not known.
    """
    path = path.resolve()
    told = ", ".join(f"{date:%Y-%m-%dT%H:%M:%S}" for date in dates)
    try:
        with path.open(newline="") as file:
            text = file.read()
        expected = yaml.safe_load(text)
        expected["dates"]["missing"] = [*(expected["dates"].get("missing") or []), *dates]
        text = _with_missing(text, [f"{date:%Y-%m-%dT%H:%M:%S}" for date in sorted(dates)])
        found = yaml.safe_load(text)
        for content in (expected, found):
            content["dates"]["missing"].sort(key=str)
        if found != expected:
            raise ValueError
        _write_whole(path, text)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise HouseError(f"{path}: dates: cannot be added to; write into its missing yourself: {told}") from None
    except OSError as failure:
        raise HouseError(f"{path}: cannot be written to ({failure.strerror}); its missing lacks {told}") from None


def _with_missing(text: str, stamps: Sequence[str]) -> str:
    """Text of a recipe with more dates, in their order."""
    dates = _value(yaml.compose(text), "dates")
    listed = _value(dates, "missing")
    if listed is None:
        if dates.flow_style:
            return _inserted(text, dates.end_mark.index - 1, f", missing: [{', '.join(stamps)}]")
        # After the last key, if that is on one line.
        name, value = dates.value[-1]
        indent = "\n" + " " * name.start_mark.column
        if isinstance(value, yaml.ScalarNode):
            lines = "".join(f"{indent}  - {stamp}" for stamp in stamps)
            return _inserted(text, _end_of_line(text, value.end_mark.index), f"{indent}missing:{lines}")
        return _inserted(text, name.start_mark.index, f"missing: [{', '.join(stamps)}]{indent}")
    if not listed.value or isinstance(listed, yaml.ScalarNode):
        return f"{text[: listed.start_mark.index].rstrip(' ')} [{', '.join(stamps)}]{text[listed.end_mark.index :]}"
    # From the end, so that places stay where they were.
    for index, piece in sorted((_place(text, listed, stamp) for stamp in stamps), reverse=True):
        text = _inserted(text, index, piece)
    return text


def _place(text: str, listed: Any, stamp: str) -> tuple[int, str]:
    """Where a date goes in a list that is not empty, and what is written there."""
    separator = ", " if listed.flow_style else "\n" + " " * listed.start_mark.column + "- "
    for item in listed.value:
        if isinstance(item, yaml.ScalarNode) and item.value > stamp:
            return item.start_mark.index, f"{stamp}{separator}"
    last = listed.value[-1]
    if not isinstance(last, yaml.ScalarNode):
        # Ahead of a range: for YAML, it ends only where something else begins.
        return last.start_mark.index, f"{stamp}{separator}"
    end = last.end_mark.index
    return end if listed.flow_style else _end_of_line(text, end), f"{separator}{stamp}"


def _end_of_line(text: str, index: int) -> int:
    """Where a line ends, behind its comment."""
    return next((k for k in range(index, len(text)) if text[k] in "\r\n"), len(text))


def _value(mapping: Any, key: str) -> Any:
    """Node of a key; None where there is none."""
    return next((value for name, value in mapping.value if name.value == key), None)


def _inserted(text: str, index: int, piece: str) -> str:
    return text[:index] + piece + text[index:]


def _write_whole(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as temporary:
        temporary.write(text)
    try:
        shutil.copymode(path, temporary.name)
        os.replace(temporary.name, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary.name)


def _folder() -> Path:
    return config_folder() / "datasets"


def _set_period(content: CommentedMap, start: str | None, end: str | None) -> None:
    dates, statistics = content["dates"], content["statistics"]
    first = _date("--start", start, timedelta(0)) if start else dates["start"]
    last = _date("--end", end, timedelta(days=1) - STEP) if end else dates["end"]
    if last < first:
        raise HouseError(
            f"--start {first:%Y-%m-%dT%H} --end {last:%Y-%m-%dT%H}: the end is before the start; give both"
        )
    dates["start"], dates["end"] = _timestamp(first), _timestamp(last)
    outside = [position for position, date in enumerate(dates["missing"]) if not first <= date <= last]
    for position in reversed(outside):
        del dates["missing"][position]
    if not dates["missing"]:
        del dates["missing"]
    if not first <= statistics["end"] < last:
        del statistics["end"]
        statistics.yaml_set_start_comment("over the first 80 % of the dates, or all years but the last", indent=2)


def _date(option: str, given: str, in_day: timedelta) -> datetime:
    """Date of an option; for a day alone, the time `in_day` of it."""
    for form in _FORMATS:
        with suppress(ValueError):
            date = datetime.strptime(given, form) + (in_day if form == _FORMATS[0] else timedelta(0))
            if (date - datetime.min) % STEP:
                raise HouseError(f"{option} {given}: is not on the 6 h cycle; give T00, T06, T12 or T18")
            return date
    raise HouseError(f"{option} {given}: is no date; give one like 2021-04-01 or 2021-04-01T06")


def _levels(given: Sequence[str]) -> list[int]:
    levels = [int(level) if level.isdecimal() else 0 for level in given]
    if 0 in levels or len(set(levels)) < len(levels):
        raise HouseError(f"--levels {' '.join(given)}: give different pressures in whole hPa, such as 500 850")
    return levels


def _flow(items: Sequence[Any]) -> CommentedSeq:
    sequence = CommentedSeq(items)
    sequence.fa.set_flow_style()
    return sequence


def _timestamp(date: datetime) -> TimeStamp:
    """Date that is written with a `T`, as YAML does."""
    stamp = TimeStamp(date.year, date.month, date.day, date.hour, date.minute, date.second)
    stamp._yaml["t"] = True
    return stamp
