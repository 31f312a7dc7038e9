"""Checks of the two datasets of a nested experiment: each a function over both, listed in `CHECKS`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from anemoi_house.boundary.trim import check_domain, width_to_cells
from anemoi_house.errors import HouseError, first_line
from anemoi_house.upstream import keys

GLOBE_DEGREES = 150
"""Range of latitudes from which a dataset counts as global."""


@dataclass(frozen=True)
class Part:
    """One of the two datasets of a cutout.

    Attributes
    ----------
    key : str
        Setting that names it.
    path : str
        Its path or name.
    dataset : Dataset
        As `open_dataset` returns it.
    """

    key: str
    path: str
    dataset: Any

    @classmethod
    def opened(cls, key: str, settings: Mapping[str, Any]) -> Self:
        """Open a part of a cutout with its settings.

        Raises
        ------
        HouseError
            If it does not exist, is not an anemoi dataset, or has coordinates that are not finite.
        """
        from anemoi.datasets import open_dataset

        path = str(settings["dataset"])
        local = isinstance(settings["dataset"], str) and "://" not in path
        if local and (os.sep in path or path.endswith(".zarr")) and not Path(path).exists():
            raise HouseError(f"{key}: {path} does not exist. Correct the path, or build the dataset first.")
        try:
            dataset = open_dataset(**settings)
            finite = np.isfinite(dataset.latitudes) & np.isfinite(dataset.longitudes)
        except Exception as error:  # zarr, fsspec and anemoi-datasets raise all kinds of errors
            raise HouseError(f"{key}: {path} cannot be opened as an anemoi dataset ({first_line(error)}).") from error
        if not finite.all():
            raise HouseError(
                f"{key}: {np.count_nonzero(~finite)} of the {finite.size} points of {path} have coordinates that are "
                "not finite. Rebuild the dataset from fields with a valid grid."
            )
        return cls(key, path, dataset)

    @property
    def is_global(self) -> bool:
        """Whether it covers the globe."""
        return bool(np.ptp(self.dataset.latitudes) > GLOBE_DEGREES)

    @property
    def span(self) -> str:
        """Range of its latitudes, in words."""
        return f"latitudes {self.dataset.latitudes.min():.1f} to {self.dataset.latitudes.max():.1f}"

    @property
    def dates(self) -> str:
        """Number and range of its dates, in words."""
        dates = self.dataset.dates
        return f"{len(dates)} from {str(dates[0])[:13]} to {str(dates[-1])[:13]}"


def check_order(lam: Part, globe: Part, used: Mapping[str, Any]) -> None:
    """Refuse two datasets that are swapped, or of which both or neither is global."""
    if lam.is_global or not globe.is_global:
        raise HouseError(
            f"{lam.key} must be the limited-area dataset and {globe.key} the global one, but {lam.path} spans "
            f"{lam.span} and {globe.path} spans {globe.span}. Swap the two paths."
        )


def check_used_variables(lam: Part, globe: Part, used: Mapping[str, Any]) -> None:
    """Refuse a dataset that lacks a forcing or diagnostic variable of the config."""
    named = {name for use in ("forcing", "diagnostic") for name in used.get(use) or ()}
    for part in (lam, globe):
        if lacking := sorted(named - set(part.dataset.variables)):
            raise HouseError(
                f"{part.key}: {part.path} lacks the variable {', '.join(lacking)}, which {keys.VARIABLES} names. "
                "Rebuild the dataset with it, or remove the name from the config."
            )


def check_same_variables(lam: Part, globe: Part, used: Mapping[str, Any]) -> None:
    """Refuse two datasets with different variables, or with the same ones in different order."""
    ours, theirs = list(lam.dataset.variables), list(globe.dataset.variables)
    if differing := sorted(set(ours) ^ set(theirs)):
        raise HouseError(
            f"the two datasets differ in variables: only one of {lam.path} ({len(ours)} variables) and {globe.path} "
            f"({len(theirs)}) has {', '.join(differing)}. Build both with the same variables, or give the one with "
            f"more a `drop:` in {keys.NESTED}."
        )
    if ours != theirs:
        raise HouseError(
            f"the two datasets have the same variables in different order: {lam.path} and {globe.path}. Build both in "
            f"the same order, or give both `reorder: sort` in {keys.NESTED}."
        )


def check_same_dates(lam: Part, globe: Part, used: Mapping[str, Any]) -> None:
    """Refuse two datasets with different dates."""
    if lam.dates != globe.dates:
        raise HouseError(
            f"the two datasets differ in dates: {lam.path} has {lam.dates}, {globe.path} has {globe.dates}. Build both "
            f"for the same dates, or give the longer one `start:` and `end:` in {keys.NESTED}."
        )


CHECKS = (check_order, check_used_variables, check_same_variables, check_same_dates)


def trim_in_cells(trim: Any, lam: Part) -> list[int]:
    """Return a parsed trim as cells off each side of the LAM.

    Raises
    ------
    HouseError
        If the LAM has no two-dimensional grid, or becomes too small.
    """
    shape, dataset = lam.dataset.field_shape, lam.dataset
    if len(shape) != 2:
        raise HouseError(
            f"{keys.TRIM}: {lam.path} has no two-dimensional grid (its field_shape is {tuple(shape)}), so its border "
            f"cannot be trimmed. Build it from fields that keep their 2-D shape, or set {keys.TRIM}=null."
        )
    if isinstance(trim, float):
        trim = width_to_cells(trim, dataset.latitudes.reshape(shape), dataset.longitudes.reshape(shape))
    check_domain(trim, shape, keys.TRIM)
    return list(trim)
