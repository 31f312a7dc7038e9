"""Dates of an unfinished dataset: those still to be loaded, and those to be declared missing.

A message that cannot be decoded ends every `anemoi-datasets load`. Once its date is declared missing, only that date is
lost: loaded dates are kept, and the dataset becomes the one of a recipe with this date in `dates.missing`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from anemoi.datasets.compat import zarr_open
from anemoi.datasets.create.dataset import Dataset
from anemoi.datasets.create.recipe import Recipe
from anemoi.datasets.create.recipe.dates import StartEndDates

from anemoi_house.dates import parse_date
from anemoi_house.errors import HouseError

BUILD = "_build"
"""Table of anemoi-datasets in a dataset: `flags` and `shapes`, one of each for a group of dates loaded together."""

_NEXT, _BEFORE = "_build.next", "_build.before"


@dataclass(frozen=True)
class Progress:
    """How much of a dataset is loaded.

    Attributes
    ----------
    path : Path
    groups : list of list of datetime
        Dates that are loaded together.
    done : list of bool
        Whether each group is loaded.
    """

    path: Path
    groups: list[list[datetime]]
    done: list[bool]

    @property
    def left(self) -> list[datetime]:
        """Dates still to be loaded."""
        return [date for dates, done in zip(self.groups, self.done) if not done for date in dates]

    def as_text(self) -> str:
        """Return it in one line."""
        total, left = sum(map(len, self.groups)), self.left
        if not left:
            return f"{self.path}: all {total:,} dates are loaded. Next: anemoi-datasets finalise"
        groups = self.done.count(False)
        return (
            f"{self.path}: {len(left):,} of {total:,} dates are still to be loaded, in {groups:,} of "
            f"{len(self.done):,} groups, from {left[0]:%Y-%m-%dT%H} to {left[-1]:%Y-%m-%dT%H}"
        )


def progress(path: Path) -> Progress:
    """Return how much of a dataset is loaded; raise a HouseError unless it is unfinished."""
    return _Building(path).progress()


def declare_missing(path: Path, dates: Sequence[str]) -> Progress:
    """Declare dates of an unfinished dataset missing, as if its recipe had listed them.

    This happens whole or not at all. While its two halves are replaced, the recipe in the attributes and the table of
    groups, the table has another name, so that a stock command started meanwhile fails. If the process is killed then,
    the next call repairs the dataset.

    Parameters
    ----------
    path : Path
    dates : sequence of str
        Such as `2021-04-01T06`.

    Raises
    ------
    HouseError
        For a date that is not in the dataset or already loaded, if the groups of the other dates would change, or if
        the dataset is not unfinished.
    """
    building = _Building(path)
    building.remove([parse_date(given, "DATE", day_alone=None) for given in dates])
    return building.progress()


class _Building:
    """An unfinished dataset."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / ".zgroup").exists() and not (path / "zarr.json").exists():
            raise HouseError(f"{path}: is not a dataset. Create one with anemoi-datasets init.")
        self._recover()
        self.dataset = Dataset(str(path), update=True)
        store = self.dataset.store
        if "_recipe" not in store.attrs or "mean" in store:
            raise HouseError(f"{path}: is finished. Its dates cannot be changed.")
        if BUILD not in store or len(store[BUILD]) < 2:
            raise HouseError(f"{path}: is incomplete: anemoi-datasets init was stopped. Run it again with --overwrite.")
        self.recipe = Recipe(**store.attrs["_recipe"])
        if not isinstance(self.recipe.dates, StartEndDates):
            raise HouseError(f"{path}: its recipe has no start and end, which missing dates need.")

    def progress(self) -> Progress:
        return Progress(self.path, _groups(self.recipe), [bool(done) for done in self.dataset.store[BUILD]["flags"][:]])

    def remove(self, dates: Sequence[datetime]) -> None:
        with self.dataset.synchronizer:
            before = self.progress()
            for date in dates:
                self._check(date, before)
            kept = [[date for date in group if date not in dates] for group in before.groups]
            after = self._recipe_without(dates)
            if _groups(after) != [group for group in kept if group]:
                raise HouseError(
                    f"{self.path}: build.group_by: {self.recipe.build.group_by}: without {_stamps(dates)} the groups "
                    "of dates would change, including loaded ones. Start again with group_by: daily, and with "
                    "these dates in dates.missing."
                )
            self._clear(dates)
            self._exchange(after, kept)
            # The statistics of parts refer to dates by number.
            for statistics in Path(f"{self.path}.work_dir").glob("statistics_*.pkl"):
                statistics.unlink()

    def _exchange(self, recipe: Recipe, groups: Sequence[Sequence[datetime]]) -> None:
        """Replace the recipe and the table, which gets one row for each of these groups that is not empty."""
        positions = [position for position, group in enumerate(groups) if group]
        table = self.dataset.store[BUILD]
        flags, shapes = table["flags"][:][positions], table["shapes"][:][positions]
        shapes[:, 0] = [len(groups[position]) for position in positions]
        shutil.rmtree(self.path / _NEXT, ignore_errors=True)
        self.dataset.add_array(name=f"{_NEXT}/flags", data=flags, dimensions=("group",))
        self.dataset.add_array(name=f"{_NEXT}/shapes", data=shapes, dimensions=("group", "dim"))
        (self.path / BUILD).rename(self.path / _BEFORE)
        self.dataset.update_metadata(self._metadata(recipe))
        self._put_in_place()
        self.recipe = recipe

    def _check(self, date: datetime, before: Progress) -> None:
        """Raise a HouseError unless a date can be declared missing."""
        where = f"{self.path}: {_stamps([date])}:"
        assert isinstance(self.recipe.dates, StartEndDates)
        if date in self.recipe.dates.missing:
            raise HouseError(f"{where} is already missing.")
        done = next((done for dates, done in zip(before.groups, before.done) if date in dates), None)
        if done is None:
            ends = (self.recipe.dates.start, self.recipe.dates.end)
            raise HouseError(f"{where} is not in this dataset, which is from {_stamps(ends, ' to ')}.")
        if done:
            raise HouseError(f"{where} is already loaded, and cannot be removed.")

    def _recipe_without(self, dates: Sequence[datetime]) -> Recipe:
        content = self.recipe.model_dump(mode="json")
        missing = {*self.recipe.dates.missing, *dates}  # type: ignore[union-attr]
        content["dates"]["missing"] = [date.isoformat() for date in sorted(missing)]
        return Recipe(**content)

    def _metadata(self, recipe: Recipe) -> dict[str, Any]:
        """Return the attributes that depend on the missing dates, as `anemoi-datasets init` writes them."""
        attributes = self.dataset.store.attrs
        content = recipe.model_dump(mode="json")
        dates = attributes["recipe"]["dates"] | {"missing": content["dates"]["missing"]}
        return {
            "_recipe": content,
            "recipe": attributes["recipe"] | {"dates": dates},
            "missing_dates": content["dates"]["missing"],
            "last_date": str(recipe.make_groups().last_date()),
        }

    def _clear(self, dates: Sequence[datetime]) -> None:
        """Remove what a failed load has left of some dates."""
        data = zarr.open_array(str(self.path), path="data", mode="r+", write_empty_chunks=False)
        for position in np.flatnonzero(np.isin(self.dataset.dates, np.array(sorted(dates), "<M8[s]"))):
            data[position] = np.nan

    def _recover(self) -> None:
        """Complete or undo a replacement of the table that was killed."""
        if (self.path / BUILD).exists() or not (self.path / _BEFORE).exists():
            return
        store = zarr_open(str(self.path), "r")
        groups = _groups(Recipe(**store.attrs["_recipe"]))
        if [len(group) for group in groups] == store[f"{_NEXT}/shapes"][:, 0].tolist():
            self._put_in_place()
        else:
            (self.path / _BEFORE).rename(self.path / BUILD)

    def _put_in_place(self) -> None:
        (self.path / _NEXT).rename(self.path / BUILD)
        shutil.rmtree(self.path / _BEFORE)


def _groups(recipe: Recipe) -> list[list[datetime]]:
    return [list(group.dates) for group in recipe.make_groups()]


def _stamps(dates: Sequence[datetime], separator: str = ", ") -> str:
    return separator.join(f"{date:%Y-%m-%dT%H}" for date in dates)
