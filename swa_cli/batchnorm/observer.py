"""What every layer is given in a forward pass, taken by hooks."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from swa_cli.batchnorm.inputs import InputMoments, observed, observed_instances
from swa_cli.batchnorm.layers import BatchNorm, Norm
from swa_cli.batchnorm.modes import normalise_by_batch, normalise_by_statistics, what_undoes
from swa_cli.errors import DataError, kind_of

Known = Callable[[str], tuple[torch.Tensor, torch.Tensor] | None]
"""Mean and variance of a layer's inputs so far, by its name; None where one value alone is of no use."""

_SAME = 1e-6
_ROUNDING = 1e-2
"""Beyond this, moments differ because they are not of the same values."""
_SENTINEL, _LARGE = 1e30, 1e20
_WITHOUT_POSITIONS = 2  # dimensions: (N, C), of which float64 moments cost little
_UNBATCHED = {nn.InstanceNorm1d: 2, nn.InstanceNorm2d: 3, nn.InstanceNorm3d: 4}
"""Dimensions of an input without N, which InstanceNorm takes too."""


class Observer:
    """The inputs of some layers, call by call: ``calls`` has each layer's name and what it was given, in order.

    ``lengths`` has the first dimensions of these inputs. ``kept`` has the layers that turn out to have no statistics to
    recompute, and why; their hooks do nothing.
    """

    def __init__(self, known: Known) -> None:
        self.calls: list[tuple[str, InputMoments]] = []
        self.lengths: list[int] = []
        self.kept: dict[str, str] = {}
        self.known = known

    def clear(self) -> None:
        """Forget what was observed: the next batch comes."""
        self.calls.clear()
        self.lengths.clear()


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
    """The input of a layer: the first argument, or the only floating tensor that comes by name."""
    if args:
        return args[0]
    named = [value for value in kwargs.values() if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return named[0] if len(named) == 1 else None


def misfit(layer: Norm, values: Any) -> str | None:
    """Why ``values`` are no input whose moments are those of the layer's channels; None if they are.

    Raises:
        DataError: they are empty.
    """
    if values is None:
        return "it is unknown which of its arguments is the input"
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        return f"its input is a {kind_of(values)}"
    if layer.kind == "custom" and (values.ndim < _WITHOUT_POSITIONS or values.shape[1] != layer.channels):
        return f"its statistics have {layer.channels} channels, its input has the shape {list(values.shape)}"
    if values.numel() == 0:
        msg = f"layer {layer.name} gets no values (shape {list(values.shape)}). Leave empty batches out of the loader."
        raise DataError(msg)
    return None


def moments_of(layer: Norm, values: torch.Tensor) -> InputMoments:
    """The moments of one input of ``layer``, from the input itself, in float64."""
    values = values.detach()
    if layer.kind != "instance":
        return observed(values)
    unbatched = next((ndim for kind, ndim in _UNBATCHED.items() if isinstance(layer.module, kind)), None)
    return observed_instances(values[None] if values.ndim == unbatched else values)


class _Watch:
    """The hooks of one layer.

    With momentum 1 torch's layers leave the moments of each input in their buffers, at no cost. How exact these are
    depends on the kernel that ran: sums of float32 on a CPU for inputs with channels last, for one. So the first input
    in each memory layout is also looked at in float64, and the buffers serve from then on if they agree with that.
    """

    def __init__(self, layer: Norm, observer: Observer) -> None:
        self.layer, self.observer = layer, observer
        wide = layer.running_mean.dtype in {torch.float32, torch.float64}
        self.leaves_moments = isinstance(layer.module, BatchNorm) and wide
        self.trusted: dict[bool, bool] = {}
        """Whether the buffers serve, for contiguous inputs and for others."""
        self.knows_best = False
        """It normalises something else than its input, of which it alone knows the moments."""
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
        """Take the moments that the layer has left, or find that they cannot be taken."""
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
        """Call a forward that is not torch's own once, apart, and see what it does to the buffers.

        Returns:
            Why the layer's statistics cannot be recomputed; None if they can.
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
        if float(left.mean.abs().max()) > _LARGE:  # something is left of what was there: it has a momentum of its own
            self.leaves_moments = False
            normalise_by_batch(layer, leave_moments=False)
        elif self.leaves_moments:
            self.knows_best = _differ(left, moments_of(layer, values)) > _ROUNDING
        return None

    def _normalise_one_value(self, values: torch.Tensor) -> None:
        """A value alone cannot be normalised by itself: let the statistics of all before it serve."""
        known = self.observer.known(self.layer.name)
        if known is None:
            msg = (
                f"layer {self.layer.name} gets one value per channel (shape {list(values.shape)}), of which this "
                "estimator cannot take a variance. Let the training loader drop the last incomplete batch "
                "(drop_last=True), or take --estimator population."
            )
            raise DataError(msg)
        for buffer, value in zip((self.layer.running_mean, self.layer.running_var), known, strict=True):
            buffer.copy_(value)
        normalise_by_statistics(self.layer)


def _differ(left: InputMoments, seen: InputMoments) -> float:
    """The largest difference, of a mean in standard deviations or of a variance relative to itself; 0 if both are 0."""
    off = (left.mean - seen.mean).abs() / seen.variance.sqrt()
    ratio = (left.variance - seen.variance).abs() / seen.variance
    worst = torch.stack([off.where(left.mean != seen.mean, 0), ratio.where(left.variance != seen.variance, 0)])
    return float(worst.nan_to_num(nan=torch.inf).max())
