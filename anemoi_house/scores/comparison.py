"""What the boundary does in several runs, in numbers: scores of each run, variable, lead time and starting date.

Every array is read once; what is kept of a field are its scores and, at one lead time, what maps are drawn from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anemoi_house.boundary.drift import lam_mean
from anemoi_house.boundary.index import ArtifactIndex, artifact_index
from anemoi_house.boundary.profile import error_profile
from anemoi_house.boundary.regions import REGIONS
from anemoi_house.boundary.spectra import lam_spectrum
from anemoi_house.errors import HouseError
from anemoi_house.forecast.read import Forecast, Verification
from anemoi_house.runs.trained import Run
from anemoi_house.scores.common_nodes import Grid, Shared, Widths, shared_places
from anemoi_house.scores.skill import VARIABLES

Floats = NDArray[np.float64]
Fields = NDArray[np.float32]
Tell = Callable[[str], None]

TABLE_LEADS_H = (24, 48, 72)
FAULTS_DRAWN = 4

SQUARES = (
    *(f"{what}{part}" for what in ("", "forecast_", "analysis_") for part in ("jump", "kink", "ripple", "along")),
    *(f"rmse_{region}" for region in REGIONS),
    *(f"common_rmse_{region}" for region in REGIONS),
)
"""Scores that are kept as (signed) squares, which is what means over dates are taken of."""
PLAIN = ("drift",)
STRETCHED = ("jump", "forecast_jump")
"""Of these, the squares are kept by stretches of the boundary too."""


@dataclass(frozen=True)
class Compared:
    """A run with its forecasts.

    Attributes
    ----------
    forecasts : sequence of Forecast
        In the order of their dates.
    trained : Run, optional
        The finished run; None where its checkpoint is gone and the forecasts alone are there.
    """

    forecasts: Sequence[Forecast]
    trained: Run | None = None

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.forecasts[0].run_id

    @property
    def experiment(self) -> str:
        """Name of the experiment, which trainings from several seeds share: that of the run without `_seed1`."""
        return re.sub(r"[_-]seed\d+$", "", self.forecasts[0].name) or self.run_id

    @property
    def label(self) -> str:
        """Name and the beginning of the id, for messages."""
        return f"{self.experiment} ({self.run_id[:8]})"


@dataclass
class Settings:
    """What is compared.

    Attributes
    ----------
    variables : tuple of str
        Empty: of `skill.VARIABLES`, those that all forecasts have, or the first four that they have.
    leads_h : tuple of int
        Lead times in the tables, the deciding one first; empty: of 24, 48 and 72 h, those that all forecasts have, or
        the last one.
    widths : Widths
        Of the rings along the boundary.
    """

    variables: tuple[str, ...] = ()
    leads_h: tuple[int, ...] = ()
    widths: Widths = field(default_factory=Widths)


@dataclass(frozen=True)
class Frame:
    """What all runs have in common.

    Attributes
    ----------
    dates : tuple of datetime64
    leads_h : tuple of int
        All lead times that every forecast has.
    table_leads_h : tuple of int
        Those in the tables, the deciding one first.
    variables : tuple of str
    notes : tuple of str
        What was left out, and why: sentences.
    """

    dates: tuple[np.datetime64, ...]
    leads_h: tuple[int, ...]
    table_leads_h: tuple[int, ...]
    variables: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def deciding_h(self) -> int:
        """Lead time that the verdict is about, and maps are drawn of."""
        return self.table_leads_h[0]


@dataclass(frozen=True)
class Fault:
    """A field of a forecast with values that are missing.

    Attributes
    ----------
    missing : ndarray of bool, shape (nodes,), or None
        Where; kept for the first few.
    """

    run_id: str
    variable: str
    date: np.datetime64
    lead_h: int
    count: int
    missing: NDArray[np.bool_] | None


class Scores:
    """Scores of one run: arrays (variable, lead, date), NaN where there is none.

    Attributes
    ----------
    squares : dict
        By the names in `SQUARES`.
    plain : dict
        By the names in `PLAIN`.
    stretches : dict
        By the names in `STRETCHED`: arrays (variable, lead, date, stretches of the boundary).
    profile : ndarray, shape (variable, lead, date, bins)
        Mean square of the error by distance from the boundary.
    spectrum, analysis_spectrum : ndarray, shape (variable, table lead, date, wavelengths), or None
        Variance in the LAM; None without a two-dimensional LAM.
    wavelength_km : ndarray, shape (wavelengths,), or None
    squared_error : dict
        By variable and date: squared error of each node at the deciding lead time.
    example : dict
        By variable: forecast and analysis of the last date at the deciding lead time.
    """

    def __init__(self, frame: Frame, grid: Grid) -> None:
        shape = len(frame.variables), len(frame.leads_h), len(frame.dates)
        self.squares = {name: np.full(shape, np.nan) for name in SQUARES}
        self.plain = {name: np.full(shape, np.nan) for name in PLAIN}
        blocks = int(grid.band.blocks.max()) + 1
        self.stretches = {name: np.full((*shape, blocks), np.nan) for name in STRETCHED}
        self.profile = np.full((*shape, len(grid.bins_km) - 1), np.nan)
        self.spectrum: Floats | None = None
        self.analysis_spectrum: Floats | None = None
        self.wavelength_km: Floats | None = None
        self.squared_error: dict[tuple[str, np.datetime64], Fields] = {}
        self.example: dict[str, tuple[Fields, Fields]] = {}

    def exclude(self, variable: int, lead: int, date: int) -> None:
        """Take a field out of every mean."""
        for values in (*self.squares.values(), *self.plain.values(), *self.stretches.values(), self.profile):
            values[variable, lead, date] = np.nan


@dataclass(frozen=True)
class RunComparison:
    """The runs, and what was found of each.

    Attributes
    ----------
    runs : sequence of Compared
        The first one is the baseline.
    frame : Frame
    grids : dict of Grid
        By run id; runs on the same grid share it.
    shared : Shared
    scores : dict of Scores
        By run id.
    faults : list of Fault
    unverified : tuple of datetime64
        Valid dates that some run's data lack.
    """

    runs: Sequence[Compared]
    frame: Frame
    grids: dict[str, Grid]
    shared: Shared
    scores: dict[str, Scores]
    faults: list[Fault]
    unverified: tuple[np.datetime64, ...]

    @property
    def experiments(self) -> dict[str, list[str]]:
        """Ids of the runs of each experiment."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            found.setdefault(run.experiment, []).append(run.run_id)
        return found

    def stacked(self, experiment: str, score: str) -> Floats:
        """Values of all trainings of an experiment, of shape (training, variable, lead, date)."""
        found = [self.scores[run_id] for run_id in self.experiments[experiment]]
        return np.stack([each.squares[score] if score in SQUARES else each.plain[score] for each in found])

    def stretched(self, experiment: str, score: str) -> Floats:
        """Squares by stretches of the boundary, of shape (training, variable, lead, date, stretch)."""
        return np.stack([self.scores[run_id].stretches[score] for run_id in self.experiments[experiment]])

    def same_boundary(self, one: str, other: str) -> bool:
        """Whether all trainings of two experiments have one grid."""
        first, *more = (self.grids[run_id] for name in (one, other) for run_id in self.experiments[name])
        return all(grid is first for grid in more)


