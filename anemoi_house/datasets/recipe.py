"""Recipes for `anemoi-datasets`: ours for other dates, levels and stores, and edits that keep a user's comments."""

from __future__ import annotations

import io
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.timestamp import TimeStamp

from anemoi_house.datasets.stores import StoreSettings
from anemoi_house.dates import parse_date
from anemoi_house.errors import HouseError
from anemoi_house.files import whole
from anemoi_house.shipped import config_folder
from anemoi_house.words import listed

STEP = timedelta(hours=6)
"""Between the dates of our recipes."""

SOURCE = "house-noaa"

_ROUND_TRIP = YAML()
_ROUND_TRIP.indent(mapping=2, sequence=4, offset=2)
_ROUND_TRIP.width = 120
_ROUND_TRIP.preserve_quotes = True


def names() -> list[str]:
    """Return the names of our recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def recipe(
    name: str,
    start: str | None = None,
    end: str | None = None,
    roots: Sequence[str] = (),
    levels: Sequence[str] = (),
) -> str:
    """Return the text of one of our recipes, with its comments.

    Parameters
    ----------
    name : str
        One of `names()`.
    start, end : str, optional
        First and last date, such as `2021-04-01T06`, or a day, for its first or last date; by default the recipe's.
    roots : sequence of str
        Stores to read, in order of preference; by default the public archives.
    levels : sequence of str
        Pressure levels in hPa; by default the recipe's.

    Raises
    ------
    HouseError
        If one of these is invalid.
    """
    if name not in names():
        raise HouseError(f"{name}: is not a recipe. Use {listed(names(), 'or')}.")
    content = _ROUND_TRIP.load((_folder() / f"{name}.yaml").read_text())
    _set_period(content, start, end)
    for entry in archive_entries(content["input"]):
        if roots:
            entry.settings["roots"] = CommentedSeq(StoreSettings.of(root).url for root in roots)
            entry.settings["roots"].fa.set_flow_style()
        if levels and "level" in entry.settings:
            entry.settings["level"][:] = _levels(levels)
    text = io.StringIO()
    _ROUND_TRIP.dump(content, text)
    return text.getvalue()


def batch_script(name: str, text: str, parts: int, output: str | None = None, **options: str | None) -> str:
    """Return a script that builds the dataset of a recipe in parallel with SLURM: `bash build.sh`.

    Parameters
    ----------
    name : str
        Name of the recipe, whose file is written next to the script.
    text : str
        Text of the recipe.
    parts : int
        Number of parallel jobs.
    output : str, optional
        Dataset, relative to the script's directory; by default `NAME.zarr`.
    **options
        Options of sbatch, such as `account`; None for sbatch's own.

    Raises
    ------
    HouseError
        If `parts` is below 1, or `output` does not end in `.zarr`.
    """
    if parts < 1:
        raise HouseError(f"--sbatch {parts}: invalid. Give the number of parts to build in parallel, 1 or more.")
    dataset = (output or f"{name}.zarr").rstrip("/")
    if not dataset.endswith(".zarr"):
        raise HouseError(f"--output {output}: invalid. anemoi-datasets needs a name that ends in .zarr.")
    values = {
        "@SBATCH@\n": "".join(f"#SBATCH --{key}={value}\n" for key, value in options.items() if value),
        "@PARTS@": str(parts),
        "@RECIPE@": shlex.quote(f"{name}.yaml"),
        "@DATASET@": shlex.quote(dataset),
        "@TEXT@\n": text,
    }
    script = Path(__file__).with_name("build.sh").read_text()
    for key, value in values.items():
        script = script.replace(key, value)
    return script


@dataclass(frozen=True)
class SourceEntry:
    """One `house-noaa` in a recipe.

    Attributes
    ----------
    where : str
        Its keys from the top, such as `input.join.0.house-noaa`.
    settings : dict
    periods : tuple
        The `dates` of each `concat` around it.
    """

    where: str
    settings: dict[str, Any]
    periods: tuple[Any, ...] = ()


def archive_entries(action: Any, where: str = "input", periods: tuple[Any, ...] = ()) -> Iterator[SourceEntry]:
    """Yield every `house-noaa` in the `input` of a recipe, at any depth."""
    if isinstance(action, list):
        for index, item in enumerate(action):
            yield from archive_entries(item, f"{where}.{index}", periods)
    if isinstance(action, dict):
        inner = (*periods, action["dates"]) if "dates" in action else periods
        for key, value in action.items():
            if str(key).replace("_", "-") == SOURCE:
                yield SourceEntry(f"{where}.{key}", value if isinstance(value, dict) else {}, inner)
            elif key != "dates":
                yield from archive_entries(value, f"{where}.{key}", inner)


def add_missing(path: Path, dates: Sequence[datetime]) -> None:
    """Add dates to `dates.missing` of a recipe file, whole or not at all; every other character stays.

    Raises
    ------
    HouseError
        If the file cannot be read or written, or has an unsupported layout.
    """
    path = path.resolve()
    stamps = [f"{date:%Y-%m-%dT%H:%M:%S}" for date in sorted(dates)]
    try:
        text = path.read_bytes().decode()
        expected = yaml.safe_load(text)
        expected["dates"]["missing"] = [*(expected["dates"].get("missing") or []), *dates]
        text = _with_missing(text, stamps)
        found = yaml.safe_load(text)
        for content in (expected, found):
            content["dates"]["missing"].sort(key=str)
        if found != expected:
            raise ValueError
        with whole(path) as temporary:
            temporary.write_bytes(text.encode())
            shutil.copymode(path, temporary)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise HouseError(f"{path}: dates: cannot be edited. Add these to its missing: {', '.join(stamps)}") from None
    except OSError as failure:
        raise HouseError(
            f"{path}: cannot be written ({failure.strerror}). Add these to its missing: {', '.join(stamps)}"
        ) from None


def _with_missing(text: str, stamps: Sequence[str]) -> str:
    """Return the text of a recipe with more missing dates, in order."""
    dates = _value(yaml.compose(text), "dates")
    missing = _value(dates, "missing")
    if missing is None:
        return _with_new_list(text, dates, stamps)
    if not missing.value or isinstance(missing, yaml.ScalarNode):
        before, after = text[: missing.start_mark.index].rstrip(" "), text[missing.end_mark.index :]
        return f"{before} [{', '.join(stamps)}]{after}"
    # From the end, so that earlier positions stay valid.
    for index, piece in sorted((_insertion(text, missing, stamp) for stamp in stamps), reverse=True):
        text = _inserted(text, index, piece)
    return text


def _with_new_list(text: str, dates: Any, stamps: Sequence[str]) -> str:
    """Return the text of a recipe that has no `dates.missing` with one."""
    in_a_row = f"missing: [{', '.join(stamps)}]"
    if dates.flow_style:
        return _inserted(text, dates.end_mark.index - 1, f", {in_a_row}")
    name, value = dates.value[-1]
    indent = "\n" + " " * name.start_mark.column
    if not isinstance(value, yaml.ScalarNode):
        return _inserted(text, name.start_mark.index, f"{in_a_row}{indent}")
    # After the last key, which is on one line.
    lines = "".join(f"{indent}  - {stamp}" for stamp in stamps)
    return _inserted(text, _end_of_line(text, value.end_mark.index), f"{indent}missing:{lines}")


def _insertion(text: str, missing: Any, stamp: str) -> tuple[int, str]:
    """Return the position of a date in a list that is not empty, and the text to insert there."""
    separator = ", " if missing.flow_style else "\n" + " " * missing.start_mark.column + "- "
    for item in missing.value:
        if isinstance(item, yaml.ScalarNode) and item.value > stamp:
            return item.start_mark.index, f"{stamp}{separator}"
    last = missing.value[-1]
    if not isinstance(last, yaml.ScalarNode):
        # Before a range: for YAML, it extends to the start of whatever follows.
        return last.start_mark.index, f"{stamp}{separator}"
    end = last.end_mark.index
    return end if missing.flow_style else _end_of_line(text, end), f"{separator}{stamp}"


def _end_of_line(text: str, index: int) -> int:
    """Return the end of a line, after its comment."""
    return next((k for k in range(index, len(text)) if text[k] in "\r\n"), len(text))


def _value(mapping: Any, key: str) -> Any:
    """Return the node of a key; None if there is none."""
    return next((value for name, value in mapping.value if name.value == key), None)


def _inserted(text: str, index: int, piece: str) -> str:
    return text[:index] + piece + text[index:]


def _folder() -> Path:
    return config_folder() / "datasets"


def _set_period(content: CommentedMap, start: str | None, end: str | None) -> None:
    """Set the first and last date, and remove the missing dates and the statistics' end that lie outside."""
    dates, statistics = content["dates"], content["statistics"]
    first = _date("--start", start, timedelta(0)) if start else dates["start"]
    last = _date("--end", end, timedelta(days=1) - STEP) if end else dates["end"]
    if last < first:
        raise HouseError(
            f"--start {first:%Y-%m-%dT%H} --end {last:%Y-%m-%dT%H}: the end is before the start. Give both."
        )
    dates["start"], dates["end"] = _timestamp(first), _timestamp(last)
    missing = dates.get("missing", [])
    for position in reversed(range(len(missing))):  # deleted in place, which keeps comments
        if not first <= missing[position] <= last:
            del missing[position]
    if not missing:
        dates.pop("missing", None)
    if "end" in statistics and not first <= statistics["end"] < last:
        del statistics["end"]
        statistics.yaml_set_start_comment("over the first 80 % of the dates, or all years but the last", indent=2)


def _date(option: str, given: str, time_of_day: timedelta) -> datetime:
    """Return the date of an option; a day stands for its date at `time_of_day`."""
    date = parse_date(given, option, time_of_day)
    if (date - datetime.min) % STEP:
        raise HouseError(f"{option} {given}: not on the 6 h cycle. Give T00, T06, T12 or T18.")
    return date


def _levels(given: Sequence[str]) -> list[int]:
    levels = [int(level) if level.isdecimal() else 0 for level in given]
    if 0 in levels or len(set(levels)) < len(levels):
        raise HouseError(
            f"--levels {' '.join(given)}: invalid. Give different pressures in whole hPa, such as 500 850."
        )
    return levels


def _timestamp(date: datetime) -> TimeStamp:
    """Return a date that ruamel writes with a `T`."""
    stamp = TimeStamp(date.year, date.month, date.day, date.hour, date.minute, date.second)
    stamp._yaml["t"] = True
    return stamp
