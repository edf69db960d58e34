"""Ensembles of regression predictions, with or without variances."""

import math
from collections.abc import Mapping
from typing import final

import numpy as np
import torch

from swa_cli.tasks.records import Array, Records


@final
class MixedValues:
    """Predictions of several members as running means: shape (n, …), or (n, …, 2) with mean and variance."""

    def __init__(self, *, with_variance: bool) -> None:
        self._with_variance = with_variance
        self._n = 0
        self._mean = self._squares = self._variance = torch.zeros(())

    def add(self, prediction: torch.Tensor) -> None:
        """Add a member by B. P. Welford's recurrence, which does not cancel far from zero."""
        value = mean_of(prediction, with_variance=self._with_variance)
        self._n += 1
        before = value - self._mean
        self._mean = self._mean + before / self._n
        self._squares = self._squares + before * (value - self._mean)
        if self._with_variance:
            self._variance = self._variance + (prediction[..., 1] - self._variance) / self._n

    def arithmetic(self) -> torch.Tensor:
        """Return the mean, or mean and variance of the mixture of the members' distributions: mean σ² + var μ.

        B. Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017
        (arXiv:1612.01474).
        """
        if not self._with_variance:
            return self._mean
        return torch.stack([self._mean, self._variance + self.spread()], dim=-1)

    def geometric(self) -> None:
        """Return None: regression has no logits."""

    def agreement(self, prediction: torch.Tensor) -> Records:
        """Return (f − f̄)² of each example."""
        return _distance((mean_of(prediction, with_variance=self._with_variance) - self._mean).square())

    def diversity(self) -> Records:
        """Return the mean of `agreement` over the members."""
        return _distance(self.spread())

    def spread(self) -> torch.Tensor:
        """Return mean_k (f_k − f̄)² of each value."""
        return self._squares / self._n


def mean_of(prediction: torch.Tensor, *, with_variance: bool) -> torch.Tensor:
    """Return the predicted values, without their variances."""
    return prediction[..., 0] if with_variance else prediction


def flat(values: torch.Tensor) -> torch.Tensor:
    """Return the numbers of each example as a row, (n, d)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def per_example(values: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Return the sums over the numbers of each example, and their count."""
    sums = {name: flat(value).sum(dim=1).cpu().numpy() for name, value in values.items()}
    n, numbers = flat(next(iter(values.values()))).shape
    return {"count": np.full(n, float(numbers)), **sums}


def _distance(squared: torch.Tensor) -> Records:
    return Records(columns=per_example({"squared_distance": squared}), tallies={})
