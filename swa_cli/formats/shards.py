"""Joining the shards of a tensor, which lie in several files, to the whole one."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from pathlib import PurePath
from typing import NamedTuple, NoReturn

from swa_cli.errors import CheckpointError, shortened
from swa_cli.formats.tensor_layout import Box, Extent, Index, ShardedTensor, TensorLayout, spec_of


def join_shards(path: PurePath, name: str, shards: Sequence[Extent], files: Sequence[PurePath]) -> TensorLayout:
    """Return the layout of a tensor, which reaches as far as its shards do.

    Args:
        path: of the checkpoint.
        shards: at least one; each a box of the tensor, at the index where it starts there.
        files: those that the shards mean by their numbers.

    Raises:
        CheckpointError: two shards overlap, elements are in none, or dtypes or numbers of axes differ.
    """
    first = shards[0].stored
    for start, other in shards:
        if other.spec.dtype != first.spec.dtype or len(start) != len(first.spec.shape):
            both = f"{first.spec} in {files[first.file].name} and {other.spec} in {files[other.file].name}"
            _refuse(path, f"tensor {name} is {both}")
    whole = _join(tuple((start, stored.spec.shape) for start, stored in shards))
    if whole.overlapping:
        both = " and ".join(
            f"{_as_slices(shards[at])} in {files[shards[at].stored.file].name}" for at in whole.overlapping
        )
        _refuse(path, f"tensor {name}: {both} overlap")
    spec = spec_of(whole.shape, first.spec.dtype)
    if whole.held != spec.numel:
        names = shortened([files[shard.stored.file].name for shard in shards])
        _refuse(path, f"tensor {name}: expected {spec.numel:,} elements, of {spec}, found {whole.held:,} in {names}")
    if len(whole.order) > 1:
        return ShardedTensor(spec, tuple([shards[at] for at in whole.order]))
    return shards[whole.order[0]].stored if whole.order else first._replace(spec=spec)


class _Whole(NamedTuple):
    """What shards make up, each by its number."""

    shape: Index
    order: tuple[int, ...]
    """Those with elements, by where they start."""
    overlapping: tuple[int, int] | None
    held: int
    """Elements in all of them."""


@lru_cache(maxsize=4096)  # models have tens of thousands of tensors, of few kinds
def _join(places: tuple[tuple[Index, Index], ...]) -> _Whole:
    """Join shards, each with the index where it starts and its shape."""
    boxes = [_box(*place) for place in places]
    order = sorted((at for at, (_, shape) in enumerate(places) if prod(shape)), key=lambda at: places[at][0])
    return _Whole(
        shape=tuple(max(stop for _, stop in sides) for sides in zip(*boxes, strict=True)),
        order=tuple(order),
        overlapping=_find_overlap({at: boxes[at] for at in order}),
        held=sum(prod(places[at][1]) for at in order),
    )


def _find_overlap(boxes: dict[int, Box]) -> tuple[int, int] | None:
    """Return two boxes with elements in common, or None.

    Along the axis that is cut most often, few boxes lie side by side: only those are compared.
    """
    axes = range(max(map(len, boxes.values()), default=0))
    axis = max(axes, key=lambda axis: len({box[axis] for box in boxes.values()}), default=None)
    beside: list[int] = []
    for at, box in sorted(boxes.items(), key=lambda item: () if axis is None else item[1][axis]):
        if axis is not None:
            beside = [other for other in beside if boxes[other][axis][1] > box[axis][0]]
        for other in beside:
            if all(start < end and first < last for (first, end), (start, last) in zip(boxes[other], box, strict=True)):
                return other, at
        beside.append(at)
    return None


def _box(start: Index, shape: Index) -> Box:
    return tuple((first, first + size) for first, size in zip(start, shape, strict=True))


def _as_slices(shard: Extent) -> str:
    return f"[{', '.join(f'{start}:{stop}' for start, stop in _box(shard.start, shard.stored.spec.shape))}]"


def _refuse(path: PurePath, what: str) -> NoReturn:
    msg = f"{path}: {what}. Files are missing or of another save: copy or remove them, or save the checkpoint again."
    raise CheckpointError(msg)
