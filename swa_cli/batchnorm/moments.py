"""Mean and variance of a stream of batches, merged exactly, with their standard errors."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

_MANY = 2  # batches needed to estimate the spread between them


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over batches with weight w, mean m and variance v, per channel; float64, shape (C,) unless noted.

    ``within`` is Σ w v and ``between`` Σ w (m − mean)². ``draws`` counts the batches. ``squares``, shape (6, C),
    holds Σ w² (1, d, d², u, u², u d) with d = m − shift and u = v + d² (u = v where variances are not pooled); the
    spread of the batches about the final mean follows from it.
    """

    weight: torch.Tensor
    draws: torch.Tensor
    mean: torch.Tensor
    within: torch.Tensor
    between: torch.Tensor
    squares: torch.Tensor

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both streams together; either may have no batch for a channel.

        T. Chan, G. Golub and R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979; free of the cancellation of E[x²] − E[x]².
        """
        weight = self.weight + other.weight
        share = other.weight / torch.where(weight > 0, weight, 1)
        delta = other.mean - self.mean
        return Moments(
            weight=weight,
            draws=self.draws + other.draws,
            mean=self.mean + delta * share,
            within=self.within + other.within,
            between=self.between + other.between + delta.square() * (self.weight * share),
            squares=self.squares + other.squares,
        )

    def to(self, device: torch.device) -> "Moments":
        """Return the same moments on another device."""
        return Moments(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def part(self, channels: slice) -> "Moments":
        """Return the moments of some channels."""
        return Moments(**{name: tensor[..., channels] for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated statistics per channel, float64, shape (C,); ``variance`` is defined as ``running_var`` is.

    The standard errors are over a random choice of batches (infinite for a single batch), by the formula for a ratio
    of two sums over clusters: W. Cochran, "Sampling Techniques", 1977, chapter 6.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    mean_error: torch.Tensor
    variance_error: torch.Tensor


class Batch(NamedTuple):
    """Moments of one batch per channel; float64, shape (C,). Channels that it did not reach have weight 0."""

    weight: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor


def joined(one: Batch, other: Batch, *, pooled: torch.Tensor) -> Batch:
    """Combine two inputs of the same layers in one batch, which count as one draw."""
    weight = one.weight + other.weight
    share = other.weight / torch.where(weight > 0, weight, 1)
    between = torch.where(pooled, (other.mean - one.mean).square() * share * (1 - share), 0)
    return Batch(
        weight,
        one.mean + (other.mean - one.mean) * share,
        one.variance + (other.variance - one.variance) * share + between,
    )


def of_batch(batch: Batch, *, shift: torch.Tensor, pooled: torch.Tensor) -> Moments:
    """Return the moments of one batch.

    Args:
        shift: a value near the mean; the same for all moments that are to be merged.
        pooled: bool per channel; True if the variance is that of all elements, False for the mean of the batches'.
    """
    weight, mean, variance = batch
    distance = mean - shift
    second = torch.where(pooled, variance + distance.square(), variance)
    terms = torch.stack(
        [torch.ones_like(mean), distance, distance.square(), second, second.square(), second * distance]
    )
    return Moments(
        weight=weight,
        draws=(weight > 0).to(torch.float64),
        mean=mean,
        within=weight * variance,
        between=torch.zeros_like(mean),
        squares=terms * weight.square(),
    )


def estimate(moments: Moments, *, shift: torch.Tensor, pooled: torch.Tensor) -> Estimate:
    """Estimate the statistics of all data from the batches; for the arguments see `of_batch`.

    The pooled variance is (Σ w v + Σ w (m − mean)²) / (Σ w − 1), unbiased if w is the number of elements and v divides
    by it. Otherwise it is Σ w v / Σ w.
    """
    total = moments.weight
    biased = (moments.within + torch.where(pooled, moments.between, 0)) / total
    off = torch.where(pooled, moments.mean - shift, 0)
    weights, d, dd, u, uu, ud = moments.squares
    about_mean = moments.mean - shift
    of_means = dd - 2 * about_mean * d + about_mean.square() * weights
    rest = off.square() - biased  # a batch's variance about the mean, minus that of all: u − 2 off d + rest
    of_variances = uu + 4 * off.square() * dd + rest.square() * weights - 4 * off * ud + 2 * rest * (u - 2 * off * d)
    draws = moments.draws
    unbias = torch.where(draws >= _MANY, draws / (draws - 1).clamp(min=1), torch.inf)
    return Estimate(
        mean=moments.mean,
        variance=torch.where(pooled, biased * total / (total - 1), biased),
        mean_error=(of_means.clamp(min=0) * unbias).sqrt() / total,
        variance_error=(of_variances.clamp(min=0) * unbias).sqrt() / total,
    )
