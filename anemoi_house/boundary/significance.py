"""Is a difference more than noise? Intervals over starting dates, along the boundary, and over trainings.

Two designs, one function each:

- `paired_difference`: two runs, or two experiments trained a few times each, forecast from the same dates. Each source
  of noise has an interval of its own, and a verdict needs all of them. The report uses it.
- `difference_over_seeds`: two experiments trained from the same seeds and forecast from the same dates, scores of
  several variables averaged. One interval holds both sources of noise. The study uses it.

Arrays in, numbers out: numpy and scipy alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from anemoi_house.boundary.index import LEVEL, signed_root
from anemoi_house.geometry import Bools, Floats

RESAMPLES = 4000
STUDY_RESAMPLES = 2000
FEWEST_DATES = 6
"""With fewer dates, all of them lie on one side by chance more often than 1 time in 20."""

BETTER, WORSE, NOISE = "better", "worse", "no difference beyond noise"
LOWER, HIGHER = "lower, but the first has no artifact", "higher, but no artifact"
"""Verdicts on a jump where the larger of the two is not beyond noise: there is nothing to improve."""

_TAIL = (1 - LEVEL) / 2

Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Stretches:
    """The (signed) squares of two scores by stretch of the boundary.

    Attributes
    ----------
    ours, theirs : ndarray, shape (trainings, dates, stretches)
    same : bool
        Both have the same boundary, hence the same stretches.
    """

    ours: Floats
    theirs: Floats
    same: bool


@dataclass(frozen=True)
class Difference:
    """The score of a run, or the mean score of an experiment's trainings, minus another's.

    Attributes
    ----------
    value : float
        Difference of the scores; below 0 where the first is smaller.
    low, high : float or None
        Confidence interval over dates; None for a single date.
    dates : int
        Dates that both have.
    edge_low, edge_high : float or None
        Confidence interval along the boundary; None for a score without stretches.
    seed_low, seed_high : float or None
        Confidence interval over trainings; None where either was trained once.
    verdict : str
        In words, smaller being better.
    """

    value: float | None
    low: float | None
    high: float | None
    dates: int
    edge_low: float | None
    edge_high: float | None
    seed_low: float | None
    seed_high: float | None
    verdict: str


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, *, squares: bool, stretches: Stretches | None = None
) -> Difference:
    """Compare two scores over the same dates.

    - *Dates*: a paired bootstrap. Dates are drawn with replacement, the same ones for both, and the scores are
      subtracted each time. The quantiles taken are wider than the nominal ones, which are too narrow for few dates (the
      expanded percentile interval of Hesterberg, The American Statistician 69, 2015).
    - *Boundary*: features that stay in place from date to date, such as mountains in the temperature, are not noise
      over dates, but where they lie along the boundary is chance. So scores of the boundary must also differ over its
      stretches: Student's interval of the differences where both have the same boundary, else Welch's.
    - *Trainings*: where both were trained several times, Welch's interval of the two means.

    Parameters
    ----------
    ours, theirs : array_like, shape (trainings, dates)
        Score of each training on each date; NaN for a missing one. Both have the same dates.
    squares : bool
        The values are (signed) squares and the score is the signed root of their mean over dates, as for a
        root-mean-square error; otherwise the score is the mean.
    stretches : Stretches, optional
        The same squares by stretch of the boundary.

    Returns
    -------
    Difference
        `better` or `worse` where no interval holds 0 and there are at least `FEWEST_DATES` dates.
    """
    one, other = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (ours, theirs))
    usable = np.isfinite(np.concatenate([one, other])).all(axis=0)
    one, other, dates = one[:, usable], other[:, usable], int(usable.sum())
    if not dates:
        return Difference(None, None, None, 0, None, None, None, None, "no date that both have")

    first, second = _score(one, squares), _score(other, squares)
    value = float(first.mean() - second.mean())
    none: Interval = (None, None)
    over_dates = _expanded_percentiles(one, other, squares) if dates > 1 else none
    along_boundary = _along_boundary(stretches, usable, value) if stretches is not None else none
    over_trainings = _welch(first, second) if min(len(one), len(other)) > 1 else none
    verdict = _verdict(dates, [over_dates, along_boundary, over_trainings])
    return Difference(value, *over_dates, dates, *along_boundary, *over_trainings, verdict)


def _verdict(dates: int, intervals: list[Interval]) -> str:
    if dates == 1:
        return "no spread: one date"
    if dates < FEWEST_DATES:
        return f"too few dates to tell ({dates})"
    if all(high is None or high < 0 for _, high in intervals):
        return BETTER
    if all(low is None or low > 0 for low, _ in intervals):
        return WORSE
    return NOISE


def _score(values: Floats, squares: bool) -> Floats:
    mean = values.mean(axis=-1)
    return signed_root(mean) if squares else mean


def _expanded_percentiles(one: Floats, other: Floats, squares: bool) -> tuple[float, float]:
    """Return the bootstrap interval over dates of the difference, for arrays of shape (trainings, dates)."""
    dates = one.shape[1]
    # The same random picks for every comparison, so that a report is reproducible.
    picks = np.random.default_rng(0).integers(dates, size=(RESAMPLES, dates))
    drawn = _score(one[:, picks], squares).mean(axis=0) - _score(other[:, picks], squares).mean(axis=0)
    tail = stats.norm.cdf(np.sqrt(dates / (dates - 1)) * stats.t.ppf(_TAIL, dates - 1))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _along_boundary(stretches: Stretches, usable: Bools, value: float) -> tuple[float, float]:
    """Return the interval over stretches, converted from squares to the units of the difference of the roots."""
    one, other = (each[:, usable].mean(axis=(0, 1)) for each in (stretches.ours, stretches.theirs))
    squared = float(one.mean() - other.mean())
    if stretches.same:
        reach = _student(float((one - other).std(ddof=1)) / len(one) ** 0.5, len(one) - 1)
        low, high = squared - reach, squared + reach
    else:
        low, high = _welch(one, other)
    unit = value / squared if value * squared > 0 else 1.0
    return low * unit, high * unit


def _student(error: float, freedom: float) -> float:
    """Return half the width of Student's interval for a standard error."""
    return float(stats.t.isf(_TAIL, freedom)) * error


