"""Where a tensor lies in a file, as the file's header describes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import NamedTuple

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


class StoredTensor(NamedTuple):  # made by the ten thousand, in a quarter of the time that a dataclass takes
    """A dense tensor inside a file.

    ``offset`` is the byte at which its first element lies, counted from the start of the file; ``stride`` is in
    elements, as torch counts it. Two names of one file with equal records are one tensor (tied weights).
    """

    spec: TensorSpec
    offset: int
    stride: tuple[int, ...]
    file: int = 0
    """Which of the checkpoint's files holds it; all but sharded checkpoints have one."""

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return _is_row_major(self.spec.shape, self.stride)

    @property
    def span(self) -> int:
        """Bytes from the first to the last element, both included."""
        if self.is_contiguous:
            return self.spec.nbytes
        last = sum((size - 1) * step for size, step in zip(self.spec.shape, self.stride, strict=True))
        return (last + 1) * self.spec.dtype.itemsize

    @property
    def amount(self) -> int:
        """Bytes to be looked at when it is read: those of the elements, or those that they are spread over."""
        return self.spec.nbytes if self.is_contiguous else max(self.spec.nbytes, self.span if self.spec.numel else 0)

    def narrow(self, axis: int, first: int, last: int) -> "StoredTensor":
        """The view from ``first`` to ``last`` along ``axis``."""
        shape = (*self.spec.shape[:axis], last - first, *self.spec.shape[axis + 1 :])
        return StoredTensor(
            spec=TensorSpec(shape=shape, dtype=self.spec.dtype),
            offset=self.offset + first * self.stride[axis] * self.spec.dtype.itemsize,
            stride=self.stride,
            file=self.file,
        )

    def parts(self, start: int, stop: int) -> "Iterator[StoredTensor]":
        """Views that hold, one after the other, the elements ``start`` to ``stop`` of the flattened tensor."""
        if start >= stop:
            return
        if self.is_contiguous:
            size = self.spec.dtype.itemsize
            spec = TensorSpec(shape=(stop - start,), dtype=self.spec.dtype)
            yield StoredTensor(spec=spec, offset=self.offset + start * size, stride=(1,), file=self.file)
            return
        inner = prod(self.spec.shape[1:])
        first, last = -(-start // inner), stop // inner  # whole rows
        if start < min(first * inner, stop):
            yield from self._row(first - 1).parts(start - (first - 1) * inner, min(inner, stop - (first - 1) * inner))
        if first < last:
            yield self.narrow(0, first, last)
        if first <= last and last * inner < stop:
            yield from self._row(last).parts(0, stop - last * inner)

    def _row(self, index: int) -> "StoredTensor":
        spec = TensorSpec(shape=self.spec.shape[1:], dtype=self.spec.dtype)
        offset = self.offset + index * self.stride[0] * self.spec.dtype.itemsize
        return StoredTensor(spec=spec, offset=offset, stride=self.stride[1:], file=self.file)


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
