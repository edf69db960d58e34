"""The tensors in a batch, however it is nested."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, cast

import torch


def tensors_in(value: object) -> Generator[torch.Tensor]:
    """Every tensor in nested sequences and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in cast("Mapping[Any, object]", value).values():
            yield from tensors_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in cast("Sequence[object]", value):
            yield from tensors_in(entry)


def samples_in(batch: object) -> int:
    """The length of the first tensor or array in ``batch`` that has one, wherever it is; 1 where there is none."""
    return next((length for length in _lengths(batch)), 1)


def _lengths(value: object) -> Generator[int]:
    shape = getattr(value, "shape", None)
    if shape is not None:
        yield from (int(length) for length in tuple(shape)[:1])
    elif isinstance(value, Mapping):
        for entry in cast("Mapping[Any, object]", value).values():
            yield from _lengths(entry)
    elif isinstance(value, (list, tuple)):
        for entry in cast("Sequence[object]", value):
            yield from _lengths(entry)
