"""Where the elements of a tensor lie, as the headers of files describe it: in one place, or in boxes in several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import NamedTuple, Protocol

from swa_cli.formats.dtypes import Dtype


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: Dtype

    @cached_property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps."""
        return self.numel * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


Index = tuple[int, ...]
"""A position along each axis."""
Box = tuple[tuple[int, int], ...]
"""First and last + 1, along each axis."""


Run = tuple[int, int, int]
"""Bytes that follow one another: in which of the checkpoint's files, from which offset on, and how many."""


class Extent(NamedTuple):
    """Elements of a box that lie in one file, and the index within the box at which they start."""

    start: Index
    stored: "StoredTensor"


class TensorLayout(Protocol):
    """Where a tensor lies. Two names with equal layouts are one tensor (tied weights)."""

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype of the whole tensor."""
        ...

    @property
    def is_row_major(self) -> bool:
        """Whether the elements lie in row-major order without gaps, in one run or a few."""
        ...

    @property
    def origin(self) -> tuple[int, int]:
        """File and byte of the first element; they are apart for tensors that share no element."""
        ...

    def runs(self, start: int, stop: int) -> Sequence[Run]:
        """Return where elements ``start`` to ``stop`` of the flattened tensor lie, which is row-major."""
        ...

    def extents(self, box: Box) -> Sequence[Extent]:
        """Return where the elements of ``box`` lie."""
        ...

    def beside(self, files: int) -> "TensorLayout":
        """Return the same layout among ``files`` other files, which are counted first."""
        ...


class StoredTensor(NamedTuple):  # made by the ten thousand, in a quarter of the time that a dataclass takes
    """A dense tensor in one place of a file: the `TensorLayout` of almost every tensor.

    ``offset`` is the byte at which its first element lies, counted from the start of the file; ``stride`` is in
    elements, as torch counts it.
    """

    spec: TensorSpec
    offset: int
    stride: tuple[int, ...]
    file: int = 0
    """Which of the checkpoint's files holds it; all but sharded checkpoints have one."""

    @property
    def is_row_major(self) -> bool:
        """See `TensorLayout`."""
        return _is_row_major(self.spec.shape, self.stride)

    @property
    def origin(self) -> tuple[int, int]:
        """See `TensorLayout`."""
        return self.file, self.offset

    def runs(self, start: int, stop: int) -> Sequence[Run]:
        """See `TensorLayout`."""
        size = self.spec.dtype.itemsize
        return ((self.file, self.offset + start * size, (stop - start) * size),)

    def extents(self, box: Box) -> Sequence[Extent]:
        """See `TensorLayout`."""
        stored = self
        for axis, (first, last) in enumerate(box):
            stored = stored.narrow(axis, first, last)
        return (Extent((0,) * len(box), stored),)

    def beside(self, files: int) -> "StoredTensor":
        """See `TensorLayout`."""
        return self._replace(file=self.file + files)

    @property
    def span(self) -> int:
        """Bytes from the first to the last element, both included."""
        if self.is_row_major:
            return self.spec.nbytes
        last = sum((size - 1) * step for size, step in zip(self.spec.shape, self.stride, strict=True))
        return (last + 1) * self.spec.dtype.itemsize

    @property
    def amount(self) -> int:
        """Bytes to be looked at when it is read: those of the elements, or those that they are spread over."""
        return self.spec.nbytes if self.is_row_major else max(self.spec.nbytes, self.span if self.spec.numel else 0)

    def narrow(self, axis: int, first: int, last: int) -> "StoredTensor":
        """The view from ``first`` to ``last`` along ``axis``."""
        shape = (*self.spec.shape[:axis], last - first, *self.spec.shape[axis + 1 :])
        return StoredTensor(
            spec=TensorSpec(shape=shape, dtype=self.spec.dtype),
            offset=self.offset + first * self.stride[axis] * self.spec.dtype.itemsize,
            stride=self.stride,
            file=self.file,
        )


class ShardedTensor(NamedTuple):
    """A dense tensor in several places, in files of their own perhaps: boxes that are disjoint and make up the whole.

    ``shards`` are in the order of their first elements, none of them empty.
    """

    spec: TensorSpec
    shards: tuple[Extent, ...]

    @property
    def is_row_major(self) -> bool:
        """See `TensorLayout`: every shard holds whole rows."""
        rows = self.spec.shape[1:]
        return all(shard.stored.spec.shape[1:] == rows and shard.stored.is_row_major for shard in self.shards)

    @property
    def origin(self) -> tuple[int, int]:
        """See `TensorLayout`."""
        return self.shards[0].stored.origin

    def runs(self, start: int, stop: int) -> Sequence[Run]:
        """See `TensorLayout`."""
        row = prod(self.spec.shape[1:])
        found: list[Run] = []
        for shard in self.shards:
            first = shard.start[0] * row
            low, high = max(start, first), min(stop, first + shard.stored.spec.numel)
            if low < high:
                found += shard.stored.runs(low - first, high - first)
        return found

    def extents(self, box: Box) -> Sequence[Extent]:
        """See `TensorLayout`."""
        found: list[Extent] = []
        for shard in self.shards:
            shape = shard.stored.spec.shape
            common = [
                (max(first, start), min(last, start + size))
                for (first, last), start, size in zip(box, shard.start, shape, strict=True)
            ]
            if all(low < high for low, high in common):
                within = tuple(
                    (low - start, high - start) for (low, high), start in zip(common, shard.start, strict=True)
                )
                ((_, stored),) = shard.stored.extents(within)
                found.append(
                    Extent(tuple(low - first for (low, _), (first, _) in zip(common, box, strict=True)), stored)
                )
        return found

    def beside(self, files: int) -> "ShardedTensor":
        """See `TensorLayout`."""
        return self._replace(shards=tuple(Extent(start, stored.beside(files)) for start, stored in self.shards))


def boxes_of(shape: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    """Yield boxes that hold, one after the other, the elements ``start`` to ``stop`` of a flattened tensor.

    >>> list(boxes_of((4, 3), 2, 10))
    [((0, 1), (2, 3)), ((1, 3), (0, 3)), ((3, 4), (0, 1))]
    """
    if start >= stop:
        return
    if not shape:
        yield ()
        return
    row = prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if start < min(first * row, stop):
        before = (first - 1) * row
        yield from (
            ((first - 1, first), *rest) for rest in boxes_of(shape[1:], start - before, min(row, stop - before))
        )
    if first < last:
        yield ((first, last), *((0, size) for size in shape[1:]))
    if first <= last and last * row < stop:
        yield from (((last, last + 1), *rest) for rest in boxes_of(shape[1:], 0, stop - last * row))


@lru_cache(maxsize=4096)
def spec_of(shape: tuple[int, ...], dtype: Dtype) -> TensorSpec:
    """One `TensorSpec` for all tensors of a shape and dtype; models have tens of thousands of tensors, of few kinds."""
    return TensorSpec(shape=shape, dtype=dtype)


@lru_cache(maxsize=4096)
def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of a contiguous tensor."""
    stride = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        stride[axis] = stride[axis + 1] * shape[axis + 1]
    return tuple(stride)


@lru_cache(maxsize=4096)
def _is_row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return prod(shape) == 0
        expected *= size
    return True
