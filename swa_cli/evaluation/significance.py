"""Tests that need no resampling, and what a test set can resolve."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr

_DETECTABLE = 1.959963984540054 + 0.8416212335729143  # z of .975, for a two-sided 5 % test, and of .8, its power
_TAIL = 0.025


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of McNemar's exact test, from the units that only one of two models gets right.

    >>> f"{mcnemar_exact(71, 25):.3g}"
    '2.87e-06'
    """
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


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


def smallest_resolvable(standard_error: float) -> float:
    """The difference that a two-sided 5 % test finds with 80 % power: 2.80 standard errors."""
    return _DETECTABLE * standard_error


def units_needed(n_units: int, standard_error: float, distance: float) -> int | None:
    """How many units would make ``distance`` the smallest resolvable one, as the standard error falls with 1/√n.

    None where the distance is zero, or where it or the standard error is unknown: not finite, or no spread at all.

    Args:
        n_units: those of which ``standard_error`` is; groups, where there are groups.
        distance: from what is to be ruled out: the difference itself, or with a margin that from the margin.
    """
    if not distance or not standard_error:
        return None
    ratio = smallest_resolvable(standard_error) / distance
    needed = n_units * ratio * ratio
    return math.ceil(needed) if math.isfinite(needed) else None


def no_discordance_bound(n: int) -> float:
    """The largest share of discordant examples that n ≥ 1 examples without any leave open, at 95 %.

    The upper end of the two-sided Clopper-Pearson interval. No difference of accuracies exceeds that share, so that
    ± this is an interval for it where two models are right on the same examples.
    """
    return -math.expm1(math.log(_TAIL) / n)
