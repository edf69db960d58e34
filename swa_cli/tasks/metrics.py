"""Metrics: how a score is computed from records, and how it is shown."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from swa_cli.tasks.records import Array, Records


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A score as a function of sums over units, so that units can be resampled.

    Attributes:
        needs: names of the columns it is computed from.
        sums: returns the summands of records, (units, d).
        value: returns the score, (…), of sums over any units, (…, d).
    """

    needs: tuple[str, ...]
    sums: Callable[[Records], Array]
    value: Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One score.

    Attributes:
        name: key in JSON and CSV, where the score is never in percent.
        label: name in tables and sentences.
        of: computes the score of all units.
        needs: names of the columns and tallies it is computed from.
        percent: whether it is a fraction, shown in percent, with differences in points.
        shown: whether the terminal's table has a column for it.
        compared: whether differences between candidates are tested; requires ``parts``.
        right_or_wrong: name of a column of zeros and ones per unit whose mean this is, if there is one.
    """

    name: str
    label: str
    higher_is_better: bool
    of: Callable[[Records], float]
    needs: tuple[str, ...]
    percent: bool = False
    shown: bool = True
    compared: bool = False
    right_or_wrong: str | None = None
    parts: Parts | None = None


def from_parts(
    name: str,
    label: str,
    parts: Parts,
    *,
    higher_is_better: bool,
    percent: bool = False,
    shown: bool = True,
    compared: bool = False,
    right_or_wrong: str | None = None,
) -> Metric:
    """Return a metric that is computed from sums over all units."""

    def of(records: Records) -> float:
        return float(parts.value(parts.sums(records).sum(axis=0)))

    return Metric(
        name=name,
        label=label,
        higher_is_better=higher_is_better,
        of=of,
        needs=parts.needs,
        percent=percent,
        shown=shown,
        compared=compared,
        right_or_wrong=right_or_wrong,
        parts=parts,
    )


def available(metrics: Iterable[Metric], records: Records) -> tuple[Metric, ...]:
    """Return the metrics whose columns and tallies the records have."""
    kept = {*records.columns, *records.tallies}
    return tuple(metric for metric in metrics if kept.issuperset(metric.needs))


def ratio(numerator: str, denominator: str, *, then: Callable[[Array], Array] | None = None) -> Parts:
    """Return the ratio of two columns' sums, NaN if the denominator is 0; ``then`` is applied to it."""

    def value(sums: Array) -> Array:
        found = divided(sums[..., 0], sums[..., 1])
        return found if then is None else then(found)

    return Parts(
        needs=(numerator, denominator),
        sums=lambda records: np.stack([records.columns[numerator], records.columns[denominator]], axis=1),
        value=value,
    )


def mean_ratio(numerator: str, denominator: str) -> Parts:
    """Return the mean over classes of the ratio of two columns' sums, both (units, C); classes with 0 are skipped."""

    def value(sums: Array) -> Array:
        above, below = np.split(sums, 2, axis=-1)
        occurs = below != 0
        ratios = np.divide(above, below, out=np.zeros_like(above), where=occurs)
        return divided(ratios.sum(axis=-1), occurs.sum(axis=-1, dtype=np.float64))

    return Parts(
        needs=(numerator, denominator),
        sums=lambda records: np.concatenate([records.columns[numerator], records.columns[denominator]], axis=1),
        value=value,
    )


def divided(numerator: Array, denominator: Array) -> Array:
    """Return ``numerator / denominator``, with NaN and no warning where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)
