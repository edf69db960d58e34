"""A checkpoint as its header describes it: which tensors there are, and where their bytes lie."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch

from swa_cli.errors import CheckpointError

_SPREAD = 1 << 25
"""Bytes read at once for a tensor that is not contiguous (32 MiB)."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Shape and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without gaps."""
        return self.numel * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
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
        expected = 1
        for size, step in zip(reversed(self.spec.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return self.spec.numel == 0
            expected *= size
        return True

    @property
    def span(self) -> int:
        """Bytes from the first to the last element, both included."""
        if self.spec.numel == 0:
            return 0
        last = sum((size - 1) * step for size, step in zip(self.spec.shape, self.stride, strict=True))
        return (last + 1) * self.spec.dtype.itemsize

    def narrow(self, axis: int, first: int, last: int) -> "StoredTensor":
        """The view from ``first`` to ``last`` along ``axis``."""
        shape = (*self.spec.shape[:axis], last - first, *self.spec.shape[axis + 1 :])
        return StoredTensor(
            spec=TensorSpec(shape=shape, dtype=self.spec.dtype),
            offset=self.offset + first * self.stride[axis] * self.spec.dtype.itemsize,
            stride=self.stride,
            file=self.file,
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint, opened lazily: the header is in memory, tensors are read when asked for.

    The vocabulary is that of ``safetensors.safe_open``. No file stays open between reads, so any number of
    checkpoints can be held at once.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    """``global_step``, ``step``, ``iteration`` or ``epoch``, as far as the file holds them."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """The safetensors metadata; empty for torch files."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Entries of the state_dict that are not tensors but plain values (``_extra_state``): what JSON can hold."""
    left_out: tuple[str, ...] = ()
    """Entries of the state_dict that are neither tensors nor plain values."""
    alternatives: tuple[str, ...] = ()
    """Keys of other mappings of tensors in the file (an EMA, say), for ``--key``."""
    step: int | None = None

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors, in the order of the file."""
        return tuple(self.tensors)

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype, without reading the tensor."""
        return self.tensors[name].spec

    def get_tensor(self, name: str) -> torch.Tensor:
        """The whole tensor, contiguous, on the CPU, in its stored dtype."""
        spec = self.spec(name)
        return self.get_elements(name, 0, spec.numel).reshape(spec.shape)

    def get_elements(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor (row-major), one-dimensional, on the CPU.

        Raises:
            CheckpointError: the file ends before the tensor does, or cannot be read.
        """
        stored = self.tensors[name]
        dtype = stored.spec.dtype
        if stored.is_contiguous:
            size = dtype.itemsize
            return _from_bytes(self._pread(stored.offset + start * size, (stop - start) * size, name), dtype)
        # Of a tensor that is not contiguous, the rows that hold these elements, and no more.
        inner = prod(stored.spec.shape[1:])
        first, last = start // inner, -(-stop // inner)
        rows = self._view(stored.narrow(0, first, last), name)
        return rows.reshape(-1)[start - first * inner : stop - first * inner]

    def _view(self, stored: StoredTensor, name: str) -> torch.Tensor:
        """A tensor that is not contiguous; one that is spread far is read in parts."""
        widest = max(range(len(stored.stride)), key=lambda axis: stored.stride[axis] * (stored.spec.shape[axis] > 1))
        length = stored.spec.shape[widest]
        if stored.span <= _SPREAD or length == 1:
            flat = _from_bytes(self._pread(stored.offset, stored.span, name), stored.spec.dtype)
            view = flat.as_strided(stored.spec.shape, stored.stride)
            return view.clone(memory_format=torch.contiguous_format)  # lets go of what lies between
        halves = (stored.narrow(widest, 0, length // 2), stored.narrow(widest, length // 2, length))
        return torch.cat([self._view(half, name) for half in halves], dim=widest)

    def _pread(self, offset: int, size: int, name: str) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        read = 0
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                while read < size:
                    count = os.preadv(descriptor, [view[read:]], offset + read)
                    if count == 0:
                        msg = (
                            f"{self.path}: tensor {name} ends beyond the end of the file: expected {size} bytes at "
                            f"offset {offset}, found {read}. The file is truncated; copy or save it again."
                        )
                        raise CheckpointError(msg)
                    read += count
            finally:
                os.close(descriptor)
        except OSError as error:
            msg = f"{self.path}: cannot read tensor {name}: {error.strerror or error}."
            raise CheckpointError(msg) from error
        return data


def _from_bytes(data: bytearray, dtype: torch.dtype) -> torch.Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype)