def frame_of(runs: Sequence[Compared], settings: Settings) -> Frame:
    """Dates, lead times and variables that all runs have.

    Raises
    ------
    HouseError
        Where there are none, or one that was asked for is missing: which run lacks what.
    """
    notes: list[str] = []
    if twice := sorted({run.run_id for run in runs if sum(run.run_id == other.run_id for other in runs) > 1}):
        raise HouseError(f"{', '.join(twice)}: given more than once. Give every run once.")
    dates = {run.run_id: {forecast.date for forecast in run.forecasts} for run in runs}
    common_dates = sorted(set.intersection(*dates.values()))
    if not common_dates:
        each = "; ".join(f"{run.label} has {_names(sorted(dates[run.run_id]))}" for run in runs)
        raise HouseError(f"no starting date is in all runs: {each}. Make forecasts of the same dates.")
    for run in runs:
        if alone := sorted(dates[run.run_id] - set(common_dates)):
            notes.append(f"Left out, since not all runs have them: {_names(alone)} of {run.label}.")

    forecasts = [(run, forecast) for run in runs for forecast in run.forecasts if forecast.date in common_dates]
    leads = sorted(set.intersection(*(set(forecast.leads_h) for _, forecast in forecasts)))
    if not [lead for lead in leads if lead]:
        each = "; ".join(f"{run.label} has {_hours(run.forecasts[0].leads_h)}" for run in runs)
        raise HouseError(f"no lead time is in all forecasts: {each}. Make forecasts of the same lead times.")
    every = sorted({lead for _, forecast in forecasts for lead in forecast.leads_h} | _steps(forecasts))
    if lacking := [lead for lead in every if lead not in leads]:
        who = sorted({
            f"{run.label} from {_name(forecast.date)} lacks {_hours(sorted(set(every) - set(forecast.leads_h)))}"
            for run, forecast in forecasts
            if not set(every) <= set(forecast.leads_h)
        })  # fmt: skip
        more = f"; and {len(who) - 6} more" if len(who) > 6 else ""
        notes.append(f"Lead times left out everywhere: {_hours(lacking)}. {'; '.join(who[:6])}{more}.")
    return Frame(
        tuple(common_dates),
        tuple(leads),
        _table_leads(settings.leads_h, leads),
        _variables(forecasts, settings.variables, notes),
        tuple(notes),
    )


