"""The smallest difference that can be resolved, and how many units a decision needs, by simulation."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from swa_cli.evaluation import shares
from swa_cli.evaluation.power import Effect, units_needed, units_to_decide
from swa_cli.evaluation.significance import (
    detectable,
    mcnemar,
    smallest_resolvable,
    smallest_resolvable_share,
)


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
