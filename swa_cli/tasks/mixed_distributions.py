"""Ensembles of class probabilities, kept as sums over the members."""

import math
from collections.abc import Callable, Mapping
from typing import final

import torch

from swa_cli.tasks.records import Records

_BYTE = 256


@final
class MixedDistributions:
    """Log-probabilities of several members, float64 (m, C) each, as sums over the members.

    Args:
        record: turns named values per element into the records of a batch.
    """

    def __init__(self, record: Callable[[Mapping[str, torch.Tensor]], Records]) -> None:
        self._record = record
        self._n = 0
        self._log_of_sum: torch.Tensor | None = None
        self._sum_of_logs: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._votes: list[torch.Tensor] = []

    def add(self, prediction: torch.Tensor) -> None:
        """Add a member."""
        squares = squared_norm(prediction)
        if self._log_of_sum is None or self._sum_of_logs is None or self._squares is None:
            self._log_of_sum, self._sum_of_logs, self._squares = prediction.clone(), prediction.clone(), squares
        else:
            torch.logaddexp(self._log_of_sum, prediction, out=self._log_of_sum)
            self._sum_of_logs += prediction
            self._squares += squares
        narrow = torch.uint8 if prediction.shape[1] <= _BYTE else torch.int32
        self._votes.append(prediction.argmax(dim=1).to(narrow))
        self._n += 1

    def arithmetic(self) -> torch.Tensor:
        """Return the log of the mean probabilities: logsumexp − log K."""
        assert self._log_of_sum is not None
        return self._log_of_sum - math.log(self._n)

    def geometric(self) -> torch.Tensor:
        """Return the log-probabilities of the mean logits."""
        assert self._sum_of_logs is not None
        return (self._sum_of_logs / self._n).log_softmax(dim=1)

    def agreement(self, prediction: torch.Tensor) -> Records:
        """Return whether both predict the same class, and ‖p − p̄‖²."""
        ensemble = self.arithmetic()
        agreeing = prediction.argmax(dim=1) == ensemble.argmax(dim=1)
        squared = prediction.exp().sub_(ensemble.exp()).square_().sum(dim=1)
        return self._recorded(agreeing.to(torch.float64), squared)

    def diversity(self) -> Records:
        """Return the mean of `agreement` over the members: mean‖p_k − p̄‖² = mean‖p_k‖² − ‖p̄‖²."""
        ensemble = self.arithmetic()
        winner = ensemble.argmax(dim=1)
        agreeing = torch.zeros(len(winner), dtype=torch.float64, device=winner.device)
        for vote in self._votes:
            agreeing += vote == winner
        agreeing /= self._n
        assert self._squares is not None
        squared = (self._squares / self._n - squared_norm(ensemble)).clamp(min=0)
        return self._recorded(agreeing, squared)

    def _recorded(self, agreement: torch.Tensor, squared: torch.Tensor) -> Records:
        count = torch.ones_like(squared)
        return self._record({"count": count, "agreement": agreement, "squared_distance": squared})


def squared_norm(log_probs: torch.Tensor) -> torch.Tensor:
    """Return Σ_c p_c² of each element."""
    return (2 * log_probs).exp_().sum(dim=1)
