"""What every layer is given in a forward pass, taken by hooks."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from swa_cli.batchnorm.inputs import Observed, observed, observed_instances
from swa_cli.batchnorm.layers import BatchNorm, Norm
from swa_cli.batchnorm.modes import normalise_by_batch, normalise_by_statistics
from swa_cli.errors import DataError, kind_of

Known = Callable[[str], tuple[torch.Tensor, torch.Tensor] | None]
"""Mean and variance of a layer's inputs so far, by its name; None before the first."""

_SAME = 1e-6
_WITHOUT_POSITIONS = 2  # dimensions: (N, C), of which float64 moments cost little
_UNBATCHED = {nn.InstanceNorm1d: 2, nn.InstanceNorm2d: 3, nn.InstanceNorm3d: 4}
"""Dimensions of an input without N, which InstanceNorm takes too."""


class Observer:
    """The inputs of some layers, call by call: ``calls`` has each layer's name and what it was given, in order.

    ``kept`` has the layers that turn out to have no statistics to recompute, and why; their hooks do nothing.
    """

    def __init__(self, known: Known) -> None:
        self.calls: list[tuple[str, Observed]] = []
        self.kept: dict[str, str] = {}
        self.known = known


@contextmanager
def observing(layers: Mapping[str, Norm], known: Known) -> Generator[Observer]:
    """Within the body, ``layers`` normalise by what they are given, and all of it is observed."""
    observer = Observer(known)
    with ExitStack() as stack:
        for layer in layers.values():
            watch = _Watch(layer, observer)
            stack.callback(layer.module.register_forward_pre_hook(watch.before, with_kwargs=True).remove)
            stack.callback(layer.module.register_forward_hook(watch.after, with_kwargs=True).remove)
        yield observer


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The input of a layer, however it was given."""
    return args[0] if args else next(iter(kwargs.values()), None)


def misfit(layer: Norm, values: Any) -> str | None:
    """Why ``values`` are no input whose moments are those of the layer's channels; None if they are.

    Raises:
        DataError: they are empty.
    """
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        return f"its input is a {kind_of(values)}"
    if layer.kind == "custom" and (values.ndim < 2 or values.shape[1] != layer.channels):  # noqa: PLR2004
        return f"its statistics have {layer.channels} channels, its input has the shape {list(values.shape)}"
    if values.numel() == 0:
        msg = f"layer {layer.name} gets no values (shape {list(values.shape)}). Leave empty batches out of the loader."
        raise DataError(msg)
    return None


def moments_of(layer: Norm, values: torch.Tensor) -> Observed:
    """The moments of one input of ``layer``, from the input itself, in float64."""
    if layer.kind != "instance":
        return observed(values)
    unbatched = next((ndim for kind, ndim in _UNBATCHED.items() if isinstance(layer.module, kind)), None)
    return observed_instances(values[None] if values.ndim == unbatched else values)


class _Watch:
    """The hooks of one layer.

    With momentum 1 torch's layers leave the moments of each input in their buffers, at no cost. How exact these are
    depends on the kernel that ran: sums of float32 on a CPU for inputs with channels last, for one. So the first input
    is also looked at in float64, and the buffers serve from then on only if they agree with that.
    """

    def __init__(self, layer: Norm, observer: Observer) -> None:
        self.layer, self.observer = layer, observer
        wide = layer.running_mean.dtype in {torch.float32, torch.float64}
        self.trusted: bool | None = None if isinstance(layer.module, BatchNorm) and wide else False
        self.seen: Observed | None = None
        self.lone = False
        self.before_call: torch.Tensor | None = None
        self.is_known_to_learn = layer.kind != "custom"
        normalise_by_batch(layer, leave_moments=self.trusted is None)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        if self.layer.name in self.observer.kept:
            return
        values = input_of(args, kwargs)
        reason = misfit(self.layer, values)
        if reason:
            self._keep(reason)
            return
        self.lone = self.layer.kind != "instance" and values.numel() == self.layer.channels
        if self.lone:
            self._normalise_one_value(values)
        if not self.trusted or self.lone or values.ndim == _WITHOUT_POSITIONS:
            self.seen = moments_of(self.layer, values)
        if not self.is_known_to_learn:
            self.before_call = torch.stack([self.layer.running_mean, self.layer.running_var])

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        del module, output
        if self.layer.name in self.observer.kept:
            return
        if not self.lone and not self._learns():
            self._keep(f"a {kind_of(self.layer.module)} does not update its statistics in training")
            return
        if self.lone:
            self.layer.module.training = True
        elif self.trusted is None or self.seen is None:
            self._look_at_buffers(input_of(args, kwargs))
        assert self.seen is not None
        self.observer.calls.append((self.layer.name, self.seen))
        self.seen = None

    def _look_at_buffers(self, values: torch.Tensor) -> None:
        """Take the moments that the layer has left, or find that they cannot be taken."""
        if self.seen is not None and values.ndim == _WITHOUT_POSITIONS:
            return
        layer = self.layer
        left = Observed(values.numel() // layer.channels, layer.running_mean.clone(), layer.running_var.clone())
        if self.trusted is None:
            assert self.seen is not None
            self.trusted = _agree(left, self.seen)
        if self.trusted:
            self.seen = left
        else:
            normalise_by_batch(layer, leave_moments=False)

    def _learns(self) -> bool:
        """Whether a layer that is none of torch's own updates its buffers when it is trained."""
        if self.before_call is not None:
            now = torch.stack([self.layer.running_mean, self.layer.running_var])
            self.is_known_to_learn = not torch.equal(self.before_call, now)
            self.before_call = None
        return self.is_known_to_learn

    def _keep(self, reason: str) -> None:
        self.observer.kept[self.layer.name] = reason
        normalise_by_statistics(self.layer)

    def _normalise_one_value(self, values: torch.Tensor) -> None:
        """A value alone cannot be normalised by itself: let the statistics of all before it serve."""
        known = self.observer.known(self.layer.name)
        if known is None:
            msg = (
                f"layer {self.layer.name} gets one value per channel (shape {list(values.shape)}), by which it cannot "
                "normalise. Let the training loader drop the last incomplete batch (drop_last=True), or choose another "
                "batch size."
            )
            raise DataError(msg)
        for buffer, value in zip((self.layer.running_mean, self.layer.running_var), known, strict=True):
            buffer.copy_(value)
        normalise_by_statistics(self.layer)


def _agree(left: Observed, seen: Observed) -> bool:
    """Whether the moments are the same, to a millionth of the standard deviation and of the variance."""
    deviation = seen.variance.sqrt()
    near = (left.mean - seen.mean).abs() <= _SAME * deviation
    return bool((near & ((left.variance - seen.variance).abs() <= _SAME * seen.variance)).all())