def _steps(forecasts: Sequence[tuple[Compared, Forecast]]) -> set[int]:
    """Lead times inside forecasts that no forecast has, though its steps would come to them."""
    return {lead for _, forecast in forecasts for lead in forecast.missing_leads_h}


def _table_leads(asked: tuple[int, ...], leads: Sequence[int]) -> tuple[int, ...]:
    if lacking := [lead for lead in asked if lead not in leads or not lead]:
        raise HouseError(
            f"--leads {_hours(lacking)}: not in all forecasts, which have {_hours(leads)}. Give some of them."
        )
    return asked or tuple(lead for lead in TABLE_LEADS_H if lead in leads) or (leads[-1],)


def _variables(
    forecasts: Sequence[tuple[Compared, Forecast]], asked: tuple[str, ...], notes: list[str]
) -> tuple[str, ...]:
    common = [
        name for name in forecasts[0][1].variables if all(name in forecast.variables for _, forecast in forecasts)
    ]
    for name in asked:
        for run, forecast in forecasts:
            if name not in forecast.variables:
                raise HouseError(
                    f"--variables {name}: not in the forecast of {run.label} from {_name(forecast.date)}, which has "
                    f"{', '.join(forecast.variables)}. Make its forecasts with that variable, or leave it out."
                )
    if not common:
        each = "; ".join(f"{run.label} has {', '.join(forecast.variables)}" for run, forecast in _firsts(forecasts))
        raise HouseError(f"no variable is in all forecasts: {each}. Make forecasts of the same variables.")
    chosen = asked or tuple(name for name in VARIABLES if name in common) or tuple(common[:4])
    for run, forecast in _firsts(forecasts):
        if alone := [name for name in forecast.variables if name not in common]:
            notes.append(f"Variables that not all runs have: {', '.join(alone)} of {run.label}.")
    return chosen


def _firsts(forecasts: Sequence[tuple[Compared, Forecast]]) -> list[tuple[Compared, Forecast]]:
    firsts: dict[str, tuple[Compared, Forecast]] = {}
    for run, forecast in forecasts:
        firsts.setdefault(run.run_id, (run, forecast))
    return list(firsts.values())


