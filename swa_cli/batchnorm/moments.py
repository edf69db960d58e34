"""Mean and variance of a stream, merged exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

_PIECE = 1 << 22
"""Elements converted to float64 at a time (32 MiB), so that a wide layer needs no second copy of its input."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Per channel: number of elements, mean, and sum of squared deviations from it (float64, shape (C,))."""

    count: int
    mean: torch.Tensor
    m2: torch.Tensor

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets together.

        T. Chan, G. Golub and R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979; free of the cancellation of E[x²] − E[x]².
        """
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + delta * (other.count / count),
            m2=self.m2 + other.m2 + delta.square() * (self.count * other.count / count),
        )

    @property
    def variance(self) -> torch.Tensor:
        """Unbiased (divided by count − 1), as ``running_var`` is defined."""
        return self.m2 / (self.count - 1)


def moments_of(values: torch.Tensor) -> Moments:
    """Moments of a BatchNorm input over every dimension but the second.

    Args:
        values: any floating dtype, shape (N, C) or (N, C, …), N ≥ 1.
    """
    rows = max(1, _PIECE // max(1, values[0].numel()))
    pieces = cast("Sequence[torch.Tensor]", values.split(rows))
    first, *others = (_moments_of_piece(piece) for piece in pieces)
    for piece in others:
        first += piece
    return first


def _moments_of_piece(values: torch.Tensor) -> Moments:
    axes = [axis for axis in range(values.ndim) if axis != 1]
    count = values.numel() // values.shape[1]
    variance, mean = torch.var_mean(values.to(torch.float64), dim=axes, correction=0)
    return Moments(count=count, mean=mean, m2=variance * count)
