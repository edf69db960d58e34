"""Comparing SWA with others on the same units."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swa_cli.evaluation import shares
from swa_cli.evaluation.bootstrap import ROUNDING, UNKNOWN, Interval, bca, student, wider
from swa_cli.evaluation.decide import CONTROL, DECIDING, INCUMBENTS
from swa_cli.evaluation.few import effective_n, error_among, is_dominated, peers_of, top_share
from swa_cli.evaluation.power import units_needed
from swa_cli.evaluation.result import Comparison, Kind
from swa_cli.evaluation.significance import holm, smallest_resolvable, smallest_resolvable_share
from swa_cli.evaluation.sums import Figures, are_shares, figures, power_of_two, resampled, unit_sums
from swa_cli.evaluation.verdict import ALPHA, verdict_of
from swa_cli.tasks import Array, Metric, Records

_OF_MEMBERS = ("mean", "ensemble")
"""Kinds whose scores average over the errors of all checkpoints, while SWA's has only its own."""


@dataclass(frozen=True, kw_only=True)
class Other:
    """A candidate that SWA is compared with; several records stand for the mean of their scores."""

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
    n_resamples: int | None = None,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare SWA with each of the others by each metric that is ``compared``; differences are SWA minus other.

    All comparisons share the same resamples of units, or of whole groups if ``groups`` is given; ``units_needed``
    counts what is resampled. For right-or-wrong scores of independent units the interval is that of `shares`. For all
    others it is the bootstrap's (`bca`), but never narrower than Student's.

    Args:
        others: records of the same units in the same order.
        groups: the group of each unit, 0, 1, …
        margins: the accepted loss per metric, in the metric's own unit.
        n_resamples: number of bootstrap resamples; default: `resamples_for` the number of units.
    """
    everybody = list({id(one): one for one in (swa, *(one for other in others for one in other.records))}.values())
    places = {id(one): place for place, one in enumerate(everybody)}
    at = [[places[id(one)] for one in other.records] for other in others]
    members: Sequence[int] = next((where for other, where in zip(others, at, strict=True) if other.kind == "mean"), ())
    tests = [metric for metric in metrics if metric.compared and metric.parts]
    sums = [[unit_sums(metric, one, groups) for one in everybody] for metric in tests]
    tests = [
        replace(metric, percent=metric.percent and are_shares(metric, of_metric))
        for metric, of_metric in zip(tests, sums, strict=True)
    ]
    by_metric: list[list[Comparison]] = []
    for metric, of_metric, totals in zip(tests, sums, resampled(sums, n_resamples=n_resamples, seed=seed), strict=True):
        found = figures(metric, of_metric, totals)
        margin = (margins or {}).get(metric.name)
        by_metric.append(
            [_compared(metric, other, where, members, found, margin) for other, where in zip(others, at, strict=True)]
        )
    alike = [all(rows[place].is_nothing for rows in by_metric) for place in range(len(others))]
    compared: list[Comparison] = []
    for metric, of_metric, rows in zip(tests, sums, by_metric, strict=True):
        by_right = metric.right_or_wrong if groups is None else None
        left = [
            row
            if same
            else _as_nothing_seen(row, metric, len(of_metric[0]))
            if by_right is None
            else _by_right_and_wrong(row, by_right, swa, other.records, seed)
            for row, other, same in zip(rows, others, alike, strict=True)
        ]
        compared += _judged(left, metric)
    return tuple(compared)


def _compared(
    metric: Metric, other: Other, places: Sequence[int], members: Sequence[int], figures: Figures, margin: float | None
) -> Comparison:
    """Compute one comparison from the resamples and the jackknife.

    Args:
        places: positions of the other's records.
        members: positions of the checkpoints' records, if their mean is compared.
    """
    ours, theirs = figures.all_units[0], float(np.mean([figures.all_units[place] for place in places]))
    without = figures.without[0] - np.mean([figures.without[place] for place in places], axis=0)
    resampled = figures.resampled[0] - np.mean([figures.resampled[place] for place in places], axis=0)
    unit = power_of_two(ours, theirs)  # so that fourth powers neither overflow nor become 0
    scale, without = max(abs(ours), abs(theirs)) / unit, without / unit
    difference = _rounded((ours - theirs) / unit, scale)
    interval = bca((ours - theirs) / unit, resampled / unit, without, scale=scale)
    if interval.low < interval.high:
        error = None
        if other.kind in _OF_MEMBERS and members:
            peers = peers_of(one / unit for one in _in_swa_s_place(figures, places, members))
            error = error_among(peers, without)
        interval = wider(interval, student(difference, without, error=error))
    elif difference:
        interval = _without_spread(metric, difference, len(without))
    return _comparison(metric, other, difference * unit, interval.times(unit), without, margin)


def _in_swa_s_place(figures: Figures, places: Sequence[int], members: Sequence[int]) -> Iterator[Array]:
    """Yield the jackknife of each checkpoint in SWA's place: against the mean over the rest, or against the other."""
    if len(places) == 1:
        yield from (figures.without[member] - figures.without[places[0]] for member in members)
        return
    total = np.sum([figures.without[place] for place in (0, *members)], axis=0)
    for member in members:
        own = figures.without[member]
        yield own - (total - own) / len(members)