def compare(
    runs: Sequence[Compared],
    settings: Settings,
    tell: Tell = lambda line: None,
    verify: Callable[[Sequence[Forecast], Sequence[str]], Verification] = Verification,
) -> RunComparison:
    """Scores of all runs.

    Parameters
    ----------
    runs : sequence of Compared
        The first one is the baseline.
    settings : Settings
    tell : callable
        Takes a line on how far it has got.
    verify : callable
        Opens the analyses of some forecasts of one run.

    Raises
    ------
    HouseError
        Where the runs cannot be compared: which, and why.
    """
    frame = frame_of(runs, settings)
    grids = _grids(runs, settings.widths)
    shared = shared_places([grids[run.run_id] for run in runs], [run.label for run in runs])
    scores: dict[str, Scores] = {}
    faults: list[Fault] = []
    unverified: set[np.datetime64] = set()
    unknown: list[str] = []
    done, total = 0, len(runs) * len(frame.dates)
    for group in _same_data(runs, grids):
        # One look at the analyses for all runs on the same data.
        try:
            analysis: Verification | _Unknown = verify(_chosen(group, frame), frame.variables)
        except HouseError as reason:
            analysis = _Unknown(f"Not verified: {', '.join(run.label for run in group)}; {reason}")
            unknown.append(analysis.reason)
            tell(analysis.reason)
        known: dict[tuple[str, np.datetime64], ArtifactIndex] = {}
        for run in group:
            grid, picked = grids[run.run_id], shared.nodes[runs.index(run)]
            meter = _Meter(frame, grid, _weights(grid, shared, picked), known)
            scores[run.run_id] = meter.scores
            for forecast in _chosen([run], frame):
                for name in frame.variables:
                    truth = analysis.values(forecast, name)
                    faults += meter.take(forecast, name, truth, len(faults))
                done += 1
                tell(f"{done} of {total} forecasts: {run.label} from {_name(forecast.date)}")
        unverified.update(analysis.missing)
    for fault in faults:
        place = (
            frame.variables.index(fault.variable),
            frame.leads_h.index(fault.lead_h),
            frame.dates.index(fault.date),
        )
        for each in scores.values():
            each.exclude(*place)
            if fault.lead_h == frame.deciding_h:
                each.squared_error.pop((fault.variable, fault.date), None)
    frame = replace(frame, notes=(*frame.notes, *unknown))
    return RunComparison(runs, frame, grids, shared, scores, faults, tuple(sorted(unverified)))


class _Meter:
    """Takes the forecasts of one run, field by field."""

    def __init__(
        self, frame: Frame, grid: Grid, weights: Floats, known: dict[tuple[str, np.datetime64], ArtifactIndex]
    ) -> None:
        self._frame, self._grid, self._weights, self._known = frame, grid, weights, known
        self.scores = Scores(frame, grid)

    def take(self, forecast: Forecast, name: str, truth: Fields, faults: int) -> list[Fault]:
        """Score one variable of a forecast; returns the fields of it that have missing values."""
        frame, variable, date = self._frame, self._frame.variables.index(name), self._frame.dates.index(forecast.date)
        rows = [forecast.leads_h.index(lead) for lead in frame.leads_h]
        field, truth = forecast.values(name)[rows], truth[rows]
        whole, verified = (np.all(np.isfinite(each), axis=1) for each in (field, truth))
        initial = np.array([lead == 0 for lead in frame.leads_h])
        found = [
            Fault(
                forecast.run_id,
                name,
                forecast.date,
                frame.leads_h[lead],
                int((~np.isfinite(field[lead])).sum()),
                ~np.isfinite(field[lead]) if faults + number < FAULTS_DRAWN else None,
            )
            for number, lead in enumerate(np.flatnonzero(~whole & ~(initial & (name in forecast.about.diagnostic))))
        ]
        self._index("forecast_", variable, date, whole, artifact_index(self._grid.band, field[whole]))
        if verified.any():
            if (name, forecast.date) not in self._known:
                self._known[name, forecast.date] = artifact_index(self._grid.band, truth[verified])
            self._index("analysis_", variable, date, verified, self._known[name, forecast.date])
        both: NDArray[np.bool_] = whole & verified & ~initial
        if both.any():
            self._errors(variable, date, both, field[both].astype(np.float64) - truth[both])
        self._spectra(variable, date, field, truth, np.logical_and(whole, verified))
        deciding = frame.leads_h.index(frame.deciding_h)
        if both[deciding]:
            self.scores.squared_error[name, forecast.date] = (field[deciding] - truth[deciding]) ** 2
        if whole[deciding] or name not in self.scores.example:
            self.scores.example[name] = field[deciding], truth[deciding]
        return found

    def _errors(self, variable: int, date: int, leads: NDArray[np.bool_], error: Floats) -> None:
        self._index("", variable, date, leads, artifact_index(self._grid.band, error))
        means = error**2 @ self._weights.T
        names = [f"{kind}rmse_{region}" for kind in ("", "common_") for region in REGIONS]
        for name, values in zip(names, means.T):
            self.scores.squares[name][variable, leads, date] = values
        grid = self._grid
        profile = error_profile(grid.signed_km, error, grid.areas, grid.bins_km)
        self.scores.profile[variable, leads, date] = profile.rms**2
        self.scores.plain["drift"][variable, leads, date] = lam_mean(error, grid.in_lam, grid.areas)

    def _index(self, what: str, variable: int, date: int, leads: NDArray[np.bool_], found: ArtifactIndex) -> None:
        values = {
            "jump": found.jump.squared,
            "kink": found.kink.squared,
            "ripple": found.ripple.squared,
            "along": found.jump.scale**2,
        }
        for part, squared in values.items():
            self.scores.squares[what + part][variable, leads, date] = squared
        if what + "jump" in STRETCHED:
            self.scores.stretches[what + "jump"][variable, leads, date] = found.jump.stretches

    def _spectra(self, variable: int, date: int, field: Fields, truth: Fields, usable: NDArray[np.bool_]) -> None:
        grid, frame = self._grid, self._frame
        if grid.lam_shape is None or grid.lam_spacing_km is None:
            return
        for place, lead_h in enumerate(frame.table_leads_h):
            lead = frame.leads_h.index(lead_h)
            if not usable[lead]:
                continue
            found = lam_spectrum(
                np.stack([field[lead], truth[lead]])[:, grid.in_lam], grid.lam_shape, grid.lam_spacing_km
            )
            if self.scores.spectrum is None or self.scores.analysis_spectrum is None:
                shape = len(frame.variables), len(frame.table_leads_h), len(frame.dates), len(found.wavelength_km)
                self.scores.wavelength_km = found.wavelength_km
                self.scores.spectrum, self.scores.analysis_spectrum = np.full((2, *shape), np.nan)
            self.scores.spectrum[variable, place, date] = found.variance[0]
            self.scores.analysis_spectrum[variable, place, date] = found.variance[1]


