"""Tests that need no resampling, and what a test set can resolve."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.special import bdtr, nctdtrinc, stdtrit

_TAIL = 0.025
_MISSED = 0.2  # how often a difference that is as large as can be resolved is not found


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's test, from the units that only one of two models gets right.

    The mid-p-value (Fagerland et al. 2013, doi:10.1186/1471-2288-13-91), which counts what was seen half, or the exact
    one where one of the models is never right alone.

    >>> f"{mcnemar(71, 25):.3g}", mcnemar(5, 0)
    ('1.92e-06', 0.0625)
    """
    fewer, both = min(only_first, only_second), only_first + only_second
    tail = float(bdtr(fewer, both, 0.5))
    if fewer:
        tail = (tail + float(bdtr(fewer - 1, both, 0.5))) / 2
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted for how many there are, in their order (Holm 1979, Scand. J. Statist. 6:65).

    Taking those up to 0.05 for real keeps the chance that any of them is not at 5 %, however they depend on each other.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    ordered = np.sort(p_values)
    assert not len(ordered) or 0 <= ordered[0] <= ordered[-1] <= 1, p_values  # NaN comes last
    adjusted = np.minimum(np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)), 1.0)
    return tuple(float(p) for p in adjusted[np.searchsorted(ordered, p_values)])


@cache
def detectable(n_units: int) -> float:
    """How many standard errors a difference has if Student's two-sided 5 % test of n units finds it with 80 % power.

    >>> round(detectable(10), 2), round(detectable(10**6), 2)
    (3.15, 2.8)
    """
    return float(nctdtrinc(n_units - 1, _MISSED, stdtrit(n_units - 1, 1 - _TAIL)))


def smallest_resolvable(standard_error: float, n_units: int) -> float:
    """The difference that a two-sided 5 % test of n units finds with 80 % power.

    Args:
        standard_error: the bootstrap's, which is √((n - 1)/n) of the usual one.
    """
    return detectable(n_units) * standard_error * (n_units / (n_units - 1)) ** 0.5 if n_units > 1 else float("inf")


def smallest_resolvable_share(n_units: int) -> float:
    """The least difference between two shares of right answers that McNemar's test finds with 80 % power.

    Two shares that differ by d differ on a share d of the units at least, however few of them did so here, and one that
    only those make has a variance of d (1 - d).

    >>> round(smallest_resolvable_share(200), 3), round(smallest_resolvable_share(10_000), 5)
    (0.038, 0.00078)
    """
    squared = detectable(n_units) ** 2
    return squared / (n_units + squared)


def no_discordance_bound(n: int) -> float:
    """The largest share of discordant examples that n ≥ 1 examples without any leave open, at 95 %.

    The upper end of the two-sided Clopper-Pearson interval. No difference of accuracies exceeds that share, so that
    ± this is an interval for it where two models are right on the same examples.
    """
    return float(-np.expm1(np.log(_TAIL) / n))
