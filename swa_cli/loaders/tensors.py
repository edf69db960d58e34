"""The tensors in a batch, however it is nested."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, cast

import torch


def tensors_in(value: object) -> Generator[torch.Tensor]:
    """Every tensor in nested sequences and mappings."""
    return (leaf for leaf in _leaves(value) if isinstance(leaf, torch.Tensor))


def samples_in(batch: object) -> int:
    """The length of the first tensor or array in ``batch`` that has one, wherever it is; 1 where there is none."""
    shapes = (getattr(leaf, "shape", None) for leaf in _leaves(batch))
    return next((int(shape[0]) for shape in shapes if shape), 1)


def _leaves(value: object) -> Generator[object]:
    if isinstance(value, Mapping):
        for entry in cast("Mapping[Any, object]", value).values():
            yield from _leaves(entry)
    elif isinstance(value, (list, tuple)):
        for entry in cast("Sequence[object]", value):
            yield from _leaves(entry)
    else:
        yield value
