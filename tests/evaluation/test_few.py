"""Few units, and few that make the difference."""

import math

import numpy as np
import pytest

from swa_cli.evaluation.few import effective_n, is_dominated, top_share


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
