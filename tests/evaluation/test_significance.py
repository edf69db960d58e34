"""McNemar's test and Holm's correction, against scipy and slow oracles."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from support.populations import N_SETS, excludes_zero
from swa_cli.evaluation.significance import (
    holm,
    mcnemar,
)
from swa_cli.evaluation.verdict import verdict_of


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


def test_where_few_examples_are_discordant_mcnemar_holds_the_verdict_back(intervals):
    """The intervals alone would call one of two near twins better or worse too often."""
    found = intervals["accuracy of near twins"][1]

    verdicts = [verdict_of(i.low, i.high, p_value, higher_is_better=True, margin=None) for i, p_value in found]

    assert sum(excludes_zero(interval) for interval, _ in found) > 0.06 * N_SETS
    assert verdicts.count("better") + verdicts.count("worse") <= 0.05 * N_SETS
