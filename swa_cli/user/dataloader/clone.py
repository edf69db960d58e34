"""Copies of a user's loader that differ in one thing; the loader itself stays as the user made it."""

import copy
from collections.abc import Iterable
from typing import Any, TypeGuard, TypeVar, cast

from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, SequentialSampler

L = TypeVar("L", bound=DataLoader[Any])

_PARTS = ("sampler", "batch_sampler", "dataset", "loader")


def is_loader(value: object) -> TypeGuard[DataLoader[Any]]:
    """Whether ``value`` is a torch DataLoader."""
    return isinstance(value, DataLoader)


def copy_of(loader: L, **changes: Any) -> L:
    """A shallow copy with other attributes, also those that torch forbids to set once a loader is made.

    Its workers are new in every pass and its batches come in order: workers that persist go on drawing where they
    were (torch seeds them when they start, and never again), so a second pass would not give what the first gave.
    """
    copied = copy.copy(loader)
    fresh = {"persistent_workers": False, "in_order": True, "_IterableDataset_len_called": None}
    for name, value in (fresh | changes).items():
        object.__setattr__(copied, name, value)
    return copied


def unused_copy(loader: Iterable[Any]) -> Iterable[Any]:
    """``loader`` as it was before its first pass, where it is a DataLoader or wraps one; else itself."""
    if is_loader(loader):
        return copy_of(loader)
    inner = {name: value for name, value in _attributes(loader).items() if is_loader(value)}
    if not inner:
        return loader
    try:
        copied = copy.copy(loader)
    except Exception:  # noqa: BLE001  # a __getattr__ of its own may not bear to be copied
        return loader
    for name, value in inner.items():
        object.__setattr__(copied, name, copy_of(value))
    return copied


def parts_of(loader: object) -> list[object]:
    """``loader``, what it wraps, and their samplers and datasets, each once."""
    found = [loader]
    for part in found:  # which grows meanwhile
        for name, value in _attributes(part).items():
            is_part = name in _PARTS or isinstance(value, (DataLoader, Sampler, Dataset))
            if is_part and not any(value is known for known in found):
                found.append(cast("object", value))
    return found


def iterates_as_torch_does(loader: object) -> TypeGuard[DataLoader[Any]]:
    """Whether ``loader`` is a DataLoader that asks its sampler and its dataset as torch's own does."""
    if not is_loader(loader):
        return False
    own = cast("type[Any]", type(cast("object", loader)))
    names = ("__iter__", "_get_iterator", "_index_sampler", "_auto_collation")
    return all(getattr(own, name) is getattr(DataLoader, name) for name in names)


def in_fixed_order(loader: Iterable[Any]) -> bool:
    """Whether ``loader`` is known to take its samples in the order of the dataset."""
    return (
        iterates_as_torch_does(loader)
        and not isinstance(loader.dataset, IterableDataset)
        and has_plain_batches(loader)
        and type(cast("BatchSampler", loader.batch_sampler).sampler) is SequentialSampler
    )


def has_plain_batches(loader: DataLoader[Any]) -> bool:
    """Whether the batches are so many of the sampler's entries each, and no more rule than that."""
    return type(cast("object", loader.batch_sampler)) is BatchSampler


def _attributes(value: object) -> dict[str, Any]:
    return dict(getattr(value, "__dict__", {}))
