"""Differences between experiments, trained several times and forecast from several dates, with their intervals.

Arrays in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from anemoi_house.boundary.index import signed_root

LEVEL = 0.95
RESAMPLES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """An experiment's score less another's.

    Attributes
    ----------
    value : float
    low, high : float
        Interval that holds the difference in 95 of 100 repetitions, with other seeds and other dates.
    error_seeds, error_dates : float
        Standard errors that come of the choice of seeds and of that of dates.
    """

    value: float
    low: float
    high: float
    error_seeds: float
    error_dates: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def difference(ours: ArrayLike, theirs: ArrayLike, units: ArrayLike = 1.0) -> Difference:
    """Difference of two experiments' scores, each the mean over seeds of the signed root of the mean over dates.

    Two sources of chance are told apart. *Dates*: they are drawn with replacement, the same ones for both experiments
    and all seeds (a paired bootstrap), and the difference is taken anew each time; its standard deviation, times
    sqrt(n / (n - 1)) for n dates, is the standard error. *Seeds*: the difference of each seed's two scores over all
    dates; the standard error is that of their mean. Trainings of one seed see the same dates in the same order and
    begin with the same weights, as far as their graphs are alike; where they have nothing in common, pairs cost
    degrees of freedom and no more. The two variances are added, and the interval is Student's with the degrees of
    freedom of Satterthwaite's approximation. A bootstrap over seeds would not do: of three, its interval is too narrow.

    Parameters
    ----------
    ours, theirs : array_like, shape (variables, seeds, dates)
        (Signed) squares; seeds and dates are the same in both. Scores are averaged over the variables at last.
    units : array_like, shape (variables,)
        What the scores of each variable are counted in, so that they can be averaged.

    Returns
    -------
    Difference
        Below 0 where `ours` is smaller. With one seed, or one date, that source of chance is not seen and the interval
        is infinite.
    """
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    dates = one.shape[-1]

    def scores(squares: Floats) -> Floats:
        """Score of each seed, of shape (seeds, ...)."""
        roots = signed_root(squares.mean(axis=-1))
        return (roots / np.reshape(units, (-1, *[1] * (roots.ndim - 1)))).mean(axis=0)

    first, second = scores(one), scores(other)
    value = float(first.mean() - second.mean())
    seeds = len(first)
    if dates < 2 or seeds < 2:
        return Difference(value, -np.inf, np.inf, np.nan, np.nan)

    picks = np.random.default_rng(0).integers(dates, size=(RESAMPLES, dates))
    drawn = (scores(one[..., picks]) - scores(other[..., picks])).mean(axis=0)
    of_dates = float(np.var(drawn)) * dates / (dates - 1)
    of_seeds = float((first - second).var(ddof=1)) / seeds
    variance = of_dates + of_seeds
    if not variance:
        return Difference(value, value, value, 0.0, 0.0)
    freedom = variance**2 / (of_dates**2 / (dates - 1) + of_seeds**2 / (seeds - 1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    return Difference(value, value - reach, value + reach, of_seeds**0.5, of_dates**0.5)