def _welch(one: Floats, other: Floats) -> tuple[float, float]:
    """Return Welch's interval for the difference of the means of two samples."""
    if not (np.ptp(one) or np.ptp(other)):  # scipy has no interval for two constants
        difference = float(one.mean() - other.mean())
        return difference, difference
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # one of them may be constant
        interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(LEVEL)
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class SeedDifference:
    """An experiment's score minus another's, over seeds and dates.

    Attributes
    ----------
    value : float
    low, high : float
        Interval that holds the difference in 95 of 100 repetitions with other seeds and other dates.
    error_seeds, error_dates : float
        Standard errors due to the choice of seeds and of dates.
    """

    value: float
    low: float
    high: float
    error_seeds: float
    error_dates: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.low <= 0 <= self.high


def difference_over_seeds(ours: ArrayLike, theirs: ArrayLike, units: ArrayLike = 1.0) -> SeedDifference:
    """Compare two experiments that were trained from the same seeds and forecast from the same dates.

    A score is the mean over seeds of the signed root of the mean over dates. Its two sources of noise are kept apart:

    - *Dates*: a paired bootstrap, with the same dates for both experiments and all seeds. The standard error is the
      standard deviation of the difference times sqrt(n / (n - 1)) for n dates.
    - *Seeds*: the standard error of the mean of the differences seed by seed. Trainings of one seed see the same data
      in the same order and start from the same weights where their graphs agree; where they share nothing, pairing
      costs degrees of freedom and nothing else.

    The variances are added, and the interval is Student's with Satterthwaite's degrees of freedom. A bootstrap over
    seeds would be too narrow: there are three.

    Parameters
    ----------
    ours, theirs : array_like, shape (variables, seeds, dates)
        (Signed) squares; seeds and dates are the same in both. Scores are averaged over the variables last.
    units : array_like, shape (variables,)
        What the scores of each variable are divided by before they are averaged.

    Returns
    -------
    SeedDifference
        Below 0 where `ours` is smaller. The interval is infinite for one seed or one date, which shows no spread.
    """
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    seeds, dates = one.shape[-2:]

    def scores(squares: Floats) -> Floats:
        """Return the score of each seed, of shape (seeds, ...)."""
        roots = signed_root(squares.mean(axis=-1))
        return (roots / np.reshape(units, (-1, *[1] * (roots.ndim - 1)))).mean(axis=0)

    by_seed = scores(one) - scores(other)
    value = float(by_seed.mean())
    if dates < 2 or seeds < 2:
        return SeedDifference(value, -np.inf, np.inf, np.nan, np.nan)

    picks = np.random.default_rng(0).integers(dates, size=(STUDY_RESAMPLES, dates))
    drawn = (scores(one[..., picks]) - scores(other[..., picks])).mean(axis=0)
    of_dates = float(np.var(drawn)) * dates / (dates - 1)
    of_seeds = float(by_seed.var(ddof=1)) / seeds
    variance = of_dates + of_seeds
    if not variance:
        return SeedDifference(value, value, value, 0.0, 0.0)
    freedom = variance**2 / (of_dates**2 / (dates - 1) + of_seeds**2 / (seeds - 1))
    reach = _student(variance**0.5, freedom)
    return SeedDifference(value, value - reach, value + reach, of_seeds**0.5, of_dates**0.5)
