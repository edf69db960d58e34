"""Resampling, intervals, tests and verdicts, against scipy, slow oracles and simulated populations."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from support.references import expanded_level
from swa_cli.evaluation import bootstrap, shares
from swa_cli.evaluation.bootstrap import Interval, bca, resampled_sums, resamples_for
from swa_cli.evaluation.few import effective_n, is_dominated, top_share
from swa_cli.evaluation.power import Effect, units_needed, units_to_decide
from swa_cli.evaluation.significance import (
    detectable,
    holm,
    mcnemar,
    no_discordance_bound,
    smallest_resolvable,
    smallest_resolvable_share,
)
from swa_cli.evaluation.verdict import verdict_of

N_RESAMPLES = 1_999


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


def excludes_zero(interval):
    return interval.low > 0 or interval.high < 0


# Resampling


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
def test_resamples_do_not_depend_on_the_chunks_nor_on_the_other_columns(monkeypatch, block):
    sums = np.random.default_rng(1).integers(0, 1000, size=(30, 5)).astype(np.float64)
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    whole = resampled_sums(sums, n_resamples=40)
    monkeypatch.setattr(bootstrap, "_CELLS", 90)

    assert np.array_equal(resampled_sums(sums, n_resamples=40), whole)
    assert np.array_equal(resampled_sums(sums[:, 2:3], n_resamples=40), whole[:, 2:3])
    assert not np.array_equal(resampled_sums(sums, n_resamples=40, seed=1), whole)


def test_resamples_drawn_in_blocks_are_still_n_of_n_with_replacement(monkeypatch):
    monkeypatch.setattr(bootstrap, "_BLOCK", 3)
    n = 8

    counts = resampled_sums(np.eye(n), n_resamples=200_000)

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


# Intervals


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


UNKNOWN = Interval(low=-math.inf, high=math.inf, p_value=1.0, standard_error=math.inf)


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


# Significance


def mid_p(first, second):
    """What is less likely than what was seen, and half of what was seen, on both sides."""
    both = first + second
    chances = [math.comb(both, k) / 2**both for k in range(both + 1)]
    fewer = min(first, second)
    return min(1.0, 2 * (sum(chances[:fewer]) + chances[fewer] / 2))


@pytest.mark.parametrize(("first", "second"), [(71, 25), (25, 71), (1, 8), (1, 1), (5, 5), (300, 250)])
def test_mcnemar_counts_what_was_seen_half(first, second):
    assert mcnemar(first, second) == pytest.approx(mid_p(first, second), rel=1e-8)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (6, 0), (0, 12)])
def test_mcnemar_is_the_exact_binomial_test_where_one_is_never_right_alone(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0

    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("discordant", [3, 10, 50])
def test_mcnemar_holds_its_level_on_each_side(discordant):
    """Of equals at most 2.5 % are called better, whatever share of the examples tells them apart."""
    found = 0.0
    for both in range(1, 2 * discordant + 30):
        least = next((k for k in range(both // 2 + 1, both + 1) if mcnemar(k, both - k) <= 0.05), both + 1)
        found += stats.poisson.pmf(both, discordant) * stats.binom.sf(least - 1, both, 0.5)

    assert 0.001 < found <= 0.025


def holm_by_rejecting(p_values):
    """Of each, the least level at which the step-down procedure, taken literally, rejects it."""
    levels = sorted({min(1.0, p * k) for p in p_values for k in range(1, len(p_values) + 1)})

    def rejected(level):
        left, gone = list(enumerate(p_values)), set()
        while left and min(p for _, p in left) * len(left) <= level:
            least = min(left, key=lambda item: item[1])
            left.remove(least)
            gone.add(least[0])
        return gone

    return tuple(next((level for level in levels if index in rejected(level)), 1.0) for index in range(len(p_values)))


@given(st.lists(st.sampled_from([0.0, 1e-5, 0.004, 0.01, 0.0125, 0.02, 0.03, 0.2, 0.9, 1.0]), max_size=6))
def test_holm_rejects_what_stepping_down_rejects(p_values):
    assert holm(p_values) == pytest.approx(holm_by_rejecting(p_values))


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(AssertionError, match="nan"):
        holm([0.01, math.nan])


@pytest.mark.parametrize("n", [6, 10, 15, 100])
def test_the_smallest_resolvable_difference_is_found_four_times_in_five(n):
    """By Student's test, of samples of as many units."""
    samples = np.random.default_rng(n).standard_normal((10_000, n))
    bootstrap_error = 1 / math.sqrt(n) * math.sqrt((n - 1) / n)

    found: Any = stats.ttest_1samp(samples + smallest_resolvable(bootstrap_error, n), 0, axis=1)

    assert np.mean(np.asarray(found.pvalue) <= 0.05) == pytest.approx(0.8, abs=0.013)


