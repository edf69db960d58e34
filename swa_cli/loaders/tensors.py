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
    """The length of the first tensor in ``batch``, wherever it is; 1 where there is none, or one without length."""
    first = next(tensors_in(batch), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1
