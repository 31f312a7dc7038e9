"""Whether two scores differ by more than noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from anemoi_house.boundary.significance import Stretches, paired_difference


def test_a_difference_on_every_date_is_told_through_weather_that_both_share() -> None:
    random = np.random.default_rng(1)
    weather = random.uniform(50, 150, 12)
    theirs = weather + random.normal(0, 1, 12)
    found = paired_difference(theirs - 5 + random.normal(0, 1, 12), theirs, squares=False)
    assert found.verdict == "better"
    assert found.low < -5 < found.high < 0
    assert paired_difference(theirs + 5, theirs, squares=False).verdict == "worse"
    # Unpaired, the weather would hide it.
    assert stats.ttest_ind(theirs - 5, theirs).pvalue > 0.3


def test_scores_of_squares_are_roots_of_means_with_their_sign() -> None:
    ours, theirs = np.array([9.0, 16, 0, 1, 2, 2]), np.array([-4.0] * 6)
    found = paired_difference(ours, theirs, squares=True)
    assert found.value == pytest.approx(np.sqrt(5.0) + 2)


def test_noise_is_called_a_difference_no_more_often_than_said() -> None:
    random = np.random.default_rng(2)
    for dates in (6, 12):
        found = [paired_difference(*random.normal(size=(2, dates)), squares=False).verdict for _ in range(200)]
        called = sum(verdict in ("better", "worse") for verdict in found) / len(found)
        assert called < 0.1, dates  # 0.05 and three standard errors


def test_one_date_has_no_spread_and_few_dates_tell_nothing() -> None:
    one = paired_difference([1.0], [2.0], squares=False)
    assert (one.value, one.low, one.high, one.verdict) == (-1, None, None, "no spread: one date")
    few = paired_difference([1.0, 1.1, 0.9], [2.0, 2.1, 1.8], squares=False)
    assert few.verdict == "too few dates to tell (3)"
    assert few.high < 0


def test_dates_that_one_lacks_count_for_none() -> None:
    ours, theirs = np.arange(8.0), np.arange(8.0) + 1
    ours[2], theirs[5] = np.nan, np.nan
    found = paired_difference(ours, theirs, squares=False)
    assert (found.dates, found.value) == (6, -1)
    assert paired_difference([np.nan], [1.0], squares=False).value is None


def test_where_both_were_trained_several_times_the_trainings_must_differ_too() -> None:
    random = np.random.default_rng(3)
    dates = random.normal(10, 0.1, 10)
    ours, theirs = (np.array(of_seeds)[:, None] + dates for of_seeds in ([-3.0, 2.0, 0.5], [0.0, 1.0, 3.0]))
    found = paired_difference(ours, theirs, squares=False)
    assert found.high < 0 < found.seed_high
    assert found.verdict == "no difference beyond noise"
    # Welch's interval, against scipy's own.
    theirs_alone, ours_alone = theirs.mean(axis=1), ours.mean(axis=1)
    interval = stats.ttest_ind(ours_alone, theirs_alone, equal_var=False).confidence_interval(0.95)
    assert (found.seed_low, found.seed_high) == pytest.approx((interval.low, interval.high))
    steady = paired_difference(np.stack([dates - 1, dates - 1.01]), np.stack([dates, dates + 0.01]), squares=False)
    assert steady.verdict == "better"


def test_what_stays_in_place_from_date_to_date_is_chance_along_the_boundary() -> None:
    random = np.random.default_rng(4)
    place, weather = random.normal(0, 1, 8), random.normal(0, 0.01, (10, 1))
    ours = (1.3 + place + weather)[None]
    theirs = np.ones((1, 10, 8))
    alone = paired_difference(ours.mean(axis=2), theirs.mean(axis=2), squares=True)
    assert alone.verdict in ("better", "worse")
    for same in (True, False):
        found = paired_difference(
            ours.mean(axis=2), theirs.mean(axis=2), squares=True, stretches=Stretches(ours, theirs, same)
        )
        assert (found.low, found.high) == (alone.low, alone.high)
        assert found.edge_low < found.value < found.edge_high
        assert found.verdict == "no difference beyond noise"


def test_along_one_boundary_stretches_are_paired() -> None:
    random = np.random.default_rng(5)
    place = random.normal(0, 1, 8) + random.normal(0, 0.01, (1, 10, 8))
    ours, theirs = place + 2, place + 2.5 + random.normal(0, 0.1, 8)
    same, other = (
        paired_difference(ours.mean(axis=2), theirs.mean(axis=2), squares=True, stretches=Stretches(ours, theirs, same))
        for same in (True, False)
    )
    assert same.verdict == "better"
    assert other.verdict == "no difference beyond noise"
    # Student's interval, against scipy's own, in squares.
    interval = stats.ttest_rel(ours[0].mean(axis=0), theirs[0].mean(axis=0)).confidence_interval(0.95)
    unit = same.value / (ours.mean() - theirs.mean())
    assert (same.edge_low, same.edge_high) == pytest.approx((interval.low * unit, interval.high * unit))