@pytest.mark.parametrize("n", [50, 200, 1_000, 10_000])
@pytest.mark.parametrize(("gains", "losses"), [(0, 0), (1, 0), (3, 1), (12, 10)])
def test_a_resolvable_share_is_found_four_times_in_five_however_few_units_differed(n, gains, losses):
    """By McNemar's test of samples from a population as discordant as the units were, or as the difference needs."""
    seen = np.repeat([1.0, -1.0, 0.0], [gains, losses, n - gains - losses])
    resolvable = max(smallest_resolvable(float(seen.std()) / math.sqrt(n), n), smallest_resolvable_share(n))
    discordant = max(resolvable, (gains + losses) / n)
    better, worse = (discordant + resolvable) / 2, (discordant - resolvable) / 2

    samples = np.random.default_rng(n).multinomial(n, [better, worse, 1 - better - worse], size=2_000)

    found = [mcnemar(int(only_first), int(only_second)) <= 0.05 for only_first, only_second, _ in samples]
    assert 0.7 <= np.mean(found) <= 0.9


@pytest.mark.parametrize("n", [50, 200, 1_000])
@pytest.mark.parametrize("n_apart", [0, 2, 20])
def test_a_resolvable_difference_from_a_mean_is_found_four_times_in_five_or_more(n, n_apart):
    """Of units that are half a unit off the others' mean, as many as were seen, or as the difference needs."""
    seen = np.repeat([0.5, -0.5, 0.0], [n_apart, n_apart, n - 2 * n_apart])
    error = float(seen.std()) / math.sqrt(n)
    resolvable = max(shares.resolvable_of_several(error, n), smallest_resolvable_share(n))
    apart = max(2 * n_apart / n, 2 * resolvable)
    chances = [apart / 2 + resolvable, apart / 2 - resolvable, 1 - apart]

    samples = np.random.default_rng(n).choice([0.5, -0.5, 0.0], (300, n), p=chances)

    found = [shares.of_several(sample, n_draws=999).low > 0 for sample in samples]
    assert 0.7 <= np.mean(found) <= 0.99


def test_of_one_unit_nothing_is_resolved():
    assert smallest_resolvable(0.1, 1) == math.inf


@pytest.mark.parametrize(("n", "difference"), [(400, -0.01), (10, 0.03), (10, 0.5)])
def test_the_units_needed_make_the_difference_resolvable(n, difference):
    needed = units_needed(n, 0.02, difference)

    assert needed is not None
    deviation = 0.02 * n / math.sqrt(n - 1)
    assert detectable(needed) * deviation / math.sqrt(needed) <= abs(difference)
    assert needed == 6 or detectable(needed - 1) * deviation / math.sqrt(needed - 1) > abs(difference)


@pytest.mark.parametrize(
    ("standard_error", "difference"),
    [(0.1, 0.0), (0.1, math.nan), (math.inf, 0.1), (math.nan, 0.1), (0.0, 0.1), (1.0, 5e-324)],
)
def test_units_needed_are_unknown_where_nothing_tells(standard_error, difference):
    assert units_needed(100, standard_error, difference) is None


def effect(gain, *, seed=0, n=200, margin=None):
    influences = np.random.default_rng(seed).normal(size=n)
    return Effect(gain=gain, influences=influences - influences.mean(), margin=margin)


def share_decided(effects, n, wanted):
    """Student's test of each effect, in samples of n normal units as correlated as the influences are."""
    rng = np.random.default_rng(1)
    covariance = np.cov(np.stack([one.influences for one in effects]))
    drawn = rng.multivariate_normal(np.zeros(len(effects)), np.atleast_2d(covariance), size=(3_000, n))
    drawn = drawn + np.array([one.gain for one in effects])
    half = stats.t.ppf(0.975, n - 1) * drawn.std(axis=1, ddof=1) / math.sqrt(n)
    return float(np.mean(wanted(drawn.mean(axis=1) - half, drawn.mean(axis=1) + half)))


@pytest.mark.parametrize("gains", [[0.8], [0.4], [0.5, 0.55], [0.4, 1.5]])
def test_with_the_units_that_a_decision_needs_it_comes_out_four_times_in_five(gains):
    effects = [effect(gain, seed=seed) for seed, gain in enumerate(gains)]

    needed = units_to_decide([(one, None) for one in effects])

    assert needed is not None
    assert share_decided(effects, needed, lambda low, _: (low > 0).all(axis=1)) == pytest.approx(0.8, abs=0.03)


