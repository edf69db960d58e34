"""Moments of one input of a layer, in float64."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch


class InputMoments(NamedTuple):
    """Moments of a layer's input: ``n`` elements per channel, their mean, and their unbiased variance.

    ``mean`` and ``variance`` have shape (C,). For InstanceNorm, ``n`` counts instances, and both are means over them.
    """

    n: int
    mean: torch.Tensor
    variance: torch.Tensor


def observed(values: torch.Tensor, *, piece: int = 1 << 22) -> InputMoments:
    """Return the moments of a BatchNorm input over every dimension but the second, in float64.

    Args:
        values: any floating dtype, shape (N, C) or (N, C, …), N ≥ 1. A single value has variance 0.
        piece: number of elements converted to float64 at a time (32 MiB), so that a wide input is not copied whole.
    """
    rows = max(1, piece // max(1, values[0].numel()))
    count = 0
    mean = squares = values.new_zeros(values.shape[1], dtype=torch.float64)
    for part in cast("Sequence[torch.Tensor]", values.split(rows)):
        own = part.numel() // part.shape[1]
        axes = [axis for axis in range(part.ndim) if axis != 1]
        variance, own_mean = torch.var_mean(part.to(torch.float64), dim=axes, correction=0)
        delta, share = own_mean - mean, own / (count + own)
        squares = squares + variance * own + delta.square() * (count * share)
        mean, count = mean + delta * share, count + own
    return InputMoments(count, mean, squares / max(1, count - 1))


def observed_instances(values: torch.Tensor) -> InputMoments:
    """Return mean and variance of each instance of an InstanceNorm input, averaged over instances, in float64.

    Args:
        values: any floating dtype, shape (N, C, …), with at least two positions.
    """
    flat = values.to(torch.float64).flatten(2)
    variance, mean = torch.var_mean(flat, dim=2, correction=1)
    return InputMoments(len(values), mean.mean(dim=0), variance.mean(dim=0))
