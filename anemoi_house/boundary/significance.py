"""Whether two runs differ by more than noise: over starting dates, along the boundary, and over trainings.

Arrays in, numbers out: numpy and scipy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from anemoi_house.boundary.index import signed_root

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 4000
FEWEST_DATES = 6
"""With fewer dates, all of them can lie on one side by chance more often than 1 time in 20."""

BETTER, WORSE, NOISE = "better", "worse", "no difference beyond noise"
LOWER, HIGHER = "lower, but the first has no artifact", "higher, but no artifact"
"""Of a jump where the larger of the two is none beyond noise: there is nothing to better."""


@dataclass(frozen=True)
class Stretches:
    """The (signed) squares of two scores by stretches of the boundary.

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
    """A run, or the mean of several trainings of an experiment, less another.

    Attributes
    ----------
    value : float
        Difference of the scores; below 0 where the first one's is smaller.
    low, high : float or None
        Confidence interval over dates; None for a single date.
    dates : int
        Dates that both have.
    edge_low, edge_high : float or None
        Confidence interval along the boundary; None for a score that has no stretches.
    seed_low, seed_high : float or None
        Confidence interval over trainings; None where one of the two was trained once.
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

    The interval over dates is a paired bootstrap: dates are drawn with replacement, the same ones for both, and the
    difference of the two scores is taken anew each time. Its quantiles lie further out than the nominal ones, which
    are too narrow for few dates (the expanded percentile interval of Hesterberg, The American Statistician 69, 2015).
    What stays in place from date to date, such as mountains in the temperature, is no noise over dates, but it is
    chance where along the boundary it lies. So scores of the boundary must differ over its stretches too: by Student's
    interval for their differences where both have the same boundary, else by Welch's for the difference of two means.

    Where both were trained several times, the trainings of an experiment must differ from those of the other as well:
    Welch's interval again.

    Parameters
    ----------
    ours, theirs : array_like, shape (trainings, dates)
        Score of each training on each date; NaN where a date has none. The dates are the same in both.
    squares : bool
        The values are (signed) squares, and the score is the signed root of their mean over dates, as of a
        root-mean-square error; otherwise it is the mean.
    stretches : Stretches, optional
        The same by stretches of the boundary, for squares.

    Returns
    -------
    Difference
        `better` or `worse` where no interval holds 0, and there are at least `FEWEST_DATES` dates.
    """
    one, other = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (ours, theirs))
    usable = np.logical_and(np.isfinite(one).all(axis=0), np.isfinite(other).all(axis=0))
    one, other, dates = one[:, usable], other[:, usable], int(usable.sum())
    if not dates:
        return Difference(None, None, None, 0, None, None, None, None, "no date that both have")

    # The same random picks for every comparison, so that a report says the same each time.
    picks = np.random.default_rng(0).integers(dates, size=(RESAMPLES, dates))
    value = float(_score(one, squares).mean() - _score(other, squares).mean())
    low = high = edge_low = edge_high = seed_low = seed_high = None
    if dates > 1:
        drawn = _score(one[:, picks], squares).mean(axis=0) - _score(other[:, picks], squares).mean(axis=0)
        tail = stats.norm.cdf(np.sqrt(dates / (dates - 1)) * stats.t.ppf((1 - LEVEL) / 2, dates - 1))
        low, high = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    if min(len(one), len(other)) > 1:
        seed_low, seed_high = _welch(_score(one, squares), _score(other, squares))

    if stretches is not None:
        edge_low, edge_high = _along_edge(stretches, usable, value)

    intervals = [(low, high), (edge_low, edge_high), (seed_low, seed_high)]
    if dates == 1:
        verdict = "no spread: one date"
    elif dates < FEWEST_DATES:
        verdict = f"too few dates to tell ({dates})"
    elif all(above is None or above < 0 for _, above in intervals):
        verdict = BETTER
    elif all(below is None or below > 0 for below, _ in intervals):
        verdict = WORSE
    else:
        verdict = NOISE
    return Difference(value, low, high, dates, edge_low, edge_high, seed_low, seed_high, verdict)


def _score(values: Floats, squares: bool) -> Floats:
    mean = values.mean(axis=-1)
    return signed_root(mean) if squares else mean


def _along_edge(stretches: Stretches, usable: NDArray[np.bool_], value: float) -> tuple[float, float]:
    """Interval over stretches, from squares into the units of the difference of the roots."""
    one, other = (each[:, usable].mean(axis=(0, 1)) for each in (stretches.ours, stretches.theirs))
    squared = float(one.mean() - other.mean())
    if stretches.same:
        error = float((one - other).std(ddof=1)) / np.sqrt(len(one))
        reach = float(stats.t.ppf((1 + LEVEL) / 2, len(one) - 1)) * error
        low, high = squared - reach, squared + reach
    else:
        low, high = _welch(one, other)
    unit = value / squared if value * squared > 0 else 1.0
    return low * unit, high * unit


def _welch(one: Floats, other: Floats) -> tuple[float, float]:
    """Interval for the difference of the means of two samples that may differ in variance."""
    parts = [sample.var(ddof=1) / len(sample) for sample in (one, other)]
    error = float(np.sqrt(sum(parts)))
    difference = float(one.mean() - other.mean())
    if not error:
        return difference, difference
    freedom = sum(parts) ** 2 / sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, (one, other)))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return difference - reach, difference + reach
