"""What is kept of each example, and the scores that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

N_BINS = 15


@dataclass(frozen=True, kw_only=True)
class Records:
    """Per example, shape (n,), float64 (``correct``: bool), on the CPU.

    ``nll`` in nats; ``confidence`` is the probability of the top label; ``brier`` is Σ_c (p_c − y_c)², in [0, 2].
    """

    correct: torch.Tensor
    nll: torch.Tensor
    confidence: torch.Tensor
    brier: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over the examples. ``accuracy`` and ``ece`` are fractions, ``nll`` is in nats."""

    accuracy: float
    nll: float
    brier: float
    ece: float


def records_of(log_probs: torch.Tensor, target: torch.Tensor) -> Records:
    """Records of one batch.

    Args:
        log_probs: float64, shape (n, C).
        target: class indices, int64, shape (n,).
    """
    probs = log_probs.exp()
    confidence, predicted = probs.max(dim=1)
    of_target = probs.gather(1, target[:, None])[:, 0]
    return Records(
        correct=(predicted == target).cpu(),
        nll=-log_probs.gather(1, target[:, None])[:, 0].cpu(),
        confidence=confidence.cpu(),
        brier=(probs.square().sum(dim=1) - 2 * of_target + 1).cpu(),
    )


def join(parts: Sequence[Records]) -> Records:
    """The records of several batches, one after the other."""
    return Records(
        **{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Records)}
    )


def scores_of(records: Records) -> Scores:
    """Accuracy, NLL, Brier score (not halved) and ECE of one candidate."""
    return Scores(
        accuracy=float(records.correct.to(torch.float64).mean()),
        nll=float(records.nll.mean()),
        brier=float(records.brier.mean()),
        ece=expected_calibration_error(records.confidence, records.correct),
    )


def expected_calibration_error(confidence: torch.Tensor, correct: torch.Tensor, n_bins: int = N_BINS) -> float:
    """Σ_b (n_b / n) |accuracy_b − confidence_b| over equal-width bins (lo, hi] of the top label's probability.

    C. Guo et al., "On Calibration of Modern Neural Networks", 2017. Biased upwards on small sets.

    >>> confidence = torch.tensor([0.8] * 5 + [0.79] * 5, dtype=torch.float64)
    >>> correct = torch.tensor([True] * 5 + [False] * 5)
    >>> round(expected_calibration_error(confidence, correct, n_bins=10), 3)
    0.295
    """
    edges = torch.arange(1, n_bins, dtype=torch.float64) / n_bins
    bins = torch.bucketize(confidence, edges)  # right=False: edges[i − 1] < confidence ≤ edges[i]
    gaps = torch.zeros(n_bins, dtype=torch.float64)
    gaps.index_add_(0, bins, correct.to(torch.float64) - confidence)
    return float(gaps.abs().sum() / len(confidence))
