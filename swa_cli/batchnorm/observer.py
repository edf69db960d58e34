"""Recording the inputs of every layer in a forward pass, by hooks."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from swa_cli.batchnorm.inputs import InputMoments, observed, observed_instances
from swa_cli.batchnorm.layers import BatchNorm, Norm
from swa_cli.batchnorm.modes import normalise_by_batch, normalise_by_statistics, what_undoes
from swa_cli.errors import DataError, kind_of, option

Known = Callable[[str], tuple[torch.Tensor, torch.Tensor] | None]
"""Returns mean and variance of a layer's inputs so far, given its name; None if a single value cannot be used."""

_SAME = 1e-6
_ROUNDING = 1e-2
"""Moments that differ by more than this are of different values, not differently rounded."""
_SENTINEL, _LARGE = 1e30, 1e20
_WITHOUT_POSITIONS = 2  # dimensions: (N, C), whose float64 moments are cheap
_UNBATCHED = {nn.InstanceNorm1d: 2, nn.InstanceNorm2d: 3, nn.InstanceNorm3d: 4}
"""Number of dimensions of an input without N, which InstanceNorm accepts too."""


class Observer:
    """The inputs of some layers in one batch: ``calls`` holds each layer's name and moments, in order of the calls.

    ``lengths`` holds the first dimensions of these inputs. ``kept`` holds the layers whose statistics turn out not to
    be recomputable, with the reason; their hooks do nothing.
    """

    def __init__(self, known: Known) -> None:
        self.calls: list[tuple[str, InputMoments]] = []
        self.lengths: list[int] = []
        self.kept: dict[str, str] = {}
        self.known = known

    def clear(self) -> None:
        """Forget the calls of the last batch."""
        self.calls.clear()
        self.lengths.clear()


