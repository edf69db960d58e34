"""Scores as functions of sums over units: on all units, on each resample, and without each unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swa_cli.evaluation.bootstrap import resampled_sums
from swa_cli.tasks import Array, Metric, Parts, Records

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Each candidate's score on all units, on each resample (B,), and without each unit (units,)."""

    all_units: Sequence[float]
    resampled: Sequence[Array]
    without: Sequence[Array]


def unit_sums(metric: Metric, records: Records, groups: NDArray[np.int64] | None) -> Array:
    """Return the sums of each unit, or of each group of units, (units, d)."""
    sums = _parts(metric).sums(records)
    if groups is None:
        return sums
    summed = np.zeros((int(groups.max()) + 1, sums.shape[1]))
    np.add.at(summed, groups, sums)
    return summed


def figures(metric: Metric, sums: Sequence[Array], totals: Sequence[Array]) -> Figures:
    """Compute each candidate's scores from the sums of its units and the totals of its resamples."""
    value = _parts(metric).value
    return Figures(
        all_units=[float(value(one.sum(axis=0))) for one in sums],
        resampled=[value(one) for one in totals],
        without=[without_each(metric, one) for one in sums],
    )


def without_each(metric: Metric, sums: Array) -> Array:
    """Return the score without each unit in turn (the jackknife), (units,)."""
    return _parts(metric).value(sums.sum(axis=0) - sums if len(sums) > 1 else sums)


def are_shares(metric: Metric, sums: Sequence[Array]) -> bool:
    """Return whether every unit's score is between 0 and 1, which not every percentage is (MAPE)."""
    value = _parts(metric).value
    return not any(bool(((one < -_ROUNDING) | (one > 1 + _ROUNDING)).any()) for one in map(value, sums))


def power_of_two(*values: float) -> float:
    """Return the largest power of two not above the largest magnitude, or 1; dividing by it does not round.

    >>> power_of_two(-5.0, 3.0), power_of_two(0.0), power_of_two(float("nan"), 1.0)
    (4.0, 1.0, 1.0)
    """
    largest = max(map(abs, values))
    return math.ldexp(0.5, math.frexp(largest)[1]) if math.isfinite(sum(values)) and largest else 1.0


def resampled(sums: Sequence[Sequence[Array]], *, n_resamples: int | None, seed: int) -> list[list[Array]]:
    """Return the totals of the same resamples for each metric and candidate, (B, d)."""
    every = [one for of_metric in sums for one in of_metric]
    if not every:
        return []
    together = resampled_sums(np.concatenate(every, axis=1), n_resamples=n_resamples, seed=seed)
    ends = np.cumsum([one.shape[1] for one in every])[:-1]
    columns = iter(np.split(together, ends, axis=1))
    return [[next(columns) for _ in of_metric] for of_metric in sums]


def _parts(metric: Metric) -> Parts:
    assert metric.parts is not None
    return metric.parts
