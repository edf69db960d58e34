"""A score: how it follows from records, and how it is shown."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from swa_cli.tasks.records import Array, Records


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A score that is a function of sums over units, as most are, so that units can be resampled.

    Attributes:
        needs: the columns that it is made from.
        sums: of records, (units, d).
        value: of such sums over any units, (…, d), the score, (…).
    """

    needs: tuple[str, ...]
    sums: Callable[[Records], Array]
    value: Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One score.

    Attributes:
        name: in JSON and CSV, where it is never in percent.
        label: in tables and sentences.
        of: the score of all units.
        needs: the columns and tallies that it is made from.
        percent: whether it is a fraction, shown in percent, with differences in points.
        shown: whether it has a column in the table at the terminal.
        compared: whether differences between candidates are tested; needs ``parts``.
        right_or_wrong: a column that is 0 or 1 for each unit and whose mean this is, if there is one.
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
    """A metric whose value is that of the sums over all units."""

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
    """Those whose columns and tallies the records have."""
    kept = {*records.columns, *records.tallies}
    return tuple(metric for metric in metrics if kept.issuperset(metric.needs))


def ratio(numerator: str, denominator: str, *, then: Callable[[Array], Array] | None = None) -> Parts:
    """One column's sum over another's, NaN where that is 0; ``then`` a function of it."""

    def value(sums: Array) -> Array:
        found = divided(sums[..., 0], sums[..., 1])
        return found if then is None else then(found)

    return Parts(
        needs=(numerator, denominator),
        sums=lambda records: np.stack([records.columns[numerator], records.columns[denominator]], axis=1),
        value=value,
    )


def mean_ratio(numerator: str, denominator: str) -> Parts:
    """The mean over classes of one column's sum over another's, both (units, C); of those where that is not 0."""

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
    """``numerator / denominator``, NaN where that is 0, without a warning."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)
