"""What became of every layer, and what is remarkable about it."""

import math
from dataclasses import dataclass

import torch

from swa_cli.batchnorm.estimators import Estimator
from swa_cli.batchnorm.layers import Norm
from swa_cli.batchnorm.moments import Estimate

_COLLAPSED, _EXPLODED = 0.5, 4.0
_FAR = 2.0

UNREACHED = "no batch reached it"
"""Why a layer keeps what it had."""


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """What became of one layer.

    ``n_elements`` per channel, and in how many calls. ``mean_shift`` is the largest move of a channel's mean and
    ``std_shift`` the largest change of a channel's standard deviation (with its sign), both in old standard deviations
    √(running_var + eps); ``mean_shift_rms`` and ``var_ratio`` are over all channels: the root mean square of the
    first, and the geometric mean of the new variance over the old. ``mean_error`` and ``variance_error`` are the
    standard errors, over a random choice of batches, of the mean in new standard deviations and of the variance
    relative to itself, root mean squares over the channels; None from a single batch.

    ``running_mean`` and ``running_var``: float64, shape (C,), before they are rounded to the buffers' dtype.
    """

    name: str
    n_elements: int
    n_calls: int
    mean_shift: float
    mean_shift_rms: float
    std_shift: float
    var_ratio: float
    mean_error: float | None
    variance_error: float | None
    running_mean: torch.Tensor
    running_var: torch.Tensor

    @property
    def standard_error(self) -> float | None:
        """The larger of both."""
        return (
            None
            if self.mean_error is None or self.variance_error is None
            else max(self.mean_error, self.variance_error)
        )


@dataclass(frozen=True, kw_only=True)
class RecalibrationResult:
    """How much data was seen, every layer with new statistics in the order of first use, and why others have none.

    ``n_samples`` is None where it cannot be known.
    ``converged`` is None where it was not asked for; ``exhausted`` says that no batches were left.
    """

    estimator: Estimator
    n_samples: int | None
    n_batches: int
    layers: tuple[LayerStatistics, ...]
    kept: dict[str, str]
    passes: int = 1
    converged: bool | None = None
    exhausted: bool = True

    @property
    def standard_error(self) -> float | None:
        """The largest of all layers."""
        errors = [layer.standard_error for layer in self.layers]
        known = [error for error in errors if error is not None]
        return max(known) if known and len(known) == len(errors) else None


def errors_of(layer: Norm, found: Estimate) -> tuple[float, float]:
    """Standard errors of mean and variance, as `LayerStatistics` has them; infinite from a single batch."""
    variance = found.variance + layer.eps
    of_mean, of_variance = found.mean_error / variance.sqrt(), found.variance_error / variance
    return float(of_mean.square().mean().sqrt()), float(of_variance.square().mean().sqrt())


def statistics_of(layer: Norm, found: Estimate, *, n_elements: int, n_calls: int) -> LayerStatistics:
    """``found`` beside what the layer still has in its buffers."""
    old = layer.running_var.detach().to("cpu", torch.float64) + layer.eps
    shift = (found.mean - layer.running_mean.detach().to("cpu", torch.float64)).abs() / old.sqrt()
    ratio = (found.variance + layer.eps) / old
    change = ratio.sqrt() - 1
    errors = errors_of(layer, found)
    mean_error, variance_error = (error if math.isfinite(error) else None for error in errors)
    return LayerStatistics(
        name=layer.name,
        n_elements=n_elements,
        n_calls=n_calls,
        mean_shift=float(shift.max()),
        mean_shift_rms=float(shift.square().mean().sqrt()),
        std_shift=float(change[int(change.abs().nan_to_num().argmax())]),
        var_ratio=float(ratio.log().mean().exp()),
        mean_error=mean_error,
        variance_error=variance_error,
        running_mean=found.mean,
        running_var=found.variance,
    )


def recalibration_warnings(result: RecalibrationResult, *, n_averaged: int) -> tuple[str, ...]:
    """What a reader should look into: variances that collapsed or exploded, means far from where they were.

    Each with its likely causes. Inputs that are prepared otherwise show in the first layer, since it normalises them;
    weights that cancel show in most layers (K. Jordan et al., "REPAIR", 2022, on networks of different runs).

    Args:
        n_averaged: of how many checkpoints the weights are the average.
    """
    found: list[str] = []
    unknown = [layer for layer in result.layers if not math.isfinite(layer.mean_shift + layer.var_ratio)]
    layers = [layer for layer in result.layers if layer not in unknown]
    if unknown:
        found.append(
            f"the old statistics of {_some(unknown)} held NaN, infinity or a negative variance: how far they moved "
            "cannot be said. The new ones are in their place."
        )
    if layers and not result.kept and (layers[0].var_ratio > _EXPLODED or layers[0].mean_shift_rms > _FAR):
        found.append(
            f"layer {layers[0].name}, the first, seems to get other inputs than in training: its means moved by "
            f"{layers[0].mean_shift_rms:.2g} standard deviations, its variances are {layers[0].var_ratio:.2g} times "
            "the old. Does the data module prepare its inputs as the training did (normalisation, 0 to 1 or 0 to 255, "
            "size)?"
        )
        return tuple(found)
    collapsed = sorted((layer for layer in layers if layer.var_ratio < _COLLAPSED), key=lambda layer: layer.var_ratio)
    exploded = sorted((layer for layer in layers if layer.var_ratio > _EXPLODED), key=lambda layer: -layer.var_ratio)
    if collapsed:
        causes = "the old statistics are not of these weights, or had not settled that early in training."
        if n_averaged > 1:
            causes = (
                "either the weights that were averaged cancel each other out, as those of different runs do, or some "
                "of the checkpoints are from so early in training that their statistics had not settled. Try fewer and "
                "later ones (--last), and see swa-eval before using this average."
            )
        found.append(
            f"the variances of {_some(collapsed)} collapsed, to {collapsed[0].var_ratio:.2g} times the old at worst: "
            f"{causes}"
        )
    if exploded:
        found.append(
            f"the variances of {_some(exploded)} exploded, to {exploded[0].var_ratio:.2g} times the old at worst: the "
            "layers before gain more than in training. Was the model built as for the training, and are the old "
            "statistics those of these weights?"
        )
    return tuple(found)


def _some(layers: list[LayerStatistics]) -> str:
    return f"layer {layers[0].name}" if len(layers) == 1 else f"{len(layers)} layers"
