"""Is the difference between two candidates larger than the test set can blur?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from swa_cli.evaluation.records import Records

_ROUNDING = 1e-9  # of float64, in a logsumexp say; equal members must come out equal
Z_95 = 1.959963984540054
Metric = Literal["accuracy", "nll"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """SWA minus another candidate, on the same examples.

    ``difference`` of the means, with a 95 % interval from the paired standard error (normal approximation).
    It covers the choice of test examples, not the randomness of training.
    """

    metric: Metric
    other: str
    difference: float
    ci_low: float
    ci_high: float

    @property
    def verdict(self) -> Literal["better", "worse", "inconclusive"]:
        """Better or worse only where the interval excludes zero."""
        if not (self.ci_low > 0 or self.ci_high < 0):  # also where a bound is NaN
            return "inconclusive"
        gained = self.difference > 0 if self.metric == "accuracy" else self.difference < 0
        return "better" if gained else "worse"


def compare(swa: Records, others: Sequence[Records], *, name: str) -> tuple[Comparison, ...]:
    """Compare SWA with another candidate, or with the mean over several (each example's mean).

    Args:
        others: records of the same examples in the same order.
        name: what ``others`` is called in the report.
    """
    return tuple(
        _paired(metric, _values(swa, metric) - torch.stack([_values(other, metric) for other in others]).mean(0), name)
        for metric in ("accuracy", "nll")
    )


def _values(records: Records, metric: Metric) -> torch.Tensor:
    return records.correct.to(torch.float64) if metric == "accuracy" else records.nll


def _paired(metric: Metric, differences: torch.Tensor, name: str) -> Comparison:
    differences = torch.where(differences.abs() < _ROUNDING, 0.0, differences)
    mean = float(differences.mean())
    n = len(differences)
    half = Z_95 * float(differences.std(correction=1)) / n**0.5 if n > 1 else float("inf")
    return Comparison(metric=metric, other=name, difference=mean, ci_low=mean - half, ci_high=mean + half)
