"""One pass over the batches, on one rank or several."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from swa_cli.batchnorm.accumulator import Channels, Tally
from swa_cli.batchnorm.moments import Moments
from swa_cli.batchnorm.nan_check import check_finite, is_finite
from swa_cli.batchnorm.observer import Observer
from swa_cli.batchnorm.result import errors_of
from swa_cli.errors import DataError
from swa_cli.system.process_group import ProcessGroup
from swa_cli.system.progress import Track
from swa_cli.user.batch import Batch, Splitter, n_samples_of
from swa_cli.user.dataloader import lengths_of, n_indices_of
from swa_cli.user.datamodule import iterate, length_of, no_batches
from swa_cli.user.forward import Forward

_FEW = 8
"""Number of batches, over all ranks, from which their spread is used to decide whether to stop."""
_GROWTH = 4  # a quarter more batches between two checks of the errors
_PATIENCE = 100
"""Number of batches between device synchronisations on a GPU; up to this many are computed in vain after a NaN."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The settings that are the same in every pass."""

    model: nn.Module
    batches: Iterable[Any]
    split: Splitter
    forward: Forward
    until_converged: float | None
    group: ProcessGroup
    track: Track


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one rank, or all ranks together, have seen; on the CPU. ``done`` means that no batches are left.

    ``n_samples`` is None if it is ambiguous for one of the batches.
    """

    moments: Moments
    elements: Mapping[str, int]
    calls: Mapping[str, int]
    kept: Mapping[str, str]
    n_samples: int | None
    n_batches: int
    done: bool

    def __add__(self, other: "Seen") -> "Seen":
        """Combine what two ranks have seen."""
        return Seen(
            moments=self.moments + other.moments,
            elements=_sum(self.elements, other.elements),
            calls=_sum(self.calls, other.calls),
            kept={**self.kept, **other.kept},
            n_samples=_total([self.n_samples, other.n_samples]),
            n_batches=self.n_batches + other.n_batches,
            done=self.done and other.done,
        )


def pass_over(
    feed: Feed, tally: Tally, observer: Observer, model: Callable[..., Any], *, description: str, compiling: bool
) -> Seen:
    """Run the batches through ``model``, whose layers ``observer`` watches; return what all ranks have seen.

    Args:
        compiling: compile the model after its first batch, whose inputs are inspected more closely.

    Raises:
        DataError: no rank has a batch, or a layer cannot normalise its input.
        NonFiniteError: a batch or the input of a layer holds NaN or infinity.
        UserCodeError: the loader or the model's forward pass raises.
    """
    batches = iterate(feed.batches, may_be_empty=True)
    total = length_of(feed.batches)
    with closing(batches), feed.track(description, total=total, unit="batches") as advance:
        part = _share(feed, tally, observer, model, batches, advance, compiling=compiling)
        limit = None if feed.until_converged is None else _FEW
        while True:
            parts = feed.group.gather(lambda: part(limit), own_data=True)  # noqa: B023  # called at once
            seen = _all(parts)
            if seen.n_batches == 0:
                raise no_batches()
            if seen.done or (seen.n_batches >= _FEW and _converged(feed, tally.channels, seen)):
                return seen
            limit = max(1, seen.n_batches // len(parts) // _GROWTH)


def _share(
    feed: Feed,
    tally: Tally,
    observer: Observer,
    model: Callable[..., Any],
    batches: Generator[Any],
    advance: Callable[[int], None],
    *,
    compiling: bool,
) -> Callable[[int | None], Seen]:
    """Return a function that processes this rank's next batches, up to a limit, or all that are left."""
    stream = enumerate(batches)
    forward = feed.forward
    patience = 1 if forward.device.type == "cpu" else _PATIENCE
    n_batches, sizes = 0, list[int | None]()
    faster: list[Callable[..., Any]] = []

    def work(limit: int | None) -> Seen:
        nonlocal n_batches
        flags: list[torch.Tensor] = []
        before = n_batches
        for index, batch in islice(stream, limit):
            example = forward.prepare(feed.split(batch), batch=index)
            indices = n_indices_of(feed.batches)
            observer.clear()
            usual = faster[0] if faster and _has_several(example, indices) else model
            try:
                forward.call(usual, example, batch=index)
                n_samples = n_samples_of(example, indices=indices, seen=observer.lengths)
                finite = tally.add(observer.calls, n_samples)
            except DataError as error:
                error.add_subject(f"batch {index}")
                raise
            flags.append(torch.stack([finite, is_finite(example, forward.device)]))
            sizes[:] = [_total([*sizes, n_samples])]
            n_batches += 1
            if len(flags) >= patience:
                check_finite(flags, tally, n_batches)
            if compiling and not faster:
                faster.append(forward.compiled(feed.model))
            advance(1)
        check_finite(flags, tally, n_batches)
        return Seen(
            moments=tally.moments.to(torch.device("cpu")),
            elements=dict(tally.elements),
            calls=dict(tally.calls),
            kept=dict(observer.kept),
            n_samples=_total(sizes),
            n_batches=n_batches,
            done=limit is None or n_batches - before < limit,
        )

    return work


def _has_several(example: Batch, indices: int | None) -> bool:
    """Return whether a batch is known to have several samples; of one, a layer may see a single value."""
    lengths = {length for value in (*example.args, *example.kwargs.values()) for length in lengths_of(value)}
    return min(lengths, default=indices or 1) > 1


def _total(sizes: Sequence[int | None]) -> int | None:
    """Return the sum, or None if one is unknown."""
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _all(parts: Sequence[Seen]) -> Seen:
    first, *others = parts
    for part in others:
        first += part
    return first


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    names = {**one, **other}
    return {name: one.get(name, 0) + other.get(name, 0) for name in names}


def _converged(feed: Feed, channels: Channels, seen: Seen) -> bool:
    if feed.until_converged is None or not seen.calls:
        return False
    found = channels.estimate(seen.moments)
    errors = [errors_of(channels.layers[name], channels.of_layer(name, found)) for name in seen.calls]
    return all(max(pair) <= feed.until_converged for pair in errors)
