"""Recomputing BatchNorm statistics from data."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from swa_cli.batchnorm.layers import BatchNorm, bn_layers, only_training
from swa_cli.batchnorm.moments import Moments, moments_of
from swa_cli.data import iterate, length_of
from swa_cli.errors import DataError, NonFiniteError
from swa_cli.progress import Track, silent
from swa_cli.tasks import Example, Splitter, batch_size, call_model, move, split_batch
from swa_cli.user_code import user_code

_CPU = torch.device("cpu")
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """What became of one layer.

    ``n_elements`` per channel; ``mean_shift`` is the largest move of a channel's mean, in old standard deviations;
    ``var_ratio`` the new variance over the old, of the channel where it is furthest from 1.
    """

    name: str
    n_elements: int
    mean_shift: float
    var_ratio: float


@dataclass(frozen=True, kw_only=True)
class RecalibrationResult:
    """How much data was seen, every layer that has new statistics, and the names of those never reached."""

    n_samples: int
    n_batches: int
    layers: tuple[LayerStatistics, ...]
    unreached: tuple[str, ...]


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    split: Splitter = split_batch,
    num_batches: int | None = None,
    device: torch.device = _CPU,
    track: Track = silent,
) -> RecalibrationResult:
    """Give every BatchNorm layer of ``model`` the population statistics of its inputs over ``batches``, in place.

    Mean and variance are pooled over all elements of all batches (samples and positions alike) in float64; the
    variance is unbiased, as PyTorch stores it. For the first layer the result does not depend on how the data
    are split into batches; deeper layers see inputs normalised by their batch, as in training, and depend on the
    batch size a little. Only BatchNorm layers are in train mode meanwhile. A layer that is never reached keeps
    what it had.

    Args:
        model: moved to ``device``.
        batches: batches of training inputs; targets are ignored.
        num_batches: stop after so many.

    Raises:
        DataError: no batches, one that gives a layer a single value per channel, or none that reaches a layer.
        NonFiniteError: NaN or infinity in a batch or in the input of a layer, or a statistic too large for its buffer.
        UserCodeError: the loader or the model's forward raises.

    On any error the model is left as it was, but for the device.
    """
    with user_code(f"moving the model to {device}"):
        model.to(device)
    layers = bn_layers(model)
    seen: dict[str, Moments] = {}
    calls = dict.fromkeys(layers, 0)
    n_samples = n_batches = 0
    total = _total(batches, num_batches)
    with ExitStack() as stack:
        stack.enter_context(only_training(model, layers))
        stack.enter_context(torch.no_grad())
        for name, layer in layers.items():
            hook = layer.register_forward_pre_hook(_observer(name, seen, calls), with_kwargs=True)
            stack.callback(hook.remove)
        advance = stack.enter_context(track("BatchNorm statistics", total=total, unit="batches"))
        for index, batch in enumerate(islice(iterate(batches), num_batches)):
            example = move(split(batch), device, batch=index)
            try:
                call_model(model, example, doing=f"running the model on batch {index}")
            except DataError as error:
                msg = f"batch {index}: {error}"
                raise DataError(msg) from error
            _check_finite(seen, index, example)
            n_samples += batch_size(example)
            n_batches += 1
            advance(1)
    if layers and not seen:
        some = ", ".join(list(layers)[:_NAMED])
        msg = (
            f"no batch reached any of the {len(layers)} BatchNorm layers ({some}, …): there is nothing to "
            "recompute them from. Check that the model's forward uses them."
        )
        raise DataError(msg)
    _check_storable(layers, seen)
    return RecalibrationResult(
        n_samples=n_samples,
        n_batches=n_batches,
        layers=tuple(_store(name, layers[name], moments, calls[name]) for name, moments in seen.items()),
        unreached=tuple(name for name in layers if name not in seen),
    )


def _observer(name: str, seen: dict[str, Moments], calls: dict[str, int]) -> Callable[..., None]:
    def observe(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del layer
        values: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        if values.numel() == 0:
            msg = f"layer {name} gets no values (shape {list(values.shape)}). Leave empty batches out of the loader."
            raise DataError(msg)
        if values.numel() == values.shape[1]:
            msg = (
                f"layer {name} gets one value per channel (shape {list(values.shape)}), by which it cannot normalise. "
                "Let the training loader drop the last incomplete batch (drop_last=True), or choose another batch size."
            )
            raise DataError(msg)
        moments = moments_of(values)
        seen[name] = seen[name] + moments if name in seen else moments
        calls[name] += 1

    return observe


def _total(batches: Iterable[Any], num_batches: int | None) -> int | None:
    length = length_of(batches)
    if length is None or num_batches is None:
        return length if num_batches is None else num_batches
    return min(length, num_batches)


def _check_finite(seen: dict[str, Moments], index: int, example: Example) -> None:
    if not seen:
        return
    sums = torch.stack([moments.m2.sum() + moments.mean.sum() for moments in seen.values()])
    finite = torch.isfinite(sums).cpu()  # one synchronisation with the device, whatever the number of layers
    bad = [name for name, is_finite in zip(seen, finite, strict=True) if not is_finite]
    if not bad:
        return
    inputs = [value for value in (*example.args, *example.kwargs.values()) if isinstance(value, torch.Tensor)]
    own = any(value.is_floating_point() and not bool(torch.isfinite(value).all()) for value in inputs)
    where = "the batch itself holds NaN or infinity" if own else f"the input of layer {bad[0]} holds NaN or infinity"
    msg = (
        f"batch {index}: {where}; expected finite numbers, since one would spoil the statistics of every layer. "
        "Mend the data, or check the weights that were averaged."
    )
    raise NonFiniteError(msg)


def _check_storable(layers: Mapping[str, BatchNorm], seen: Mapping[str, Moments]) -> None:
    """Before anything is stored: a half-precision buffer cannot hold every variance."""
    for name, moments in seen.items():
        for buffer, value in (("running_mean", moments.mean), ("running_var", moments.variance)):
            dtype = getattr(layers[name], buffer).dtype
            if not bool(torch.isfinite(value.to(dtype)).all()):
                kind = str(dtype).removeprefix("torch.")
                msg = (
                    f"{name}.{buffer} reaches {float(value.abs().max()):.3g}, which is too large for {kind}. Build the "
                    "model in float32, and average with --dtype float32."
                )
                raise NonFiniteError(msg)


def _store(name: str, layer: BatchNorm, moments: Moments, calls: int) -> LayerStatistics:
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None  # bn_layers chose layers with statistics
    assert variance is not None
    old = variance.to(torch.float64) + layer.eps
    shift = (moments.mean - mean.to(torch.float64)).abs() / old.sqrt()
    ratio = (moments.variance + layer.eps) / old
    mean.copy_(moments.mean)
    variance.copy_(moments.variance)
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(calls)
    furthest = int(ratio.log().abs().nan_to_num().argmax())
    return LayerStatistics(
        name=name,
        n_elements=moments.count,
        mean_shift=float(shift.max()),
        var_ratio=float(ratio[furthest]),
    )
