"""Accumulating the moments of all layers, batch after batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from swa_cli.batchnorm.estimators import Estimator, is_pooled, weight_of
from swa_cli.batchnorm.inputs import InputMoments
from swa_cli.batchnorm.layers import Norm
from swa_cli.batchnorm.moments import Batch, Estimate, Moments, estimate, joined, of_batch

_ENOUGH = 32
"""Number of elements from which a variance is good enough to normalise by."""


@dataclass(frozen=True, kw_only=True)
class Channels:
    """The channels of several layers, concatenated into float64 vectors, with their constants.

    ``shift`` is the layer's mean before the update; ``pooled`` is the result of `is_pooled`.
    """

    layers: Mapping[str, Norm]
    estimator: Estimator
    slices: Mapping[str, slice]
    shift: torch.Tensor
    pooled: torch.Tensor
    device: torch.device

    def nothing(self) -> Moments:
        """Return the moments of no batch."""
        zeros = torch.zeros_like(self.shift)
        return Moments(
            weight=zeros, draws=zeros, mean=zeros, within=zeros, between=zeros, squares=zeros.expand(6, -1).clone()
        )

    def estimate(self, moments: Moments) -> Estimate:
        """Estimate the statistics of all channels; those that no batch reached are NaN."""
        device = moments.mean.device
        return estimate(moments, shift=self.shift.to(device), pooled=self.pooled.to(device))

    def of_layer(self, name: str, found: Estimate) -> Estimate:
        """Return one layer's part of an estimate."""
        return Estimate(**{key: tensor[self.slices[name]] for key, tensor in vars(found).items()})


def channels_of(layers: Mapping[str, Norm], estimator: Estimator, device: torch.device) -> Channels:
    """Lay out the channels of ``layers`` in their order."""
    slices: dict[str, slice] = {}
    start = 0
    for name, layer in layers.items():
        slices[name] = slice(start, start + layer.channels)
        start += layer.channels
    means = [layer.running_mean.detach().to(device, torch.float64, copy=True) for layer in layers.values()]
    pooled = [torch.full((layer.channels,), is_pooled(estimator, layer), device=device) for layer in layers.values()]
    return Channels(
        layers=layers,
        estimator=estimator,
        slices=slices,
        shift=torch.cat(means).nan_to_num(posinf=0, neginf=0),
        pooled=torch.cat(pooled).to(device),
        device=device,
    )


@dataclass(kw_only=True)
class Tally:
    """The moments of the batches so far, and for each layer the elements per channel and the number of calls."""

    channels: Channels
    moments: Moments = field(init=False)
    elements: dict[str, int] = field(default_factory=dict[str, int])
    calls: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        self.moments = self.channels.nothing()

    def add(self, calls: Sequence[tuple[str, InputMoments]], n_samples: int | None) -> torch.Tensor:
        """Add the calls of one batch; return whether all inputs were finite, as a bool tensor on the device."""
        if not calls:
            return torch.ones((), dtype=torch.bool, device=self.channels.device)
        batch: Batch | None = None
        rest = list(calls)
        while rest:
            once: dict[str, InputMoments] = {}
            again: list[tuple[str, InputMoments]] = []
            for name, seen in rest:
                if name in once:
                    again.append((name, seen))
                else:
                    once[name] = seen
                    self.elements[name] = self.elements.get(name, 0) + seen.n
                    self.calls[name] = self.calls.get(name, 0) + 1
            part = self._together(once, n_samples)
            batch = part if batch is None else joined(batch, part, pooled=self.channels.pooled)
            rest = again
        assert batch is not None
        self.moments += of_batch(batch, shift=self.channels.shift, pooled=self.channels.pooled)
        return (batch.mean.sum() + batch.variance.sum()).isfinite()

    def known(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return mean and variance of a layer's inputs so far, or its old ones if there are too few elements.

        None for estimators that cannot count a single value.
        """
        if self.channels.estimator in {"torch", "official"}:
            return None
        if self.elements.get(name, 0) < _ENOUGH:
            layer = self.channels.layers[name]
            return layer.running_mean.clone(), layer.running_var.clone()
        found = self.channels.of_layer(name, self.channels.estimate(self.moments))
        return found.mean, found.variance

    def _together(self, once: Mapping[str, InputMoments], n_samples: int | None) -> Batch:
        """Combine at most one call of each layer into one `Batch`."""
        channels, layers = self.channels, self.channels.layers
        weights = tuple(
            weight_of(channels.estimator, once[name], n_samples) if name in once else 0.0 for name in layers
        )
        biases = tuple(
            (once[name].n - 1) / once[name].n if name in once and is_pooled(channels.estimator, layer) else 1.0
            for name, layer in layers.items()
        )
        sizes = tuple(layer.channels for layer in layers.values())
        none = torch.zeros(1, device=channels.device)
        means = [once[name].mean if name in once else none.expand(layer.channels) for name, layer in layers.items()]
        variances = [
            once[name].variance if name in once else none.expand(layer.channels) for name, layer in layers.items()
        ]
        return Batch(
            _spread(weights, sizes, channels.device),
            torch.cat(means).to(torch.float64),
            torch.cat(variances).to(torch.float64) * _spread(biases, sizes, channels.device),
        )


@lru_cache(maxsize=8)  # most batches have the same size
def _spread(values: tuple[float, ...], sizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Repeat each layer's value for each of its channels."""
    cpu = torch.device("cpu")  # the user's code may have set another default device
    each = torch.tensor(values, dtype=torch.float64, device=cpu).repeat_interleave(torch.tensor(sizes, device=cpu))
    return each.to(device, non_blocking=True)
