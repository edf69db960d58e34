"""Intervals of shares and of pairs of right and wrong answers."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from support.populations import UNKNOWN, excludes_zero
from swa_cli.evaluation import shares
from swa_cli.evaluation.significance import (
    mcnemar,
    no_discordance_bound,
)


@pytest.mark.parametrize("n", [1, 3, 360, 10**9])
def test_without_discordance_its_share_is_bounded_as_by_clopper_pearson(n):
    expected = stats.binomtest(0, n).proportion_ci(0.95, method="exact").high

    assert no_discordance_bound(n) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("right", "n"), [(1, 20), (3, 50), (10, 40), (199, 200)])
def test_of_zeros_and_ones_the_interval_is_that_of_clopper_and_pearson(right, n):
    interval = shares.of_several(np.repeat([1.0, 0.0], [right, n - right]), n_draws=200_000)

    upper = stats.binomtest(right, n).proportion_ci(0.95, method="exact").high
    assert interval.high == pytest.approx(upper, abs=0.004)


@pytest.mark.parametrize(("first", "second", "n"), [(8, 1, 40), (9, 0, 40), (12, 3, 300), (3, 12, 300), (6, 6, 60)])
def test_the_interval_of_a_pair_agrees_with_mcnemar(first, second, n):
    differences = np.repeat([1.0, -1.0, 0.0], [first, second, n - first - second])

    interval = shares.of_pair(differences)

    assert (interval.p_value <= 0.05) == (mcnemar(first, second) <= 0.05) == excludes_zero(interval)
    assert -1 <= interval.low < differences.mean() < interval.high <= 1


@pytest.mark.parametrize(("members", "n"), [(5, 100), (10, 300), (20, 100)])
def test_an_average_without_an_error_by_luck_is_not_called_better_than_the_mean(members, n):
    """Equals of 99 %: where SWA is right on every example, Student's interval has next to no spread."""
    rng = np.random.default_rng(members)
    sets = [(rng.random((members + 1, n)) > 0.01).astype(np.float64) for _ in range(400)]
    differences = [one[0] - one[1:].mean(axis=0) for one in sets]

    intervals = [shares.of_several(one, n_draws=999) for one in differences]

    assert np.mean([one.low > 0 for one in intervals]) <= 0.03
    assert np.mean([one.high < 0 for one in intervals]) <= 0.03
    students: list[Any] = [stats.ttest_1samp(one, 0) for one in differences if one.any()]
    assert np.mean([one.pvalue <= 0.05 and one.statistic > 0 for one in students]) > 0.05


@pytest.mark.parametrize(("difference", "n"), [(0.0, 60), (1.0, 6), (-1.0, 20), (0.2, 100)])
def test_where_all_units_differ_by_as_much_there_is_room_for_those_that_were_not_seen(difference, n):
    interval = shares.of_several(np.full(n, difference))

    unseen = stats.binomtest(0, n).proportion_ci(0.95, method="exact").high
    assert interval.low == pytest.approx((1 - unseen) * difference - unseen)
    assert interval.high == pytest.approx((1 - unseen) * difference + unseen)


@pytest.mark.parametrize("differences", [np.ones(5), np.array([0.0, 1.0] * 3 + [math.nan])])
def test_shares_of_few_or_unknown_units_tell_nothing(differences):
    assert shares.of_several(differences) == UNKNOWN
