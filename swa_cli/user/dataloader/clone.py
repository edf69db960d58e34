"""Copying a user's loader with some attributes changed; the original is left as it is."""

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
    """Return a shallow copy with some attributes changed, including those that torch forbids to set later.

    The copy starts new workers in every pass and returns its batches in order. torch seeds workers only when they
    start, so with persistent workers a second pass would draw other random numbers than the first.
    """
    copied = copy.copy(loader)
    fresh = {"persistent_workers": False, "in_order": True, "_IterableDataset_len_called": None}
    for name, value in (fresh | changes).items():
        object.__setattr__(copied, name, value)
    return copied


def unused_copy(loader: Iterable[Any]) -> Iterable[Any]:
    """Return ``loader`` as it was before its first pass if it is a DataLoader or wraps one, else ``loader`` itself."""
    if is_loader(loader):
        return copy_of(loader)
    inner = {name: value for name, value in _attributes(loader).items() if is_loader(value)}
    if not inner:
        return loader
    try:
        copied = copy.copy(loader)
    except Exception:  # noqa: BLE001  # a custom __getattr__ may break copying
        return loader
    for name, value in inner.items():
        object.__setattr__(copied, name, copy_of(value))
    return copied


def parts_of(loader: object) -> list[object]:
    """Return ``loader``, the loaders it wraps, and their samplers and datasets, each once."""
    found = [loader]
    for part in found:  # grows meanwhile
        for name, value in _attributes(part).items():
            is_part = name in _PARTS or isinstance(value, (DataLoader, Sampler, Dataset))
            if is_part and not any(value is known for known in found):
                found.append(cast("object", value))
    return found


def iterates_as_torch_does(loader: object) -> TypeGuard[DataLoader[Any]]:
    """Return whether ``loader`` is a DataLoader that uses its sampler and dataset as torch's own does."""
    if not is_loader(loader):
        return False
    own = cast("type[Any]", type(cast("object", loader)))
    names = ("__iter__", "_get_iterator", "_index_sampler", "_auto_collation")
    return all(getattr(own, name) is getattr(DataLoader, name) for name in names)


def in_fixed_order(loader: Iterable[Any]) -> bool:
    """Return whether ``loader`` is known to load the samples in the order of the dataset."""
    return (
        iterates_as_torch_does(loader)
        and not isinstance(loader.dataset, IterableDataset)
        and has_plain_batches(loader)
        and type(cast("BatchSampler", loader.batch_sampler).sampler) is SequentialSampler
    )


def has_plain_batches(loader: DataLoader[Any]) -> bool:
    """Return whether batches are formed by a plain BatchSampler: consecutive entries of the sampler."""
    return type(cast("object", loader.batch_sampler)) is BatchSampler


def _attributes(value: object) -> dict[str, Any]:
    return dict(getattr(value, "__dict__", {}))
