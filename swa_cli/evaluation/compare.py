"""SWA against others on the same units: is a difference larger than the test set can blur?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swa_cli.evaluation.bootstrap import ROUNDING, Interval, bca, resampled_sums, student, wider
from swa_cli.evaluation.decide import DECIDING
from swa_cli.evaluation.result import Comparison, Kind
from swa_cli.evaluation.significance import (
    holm,
    mcnemar_exact,
    no_discordance_bound,
    smallest_resolvable,
    units_needed,
)
from swa_cli.evaluation.verdict import verdict_of
from swa_cli.tasks import Metric, Records
from swa_cli.tasks.metrics import Parts
from swa_cli.tasks.records import Array


@dataclass(frozen=True, kw_only=True)
class Other:
    """What SWA is compared with; of several records the mean of their scores."""

    name: str
    kind: Kind
    records: Sequence[Records]


def compare(
    swa: Records,
    others: Sequence[Other],
    metrics: Sequence[Metric],
    *,
    groups: NDArray[np.int64] | None = None,
    margins: Mapping[str, float] | None = None,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """SWA minus each of the others, by each metric that is ``compared``.

    All share the same resamples, of units, or of whole groups of them; what is resampled is what ``units_needed``
    counts. An interval is that of the bootstrap (`bca`), never narrower than Student's, nor than what the number of
    units leaves open where nothing was seen.

    Args:
        others: records of the same units in the same order.
        groups: the group of each unit, 0, 1, …
        margins: the loss that is put up with, for a metric, in its own unit.
    """
    everybody = list({id(one): one for one in (swa, *(one for other in others for one in other.records))}.values())
    places = {id(one): place for place, one in enumerate(everybody)}
    tests = [metric for metric in metrics if metric.compared and metric.parts]
    sums = [[_by_group(_parts(metric).sums(one), groups) for one in everybody] for metric in tests]
    n_resampled = len(sums[0][0]) if sums else 0
    by_metric: list[list[Comparison]] = []
    for metric, of_metric, totals in zip(tests, sums, _resampled(sums, seed), strict=True):
        figures = _figures(metric, of_metric, totals)
        margin = (margins or {}).get(metric.name)
        by_metric.append(
            [
                _compared(metric, other, [places[id(one)] for one in other.records], figures, n_resampled, margin)
                for other in others
            ]
        )
    alike = [all(rows[place].is_nothing for rows in by_metric) for place in range(len(others))]
    found: list[Comparison] = []
    for metric, rows in zip(tests, by_metric, strict=True):
        left = [
            row if same else _with_the_unseen(row, metric, swa, other.records, n_resampled, grouped=groups is not None)
            for row, other, same in zip(rows, others, alike, strict=True)
        ]
        found += _judged(left, metric)
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """Of each candidate its score: on all units, on each resample (B,), and without each unit (units,)."""

    all_units: Sequence[float]
    resampled: Sequence[Array]
    without: Sequence[Array]


def _figures(metric: Metric, sums: Sequence[Array], totals: Sequence[Array]) -> _Figures:
    value = _parts(metric).value
    return _Figures(
        all_units=[float(value(one.sum(axis=0))) for one in sums],
        resampled=[value(one) for one in totals],
        without=[value(one.sum(axis=0) - one) if len(one) > 1 else value(one) for one in sums],
    )


def _compared(
    metric: Metric, other: Other, places: Sequence[int], figures: _Figures, n_units: int, margin: float | None
) -> Comparison:
    ours, theirs = figures.all_units[0], float(np.mean([figures.all_units[place] for place in places]))
    scale = max(abs(ours), abs(theirs))
    difference = _rounded(ours - theirs, scale)
    without = figures.without[0] - np.mean([figures.without[place] for place in places], axis=0)
    resampled = figures.resampled[0] - np.mean([figures.resampled[place] for place in places], axis=0)
    interval = bca(ours - theirs, resampled, without, scale=scale)
    if interval.low < interval.high:
        interval = wider(interval, student(difference, without))
    return _comparison(metric, other, difference, interval, n_units, margin)


def _comparison(
    metric: Metric, other: Other, difference: float, interval: Interval, n_units: int, margin: float | None
) -> Comparison:
    return Comparison(
        metric=metric.name,
        other=other.name,
        kind=other.kind,
        difference=difference,
        ci_low=interval.low,
        ci_high=interval.high,
        p_value=interval.p_value,
        p_adjusted=interval.p_value,
        standard_error=interval.standard_error,
        smallest_resolvable=smallest_resolvable(interval.standard_error),
        units_needed=units_needed(n_units, interval.standard_error, _to_rule_out(metric, difference, margin)),
        margin=margin,
        verdict="inconclusive",
    )


def _to_rule_out(metric: Metric, difference: float, margin: float | None) -> float:
    """The distance from no difference, or with a margin from a loss of as much; 0 where the loss is larger already."""
    if margin is None:
        return difference
    return max(0.0, (difference if metric.higher_is_better else -difference) + margin)


def _with_the_unseen(
    row: Comparison, metric: Metric, swa: Records, others: Sequence[Records], n: int, *, grouped: bool
) -> Comparison:
    """With what n units leave open of what was not seen among them, which the bootstrap cannot draw.

    Where one of two models is never right alone, that is a share of 1 − 0.025^(1/n); likewise for any fraction that
    came out the same. For a score of right or wrong the p-value is McNemar's.
    """
    if not metric.percent or not math.isfinite(row.ci_high - row.ci_low):
        return row
    bound = no_discordance_bound(n)
    if grouped or metric.right_or_wrong is None or len(others) > 1:
        return replace(row, ci_low=-bound, ci_high=bound) if row.is_nothing else row
    ours, theirs = swa.columns[metric.right_or_wrong] > 0, others[0].columns[metric.right_or_wrong] > 0
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return replace(
        row,
        p_value=mcnemar_exact(only_ours, only_theirs),
        ci_low=row.ci_low if only_theirs else min(row.ci_low, row.difference - bound),
        ci_high=row.ci_high if only_ours else max(row.ci_high, row.difference + bound),
    )


def _judged(rows: Sequence[Comparison], metric: Metric) -> list[Comparison]:
    """With Holm's correction over the rows that do not decide; one that has to beat all that do needs none."""
    further = [row for row in rows if row.kind not in DECIDING]
    adjusted = dict(zip(map(id, further), holm([row.p_value for row in further]), strict=True))
    return [_decided(row, metric, adjusted.get(id(row)), len(further)) for row in rows]


