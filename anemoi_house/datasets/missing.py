"""A dataset under construction: what is still to load, and dates that are taken out of it.

A message that cannot be decoded ends `anemoi-datasets load`, each time that it is started. Declared missing, its date
costs no more than its own slot: what was loaded stays, and the dataset becomes what a recipe with this date in
`dates.missing` would have made.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
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

from anemoi_house.errors import HouseError

BUILD = "_build"
"""Table of anemoi-datasets in a store: `flags` and `shapes`, one of each a group of dates that are loaded together."""

_NEXT, _BEFORE = "_build.next", "_build.before"


@dataclass(frozen=True)
class Progress:
    """How far a dataset is.

    Attributes
    ----------
    path : Path
    groups : list of list of datetime
        Dates that are loaded together.
    done : list of bool
        Of each group.
    """

    path: Path
    groups: list[list[datetime]]
    done: list[bool]

    @property
    def left(self) -> list[datetime]:
        """Dates that are still to load."""
        return [date for dates, done in zip(self.groups, self.done) if not done for date in dates]

    def as_text(self) -> str:
        """In one line."""
        total, left = sum(map(len, self.groups)), self.left
        if not left:
            return f"{self.path}: all {total:,} dates are loaded; anemoi-datasets finalise is next"
        groups = self.done.count(False)
        return (
            f"{self.path}: {len(left):,} of {total:,} dates are still to load, in {groups:,} of {len(self.done):,} "
            f"groups, from {left[0]:%Y-%m-%dT%H} to {left[-1]:%Y-%m-%dT%H}"
        )


def progress(path: Path) -> Progress:
    """How far a dataset is; a HouseError for one that is not being built."""
    return _Building(path).progress()


def declare_missing(path: Path, dates: Sequence[str]) -> Progress:
    """Take dates out of a dataset that is being built, as if its recipe had listed them as missing.

    Whole or not at all: while the two things that make it up, the recipe in the attributes and the table of groups, are
    exchanged, the table has another name, so that a stock command that is started in between fails. A kill at that
    moment is mended when this is next called.

    Parameters
    ----------
    path : Path
    dates : sequence of str
        Such as `2021-04-01T06`.

    Raises
    ------
    HouseError
        For a date that is not in the dataset or is loaded already, for groups of dates that would become others, and
        for a dataset that is not being built.
    """
    building = _Building(path)
    building.remove([_date(given) for given in dates])
    return building.progress()


class _Building:
    """The store of a dataset that is being built."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / ".zgroup").exists() and not (path / "zarr.json").exists():
            raise HouseError(f"{path}: there is no such dataset; anemoi-datasets init makes one")
        self._recover()
        self.dataset = Dataset(str(path), update=True)
        store = self.dataset.store
        if "_recipe" not in store.attrs or "mean" in store:
            raise HouseError(f"{path}: is finished: nothing of it is to load, and its dates stay as they are")
        if BUILD not in store or len(store[BUILD]) < 2:
            raise HouseError(f"{path}: is not whole: anemoi-datasets init was stopped; run it again with --overwrite")
        self.recipe = Recipe(**store.attrs["_recipe"])
        if not isinstance(self.recipe.dates, StartEndDates):
            raise HouseError(f"{path}: was made of a recipe without start and end, which missing dates need")

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
                    f"{self.path}: build.group_by: {self.recipe.build.group_by}: without {_told(dates)} the groups of "
                    "dates would be others, those that are loaded too; begin anew with group_by: daily, and with this "
                    "in dates.missing"
                )
            self._clear(dates)
            self._exchange(after, kept)
            # The parts' statistics are of dates by their number.
            for statistics in Path(f"{self.path}.work_dir").glob("statistics_*.pkl"):
                statistics.unlink()

    def _exchange(self, recipe: Recipe, groups: Sequence[Sequence[datetime]]) -> None:
        """Put another recipe and a table of these groups, less the empty ones, in the place of those that are there."""
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
        told = f"{self.path}: {_told([date])}:"
        assert isinstance(self.recipe.dates, StartEndDates)
        if date in self.recipe.dates.missing:
            raise HouseError(f"{told} is missing already")
        positions = [position for position, group in enumerate(before.groups) if date in group]
        if not positions:
            first, last = self.recipe.dates.start, self.recipe.dates.end
            raise HouseError(f"{told} is no date of this dataset, from {first:%Y-%m-%dT%H} to {last:%Y-%m-%dT%H}")
        if before.done[positions[0]]:
            raise HouseError(f"{told} is loaded already; what is loaded stays as it is")

    def _recipe_without(self, dates: Sequence[datetime]) -> Recipe:
        content = self.recipe.model_dump(mode="json")
        missing = {*self.recipe.dates.missing, *dates}  # type: ignore[union-attr]
        content["dates"]["missing"] = [date.isoformat() for date in sorted(missing)]
        return Recipe(**content)

    def _metadata(self, recipe: Recipe) -> dict[str, Any]:
        """Attributes that follow from the missing dates, as `anemoi-datasets init` writes them."""
        attributes = self.dataset.store.attrs
        content = recipe.model_dump(mode="json")
        told = attributes["recipe"]["dates"] | {"missing": content["dates"]["missing"]}
        return {
            "_recipe": content,
            "recipe": attributes["recipe"] | {"dates": told},
            "missing_dates": content["dates"]["missing"],
            "last_date": str(recipe.make_groups().last_date()),
        }

    def _clear(self, dates: Sequence[datetime]) -> None:
        """Remove what a load that failed has left of some dates."""
        data = zarr.open_array(str(self.path), path="data", mode="r+", write_empty_chunks=False)
        for position in np.flatnonzero(np.isin(self.dataset.dates, np.array(sorted(dates), "<M8[s]"))):
            data[position] = np.nan

    def _recover(self) -> None:
        """Finish, or take back, an exchange of the table that was killed."""
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


def _date(given: str) -> datetime:
    for form in ("%Y-%m-%dT%H", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"):
        with suppress(ValueError):
            return datetime.strptime(given, form)
    raise HouseError(f"{given}: is no date; give one like 2021-04-01T06")


def _told(dates: Sequence[datetime]) -> str:
    return ", ".join(f"{date:%Y-%m-%dT%H}" for date in dates)
