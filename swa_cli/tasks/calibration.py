"""Calibration errors, and the part of the expected calibration error that is noise."""

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

N_BINS = 15
_MANY = 25.0  # variance of a bin's hits from which the normal approximation of E|X| is within 0.3 %
_VALUES = 256  # upper bound for the hits, or misses, of a bin with a smaller variance: their mean is at most 54
_RARE, _TERMS = 0.02, 12  # below this probability, this many terms of the series are exact to 1e-15


def bin_gaps(
    confidence: torch.Tensor, correct: torch.Tensor, weights: torch.Tensor | None = None, n_bins: int = N_BINS
) -> torch.Tensor:
    """Return each element's weighted gap (correct − confidence) in its bin's column, 0 elsewhere; (n, n_bins).

    Over any subset, Σ_b |Σ gap_b| / Σ weights is the expected calibration error: see `expected_calibration_error`.

    Args:
        confidence: probability of the top label, float64, shape (n,).
        correct: bool, or a share in [0, 1]; shape (n,), on the same device, as ``weights``.
    """
    gap = correct.to(torch.float64) - confidence
    if weights is not None:
        gap = gap * weights
    bins = _bins(confidence, n_bins)
    return torch.zeros(len(gap), n_bins, dtype=torch.float64, device=gap.device).scatter_(
        1, bins[:, None], gap[:, None]
    )


def expected_calibration_error(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_ | np.float64], n_bins: int = N_BINS
) -> float:
    """Return Σ_b (n_b / n) |accuracy_b − confidence_b| over equal-width bins (lo, hi] of the top probability.

    C. Guo et al., "On Calibration of Modern Neural Networks", 2017. Biased upwards, see `ece_floor`. The first bin
    includes 0. NaN without elements.

    >>> confidence = np.array([0.8] * 5 + [0.79] * 5)
    >>> correct = np.array([True] * 5 + [False] * 5)
    >>> round(expected_calibration_error(confidence, correct, n_bins=10), 3)
    0.295
    """
    bins = np.searchsorted(_edges(n_bins), confidence)  # side="left": edges[i − 1] < confidence ≤ edges[i]
    return _summed(correct - confidence, bins)