def test_a_loss_needs_as_many_units_as_a_gain_and_a_margin_those_to_rule_it_out():
    gain, loss = (units_to_decide([(effect(one), None)]) for one in (0.5, -0.5))
    within = effect(-0.1, margin=0.6)
    needed = units_to_decide([(within, None)])

    assert gain is not None
    assert needed is not None
    assert loss == pytest.approx(gain, rel=0.1)
    assert share_decided([within], needed, lambda low, _: low > -0.6) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    "effects",
    [
        [],
        [(effect(0.0), None)],
        [(effect(0.5), None), (effect(0.0), None)],
        [(effect(-0.6, margin=0.5), None)],
        [(effect(0.5), effect(-0.5, seed=1))],
        [(effect(0.5, n=5), None)],
        [(effect(math.inf, n=6), None)],
    ],
    ids=["nothing", "no gain", "one gain", "beyond the margin", "mixed", "five units", "infinite"],
)
def test_units_to_decide_are_unknown_where_no_number_would(effects):
    assert units_to_decide(effects) is None


@pytest.mark.parametrize("n", [1, 3, 360, 10**9])
def test_without_discordance_its_share_is_bounded_as_by_clopper_pearson(n):
    expected = stats.binomtest(0, n).proportion_ci(0.95, method="exact").high

    assert no_discordance_bound(n) == pytest.approx(float(expected), rel=1e-9)


# Shares of right answers


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


# Few units that make the difference


def jackknife_of(differences):
    return (differences.sum() - differences) / (len(differences) - 1)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [(np.repeat([1.0, -1.0], 50), 100), (np.repeat([1.0, 0.0], [1, 999]), 1), (np.repeat([1.0, 0.0], [8, 99_992]), 8)],
    ids=["all", "one", "eight"],
)
def test_the_effective_number_of_units_is_how_many_make_the_spread(differences, expected):
    assert effective_n(jackknife_of(differences)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("large", "share"), [(1, 0.5), (3, 0.5), (1, 0.9)])
def test_the_top_share_is_that_of_the_largest_hundredth(large, share):
    signs = np.tile([1.0, -1.0], 500)
    sizes = np.ones(1000)
    sizes[: 10 * large] = share * (1000 - 10 * large) / (10 * large * (1 - share))

    assert top_share(jackknife_of(signs * sizes)) == pytest.approx(share / large, rel=0.02)


@pytest.mark.parametrize("jackknife", [np.zeros(10), np.array([math.inf, *[0.0] * 9]), np.full(10, math.nan)])
def test_without_a_spread_the_effective_number_is_unknown(jackknife):
    with np.errstate(invalid="ignore"):
        assert (effective_n(jackknife), top_share(jackknife)) == (None, None)
        assert not is_dominated(effective_n(jackknife), 10)


@pytest.mark.parametrize("n", [300, 1_000, 10_000])
@pytest.mark.parametrize("rare", [3, 10])
def test_rare_huge_losses_that_were_seen_are_noticed(n, rare):
    """Lognormal with sigma 3: one of them has most of the sum."""
    rng = np.random.default_rng([n, rare])
    found = []
    for _ in range(100):
        losses = 0.1 * rng.standard_normal(n)
        losses[:rare] += rng.lognormal(3, 3, size=rare)
        found.append(is_dominated(effective_n(jackknife_of(losses)), n))

    assert np.mean(found) >= 0.85


@pytest.mark.parametrize("n", [6, 10, 15, 40, 1_000])
def test_normal_differences_are_not_dominated_by_few(n):
    rng = np.random.default_rng(n)

    found = [is_dominated(effective_n(jackknife_of(rng.standard_normal(n))), n) for _ in range(300)]

    assert np.mean(found) <= 0.01


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "p", "margin", "expected"),
    [
        (0.01, 0.03, 0.01, None, "better"),
        (0.01, 0.03, 0.05, None, "better"),
        (0.01, 0.03, 0.06, None, "inconclusive"),
        (0.01, 0.03, 0.06, 0.02, "non-inferior"),
        (0.0, 0.03, 0.01, None, "inconclusive"),
        (-0.01, 0.03, 0.01, 0.02, "non-inferior"),
        (-0.01, 0.03, 0.4, 0.01, "inconclusive"),
        (-0.03, -0.01, 0.01, None, "worse"),
        (-0.03, -0.01, 0.01, 0.02, "worse"),
        (-0.03, -0.01, 0.01, 0.05, "non-inferior"),
        (-0.03, -0.01, 0.06, None, "inconclusive"),
        (-0.03, 0.0, 0.01, None, "inconclusive"),
        (0.0, 0.0, 1.0, 0.01, "non-inferior"),
        (-math.inf, math.inf, 1.0, 0.01, "inconclusive"),
        (math.nan, math.nan, 0.01, 0.01, "inconclusive"),
        (0.01, 0.03, math.nan, None, "inconclusive"),
    ],
)
def test_the_verdict_follows_the_interval_the_p_value_and_the_margin(low, high, p, margin, expected):
    assert verdict_of(low, high, p, higher_is_better=True, margin=margin) == expected
    assert verdict_of(-high, -low, p, higher_is_better=False, margin=margin) == expected


