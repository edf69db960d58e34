"""Resampling, intervals, tests and verdicts, against scipy, slow oracles and simulated populations."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from support.populations import N_RESAMPLES, UNKNOWN, excludes_zero
from support.references import expanded_level
from swa_cli.evaluation.bootstrap import Interval, bca, resampled_sums, resamples_for


def mean_interval(differences, **options):
    """The interval of a mean, as a caller gets it."""
    n = len(differences)
    totals = resampled_sums(differences[:, None], n_resamples=N_RESAMPLES)[:, 0]
    return bca(differences.mean(), totals / n, (differences.sum() - differences) / (n - 1), **options)


def scipy_interval(data, statistic, *, level=0.95, n_resamples=N_RESAMPLES, **options):
    """Draws the same resamples, as it takes whole rows of indices from the same generator."""
    options |= {"rng": np.random.default_rng(0), "confidence_level": expanded_level(level, len(data))}
    return stats.bootstrap((data,), statistic, n_resamples=n_resamples, method="BCa", vectorized=True, **options)


def skewed(seed, n=60):
    return np.random.default_rng(seed).exponential(size=n) - 0.9


@pytest.mark.parametrize(
    ("n_units", "expected"),
    [(1, 9_999), (10_000, 9_999), (20_000, 5_000), (50_000, 2_000), (60_000, 1_999), (10**7, 1_999)],
)
def test_resamples_grow_fewer_with_more_units(n_units, expected):
    assert resamples_for(n_units) == expected


def test_resampled_sums_are_those_of_the_drawn_units():
    sums = np.random.default_rng(1).normal(size=(37, 3))

    totals = resampled_sums(sums, n_resamples=50, seed=5)

    indices = np.random.default_rng(5).integers(0, 37, size=(50, 37))
    assert totals == pytest.approx(np.array([[sum(sums[i, d] for i in row) for d in range(3)] for row in indices]))


def test_as_many_resamples_as_the_units_call_for():
    assert resampled_sums(np.ones((2, 1))).shape == (9_999, 1)


@pytest.mark.parametrize("block", [7, 1 << 14])
def test_resamples_do_not_depend_on_the_chunks_nor_on_the_other_columns(block):
    sums = np.random.default_rng(1).integers(0, 1000, size=(30, 5)).astype(np.float64)
    whole = resampled_sums(sums, n_resamples=40, block=block)
    few = {"n_resamples": 40, "block": block, "cells": 90}

    assert np.array_equal(resampled_sums(sums, **few), whole)
    assert np.array_equal(resampled_sums(sums[:, 2:3], **few), whole[:, 2:3])
    assert not np.array_equal(resampled_sums(sums, **few, seed=1), whole)


def test_resamples_drawn_in_blocks_are_still_n_of_n_with_replacement():
    n = 8

    counts = resampled_sums(np.eye(n), n_resamples=200_000, block=3)

    assert np.array_equal(counts.sum(1), np.full(200_000, n))
    assert counts.mean(0) == pytest.approx(np.ones(n), abs=0.01)
    assert np.cov(counts.T) == pytest.approx(np.eye(n) - 1 / n, abs=0.015)


def test_memory_does_not_grow_with_the_resamples():
    sums = np.ones((100_000, 2))
    tracemalloc.start()

    resampled_sums(sums, n_resamples=200)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_an_infinite_sum_spoils_its_own_column_only():
    sums = np.array([[1.0, math.inf], [1.0, 1.0], [1.0, 1.0]])

    totals = resampled_sums(sums, n_resamples=20)

    assert np.array_equal(totals[:, 0], np.full(20, 3.0))
    assert not np.isfinite(totals[:, 1]).any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_mean_is_scipy_s(seed, level):
    differences = skewed(seed)

    interval = mean_interval(differences, level=level)

    expected = scipy_interval(differences, np.mean, level=level)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval), abs=1e-12)
    assert interval.standard_error == pytest.approx(float(expected.standard_error), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_a_ratio_is_scipy_s(seed):
    rng = np.random.default_rng(seed)
    sums = np.stack([rng.exponential(size=40), rng.integers(1, 9, size=40)], axis=1).astype(np.float64)

    def value(totals):
        return totals[..., 0] / totals[..., 1] - 0.2

    interval = bca(
        float(value(sums.sum(0))),
        value(resampled_sums(sums, n_resamples=N_RESAMPLES)),
        value(sums.sum(0) - sums),
        scale=1e-3,
    )

    expected = scipy_interval(np.arange(40), lambda indices, axis: value(sums[indices].sum(axis - 1)))
    assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval), abs=1e-12)
    assert interval.standard_error == pytest.approx(float(expected.standard_error), abs=1e-12)


def test_the_interval_of_a_difference_of_accuracies_is_scipy_s_ties_and_all():
    differences = np.repeat([1.0, -1.0, 0.0], [9, 3, 60])

    interval = mean_interval(differences)

    expected = scipy_interval(differences, np.mean)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval), abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "differences",
    [*(skewed(seed) for seed in range(4)), np.repeat([1.0, -1.0, 0.0], [9, 3, 60]), np.repeat([1.0, 0.0], [4, 60])],
    ids=["skewed 0", "skewed 1", "skewed 2", "skewed 3", "with ties", "without losses"],
)
def test_the_p_value_is_that_of_the_level_at_which_an_end_is_zero(differences, sign):
    differences = sign * differences
    resamples = scipy_interval(differences, np.mean)

    def zero_is_outside(level):
        again = scipy_interval(differences, np.mean, level=level, bootstrap_result=resamples, n_resamples=0)
        low, high = again.confidence_interval
        return low > 0 or high < 0

    inside, outside = 1.0, 0.0
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if zero_is_outside(middle) else (middle, outside)

    assert 2 / (N_RESAMPLES + 1) < 1 - inside < 0.95
    assert mean_interval(differences).p_value == pytest.approx(1 - inside, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([-1e-6, 0.0, 1e-6]))
def test_a_p_value_below_five_percent_is_an_interval_without_zero_however_near(seed, shift):
    differences = np.random.default_rng(seed).exponential(size=30)
    at_zero = differences - mean_interval(differences, scale=1e-4).low

    interval = mean_interval(at_zero + shift, scale=1e-4)

    assert interval.low == pytest.approx(shift, abs=1e-9)
    assert (interval.p_value < 0.05) == excludes_zero(interval)
    assert interval.p_value == pytest.approx(0.05, abs=2e-3)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(6, 9), shift=st.sampled_from([-1e-6, 0.0, 1e-6]))
def test_a_p_value_below_five_percent_is_an_interval_without_zero_of_few_units(seed, n, shift):
    """Their resamples repeat, so that the p-value jumps."""
    differences = np.random.default_rng(seed).exponential(size=n)
    at_zero = differences - mean_interval(differences, scale=1e-4).low

    interval = mean_interval(at_zero + shift, scale=1e-4)

    assert (interval.p_value < 0.05) == excludes_zero(interval)


@given(gained=st.integers(0, 12), lost=st.integers(0, 12))
def test_a_p_value_below_five_percent_is_an_interval_without_zero_among_ties(gained, lost):
    interval = mean_interval(np.repeat([1.0, -1.0, 0.0], [gained, lost, 40]))

    assert (interval.p_value < 0.05) == excludes_zero(interval)


def test_the_p_value_is_never_below_what_the_resamples_show():
    interval = mean_interval(skewed(0) + 100)

    assert interval.p_value == 2 / (N_RESAMPLES + 1)


def test_exchanging_the_two_models_mirrors_the_interval():
    differences = skewed(3)

    interval, mirrored = mean_interval(differences), mean_interval(-differences)

    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))
    assert mirrored.p_value == pytest.approx(interval.p_value)


def test_a_difference_that_rounding_splits_still_counts_as_a_tie():
    """0.8 − 0.7 and 0.9 − 0.8 are not the same float."""
    hits = np.repeat([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [4, 1, 5], axis=0)
    totals = resampled_sums(hits, n_resamples=N_RESAMPLES)
    estimate, jackknife = hits.sum(0), hits.sum(0) - hits

    subtracted_last = bca(
        estimate[0] / 10 - estimate[1] / 10,
        totals[:, 0] / 10 - totals[:, 1] / 10,
        jackknife[:, 0] / 9 - jackknife[:, 1] / 9,
    )

    subtracted_first = bca(
        (estimate[0] - estimate[1]) / 10,
        (totals[:, 0] - totals[:, 1]) / 10,
        (jackknife[:, 0] - jackknife[:, 1]) / 9,
    )
    assert subtracted_last.p_value == pytest.approx(subtracted_first.p_value, rel=1e-9)


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-7])
def test_equal_members_differ_by_exactly_nothing(noise):
    differences = noise * np.random.default_rng(0).normal(size=50)

    assert mean_interval(differences) == Interval(low=0.0, high=0.0, p_value=1.0, standard_error=0.0)


def test_a_bound_that_is_zero_but_for_rounding_does_not_exclude_zero():
    interval = mean_interval(np.repeat([1.0, 0.0], [2, 60]) + 1e-13)

    assert interval.low == 0
    assert interval.p_value >= 0.05


def test_what_counts_as_rounding_depends_on_the_scale():
    differences = 1e-12 * (1 + np.random.default_rng(0).random(50))

    interval = mean_interval(differences, scale=1e-8)

    assert 1e-12 < interval.low < differences.mean() < interval.high < 2e-12


@pytest.mark.parametrize("constant", [0.25, -0.1])
def test_a_constant_difference_is_a_point(constant):
    interval = mean_interval(np.full(20, constant))

    assert (interval.low, interval.high) == pytest.approx((constant, constant), rel=1e-12)
    assert (interval.p_value, interval.standard_error) == (2 / (N_RESAMPLES + 1), 0.0)


@pytest.mark.parametrize("where", ["estimate", "resample", "jackknife"])
def test_a_value_that_is_not_finite_tells_nothing(where):
    resampled, jackknife = np.linspace(-1, 1, 99), np.linspace(-1, 1, 10)
    resampled[0] = math.nan if where == "resample" else -1
    jackknife[0] = math.nan if where == "jackknife" else -1

    assert bca(math.inf if where == "estimate" else 0.1, resampled, jackknife) == UNKNOWN


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("resampled", [np.linspace(1, 2, 99), np.ones(99)], ids=["spread", "all equal"])
def test_up_to_five_units_tell_nothing(n, resampled):
    assert bca(1.0, resampled, np.linspace(1, 2, n)) == UNKNOWN


def test_six_units_tell_something():
    interval = mean_interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))

    assert 1 < interval.low < 3.5 < interval.high < 6
    assert interval.p_value == 2 / (N_RESAMPLES + 1)


@pytest.mark.parametrize("n", [6, 10, 10_000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.9999])
def test_an_interval_of_normal_resamples_is_student_s(n, level):
    deviations = np.random.default_rng(0).normal(size=n)
    differences = 5 + deviations - deviations.mean()
    normal = stats.norm.ppf((np.arange(20_001) + 0.5) / 20_001) * differences.std() / math.sqrt(n)

    interval = bca(5.0, 5 + normal, np.ones(n), level=level)

    expected = stats.t.interval(level, n - 1, loc=5, scale=differences.std(ddof=1) / math.sqrt(n))
    reached = max(expected[0], 5 + normal[0]), min(expected[1], 5 + normal[-1])
    assert (interval.low, interval.high) == pytest.approx(reached, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_level_that_asks_for_more_than_the_resamples_have_gives_all_of_them(sign):
    differences = sign * np.random.default_rng(0).exponential(size=6)

    interval = mean_interval(differences, level=1 - 1e-9)

    assert differences.min() <= interval.low < differences.mean() < interval.high <= differences.max()


@pytest.mark.parametrize("outlier", [1.0, -1.0])
def test_an_estimate_beyond_all_resamples_gives_ends_among_them(outlier):
    resampled, jackknife = np.linspace(0, 1, N_RESAMPLES), np.repeat([0.0, outlier], [10_000, 1])

    interval = bca(2.0, resampled, jackknife, level=0.9999)

    assert 0 < interval.low <= interval.high
    assert interval.high == pytest.approx(1)
    assert 0 < interval.p_value < 0.0001


def test_a_jackknife_without_spread_gives_no_acceleration():
    resampled = np.linspace(-1, 1, 2_001)

    interval = bca(0.0, resampled, np.ones(10))

    level = expanded_level(0.95, 10)
    assert (interval.low, interval.high) == pytest.approx((-level, level))
