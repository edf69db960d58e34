"""Intervals and p-values for differences between shares of right answers, valid for a handful of errors too."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swa_cli.evaluation.bootstrap import FEWEST_UNITS, UNKNOWN, Interval, agreeing
from swa_cli.evaluation.significance import mcnemar, no_discordance_bound, smallest_resolvable

Floats = NDArray[np.float64]

_DRAWS = 9_999


def of_pair(differences: Floats, *, n_draws: int = _DRAWS, seed: int = 0) -> Interval:
    """Return interval and McNemar's p-value for two models that are each right (1) or wrong (0) on every unit.

    The interval is that of `of_several`, with the analogue of a mid-p-value: at an end that was observed (one model
    was right alone at least once), the unseen unit lies at that end in half of the draws and at the other in the rest.

    Args:
        differences: -1, 0 or 1 for each unit.
        n_draws: number of draws from the Dirichlet distribution.
    """
    only_first, only_second = int((differences > 0).sum()), int((differences < 0).sum())
    return _interval(
        differences,
        low_seen=only_second > 0,
        high_seen=only_first > 0,
        p_value=mcnemar(only_first, only_second),
        n_draws=n_draws,
        seed=seed,
    )


def of_several(differences: Floats, *, n_draws: int = _DRAWS, seed: int = 0) -> Interval:
    """Return the interval for a model against the mean of several: Gaffke's bound for the mean of a bounded variable.

    The units and one unseen unit are weighted by a draw from the flat Dirichlet distribution (the Bayesian bootstrap).
    The unseen unit is -1 for the lower end and 1 for the upper end, the worst cases. For values of 0 and 1 this is the
    Clopper-Pearson interval, and for -1, 0 and 1 the p-value is that of McNemar's exact test (Gaffke 2005;
    Learned-Miller and Thomas 2019, arXiv:1905.06208). Intervals from the spread alone, Student's or the bootstrap's,
    have no width if one model made no error by luck.

    Args:
        differences: values from -1 to 1, one per unit.
        n_draws: number of draws from the Dirichlet distribution.
    """
    return _interval(differences, low_seen=False, high_seen=False, p_value=None, n_draws=n_draws, seed=seed)


def _interval(
    differences: Floats, *, low_seen: bool, high_seen: bool, p_value: float | None, n_draws: int, seed: int
) -> Interval:
    n = len(differences)
    if n < FEWEST_UNITS or not np.isfinite(differences).all():
        return UNKNOWN
    if differences.sum() < 0:  # so that exchanging both mirrors the interval
        turned = _interval(
            -differences, low_seen=high_seen, high_seen=low_seen, p_value=p_value, n_draws=n_draws, seed=seed
        )
        return replace(turned, low=-turned.high, high=-turned.low)
    values, counts = np.unique(differences, return_counts=True)
    rng = np.random.default_rng(seed)
    total, unseen = np.zeros(n_draws), rng.standard_exponential(n_draws)
    weight = unseen.copy()
    for value, count in zip(values, counts, strict=True):
        drawn = rng.standard_gamma(count, n_draws)
        total += value * drawn
        weight += drawn
    down, up = (total - unseen) / weight, (total + unseen) / weight
    both = np.concatenate([down, up])
    lower, upper = both if low_seen else down, both if high_seen else up
    low, high = float(np.quantile(lower, 0.025)), float(np.quantile(upper, 0.975))
    if len(values) == 1:
        low, high = with_room(float(values[0]), n)
    if p_value is None:
        tail = min(float((lower <= 0).mean()), float((upper >= 0).mean()))
        p_value = min(1.0, max(2 * tail, 2 / (n_draws + 1)))
    return Interval(
        low=low,
        high=high,
        p_value=agreeing(p_value, 0.05, excludes_zero=low > 0 or high < 0),
        standard_error=float(differences.std()) / n**0.5,
    )


def resolvable_of_several(standard_error: float, n_units: int) -> float:
    """Return the difference that the interval of `of_several` tells from zero in 80 % of data sets.

    The unseen unit moves an end by 1/n on average, with a standard deviation of 1/n.
    """
    unseen = 1 / n_units
    return unseen + smallest_resolvable(math.hypot(standard_error, unseen), n_units)


def with_room(difference: float, n: int) -> tuple[float, float]:
    """Return an interval for a mean between -1 and 1 if all n units are equal, from the share that may be unseen.

    >>> [round(end, 3) for end in with_room(0.0, 60)], [round(end, 3) for end in with_room(1.0, 6)]
    ([-0.06, 0.06], [0.081, 1.0])
    """
    bound = no_discordance_bound(n)
    return difference - bound * (1 + difference), difference + bound * (1 - difference)
