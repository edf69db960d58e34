"""Significance tests without resampling, and the differences that a test set can resolve."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.special import bdtr, nctdtrinc, stdtrit

_TAIL = 0.025
_MISSED = 0.2  # probability of missing a difference of the smallest resolvable size


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's test, from the units that only one of two models gets right.

    It is the mid-p-value (Fagerland et al. 2013, doi:10.1186/1471-2288-13-91), which counts the observed outcome half,
    or the exact one if one of the models is never right alone.

    >>> f"{mcnemar(71, 25):.3g}", mcnemar(5, 0)
    ('1.92e-06', 0.0625)
    """
    fewer, both = min(only_first, only_second), only_first + only_second
    tail = float(bdtr(fewer, both, 0.5))
    if fewer:
        tail = (tail + float(bdtr(fewer - 1, both, 0.5))) / 2
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted for their number, in their order (Holm 1979, Scand. J. Statist. 6:65).

    Calling those up to 0.05 significant keeps the probability of any false one at 5 %, however they are correlated.

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    ordered = np.sort(p_values)
    assert not len(ordered) or 0 <= ordered[0] <= ordered[-1] <= 1, p_values  # NaN comes last
    adjusted = np.minimum(np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)), 1.0)
    return tuple(float(p) for p in adjusted[np.searchsorted(ordered, p_values)])


@cache
def detectable(n_units: int) -> float:
    """Return the number of standard errors that Student's two-sided 5 % test of n units finds with 80 % power.

    >>> round(detectable(10), 2), round(detectable(10**6), 2)
    (3.15, 2.8)
    """
    return float(nctdtrinc(n_units - 1, _MISSED, stdtrit(n_units - 1, 1 - _TAIL)))


def smallest_resolvable(standard_error: float, n_units: int) -> float:
    """Return the difference that a two-sided 5 % test of n units finds with 80 % power.

    Args:
        standard_error: the bootstrap's, which is √((n - 1)/n) times the usual one.
    """
    return detectable(n_units) * standard_error * (n_units / (n_units - 1)) ** 0.5 if n_units > 1 else float("inf")


def smallest_resolvable_share(n_units: int) -> float:
    """Return the smallest difference between two shares of right answers that McNemar's test finds with 80 % power.

    If two shares differ by d, the models differ on at least a share d of the units. A difference that only those units
    make has the variance d (1 - d).

    >>> round(smallest_resolvable_share(200), 3), round(smallest_resolvable_share(10_000), 5)
    (0.038, 0.00078)
    """
    squared = detectable(n_units) ** 2
    return squared / (n_units + squared)


def no_discordance_bound(n: int) -> float:
    """Return the 95 % upper bound for the share of discordant examples if n ≥ 1 examples show none.

    It is the upper end of the two-sided Clopper-Pearson interval. A difference of accuracies cannot exceed that share,
    so ± this bound is an interval for it if two models are right on the same examples.
    """
    return float(-np.expm1(np.log(_TAIL) / n))
