"""Intervals and verdicts on constructed scores with and without a difference."""

from __future__ import annotations

import numpy as np
import pytest
from boundary_grids import grid
from scipy import stats

from anemoi_house.boundary.index import artifact_index
from anemoi_house.boundary.significance import Stretches, difference_over_seeds, paired_difference


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


@pytest.mark.parametrize("squares", [False, True])
def test_noise_is_called_a_difference_no_more_often_than_said(squares: bool) -> None:
    random = np.random.default_rng(2)
    for dates in (6, 12, 15):
        found = [paired_difference(*random.normal(2, 1, (2, dates)), squares=squares).verdict for _ in range(200)]
        called = sum(verdict in ("better", "worse") for verdict in found) / len(found)
        assert called < 0.1, dates  # 0.05 and three standard errors


def test_a_planted_jump_is_found_in_the_same_weather() -> None:
    of = grid("tiny")
    weather = of.waves(8, 20) + 0.3 * of.noise(20)
    low, high = (artifact_index(of.band, weather + a * ~of.in_lam).jump.squared for a in (1.0, 1.3))
    same = paired_difference(low, low, squares=True)
    assert (same.value, same.low, same.high, same.dates) == (0, 0, 0, 20)
    assert same.verdict == "no difference beyond noise"
    found = paired_difference(high, low, squares=True)
    assert found.value == pytest.approx(0.3, abs=0.05)
    assert found.low < found.value < found.high
    assert found.verdict == "worse"
    assert paired_difference(low, high, squares=True).high < 0
    # Dates are paired: in another order the interval is wider.
    apart = paired_difference(high[::-1], low, squares=True)
    assert apart.high - apart.low > 1.2 * (found.high - found.low)


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


# Over seeds


def test_a_difference_over_seeds_is_seen_through_dates_that_both_share() -> None:
    random = np.random.default_rng(0)
    weather = random.uniform(50, 150, 8)
    noise = random.normal(0, 1, (2, 3, 8))
    theirs = (weather + noise[1]) ** 2
    ours = (weather + noise[0] - 5) ** 2
    found = difference_over_seeds([ours], [theirs])
    assert found.value == pytest.approx(np.sqrt(ours.mean(-1)).mean() - np.sqrt(theirs.mean(-1)).mean())
    assert found.beyond_noise
    assert -7 < found.low < -5 < found.high < -3
    swapped = difference_over_seeds([theirs], [ours])
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-found.value, -found.high, -found.low))
    # Unpaired, the weather would hide it.
    assert stats.ttest_ind(np.sqrt(ours).mean(0), np.sqrt(theirs).mean(0)).pvalue > 0.3


@pytest.mark.parametrize(("of_seeds", "of_dates", "of_both"), [(0, 0, 1), (1, 0, 0.1), (0, 1, 0.1), (1, 1, 0.5)])
def test_noise_of_seeds_and_dates_is_called_a_difference_no_more_often_than_said(
    of_seeds: float, of_dates: float, of_both: float
) -> None:
    """Equal experiments whose scores vary with seeds, with dates (independently of each other), and with both."""
    random = np.random.default_rng(1)
    called = []
    for _ in range(300):
        scores = [
            10
            + of_seeds * random.normal(0, 1, (3, 1))
            + of_dates * random.normal(0, 1, (1, 8))
            + of_both * random.normal(0, 1, (3, 8))
            for _ in range(2)
        ]
        called.append(difference_over_seeds(*([score**2] for score in scores)).beyond_noise)
    assert np.mean(called) < 0.08  # 0.05 and 2.4 standard errors


def test_variables_of_other_units_are_averaged_in_units_of_their_own() -> None:
    random = np.random.default_rng(2)
    theirs = random.uniform(8, 12, (2, 3, 8)) * np.array([1.0, 100.0])[:, None, None]
    ours = theirs * np.array([0.9, 1.3])[:, None, None]
    units = np.sqrt((theirs**2).mean(axis=-1)).mean(axis=-1)
    assert difference_over_seeds(ours**2, theirs**2, units).value == pytest.approx((-0.1 + 0.3) / 2)
    assert difference_over_seeds(ours[:1] ** 2, theirs[:1] ** 2, units[:1]).value == pytest.approx(-0.1)


def test_one_seed_or_one_date_tells_nothing_of_noise() -> None:
    for seeds, dates in ((1, 8), (3, 1)):
        found = difference_over_seeds(np.ones((1, seeds, dates)), np.zeros((1, seeds, dates)))
        assert (found.value, found.low, found.high) == (1.0, -np.inf, np.inf)
        assert not found.beyond_noise
    same = difference_over_seeds(np.ones((1, 3, 8)), np.ones((1, 3, 8)))
    assert (same.value, same.low, same.high, same.beyond_noise) == (0.0, 0.0, 0.0, False)
