"""Predictions of numbers, with or without how sure the model is of them, and what several members say together."""

import torch


class MixedValues:
    """Predictions of several members as running means: shape (n, …), or (n, …, 2) with the variances at the end."""

    def __init__(self, *, with_variance: bool) -> None:
        self._with_variance = with_variance
        self._n = 0
        self._mean = self._squares = self._variance = torch.zeros(())

    def add(self, prediction: torch.Tensor) -> None:
        """One more member, by B. P. Welford's recurrence, which does not cancel far from zero."""
        value = mean_of(prediction, with_variance=self._with_variance)
        self._n += 1
        before = value - self._mean
        self._mean = self._mean + before / self._n
        self._squares = self._squares + before * (value - self._mean)
        if self._with_variance:
            self._variance = self._variance + (prediction[..., 1] - self._variance) / self._n

    def arithmetic(self) -> torch.Tensor:
        """The mean, or the mean and the variance of the mixture of the members' distributions: mean σ² + var μ.

        B. Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017
        (arXiv:1612.01474).
        """
        if not self._with_variance:
            return self._mean
        return torch.stack([self._mean, self._variance + self.spread()], dim=-1)

    def geometric(self) -> None:
        """There are no logits."""

    def spread(self) -> torch.Tensor:
        """mean_k (f_k − f̄)² of each value."""
        return self._squares / self._n


def mean_of(prediction: torch.Tensor, *, with_variance: bool) -> torch.Tensor:
    """The values that are predicted."""
    return prediction[..., 0] if with_variance else prediction
