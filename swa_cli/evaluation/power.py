"""Computing how many units a comparison, or a decision, needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, stdtrit

from swa_cli.evaluation.bootstrap import FEWEST_UNITS
from swa_cli.evaluation.decide import WORST_FIRST, together
from swa_cli.evaluation.result import Comparison, Decision, Kind
from swa_cli.evaluation.significance import detectable
from swa_cli.evaluation.sums import power_of_two, unit_sums, without_each
from swa_cli.evaluation.verdict import Verdict
from swa_cli.tasks import Array, Metric, Records

_MOST = 10**12
_DRAWS = 4_000
_POWER = 0.8


def units_needed(n_units: int, standard_error: float, distance: float) -> int | None:
    """Return how many units would make ``distance`` the smallest resolvable difference.

    None if the distance or the standard error is zero or not finite.

    Args:
        n_units: number of units (or groups) that ``standard_error`` was computed from.
        standard_error: the bootstrap's, which is √((n - 1)/n) times the usual one.
        distance: the difference itself, or with a margin its distance from the margin.
    """
    if not distance or not standard_error or not math.isfinite(distance) or not math.isfinite(standard_error):
        return None
    spread = standard_error * n_units / math.sqrt(n_units - 1) / abs(distance)
    return _smallest(lambda n: detectable(n) * spread <= math.sqrt(n))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference that a decision rests on, scaled so that its values are near 1; positive is a gain.

    Attributes:
        gain: the difference on all units.
        influences: influence of each unit, (units,); their mean is 0, their mean square n times the squared standard
            error.
        margin: the accepted loss, if one was given.
    """

    gain: float
    influences: Array
    margin: float | None


def units_to_decide(effects: Sequence[tuple[Effect, Effect | None]]) -> int | None:
    """Return how many units give the expected decision in 80 % of data sets, if the true effects equal the estimates.

    The expected decision is "better" if the primary metric gains against all incumbents, and "worse" if it loses
    against one; with a margin it is "non-inferior" or "better" if all losses are below the margin. The estimates from
    n units are taken as normal, with the covariance of the units and a common scale of their standard errors.

    Args:
        effects: against each incumbent, for the primary metric and the secondary one, if there is one.
    """
    primary = [effect for effect, _ in effects]
    wanted = _as_it_looks(primary)
    flat = [effect for pair in effects for effect in pair if effect is not None]
    n_units = len(primary[0].influences) if primary else 0
    known = all(math.isfinite(one.gain) and np.isfinite(one.influences).all() for one in flat)
    if wanted is None or n_units < FEWEST_UNITS or not known:
        return None
    influences = np.stack([one.influences for one in flat])
    covariance = influences @ influences.T / (n_units - 1)
    rng = np.random.default_rng(0)
    noise = rng.multivariate_normal(np.zeros(len(flat)), covariance, size=_DRAWS, method="svd").T
    levels = (rng.permutation(_DRAWS) + 0.5) / _DRAWS
    spread, gains = np.sqrt(np.diag(covariance))[:, None], np.array([one.gain for one in flat])[:, None]

    def holds(n: int) -> bool:
        half = stdtrit(n - 1, 0.975) * np.sqrt(chdtri(n - 1, levels) / (n - 1)) * spread / math.sqrt(n)
        estimates = gains + noise / math.sqrt(n)
        codes = iter(
            _codes(low, high, one.margin)
            for low, high, one in zip(estimates - half, estimates + half, flat, strict=True)
        )
        verdicts = [_TOGETHER[next(codes), _INCONCLUSIVE if second is None else next(codes)] for _, second in effects]
        return float(np.isin(np.min(verdicts, axis=0), [WORST_FIRST.index(one) for one in wanted]).mean()) >= _POWER

    return _smallest(holds)


def effects(
    comparisons: Sequence[Comparison],
    decision: Decision,
    metrics: Sequence[Metric],
    swa: Records,
    incumbents: Mapping[Kind, Records],
    groups: NDArray[np.int64] | None,
) -> list[tuple[Effect, Effect | None]]:
    """Return the effects against each incumbent for both deciding metrics, except those that few units dominate.

    Args:
        incumbents: the records that were compared, by kind.
    """
    by_name = {metric.name: metric for metric in metrics}
    found: dict[tuple[Kind, str], Effect] = {}
    for one in comparisons:
        if one.kind in incumbents and one.metric in {decision.primary, decision.secondary} and not one.dominated:
            metric = by_name[one.metric]
            ours, theirs = (
                without_each(metric, unit_sums(metric, each, groups)) for each in (swa, incumbents[one.kind])
            )
            sign, jackknife = (1 if metric.higher_is_better else -1), ours - theirs
            influences = sign * (len(jackknife) - 1) * (jackknife.mean() - jackknife)
            unit = power_of_two(one.difference, float(np.abs(influences).max()))
            found[one.kind, one.metric] = Effect(
                gain=sign * one.difference / unit,
                influences=influences / unit,
                margin=None if one.margin is None else one.margin / unit,
            )
    pairs = [(found.get((kind, decision.primary)), found.get((kind, decision.secondary or ""))) for kind in incumbents]
    return [(first, second) for first, second in pairs if first] if all(first for first, _ in pairs) else []


def _as_it_looks(primary: Sequence[Effect]) -> tuple[Verdict, ...] | None:
    """Return the expected verdicts; None if a difference is zero, or a loss is not below its margin."""
    margins = [one.margin for one in primary]
    if any(margin is not None for margin in margins):
        within = all(one.gain > -(one.margin or 0.0) for one in primary)
        return ("non-inferior", "better") if primary and within else None
    gains = [one.gain for one in primary]
    if not gains or (min(gains) == 0.0):
        return None
    return ("better",) if min(gains) > 0 else ("worse",)


def _codes(low: Array, high: Array, margin: float | None) -> NDArray[np.int64]:
    """Return each draw's verdict as an index into ``WORST_FIRST``; see `swa_cli.evaluation.verdict.verdict_of`."""
    codes = np.where(high < 0, WORST_FIRST.index("worse"), _INCONCLUSIVE)
    if margin is not None:
        codes[low > -margin] = WORST_FIRST.index("non-inferior")
    codes[low > 0] = WORST_FIRST.index("better")
    return codes


_INCONCLUSIVE = WORST_FIRST.index("inconclusive")
_TOGETHER = np.array([[WORST_FIRST.index(together(one, other)) for other in WORST_FIRST] for one in WORST_FIRST])


def _smallest(holds: Callable[[int], bool]) -> int | None:
    """Return the smallest number of units, at least six, for which ``holds`` is true; None above 10¹²."""
    low, high = FEWEST_UNITS, FEWEST_UNITS
    while not holds(high):
        low, high = high + 1, 2 * high
        if high > _MOST:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