def adaptive_ece(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_ | np.float64], n_bins: int = N_BINS
) -> float:
    """Return the calibration error over bins of equal mass: `numpy.array_split` of the sorted confidences.

    Elements of equal confidence share their hits evenly, which is the average over all orders of the ties, so the
    order of the examples does not matter. K. Nguyen and B. O'Connor, "Posterior calibration and exploratory analysis
    for natural language processing models", 2015.
    """
    n = len(confidence)
    values, tied = np.unique(confidence, return_inverse=True)
    size = np.bincount(tied)
    gap = np.repeat(np.bincount(tied, weights=correct) / size - values, size)
    bins = np.arange(n_bins)
    return _summed(gap, np.repeat(bins, n // n_bins + (bins < n % n_bins)))


def classwise_gaps(
    probs: torch.Tensor, target: torch.Tensor, n_bins: int = N_BINS, *, chunk: int = 2**20
) -> torch.Tensor:
    """Return Σ over elements of ([y = c] − p_c) in the bin of p_c; float64, (C, n_bins). Results of batches add up.

    Args:
        probs: float64, shape (m, C).
        target: class indices, int64, shape (m,), on the same device.
        chunk: number of elements whose bins are held at once.
    """
    n_classes = probs.shape[1]
    gaps = torch.zeros(n_classes * n_bins, dtype=torch.float64, device=probs.device)
    first = torch.arange(n_classes, device=probs.device) * n_bins
    rows = max(1, chunk // n_classes)
    for start in range(0, len(probs), rows):
        p, y = probs[start : start + rows], target[start : start + rows]
        cells = _bins(p, n_bins) + first
        gaps.scatter_add_(0, cells.flatten(), -p.flatten())
        gaps.scatter_add_(0, cells.gather(1, y[:, None])[:, 0], torch.ones_like(y, dtype=torch.float64))
    return gaps.view(n_classes, n_bins)


def classwise_ece(gaps: torch.Tensor, n: int) -> float:
    """Return (1/C) Σ_c Σ_b |gap_cb| / n, the calibration error of all classes' probabilities.

    J. Nixon et al., "Measuring Calibration in Deep Learning", 2019 (as static calibration error); M. Kull et al.,
    "Beyond temperature scaling", 2019. NaN without elements.

    Args:
        gaps: `classwise_gaps` of all elements, shape (C, n_bins).
        n: number of elements.
    """
    return float(gaps.abs().sum(dim=1).mean() / n)


def ece_floor(confidence: npt.NDArray[np.float64]) -> float:
    """Return the expected `expected_calibration_error` of a perfectly calibrated model with these confidences.

    It is the mean over labels drawn independently as correct ~ Bernoulli(confidence). A model whose ECE is close to it
    shows no sign of miscalibration. It falls as 1/√n and does not depend on the order. NaN without elements.

    Each bin contributes the mean absolute deviation of its number of hits, a Poisson binomial variable. It is computed
    exactly, or as σ √(2/π) if the variance is 25 or more, which is then within 0.3 %.
    """
    if not len(confidence):
        return math.nan
    ordered = np.sort(confidence).clip(0, 1)  # an ensemble's may be above 1 by rounding
    total = 0.0
    for p in np.split(ordered, np.searchsorted(ordered, _edges(N_BINS), side="right")):
        chance = 1 - p if p.sum() > len(p) / 2 else p  # of the rarer outcome, in the bins where one is rare
        variance = float((chance * (1 - chance)).sum())
        total += math.sqrt(2 / math.pi * variance) if variance >= _MANY else _mean_deviation(chance)
    return total / len(confidence)


def _mean_deviation(chance: npt.NDArray[np.float64]) -> float:
    """Return E|X − E X| = 2 Σ_{k < E X} (E X − k) P(X = k), where X counts independent events with these chances.

    P(X = k) is the inverse Fourier transform of Π (1 + p z), z = e^{it} − 1 (Y. Hong, "On computing the distribution
    function for the Poisson binomial distribution", 2013), at enough points for all values that X takes in practice.
    """
    mean = float(chance.sum())
    z = np.exp(-2j * np.pi * np.arange(_VALUES // 2 + 1) / _VALUES) - 1
    rare, likely = chance[chance < _RARE], chance[chance >= _RARE]
    log_of_product = np.log1p(likely[:, None] * z).sum(axis=0)
    powers = np.ones_like(rare)
    for power in range(1, _TERMS + 1):  # log(1 + p z) as a series, whose sums over p need no z
        powers *= rare
        log_of_product -= powers.sum() * (-z) ** power / power
    below = np.arange(min(_VALUES, math.ceil(mean)))
    mass = np.fft.irfft(np.exp(log_of_product), _VALUES)[: len(below)]
    return 2 * float(((mean - below) * mass).sum())


def _edges(n_bins: int) -> npt.NDArray[np.float64]:
    """Return the inner edges, computed on the CPU for all devices: a GPU divides by multiplying."""
    return np.arange(1, n_bins) / n_bins


@cache
def _edges_on(device: torch.device, n_bins: int) -> torch.Tensor:
    return torch.from_numpy(_edges(n_bins)).to(device)


def _bins(confidence: torch.Tensor, n_bins: int) -> torch.Tensor:
    return torch.bucketize(
        confidence.contiguous(), _edges_on(confidence.device, n_bins)
    )  # right=False: edges[i − 1] < confidence ≤ edges[i]


def _summed(gap: npt.NDArray[np.float64], bins: npt.NDArray[np.int64]) -> float:
    return float(np.abs(np.bincount(bins, weights=gap)).sum()) / len(gap) if len(gap) else math.nan
