"""Recomputing statistics layer by layer, with the preceding layers at their final statistics.

In train mode a layer sees inputs that the preceding layers normalised by the batch, so all statistics but those of the
first layer depend a little on the batch size. Here they do not, at the cost of one pass per layer and one more to find
the order of the layers.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from torch import nn

from swa_cli.batchnorm.accumulator import Tally, channels_of
from swa_cli.batchnorm.estimators import Estimator
from swa_cli.batchnorm.layers import Norm
from swa_cli.batchnorm.modes import normalise_by_statistics, unchanged
from swa_cli.batchnorm.moments import Estimate
from swa_cli.batchnorm.observer import Observer, input_of, misfit, moments_of, observing
from swa_cli.batchnorm.passes import Feed, Seen, pass_over
from swa_cli.user.batch import Batch, Splitter
from swa_cli.user.guard import user_code

_Order = dict[str, set[str]]
"""The layers in the order in which they are found, each with those directly before it."""


class _Reached(BaseException):
    """Ends a forward pass at the layer that is measured; the layers after it need not run."""


def layer_by_layer(
    feed: Feed, layers: Mapping[str, Norm], estimator: Estimator, kept: dict[str, str]
) -> Iterator[tuple[Norm, Estimate, Seen]]:
    """Yield the statistics of each layer that the batches reach, in order of use, and store them in its buffers.

    A layer that is used several times in a forward pass normalises by the batch in its own pass, as do all layers
    after it: its second input depends on its first output.

    Args:
        kept: receives the layers that have nothing to recompute, with the reason.

    Raises:
        SwaError: as `pass_over`.
    """
    feed = replace(feed, split=_apart(feed.split))
    order, used_once, left = _find_order(feed, layers, estimator)
    kept.update(left)
    for number, name in enumerate(order, start=1):
        description = f"BatchNorm statistics, layer {number} of {len(order)}"
        if name in used_once:
            tally, seen = _measure_alone(feed, layers[name], estimator, description)
        else:
            rest = {other: layers[other] for other in order[number - 1 :]}
            tally, seen = _measure_with(feed, rest, estimator, description)
        found = tally.channels.of_layer(name, tally.channels.estimate(seen.moments))
        layers[name].running_mean.copy_(found.mean)
        layers[name].running_var.copy_(found.variance)
        normalise_by_statistics(layers[name])
        yield layers[name], found, seen


def _apart(split: Splitter) -> Splitter:
    """Return a splitter that copies the batch: the model may change it in place, and the loader may yield it again."""

    def copied(batch: Any) -> Batch:
        example = split(batch)
        with user_code("copying a batch"):
            args, kwargs = deepcopy((example.args, example.kwargs))
        return Batch(args, kwargs, example.target)

    return copied


def _find_order(
    feed: Feed, layers: Mapping[str, Norm], estimator: Estimator
) -> tuple[list[str], set[str], Mapping[str, str]]:
    """Return the layers in an order that holds in every batch, those used once per batch, and those to be kept."""
    order: _Order = {}
    used_twice: set[str] = set()

    def look(observer: Observer) -> None:
        names = [name for name, _ in observer.calls]
        firsts = list(dict.fromkeys(names))
        used_twice.update(name for name in firsts if names.count(name) > 1)
        for name in firsts:
            order.setdefault(name, set())
        for one, other in pairwise(firsts):
            order[other].add(one)

    with unchanged(feed.model, layers.values()):
        tally = Tally(channels=channels_of(layers, estimator, feed.forward.device))
        with observing(layers, tally.known) as observer:

            def model(*args: Any, **kwargs: Any) -> None:
                feed.model(*args, **kwargs)
                look(observer)

            seen = pass_over(
                replace(feed, until_converged=None),
                tally,
                observer,
                model,
                description="the order of the layers",
                compiling=False,
            )
    together: _Order = {}
    twice: set[str] = set()
    for of_rank, used_twice_there in feed.group.gather(lambda: (order, used_twice)):
        twice |= used_twice_there
        for name, before in of_rank.items():
            together.setdefault(name, set()).update(before)
    sequence = [name for name in _sorted(together) if name not in seen.kept]
    return sequence, set(sequence) - twice, seen.kept


def _sorted(order: _Order) -> list[str]:
    """Sort the layers topologically, or by first use if batches contradict each other."""
    with suppress(CycleError):
        return list(TopologicalSorter(order).static_order())
    return list(order)


def _measure_alone(feed: Feed, layer: Norm, estimator: Estimator, description: str) -> tuple[Tally, Seen]:
    """Measure one layer in a pass that ends each forward there."""
    tally = Tally(channels=channels_of({layer.name: layer}, estimator, feed.forward.device))
    observer = Observer(tally.known)

    def observe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        values = input_of(args, kwargs)
        if misfit(layer, values) is None:
            observer.calls.append((layer.name, moments_of(layer, values)))
            observer.lengths.append(len(values))
        raise _Reached

    def model(*args: Any, **kwargs: Any) -> None:
        with suppress(_Reached):
            feed.model(*args, **kwargs)

    normalise_by_statistics(layer)
    hook = layer.module.register_forward_pre_hook(observe, with_kwargs=True)
    try:
        return tally, pass_over(feed, tally, observer, model, description=description, compiling=False)
    finally:
        hook.remove()


def _measure_with(feed: Feed, layers: Mapping[str, Norm], estimator: Estimator, description: str) -> tuple[Tally, Seen]:
    """Measure the first of ``layers``, which is used again after others of them; all normalise by the batch."""
    tally = Tally(channels=channels_of(layers, estimator, feed.forward.device))
    with observing(layers, tally.known) as observer:
        return tally, pass_over(feed, tally, observer, feed.model, description=description, compiling=False)
