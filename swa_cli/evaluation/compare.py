"""SWA against others on the same units: is a difference larger than the test set can blur?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swa_cli.evaluation.bootstrap import Interval, bca, resampled_sums
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

_ROUNDING = 1e-9  # of float64, in a logsumexp say; equal members must come out equal


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

    All share the same resamples, of units, or of whole groups of them.

    Args:
        others: records of the same units in the same order.
        groups: the group of each unit, 0, 1, …
        margins: the loss that is put up with, for a metric, in its own unit.
    """
    everybody = list({id(one): one for one in (swa, *(one for other in others for one in other.records))}.values())
    places = {id(one): place for place, one in enumerate(everybody)}
    tests = [metric for metric in metrics if metric.compared and metric.parts]
    sums = [[_by_group(_parts(metric).sums(one), groups) for one in everybody] for metric in tests]
    drawn = _resampled(sums, seed)
    same = {
        other.name: all(_same(of[0], of[places[id(one)]]) for of in sums for one in other.records) for other in others
    }
    found: list[Comparison] = []
    for metric, of_metric, totals in zip(tests, sums, drawn, strict=True):
        value = _parts(metric).value
        points = [float(value(one.sum(axis=0))) for one in of_metric]
        resamples = [value(one) for one in totals]
        without = [value(one.sum(axis=0) - one) if len(one) > 1 else value(one) for one in of_metric]
        rows = [
            _compared(
                metric,
                other,
                [places[id(one)] for one in other.records],
                (points, resamples, without),
                n_units=swa.n_units,
                margin=(margins or {}).get(metric.name),
            )
            for other in others
        ]
        if groups is None and metric.right_or_wrong:
            rows = [
                _exact(row, swa, other.records[0], metric.right_or_wrong, same=same[other.name])
                if len(other.records) == 1
                else row
                for row, other in zip(rows, others, strict=True)
            ]
        found += _judged(rows, metric)
    return tuple(found)


def _compared(
    metric: Metric,
    other: Other,
    places: Sequence[int],
    figures: tuple[Sequence[float], Sequence[Array], Sequence[Array]],
    *,
    n_units: int,
    margin: float | None,
) -> Comparison:
    points, resamples, without = figures
    theirs = float(np.mean([points[place] for place in places]))
    difference = points[0] - theirs
    interval = bca(
        difference,
        resamples[0] - np.mean([resamples[place] for place in places], axis=0),
        without[0] - np.mean([without[place] for place in places], axis=0),
        scale=max(abs(points[0]), abs(theirs)),
    )
    return _comparison(metric, other, _rounded(difference, max(abs(points[0]), abs(theirs))), interval, n_units, margin)


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
        units_needed=units_needed(n_units, interval.standard_error, difference),
        margin=margin,
        verdict="inconclusive",
    )


def _exact(row: Comparison, swa: Records, other: Records, column: str, *, same: bool) -> Comparison:
    """With McNemar's p-value; and where one of the two is never right alone, with what so many units leave open.

    The bootstrap cannot draw what was not seen: without a loss among n units, it would exclude all losses.
    """
    ours, theirs = swa.columns[column] > 0, other.columns[column] > 0
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    row = replace(row, p_value=mcnemar_exact(only_ours, only_theirs))
    if same or not math.isfinite(row.ci_high - row.ci_low):
        return row
    bound = no_discordance_bound(len(ours))
    low = row.ci_low if only_theirs else min(row.ci_low, row.difference - bound)
    high = row.ci_high if only_ours else max(row.ci_high, row.difference + bound)
    return replace(row, ci_low=low, ci_high=high)


def _judged(rows: Sequence[Comparison], metric: Metric) -> list[Comparison]:
    adjusted = holm([row.p_value for row in rows])
    return [
        replace(
            row,
            p_adjusted=p_adjusted,
            verdict=verdict_of(
                row.ci_low,
                row.ci_high,
                p_adjusted,
                higher_is_better=metric.higher_is_better,
                margin=row.margin,
            ),
        )
        for row, p_adjusted in zip(rows, adjusted, strict=True)
    ]


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


def _same(ours: Array, theirs: Array) -> bool:
    return bool(np.allclose(ours, theirs, rtol=_ROUNDING, atol=_ROUNDING))


def _rounded(difference: float, scale: float) -> float:
    return 0.0 if abs(difference) < _ROUNDING * scale else difference


def _parts(metric: Metric) -> Parts:
    assert metric.parts is not None
    return metric.parts
