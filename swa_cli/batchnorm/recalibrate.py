"""Recomputing the statistics of a model's layers from data."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from swa_cli.batchnorm.accumulator import Tally, channels_of
from swa_cli.batchnorm.estimators import Estimator
from swa_cli.batchnorm.layers import Norm, bn_layers, out_of_reach
from swa_cli.batchnorm.modes import unchanged
from swa_cli.batchnorm.moments import Estimate
from swa_cli.batchnorm.observer import observing
from swa_cli.batchnorm.passes import Feed, Seen, pass_over
from swa_cli.batchnorm.result import UNREACHED, LayerStatistics, RecalibrationResult, statistics_of
from swa_cli.batchnorm.sequential import layer_by_layer
from swa_cli.errors import DataError, MismatchError, NonFiniteError, option, shortened
from swa_cli.system.process_group import ALONE, ProcessGroup
from swa_cli.system.progress import Track, silent
from swa_cli.user.batch import Splitter, split_batch
from swa_cli.user.forward import Forward

_FORWARD = Forward()
_Found = tuple[Norm, Estimate, Seen]


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    estimator: Estimator = "population",
    split: Splitter = split_batch,
    until_converged: float | None = None,
    leave: Mapping[str, str] | None = None,
    forward: Forward = _FORWARD,
    group: ProcessGroup = ALONE,
    track: Track = silent,
) -> RecalibrationResult:
    """Set the running statistics of every layer of ``model`` to those of its inputs over ``batches``, in place.

    With the estimator ``population``, mean and variance are pooled over all elements of all batches (samples and
    positions) in float64; the variance is unbiased, as PyTorch stores it. For the first layer the result does not
    depend on the batch size. Deeper layers see inputs normalised by their batch, as in training, and depend on it a
    little; ``sequential`` avoids that. For InstanceNorm the statistics are means over instances. A layer that is used
    several times gets the statistics of all its inputs.

    Only these layers are in train mode during the pass, so dropout is off. A layer that gets a single value per
    channel normalises it by the statistics of all inputs before it.

    Args:
        model: is moved to the device of ``forward``.
        batches: training inputs; targets are ignored. ``sequential`` iterates over them once per layer, and once
            before to find the order of the layers.
        until_converged: stop as soon as the standard errors of every layer are at most this (see `LayerStatistics`),
            after eight batches at least.
        leave: layers to leave alone, with the reason.
        group: the ranks that share the work, each with its own batches.

    Raises:
        DataError: there are no batches, or none reaches a layer; the input of a layer is empty, or has a single value
            per channel and the estimator is ``torch`` or ``official``; the passes of ``sequential`` differ in length.
        MismatchError: the ranks have different layers or options.
        NonFiniteError: a batch or the input of a layer holds NaN or infinity, or a statistic overflows its buffer.
        UserCodeError: the loader or the model's forward pass raises.

    On any error the model is left as it was, except for its device and memory format.
    """
    forward.move_model(model)
    left = {**out_of_reach(model), **(leave or {})}
    layers = {name: layer for name, layer in bn_layers(model).items() if name not in left}
    feed = Feed(
        model=model,
        batches=batches,
        split=split,
        forward=forward,
        until_converged=until_converged,
        group=group,
        track=track,
    )
    _check_same_layers(feed, layers, estimator)
    measured = layer_by_layer if estimator == "sequential" else _all_at_once
    with unchanged(model, layers.values()), torch.no_grad():
        kept = dict(left)
        found = list(measured(feed, layers, estimator, kept))
    if layers and not found and kept == left:
        raise DataError(_unreached(layers))
    _check_same_passes(found, until_converged)
    _check_storable(found)
    statistics = tuple(_store(*entry) for entry in found)
    seen = [entry[2] for entry in found]
    reached = {layer.name for layer in statistics}
    kept |= {name: UNREACHED for name in layers if name not in reached and name not in kept}
    return RecalibrationResult(
        estimator=estimator,
        n_samples=max((part.n_samples for part in seen if part.n_samples is not None), default=None if seen else 0),
        n_batches=max((part.n_batches for part in seen), default=0),
        layers=statistics,
        kept=kept,
        passes=len(seen) + 1 if estimator == "sequential" else 1,
        converged=None if until_converged is None else _all_within(until_converged, statistics),
        exhausted=all(part.done for part in seen),
    )


def _check_same_passes(found: Iterable[_Found], until_converged: float | None) -> None:
    """Check that every pass of ``sequential`` had the same amount of data."""
    counts = [seen.n_samples for _, _, seen in found]
    samples, batches = {count for count in counts if count is not None}, {seen.n_batches for _, _, seen in found}
    if until_converged is None and (len(samples) > 1 or len(batches) > 1):
        what, several = ("samples", samples) if len(samples) > 1 else ("batches", batches)
        msg = (
            f"the training loader yields a different number of {what} in every pass ({min(several):,} to "
            f"{max(several):,}), so the layers' statistics would be of different data. Make it yield the same batches "
            f"in every pass, or use {option('estimator', 'population')}."
        )
        raise DataError(msg)


def _all_at_once(
    feed: Feed, layers: Mapping[str, Norm], estimator: Estimator, kept: dict[str, str]
) -> Iterator[_Found]:
    """Yield the statistics of every layer that the batches reach, from one pass.

    Args:
        kept: receives the layers that have nothing to recompute, with the reason.
    """
    if not layers:
        return
    tally = Tally(channels=channels_of(layers, estimator, feed.forward.device))
    with observing(layers, tally.known) as observer:
        seen = pass_over(
            feed,
            tally,
            observer,
            feed.model,
            description="BatchNorm statistics",
            compiling=feed.forward.compile,
        )
    found = tally.channels.estimate(seen.moments)
    kept.update(seen.kept)
    for name in seen.calls:
        if name not in seen.kept:
            yield layers[name], tally.channels.of_layer(name, found), seen


def _check_same_layers(feed: Feed, layers: Mapping[str, Norm], estimator: Estimator) -> None:
    """Check that all ranks have the same layers and options: their moments are merged by position."""
    known = [(name, layer.kind, layer.channels) for name, layer in layers.items()]
    what = (known, estimator, feed.until_converged, feed.forward.amp)
    if not feed.group.same(lambda: what):
        msg = "the ranks differ in their layers, the order of the layers, or their options. Start all ranks alike."
        raise MismatchError(msg)


def _all_within(error: float, layers: Iterable[LayerStatistics]) -> bool:
    return all(layer.standard_error is not None and layer.standard_error <= error for layer in layers)


def _unreached(layers: Mapping[str, Norm]) -> str:
    return (
        f"no batch reached any layer that keeps running statistics ({shortened(list(layers))}), so they cannot be "
        "recomputed. Check that the model's forward uses these layers."
    )


def _check_storable(found: Iterable[_Found]) -> None:
    """Check, before anything is stored, that every statistic fits its buffer's dtype."""
    for layer, estimate, _ in found:
        for buffer, value in (("running_mean", estimate.mean), ("running_var", estimate.variance)):
            dtype = getattr(layer.module, buffer).dtype
            if not bool(torch.isfinite(value.to(dtype)).all()):
                kind = str(dtype).removeprefix("torch.")
                msg = (
                    f"{layer.name}.{buffer} reaches {float(value.abs().max()):.3g}, which is too large for {kind}. "
                    f"Build the model in float32, and average with {option('dtype', 'float32')}."
                )
                raise NonFiniteError(msg)


def _store(layer: Norm, found: Estimate, seen: Seen) -> LayerStatistics:
    statistics = statistics_of(layer, found, n_elements=seen.elements[layer.name], n_calls=seen.calls[layer.name])
    with torch.no_grad():
        layer.running_mean.copy_(found.mean)
        layer.running_var.copy_(found.variance)
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.fill_(statistics.n_calls)
    return statistics