@contextmanager
def observing(layers: Mapping[str, Norm], known: Known) -> Generator[Observer]:
    """Within the body, let ``layers`` normalise by their inputs, and record these."""
    observer = Observer(known)
    with ExitStack() as stack:
        for layer in layers.values():
            watch = _Watch(layer, observer)
            stack.callback(layer.module.register_forward_pre_hook(watch.before, with_kwargs=True).remove)
            stack.callback(layer.module.register_forward_hook(watch.after, with_kwargs=True).remove)
        yield observer


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the input of a layer: the first argument, or the only floating tensor among the keyword arguments."""
    if args:
        return args[0]
    named = [value for value in kwargs.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return named[0] if len(named) == 1 else None


def misfit(layer: Norm, values: Any) -> str | None:
    """Return why the moments of ``values`` are not those of the layer's channels, or None if they are.

    Raises:
        DataError: ``values`` is empty.
    """
    if values is None:
        return "it is unknown which of its arguments is the input"
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        return f"its input is a {kind_of(values)}"
    if layer.kind == "custom" and (values.ndim < _WITHOUT_POSITIONS or values.shape[1] != layer.channels):
        return f"its statistics have {layer.channels} channels, its input has the shape {list(values.shape)}"
    if values.numel() == 0:
        msg = f"layer {layer.name} gets no values (shape {list(values.shape)}). Remove empty batches from the loader."
        raise DataError(msg)
    return None


def moments_of(layer: Norm, values: torch.Tensor) -> InputMoments:
    """Return the moments of one input of ``layer``, computed from the input in float64."""
    values = values.detach()
    if layer.kind != "instance":
        return observed(values)
    unbatched = next((ndim for kind, ndim in _UNBATCHED.items() if isinstance(layer.module, kind)), None)
    return observed_instances(values[None] if values.ndim == unbatched else values)


class _Watch:
    """The hooks of one layer.

    With momentum 1, torch's layers leave the moments of each input in their buffers at no cost. Their accuracy depends
    on the kernel: for channels-last inputs on a CPU, for example, they are float32 sums. So the moments of the first
    input in each memory layout are also computed in float64, and the buffers are used from then on if they agree.
    """

    def __init__(self, layer: Norm, observer: Observer) -> None:
        self.layer, self.observer = layer, observer
        wide = layer.running_mean.dtype in {torch.float32, torch.float64}
        self.leaves_moments = isinstance(layer.module, BatchNorm) and wide
        self.trusted: dict[bool, bool] = {}
        """Whether the buffers are accurate, for contiguous inputs and for others."""
        self.knows_best = False
        """Whether the layer normalises something other than its input, whose moments only its buffers hold."""
        self.seen: InputMoments | None = None
        self.lone = False
        self.to_try = layer.kind == "custom" or type(layer.module).forward not in {
            BatchNorm.forward,
            nn.SyncBatchNorm.forward,
            nn.InstanceNorm1d.forward,
        }
        normalise_by_batch(layer, leave_moments=self.leaves_moments)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        if self.layer.name in self.observer.kept:
            return
        values = input_of(args, kwargs)
        reason = misfit(self.layer, values)
        if not self.layer.module.training:
            reason = "the model's forward puts it in eval mode"
        self.lone = reason is None and self.layer.kind != "instance" and values.numel() == self.layer.channels
        if reason is None and self.to_try and not self.lone:
            reason = self._try(args, kwargs)
            self.to_try = False
        if reason:
            self.observer.kept[self.layer.name] = reason
            normalise_by_statistics(self.layer)
        elif self.lone:
            self.seen = moments_of(self.layer, values)
            self._normalise_one_value(values)
        elif not self._serve(values):
            self.seen = moments_of(self.layer, values)

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        del module, output
        if self.layer.name in self.observer.kept:
            return
        values = input_of(args, kwargs)
        if self.lone:
            self.layer.module.training = True
        elif self.leaves_moments and (self.knows_best or values.ndim > _WITHOUT_POSITIONS):
            self._look_at_buffers(values)
        assert self.seen is not None
        self.observer.calls.append((self.layer.name, self.seen))
        self.observer.lengths.append(len(values))
        self.seen = None

    def _serve(self, values: torch.Tensor) -> bool:
        trusted = values.ndim > _WITHOUT_POSITIONS and self.trusted.get(values.is_contiguous(), False)
        return self.leaves_moments and (self.knows_best or trusted)

    def _look_at_buffers(self, values: torch.Tensor) -> None:
        """Use the moments in the layer's buffers, if they are accurate for this memory layout."""
        layout = values.is_contiguous()
        if layout not in self.trusted:
            assert self.seen is not None or self.knows_best
            self.trusted[layout] = self.seen is None or _differ(self._left(values), self.seen) <= _SAME
        if self.trusted[layout]:
            self.seen = self._left(values)

    def _left(self, values: torch.Tensor) -> InputMoments:
        layer = self.layer
        return InputMoments(values.numel() // layer.channels, layer.running_mean.clone(), layer.running_var.clone())

    def _try(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Call a forward that is not torch's once, on copies, and see what it does to the buffers.

        Returns:
            Why the layer's statistics cannot be recomputed, or None if they can.
        """
        layer, values, undo = self.layer, input_of(args, kwargs), what_undoes(self.layer)
        normalise_by_batch(layer, leave_moments=layer.kind != "custom")
        layer.running_mean.fill_(_SENTINEL)
        layer.running_var.fill_(_SENTINEL)
        before = layer.running_mean.clone()
        copies = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
        named = {name: arg.clone() if isinstance(arg, torch.Tensor) else arg for name, arg in kwargs.items()}
        layer.module.forward(*copies, **named)
        left = self._left(values)
        undo()
        if torch.equal(left.mean, before):
            return f"a {kind_of(layer.module)} does not update its statistics in training"
        if float(left.mean.abs().max()) > _LARGE:  # the old values still show: the layer has a momentum of its own
            self.leaves_moments = False
            normalise_by_batch(layer, leave_moments=False)
        elif self.leaves_moments:
            self.knows_best = _differ(left, moments_of(layer, values)) > _ROUNDING
        return None

    def _normalise_one_value(self, values: torch.Tensor) -> None:
        """Normalise a single value per channel by the statistics of all inputs before it."""
        known = self.observer.known(self.layer.name)
        if known is None:
            msg = (
                f"layer {self.layer.name} gets one value per channel (shape {list(values.shape)}), whose variance this "
                "estimator cannot compute. Let the training loader drop the last incomplete batch (drop_last=True), "
                f"or use {option('estimator', 'population')}."
            )
            raise DataError(msg)
        for buffer, value in zip((self.layer.running_mean, self.layer.running_var), known, strict=True):
            buffer.copy_(value)
        normalise_by_statistics(self.layer)


def _differ(left: InputMoments, seen: InputMoments) -> float:
    """Return the largest difference: of means in standard deviations, of variances relative; 0 if both are 0."""
    off = (left.mean - seen.mean).abs() / seen.variance.sqrt()
    ratio = (left.variance - seen.variance).abs() / seen.variance
    worst = torch.stack([off.where(left.mean != seen.mean, 0), ratio.where(left.variance != seen.variance, 0)])
    return float(worst.nan_to_num(nan=torch.inf).max())