def _without_spread(metric: Metric, difference: float, n_units: int) -> Interval:
    """Return an interval if all units differ by the same amount: unseen units are bounded only for a share."""
    if not metric.percent:
        return replace(UNKNOWN, standard_error=0.0)
    low, high = shares.with_room(difference, n_units)
    return Interval(low=low, high=high, p_value=ALPHA if low > 0 or high < 0 else 1.0, standard_error=0.0)


def _comparison(
    metric: Metric,
    other: Other,
    difference: float,
    interval: Interval,
    without: Array,
    margin: float | None,
) -> Comparison:
    n_units, effective = len(without), effective_n(without)
    low, high = interval.low, interval.high
    if metric.percent and math.isfinite(high - low):
        low, high = max(low, -1.0), min(high, 1.0)
    return Comparison(
        metric=metric.name,
        other=other.name,
        kind=other.kind,
        difference=difference,
        ci_low=low,
        ci_high=high,
        p_value=interval.p_value,
        p_adjusted=interval.p_value,
        standard_error=interval.standard_error,
        smallest_resolvable=smallest_resolvable(interval.standard_error, n_units),
        units_needed=units_needed(n_units, interval.standard_error, _to_rule_out(metric, difference, margin)),
        margin=margin,
        verdict="inconclusive",
        effective_n=effective,
        top_share=top_share(without),
        dominated=is_dominated(effective, n_units),
    )


def _to_rule_out(metric: Metric, difference: float, margin: float | None) -> float:
    """Return the distance to no difference, or to a loss of ``margin``; 0 if the loss is larger already."""
    if margin is None:
        return difference
    return max(0.0, (difference if metric.higher_is_better else -difference) + margin)


def _as_nothing_seen(row: Comparison, metric: Metric, n_units: int) -> Comparison:
    """Widen the interval of a share that is equal on all units by what unseen units could change."""
    if not (row.is_nothing and metric.percent):
        return row
    low, high = shares.with_room(0.0, n_units)
    return replace(row, ci_low=low, ci_high=high)


def _by_right_and_wrong(row: Comparison, column: str, swa: Records, others: Sequence[Records], seed: int) -> Comparison:
    """Replace the interval for independent units that are right or wrong: the difference is bounded by 1 per unit."""
    theirs = np.mean([one.columns[column] > 0 for one in others], axis=0)
    differences = (swa.columns[column] > 0) - theirs
    n_units, resolvable = len(differences), row.smallest_resolvable
    if len(others) == 1:
        interval = shares.of_pair(differences, seed=seed)
    else:
        interval = shares.of_several(differences, seed=seed)
        resolvable = shares.resolvable_of_several(row.standard_error, n_units)
    return replace(
        row,
        ci_low=interval.low,
        ci_high=interval.high,
        p_value=interval.p_value,
        smallest_resolvable=max(resolvable, smallest_resolvable_share(n_units)),
        dominated=False,
    )


def _judged(rows: Sequence[Comparison], metric: Metric) -> list[Comparison]:
    """Adjust the p-values for the number of comparisons that can lead to the same mistake, and judge them.

    To be shipped, an average has to beat all incumbents, which needs no correction. A loss against any incumbent
    forbids it, which is corrected by Holm's method over the incumbents. A loss against the control is one more way to
    forbid it; it is corrected too, and does not change the incumbents' p-values. Comparisons that do not decide are
    corrected among themselves.
    """
    lost = [metric.higher_is_better == (row.difference < 0) for row in rows]
    incumbents = [place for place, row in enumerate(rows) if row.kind in INCUMBENTS]
    further = [place for place, row in enumerate(rows) if row.kind not in DECIDING]
    adjusted = {place: (row.p_value, 1) for place, row in enumerate(rows)}
    of_losses = holm([rows[place].p_value if lost[place] else 1.0 for place in incumbents])
    adjusted |= {
        place: (p_value, len(incumbents)) for place, p_value in zip(incumbents, of_losses, strict=True) if lost[place]
    }
    of_further = holm([rows[place].p_value for place in further])
    adjusted |= {place: (p_value, len(further)) for place, p_value in zip(further, of_further, strict=True)}
    ways = len(incumbents) + 1
    adjusted |= {
        place: (min(1.0, ways * row.p_value), ways)
        for place, row in enumerate(rows)
        if row.kind == CONTROL and lost[place]
    }
    return [_decided(row, metric, *adjusted[place]) for place, row in enumerate(rows)]


def _decided(row: Comparison, metric: Metric, p_adjusted: float, corrected_for: int) -> Comparison:
    verdict = verdict_of(
        row.ci_low, row.ci_high, p_adjusted, higher_is_better=metric.higher_is_better, margin=row.margin
    )
    return replace(
        row,
        p_adjusted=p_adjusted,
        corrected_for=corrected_for,
        verdict="inconclusive" if row.dominated else verdict,
    )


def _rounded(difference: float, scale: float) -> float:
    return 0.0 if abs(difference) < ROUNDING * scale else difference