# Coverage: two models' margins of 400 examples of two classes, which share the examples' difficulty

N_SETS, N_EXAMPLES, DIFFICULTY, OWN = 500, 400, 1.0, 0.5
SPREAD = math.hypot(DIFFICULTY, OWN)


def nll(margins):
    return np.logaddexp(0, -margins)


def mean_nll(mean, sharpness):
    """Of a population, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(weights @ nll(sharpness * (mean + SPREAD * nodes)) / weights.sum())


@pytest.fixture(scope="module")
def intervals():
    """Of each kind of difference: the true one, and an interval from each data set; and McNemar's p of each pair."""
    true = {
        "accuracy": stats.norm.cdf(1.2 / SPREAD) - stats.norm.cdf(1.0 / SPREAD),
        "nll": mean_nll(1.2, 1) - mean_nll(1.0, 1),
        "skewed nll": mean_nll(1.2, 4) - mean_nll(1.2, 3),
        "accuracy of equals": 0.0,
        "nll of equals": 0.0,
        "accuracy of near twins": 0.0,
    }
    found = {name: [] for name in true}
    for seed in range(N_SETS):
        rng = np.random.default_rng([seed, 1])
        shared = DIFFICULTY * rng.standard_normal(N_EXAMPLES)
        first, second = OWN * rng.standard_normal((2, N_EXAMPLES)) + shared
        columns = np.stack(
            [
                (first > -1.2) * 1.0 - (second > -1.0),
                nll(first + 1.2) - nll(second + 1.0),
                nll(4 * (first + 1.2)) - nll(3 * (second + 1.2)),
                (first > -1.2) * 1.0 - (second > -1.2),
                nll(first + 1.2) - nll(second + 1.2),
                (0.7 * shared + 0.3 * first > -1.7) * 1.0 - (0.7 * shared + 0.3 * second > -1.7),
            ],
            axis=1,
        )
        resampled = resampled_sums(columns, n_resamples=N_RESAMPLES, seed=seed) / N_EXAMPLES
        jackknife = (columns.sum(0) - columns) / (N_EXAMPLES - 1)
        for j, name in enumerate(true):
            p_value = mcnemar(int((columns[:, j] > 0).sum()), int((columns[:, j] < 0).sum()))
            found[name].append((bca(columns[:, j].mean(), resampled[:, j], jackknife[:, j]), p_value))
    return {name: (true[name], found[name]) for name in true}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "nll", "skewed nll"])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(intervals, name):
    true, found = intervals[name]

    assert 0.93 <= np.mean([interval.low <= true <= interval.high for interval, _ in found]) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy of equals", "nll of equals"])
def test_of_two_equals_one_is_seldom_called_better(intervals, name):
    verdicts = [verdict_of(i.low, i.high, i.p_value, higher_is_better=True, margin=None) for i, _ in intervals[name][1]]

    assert 0 < verdicts.count("better") <= 0.05 * N_SETS


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 10, 20])
def test_of_few_units_without_a_difference_few_samples_show_one(n):
    """Of 40,000 samples 6.7, 5.5 and 5.1 %; with z in place of t about 15, 11 and 7 %."""
    n_samples, shown = 10_000, 0
    for seed in range(n_samples // 500):
        columns = np.random.default_rng([n, seed]).standard_normal((n, 500))
        resampled = resampled_sums(columns, seed=seed) / n
        jackknife = (columns.sum(0) - columns) / (n - 1)
        shown += sum(excludes_zero(bca(columns[:, j].mean(), resampled[:, j], jackknife[:, j])) for j in range(500))

    assert 0.04 <= shown / n_samples <= 0.07


def test_where_few_examples_are_discordant_mcnemar_holds_the_verdict_back(intervals):
    """The intervals alone would call one of two near twins better or worse too often."""
    found = intervals["accuracy of near twins"][1]

    verdicts = [verdict_of(i.low, i.high, p_value, higher_is_better=True, margin=None) for i, p_value in found]

    assert sum(excludes_zero(interval) for interval, _ in found) > 0.06 * N_SETS
    assert verdicts.count("better") + verdicts.count("worse") <= 0.05 * N_SETS
