"""The new statistics of every layer, and warnings about suspicious ones."""

import math
from dataclasses import dataclass

import torch

from swa_cli.batchnorm.estimators import Estimator
from swa_cli.batchnorm.layers import Norm
from swa_cli.batchnorm.moments import Estimate
from swa_cli.errors import option

_COLLAPSED, _EXPLODED = 0.5, 4.0
_FAR = 2.0

UNREACHED = "no batch reached it"
"""The reason why a layer keeps its old statistics."""


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """The new statistics of one layer, compared with the old.

    ``n_elements`` counts elements per channel, ``n_calls`` the calls of the layer. ``mean_shift`` is the largest
    change of a channel's mean and ``std_shift`` the largest change of a channel's standard deviation (signed), both in
    units of the old standard deviation √(running_var + eps). Over all channels, ``mean_shift_rms`` is the root mean
    square of the changes of the mean, and ``var_ratio`` the geometric mean of new over old variance. ``mean_error``
    (in new standard deviations) and ``variance_error`` (relative) are standard errors over a random choice of
    batches, as root mean squares over channels; None for a single batch.

    ``running_mean`` and ``running_var``: float64, shape (C,), before rounding to the buffers' dtype.
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
        """The larger of ``mean_error`` and ``variance_error``; None for a single batch."""
        return (
            None
            if self.mean_error is None or self.variance_error is None
            else max(self.mean_error, self.variance_error)
        )


@dataclass(frozen=True, kw_only=True)
class RecalibrationResult:
    """The layers with new statistics in order of first use, the layers without and why, and the amount of data.

    ``n_samples`` is None if it is ambiguous. ``converged`` is None if it was not asked for. ``exhausted`` means that
    no batches were left.
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
        """The largest standard error of all layers; None if one is unknown."""
        errors = [layer.standard_error for layer in self.layers]
        known = [error for error in errors if error is not None]
        return max(known) if known and len(known) == len(errors) else None


def errors_of(layer: Norm, found: Estimate) -> tuple[float, float]:
    """Return the standard errors of mean and variance as in `LayerStatistics`; infinite for a single batch."""
    variance = found.variance + layer.eps
    of_mean, of_variance = found.mean_error / variance.sqrt(), found.variance_error / variance
    return float(of_mean.square().mean().sqrt()), float(of_variance.square().mean().sqrt())


def statistics_of(layer: Norm, found: Estimate, *, n_elements: int, n_calls: int) -> LayerStatistics:
    """Compare ``found`` with the statistics that the layer still has in its buffers."""
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
    """Return warnings, with likely causes, about collapsed or exploded variances and means that moved far.

    Inputs that are preprocessed differently show in the first layer, which normalises them. Weights that cancel show
    in most layers (K. Jordan et al., "REPAIR", 2022, on networks of different runs).

    Args:
        n_averaged: number of checkpoints that were averaged.
    """
    found: list[str] = []
    unknown = [layer for layer in result.layers if not math.isfinite(layer.mean_shift + layer.var_ratio)]
    layers = [layer for layer in result.layers if layer not in unknown]
    if unknown:
        found.append(
            f"the old statistics of {_some(unknown)} held NaN, infinity or a negative variance, so their change is "
            "unknown. They were replaced by the new ones."
        )
    if layers and not result.kept and (layers[0].var_ratio > _EXPLODED or layers[0].mean_shift_rms > _FAR):
        found.append(
            f"layer {layers[0].name}, the first, seems to get other inputs than in training: its means moved by "
            f"{layers[0].mean_shift_rms:.2g} standard deviations, its variances are {layers[0].var_ratio:.2g} times "
            "the old. Check that the data module preprocesses its inputs as the training did (normalisation, range 0 "
            "to 1 or 0 to 255, size)."
        )
        return tuple(found)
    collapsed = sorted((layer for layer in layers if layer.var_ratio < _COLLAPSED), key=lambda layer: layer.var_ratio)
    exploded = sorted((layer for layer in layers if layer.var_ratio > _EXPLODED), key=lambda layer: -layer.var_ratio)
    if collapsed:
        causes = "the old statistics belong to other weights, or had not settled that early in training."
        if n_averaged > 1:
            causes = (
                "either the averaged weights cancel each other, as those of different runs do, or some checkpoints "
                "are from so early in training that their statistics had not settled. Average fewer and later ones "
                f"({option('last')}), and run swa-eval before using this average."
            )
        found.append(
            f"the variances of {_some(collapsed)} collapsed, to {collapsed[0].var_ratio:.2g} times the old at worst: "
            f"{causes}"
        )
    if exploded:
        found.append(
            f"the variances of {_some(exploded)} exploded, to {exploded[0].var_ratio:.2g} times the old at worst: the "
            "preceding layers amplify more than in training. Check that the model is built as in training and that the "
            "old statistics belong to these weights."
        )
    return tuple(found)


def _some(layers: list[LayerStatistics]) -> str:
    return f"layer {layers[0].name}" if len(layers) == 1 else f"{len(layers)} layers"
