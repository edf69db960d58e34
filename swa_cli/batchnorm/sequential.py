"""Layer by layer: each sees its inputs as they will be, the layers before it at their final statistics.

In train mode a layer sees what the layers before it have normalised by each batch, so that all statistics but the
first depend a little on the size of the batches. Here they do not, at the price of a pass for each layer.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from swa_cli.batchnorm.estimators import Estimator
from swa_cli.batchnorm.layers import Norm
from swa_cli.batchnorm.modes import normalise_by_batch, normalise_by_statistics, unchanged
from swa_cli.batchnorm.moments import Estimate
from swa_cli.batchnorm.observer import Observer, input_of, misfit, moments_of, observing
from swa_cli.batchnorm.passes import Feed, Seen, pass_over
from swa_cli.batchnorm.tally import Tally, channels_of
from swa_cli.data import iterate


class _Reached(BaseException):
    """The layer that a pass is for has seen all of a batch; what comes after it does not matter."""


def layer_by_layer(
    feed: Feed, layers: Mapping[str, Norm], estimator: Estimator
) -> Iterator[tuple[Norm, Estimate, Seen]]:
    """The statistics of each layer that the batches reach, in the order of first use; its buffers have them then.

    Raises:
        SwaError: as `pass_over`.
    """
    calls, kept = _discover(feed, layers)
    rest = {name: layer for name, layer in layers.items() if name not in kept}
    waiting = list(calls)
    number = 0
    while waiting:
        name = waiting.pop(0)
        layer = rest.pop(name)
        number += 1
        unknown = {other: later for other, later in rest.items() if other not in waiting} if not waiting else {}
        stop = calls.get(name) == 1 and not unknown
        tally = Tally(channels=channels_of({name: layer}, estimator, feed.forward.device))
        description = f"BatchNorm statistics, layer {number} of {number + len(waiting)}"
        seen, late = _measure(feed, tally, layer, rest, unknown, stop=stop, description=description)
        found = tally.channels.estimate(seen.moments)
        layer.running_mean.copy_(found.mean)
        layer.running_var.copy_(found.variance)
        normalise_by_statistics(layer)
        waiting += late
        yield layer, found, replace(seen, kept=kept)


def _discover(feed: Feed, layers: Mapping[str, Norm]) -> tuple[dict[str, int], dict[str, str]]:
    """In which order the first batch reaches the layers, how often each, and which have nothing to recompute."""

    def look() -> tuple[dict[str, int], dict[str, str]]:
        calls: dict[str, int] = {}
        with (
            closing(iterate(feed.batches, may_be_empty=True)) as batches,
            _normalising_by_batch(feed.model, layers) as observer,
        ):
            for batch in islice(batches, 1):
                example = feed.forward.prepare(feed.split(batch), batch=0)
                feed.forward.call(feed.model, example, batch=0)
            for name, _ in observer.calls:
                calls[name] = calls.get(name, 0) + 1
            return calls, observer.kept

    calls: dict[str, int] = {}
    kept: dict[str, str] = {}
    for of_rank, kept_by_rank in feed.step(look):
        calls |= {name: max(count, calls.get(name, 0)) for name, count in of_rank.items()}
        kept |= kept_by_rank
    return calls, kept


@contextmanager
def _normalising_by_batch(model: nn.Module, layers: Mapping[str, Norm]) -> Generator[Observer]:
    def as_they_are(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return layers[name].running_mean.clone(), layers[name].running_var.clone()

    with unchanged(model, layers.values()), observing(layers, as_they_are) as observer:
        yield observer


def _measure(
    feed: Feed,
    tally: Tally,
    layer: Norm,
    later: Mapping[str, Norm],
    unknown: Mapping[str, Norm],
    *,
    stop: bool,
    description: str,
) -> tuple[Seen, list[str]]:
    """A pass for one layer; and which of the ``unknown`` layers, which the first batch did not reach, it found.

    Args:
        later: normalise by each batch, where a layer is used again after them.
        stop: the layer is used once, and nothing after it matters.
    """
    observer = Observer(tally.known)
    late: dict[str, None] = {}

    def observe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        values = input_of(args, kwargs)
        if misfit(layer, values) is None:
            observer.calls.append((layer.name, moments_of(layer, values)))
        if stop:
            raise _Reached

    def finder(name: str) -> Callable[..., None]:
        return lambda *_: late.setdefault(name)

    def model(*args: Any, **kwargs: Any) -> None:
        with suppress(_Reached):
            feed.model(*args, **kwargs)

    for other in later.values():
        normalise_by_batch(other, leave_moments=False)
    if stop:
        normalise_by_statistics(layer)
    else:
        normalise_by_batch(layer, leave_moments=False)
    with ExitStack() as stack:
        stack.callback(layer.module.register_forward_pre_hook(observe, with_kwargs=True).remove)
        for name, other in unknown.items():
            stack.callback(other.module.register_forward_pre_hook(finder(name)).remove)
        seen = pass_over(feed, tally, observer, model, description=description, compiling=False)
    found = feed.step(lambda: list(late))
    return seen, list(dict.fromkeys(name for names in found for name in names))