def _decided(row: Comparison, metric: Metric, adjusted: float | None, n_further: int) -> Comparison:
    p_adjusted = row.p_value if adjusted is None else adjusted
    verdict = verdict_of(
        row.ci_low, row.ci_high, p_adjusted, higher_is_better=metric.higher_is_better, margin=row.margin
    )
    return replace(
        row,
        p_adjusted=p_adjusted,
        corrected_for=1 if adjusted is None else n_further,
        verdict="inconclusive" if row.dominated else verdict,
    )


def _resampled(sums: Sequence[Sequence[Array]], seed: int) -> list[list[Array]]:
    """Of each metric and candidate the totals of the same resamples, (B, d)."""
    every = [one for of_metric in sums for one in of_metric]
    if not every:
        return []
    together = resampled_sums(np.concatenate(every, axis=1), seed=seed)
    ends = np.cumsum([one.shape[1] for one in every])[:-1]
    columns = iter(np.split(together, ends, axis=1))
    return [[next(columns) for _ in of_metric] for of_metric in sums]


def _by_group(sums: Array, groups: NDArray[np.int64] | None) -> Array:
    if groups is None:
        return sums
    summed = np.zeros((int(groups.max()) + 1, sums.shape[1]))
    np.add.at(summed, groups, sums)
    return summed


def _rounded(difference: float, scale: float) -> float:
    return 0.0 if abs(difference) < ROUNDING * scale else difference


def _parts(metric: Metric) -> Parts:
    assert metric.parts is not None
    return metric.parts
