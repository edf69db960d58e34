"""Tensors and lengths in a nested batch."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, cast

import torch


def tensors_in(value: object) -> Generator[torch.Tensor]:
    """Yield every tensor in nested sequences and mappings."""
    return (leaf for leaf in _leaves(value) if isinstance(leaf, torch.Tensor))


def lengths_of(value: object) -> set[int]:
    """Return the candidates for the number of samples in ``value``: lengths of its tensors, and of a sequence itself.

    A sequence may hold one entry per sample, as in detection, or several tensors that each hold all samples.
    """
    if isinstance(value, Mapping):
        return {length for entry in cast("Mapping[Any, object]", value).values() for length in lengths_of(entry)}
    if isinstance(value, (list, tuple)):
        entries = cast("Sequence[object]", value)
        return {len(entries)} | {length for entry in entries for length in _length(entry)}
    return _length(value)


def samples_in(batch: object) -> int | None:
    """Return the number of samples on which all entries of a batch agree, or None."""
    if isinstance(batch, torch.Tensor) and batch.ndim == 0:
        return 1
    entries: list[object] = [batch]
    if isinstance(batch, Mapping):
        entries = list(cast("Mapping[Any, object]", batch).values())
    elif isinstance(batch, (list, tuple)):
        given = list(cast("Sequence[object]", batch))
        entries = entries if all(isinstance(entry, Mapping) for entry in given) else given
    return agreed(lengths_of(entry) for entry in entries)


def agreed(lengths: Iterable[set[int]]) -> int | None:
    """Return the one number that is in all of these sets, or None; empty sets are ignored."""
    known = [found for found in lengths if found]
    common = set[int].intersection(*known) if known else set[int]()
    return common.pop() if len(common) == 1 else None


def _length(value: object) -> set[int]:
    shape: object = getattr(value, "shape", None)
    return {int(cast("tuple[int, ...]", shape)[0])} if isinstance(shape, tuple) and shape else set()


def _leaves(value: object) -> Generator[object]:
    if isinstance(value, Mapping):
        for entry in cast("Mapping[Any, object]", value).values():
            yield from _leaves(entry)
    elif isinstance(value, (list, tuple)):
        for entry in cast("Sequence[object]", value):
            yield from _leaves(entry)
    else:
        yield value
