"""What a comparison comes to, in one word."""

from typing import Literal

Verdict = Literal["better", "non-inferior", "inconclusive", "worse"]

ALPHA = 0.05


def verdict_of(low: float, high: float, p_adjusted: float, *, higher_is_better: bool, margin: float | None) -> Verdict:
    """The verdict on a difference, the candidate's metric minus the other's.

    Better: the interval lies on the good side of zero, and the adjusted p-value is at most 0.05. Non-inferior: not
    shown better, and the whole interval lies on the good side of −``margin``. Worse: as better, on the bad side. Else,
    and where an end is NaN, inconclusive.

    A loss that is significant but surely smaller than the margin is non-inferior, as in a non-inferiority trial: the
    margin says which losses do not matter. Non-inferiority reads the interval alone, not adjusted for how many
    comparisons are made.

    Args:
        margin: the largest loss that is accepted, ≥ 0, in units of the metric. None: nothing is called non-inferior.
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