def _weights(grid: Grid, shared: Shared, picked: NDArray[np.intp]) -> Floats:
    """Weights of all nodes in the regions of the run's own boundary and in the common ones, of shape (8, nodes)."""
    common = np.zeros((len(shared.weights), len(grid.in_lam)))
    common[:, picked] = shared.weights
    return np.concatenate([grid.weights, common])


def _grids(runs: Sequence[Compared], widths: Widths) -> dict[str, Grid]:
    grids: dict[str, Grid] = {}
    known: dict[Any, Grid] = {}
    for run in runs:
        forecast = run.forecasts[0]
        grid = Grid(forecast.latitudes, forecast.longitudes, forecast.in_lam, forecast.lam_shape, widths)
        grids[run.run_id] = known.setdefault(grid.key, grid)
    return grids


def _same_data(runs: Sequence[Compared], grids: dict[str, Grid]) -> list[list[Compared]]:
    groups: dict[Any, list[Compared]] = {}
    for run in runs:
        key = repr(run.forecasts[0].about.dataset), id(grids[run.run_id])
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _chosen(runs: Sequence[Compared], frame: Frame) -> list[Forecast]:
    return [forecast for run in runs for forecast in run.forecasts if forecast.date in frame.dates]


class _Unknown:
    """Stands for analyses that cannot be had."""

    missing: tuple[np.datetime64, ...] = ()

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def values(self, forecast: Forecast, variable: str) -> Fields:
        """NaN."""
        return np.full((len(forecast.leads_h), len(forecast.in_lam)), np.nan, dtype=np.float32)


def _name(date: np.datetime64) -> str:
    return str(date.astype("datetime64[h]"))


def _names(dates: Sequence[np.datetime64]) -> str:
    shown = [_name(date) for date in dates]
    return ", ".join(shown) if len(shown) < 5 else f"{shown[0]} to {shown[-1]} ({len(shown)} dates)"


def _hours(leads: Sequence[int]) -> str:
    return " ".join(f"+{lead} h" for lead in leads) if leads else "none"


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Checkpoint folders of all finished runs at or below some paths; a path without any stays as it is.

    Those of one path come in the order in which their training ended.
    """
    found: list[Path] = []
    for path in paths:
        below = sorted(path.rglob("inference-last.ckpt"), key=lambda file: file.stat().st_mtime)
        found += [file.parent for file in below] or [path]
    return found
