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
from swa_cli.errors import DataError, MismatchError, NonFiniteError, shortened
from swa_cli.system.process_group import Step, alone
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
    step: Step = alone,
    track: Track = silent,
) -> RecalibrationResult:
    """Give every layer of ``model`` that keeps statistics those of its inputs over ``batches``, in place.

    With the estimator ``population`` mean and variance are pooled over all elements of all batches (samples and
    positions alike) in float64; the variance is unbiased, as PyTorch stores it. For the first layer the result does
    not depend on how the data are split into batches; deeper layers see inputs normalised by their batch, as in
    training, and depend on the batch size a little, which ``sequential`` avoids. Of InstanceNorm it is the mean over
    instances of their means and variances. A layer that is used several times gets the statistics of all its inputs.

    Only these layers are in train mode meanwhile, so that dropout is off. A layer that gets a single value per channel
    normalises it by the statistics of all before it.

    Args:
        model: moved to the device of ``forward``.
        batches: of training inputs; targets are ignored. For ``sequential`` they are passed over once for each
            layer, and once before to find the order.
        until_converged: stop as soon as the standard errors of every layer are at most this (see `LayerStatistics`),
            after eight batches or more.
        leave: layers to leave alone, and why.
        step: of several ranks, each with batches of its own: `swa_cli.system.process_group.Ranks.step`.

    Raises:
        DataError: no batches, or none that reaches a layer; an empty input of a layer; a single value per channel for
            ``torch`` or ``official``, which would take its variance; other samples at each pass of ``sequential``.
        MismatchError: ranks have different layers or options.
        NonFiniteError: NaN or infinity in a batch or in the input of a layer, or a statistic too large for its buffer.
        UserCodeError: the loader or the model's forward raises.

    On any error the model is left as it was, but for the device and the memory format.
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
        step=step,
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
    """Layers are of one network only if they are of the same data."""
    counts = [seen.n_samples for _, _, seen in found]
    samples, batches = {count for count in counts if count is not None}, {seen.n_batches for _, _, seen in found}
    if until_converged is None and (len(samples) > 1 or len(batches) > 1):
        what, several = ("samples", samples) if len(samples) > 1 else ("batches", batches)
        msg = (
            f"the training loader gives other {what} at every pass ({min(several):,} to {max(several):,}): the layers "
            "would be of different data. Let it give the same ones, or take --estimator population."
        )
        raise DataError(msg)


def _all_at_once(
    feed: Feed, layers: Mapping[str, Norm], estimator: Estimator, kept: dict[str, str]
) -> Iterator[_Found]:
    """The statistics of every layer that the batches reach, from one pass; in ``kept``, why others have none."""
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
    """Moments of ranks are merged by their place."""
    known = [(name, layer.kind, layer.channels) for name, layer in layers.items()]
    what = (known, estimator, feed.until_converged, feed.forward.amp)
    if any(other != what for other in feed.step(lambda: what)):
        msg = "the ranks do not have the same layers in the same order, or not the same options. Start them all alike."
        raise MismatchError(msg)


def _all_within(error: float, layers: Iterable[LayerStatistics]) -> bool:
    return all(layer.standard_error is not None and layer.standard_error <= error for layer in layers)


def _unreached(layers: Mapping[str, Norm]) -> str:
    return (
        f"no batch reached any layer that keeps statistics ({shortened(list(layers))}): there is nothing to recompute "
        "them from. Check that the model's forward uses them."
    )


def _check_storable(found: Iterable[_Found]) -> None:
    """Before anything is stored: a half-precision buffer cannot hold every variance."""
    for layer, estimate, _ in found:
        for buffer, value in (("running_mean", estimate.mean), ("running_var", estimate.variance)):
            dtype = getattr(layer.module, buffer).dtype
            if not bool(torch.isfinite(value.to(dtype)).all()):
                kind = str(dtype).removeprefix("torch.")
                msg = (
                    f"{layer.name}.{buffer} reaches {float(value.abs().max()):.3g}, which is too large for {kind}. "
                    "Build the model in float32, and average with --dtype float32."
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
