"""Whether two runs differ by more than noise: over starting dates, and over trainings.

Arrays in, numbers out: numpy and scipy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 4000
FEWEST_DATES = 6
"""With fewer dates, all of them can lie on one side by chance more often than 1 time in 20."""

BETTER, WORSE, NOISE = "better", "worse", "no difference beyond noise"


def signed_root(values: ArrayLike) -> Floats:
    """Square root that keeps the sign: means of squares, less those of a background, may be negative."""
    array = np.asarray(values, dtype=np.float64)
    return np.sign(array) * np.sqrt(np.abs(array))


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
    seed_low, seed_high : float or None
        Confidence interval over trainings; None where one of the two was trained once.
    verdict : str
        In words, smaller being better.
    """

    value: float | None
    low: float | None
    high: float | None
    dates: int
    seed_low: float | None
    seed_high: float | None
    verdict: str


def paired_difference(ours: ArrayLike, theirs: ArrayLike, *, squares: bool) -> Difference:
    """Compare two scores over the same dates.

    The interval over dates is a paired bootstrap: dates are drawn with replacement, the same ones for both, and the
    difference of the two scores is taken anew each time. Its quantiles lie further out than the nominal ones, which
    are too narrow for few dates (the expanded percentile interval of Hesterberg, The American Statistician 69, 2015).
    Where both were trained several times, the trainings of an experiment must differ from those of the other too:
    Welch's interval for the difference of two means.

    Parameters
    ----------
    ours, theirs : array_like, shape (trainings, dates)
        Score of each training on each date; NaN where a date has none. The dates are the same in both.
    squares : bool
        The values are (signed) squares, and the score is the signed root of their mean over dates, as of a
        root-mean-square error; otherwise it is the mean.

    Returns
    -------
    Difference
        `better` or `worse` where no interval holds 0, and there are at least `FEWEST_DATES` dates.
    """
    one, other = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (ours, theirs))
    usable = np.isfinite(one).all(axis=0) & np.isfinite(other).all(axis=0)
    one, other, dates = one[:, usable], other[:, usable], int(usable.sum())
    if not dates:
        return Difference(None, None, None, 0, None, None, "no date that both have")

    # The same random picks for every comparison, so that a report says the same each time.
    picks = np.random.default_rng(0).integers(dates, size=(RESAMPLES, dates))
    value = float(_score(one, squares).mean() - _score(other, squares).mean())
    low = high = seed_low = seed_high = None
    if dates > 1:
        drawn = _score(one[:, picks], squares).mean(axis=0) - _score(other[:, picks], squares).mean(axis=0)
        tail = stats.norm.cdf(np.sqrt(dates / (dates - 1)) * stats.t.ppf((1 - LEVEL) / 2, dates - 1))
        low, high = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    if min(len(one), len(other)) > 1:
        seed_low, seed_high = _welch(_score(one, squares), _score(other, squares))

    intervals = [(low, high), (seed_low, seed_high)]
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
    return Difference(value, low, high, dates, seed_low, seed_high, verdict)


def _score(values: Floats, squares: bool) -> Floats:
    mean = values.mean(axis=-1)
    return signed_root(mean) if squares else mean


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
