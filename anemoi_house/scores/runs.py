"""Runs with forecasts, and the dates, lead times and variables that they have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np

from anemoi_house.errors import HouseError
from anemoi_house.forecast.read import Forecast, find_forecasts, forecasts_of
from anemoi_house.runs.trained import Run, find_run
from anemoi_house.scores.grid import Widths
from anemoi_house.upstream.checkpoints import INFERENCE_LAST

VARIABLES = ("gh_500", "t_850", "u_850", "v_850")
"""Variables by which validation judges the published experiments."""

TABLE_LEADS_H = (24, 48, 72)
_LINES = 6
"""Forecasts that a note lists, at most."""


@dataclass(frozen=True)
class ComparedRun:
    """A run with its forecasts.

    Attributes
    ----------
    forecasts : sequence of Forecast
        By date.
    trained : Run, optional
        The finished run; None if its checkpoint is gone and only the forecasts are left.
    """

    forecasts: Sequence[Forecast]
    trained: Run | None = None

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.forecasts[0].about.run_id

    @property
    def experiment(self) -> str:
        """Name of the experiment: that of the run without an ending such as `_seed1`, so that its seeds share it."""
        return re.sub(r"[_-]seed\d+$", "", self.forecasts[0].about.name) or self.run_id

    @property
    def label(self) -> str:
        """Name and the beginning of the id, for messages."""
        return f"{self.experiment} ({self.run_id[:8]})"


@dataclass(frozen=True)
class Settings:
    """Settings of a comparison.

    Attributes
    ----------
    variables : tuple of str
        Empty: those of `VARIABLES` that all forecasts have, or the first four that they have.
    leads_h : tuple of int
        Lead times of the tables, the deciding one first. Empty: those of 24, 48 and 72 h that all forecasts have, or
        the last one.
    widths : Widths
        Of the rings along the boundary.
    """

    variables: tuple[str, ...] = ()
    leads_h: tuple[int, ...] = ()
    widths: Widths = field(default_factory=Widths)


@dataclass(frozen=True)
class Frame:
    """Dates, lead times and variables that all runs have.

    Attributes
    ----------
    dates : tuple of datetime64
    leads_h : tuple of int
        All lead times that every forecast has.
    table_leads_h : tuple of int
        Those of the tables, the deciding one first.
    variables : tuple of str
    notes : tuple of str
        What is left out, and why: sentences.
    """

    dates: tuple[np.datetime64, ...]
    leads_h: tuple[int, ...]
    table_leads_h: tuple[int, ...]
    variables: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def deciding_h(self) -> int:
        """Lead time of the verdict and of the maps."""
        return self.table_leads_h[0]

    def forecasts(self, run: ComparedRun) -> list[Forecast]:
        """Return the forecasts of a run from the common dates."""
        return [forecast for forecast in run.forecasts if forecast.date in self.dates]


def find_runs(paths: Iterable[Path]) -> tuple[list[ComparedRun], list[str]]:
    """Find runs and their forecasts.

    Parameters
    ----------
    paths : iterable of Path
        Checkpoint folders, folders of forecasts, or folders above several runs, which then come in the order in which
        their training ended.

    Returns
    -------
    list of ComparedRun
    list of str
        A sentence for each run without forecasts, which is left out.

    Raises
    ------
    HouseError
        If no run at a path has forecasts.
    """
    found: list[ComparedRun] = []
    left_out: list[str] = []
    for path in paths:
        checkpoints = sorted(path.rglob(INFERENCE_LAST), key=lambda file: file.stat().st_mtime)
        folders = [file.parent for file in checkpoints] or [path]
        lacking = []
        for folder in folders:
            try:
                forecasts = forecasts_of(find_forecasts(folder))
            except HouseError as mistake:
                lacking.append(mistake)
            else:
                found.append(ComparedRun(forecasts, _trained(folder, Path(forecasts[0].about.checkpoint))))
        if len(lacking) == len(folders):
            raise lacking[0]
        left_out += [f"Left out: {reason}" for reason in lacking]
    return found, left_out


def _trained(*paths: Path) -> Run | None:
    for path in paths:
        with suppress(HouseError):
            return find_run(path)
    return None


def frame_of(runs: Sequence[ComparedRun], settings: Settings) -> Frame:
    """Find the dates, lead times and variables that all runs have.

    Raises
    ------
    HouseError
        If there are none, or one that was asked for is missing: which run has what.
    """
    ids = [run.run_id for run in runs]
    if twice := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
        raise HouseError(f"{', '.join(twice)}: given more than once. Give every run once.")
    dates, notes = _common_dates(runs)
    forecasts = [(run, forecast) for run in runs for forecast in run.forecasts if forecast.date in dates]
    leads, more = _common_leads(forecasts)
    variables, left = _common_variables(forecasts, settings.variables)
    table_leads = _table_leads(settings.leads_h, leads)
    return Frame(tuple(dates), tuple(leads), table_leads, variables, (*notes, *more, *left))


Pairs = Sequence[tuple[ComparedRun, Forecast]]


def _common_dates(runs: Sequence[ComparedRun]) -> tuple[list[np.datetime64], list[str]]:
    dates = {run.run_id: {forecast.date for forecast in run.forecasts} for run in runs}
    common = sorted(set.intersection(*dates.values()))
    if not common:
        each = "; ".join(f"{run.label} has {_dates(sorted(dates[run.run_id]))}" for run in runs)
        raise HouseError(f"the runs have no starting date in common: {each}. Make forecasts from the same dates.")
    notes = [
        f"Left out, since not all runs have them: {_dates(alone)} of {run.label}."
        for run in runs
        if (alone := sorted(dates[run.run_id] - set(common)))
    ]
    return common, notes


def _common_leads(forecasts: Pairs) -> tuple[list[int], list[str]]:
    leads = sorted(set.intersection(*(set(forecast.leads_h) for _, forecast in forecasts)))
    if not any(leads):
        each = "; ".join(f"{run.label} has {_hours(forecast.leads_h)}" for run, forecast in _firsts(forecasts))
        raise HouseError(f"the forecasts have no lead time in common: {each}. Make forecasts of the same lead times.")
    every = sorted({lead for _, forecast in forecasts for lead in (*forecast.leads_h, *forecast.missing_leads_h)})
    lacking = [lead for lead in every if lead not in leads]
    if not lacking:
        return leads, []
    gaps = ((run, each.date, sorted(set(every) - set(each.leads_h))) for run, each in forecasts)
    who = sorted({f"{run.label} from {date_text(date)} lacks {_hours(leads)}" for run, date, leads in gaps if leads})
    more = f"; and {len(who) - _LINES} more" if len(who) > _LINES else ""
    return leads, [f"Lead times left out everywhere: {_hours(lacking)}. {'; '.join(who[:_LINES])}{more}."]


def _table_leads(asked: tuple[int, ...], leads: Sequence[int]) -> tuple[int, ...]:
    if lacking := [lead for lead in asked if lead not in leads or not lead]:
        raise HouseError(
            f"--leads {_hours(lacking)}: not in all forecasts, which have {_hours(leads)}. Give some of these."
        )
    return asked or tuple(lead for lead in TABLE_LEADS_H if lead in leads) or (leads[-1],)


def _common_variables(forecasts: Pairs, asked: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    for name, (run, forecast) in product(asked, forecasts):
        if name not in forecast.variables:
            raise HouseError(
                f"--variables {name}: not in the forecast of {run.label} from {date_text(forecast.date)}, which has "
                f"{', '.join(forecast.variables)}. Make its forecasts with that variable, or leave it out."
            )
    first = forecasts[0][1].variables
    common = [name for name in first if all(name in forecast.variables for _, forecast in forecasts)]
    if not common:
        each = "; ".join(f"{run.label} has {', '.join(forecast.variables)}" for run, forecast in _firsts(forecasts))
        raise HouseError(f"the forecasts have no variable in common: {each}. Make forecasts of the same variables.")
    notes = [
        f"Variables that not all runs have: {', '.join(alone)} of {run.label}."
        for run, forecast in _firsts(forecasts)
        if (alone := [name for name in forecast.variables if name not in common])
    ]
    return asked or tuple(name for name in VARIABLES if name in common) or tuple(common[:4]), notes


def _firsts(forecasts: Pairs) -> Pairs:
    """Return the first forecast of each run."""
    return list({run.run_id: (run, forecast) for run, forecast in reversed(forecasts)}.values())[::-1]


def date_text(date: np.datetime64) -> str:
    """Return a date to the hour: `2020-01-31T06`."""
    return str(date.astype("datetime64[h]"))


def _dates(dates: Sequence[np.datetime64]) -> str:
    shown = [date_text(date) for date in dates]
    return ", ".join(shown) if len(shown) < 5 else f"{shown[0]} to {shown[-1]} ({len(shown)} dates)"


def _hours(leads: Sequence[int]) -> str:
    return " ".join(f"+{lead} h" for lead in leads) if leads else "none"
