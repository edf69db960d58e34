"""The verdict of a comparison."""

from typing import Literal

Verdict = Literal["better", "non-inferior", "inconclusive", "worse"]

ALPHA = 0.05


def verdict_of(low: float, high: float, p_adjusted: float, *, higher_is_better: bool, margin: float | None) -> Verdict:
    """Return the verdict on a difference, the candidate's metric minus the other's.

    Better: the interval lies on the good side of zero, and the adjusted p-value is at most 0.05. Non-inferior: not
    better, and the whole interval lies on the good side of −``margin``. Worse: like better, on the bad side. Otherwise,
    or if an end is NaN, inconclusive.

    A significant loss whose interval lies within the margin is non-inferior, as in a non-inferiority trial: the margin
    says which losses do not matter. Non-inferiority uses the interval alone, without correction for the number of
    comparisons.

    Args:
        margin: the largest accepted loss, ≥ 0, in units of the metric. None: nothing is called non-inferior.
    """
    if not higher_is_better:
        low, high = -high, -low
    significant = p_adjusted <= ALPHA
    if significant and low > 0:
        return "better"
    if margin is not None and low > -margin:
        return "non-inferior"
    if significant and high < 0:
        return "worse"
    return "inconclusive"
