"""Reading bytes of tensors at their places in files, few of which are open at a time."""

import resource
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from swa_cli.errors import CheckpointError
from swa_cli.formats.tensor_layout import StoredTensor
from swa_cli.system.storage import RandomAccess, Stamp, open_file, storage_of

_MOST_OPEN = 256
_SLACK = 1024
"""Bytes between rows that are read along rather than skipped."""
_WIDEST_SPAN = 1 << 23
"""Bytes of a tensor that is not contiguous which are read at once (8 MiB)."""


class OpenFiles:
    """Reads at offsets, from any thread; keeps files open as far as the limit on descriptors allows.

    Used with ``with``; the files are closed at its end.

    Args:
        stamps: of the files when their headers were read. A file that has another one by now is an error.
    """

    def __init__(self, stamps: Mapping[PurePath, Stamp] | None = None, *, limit: int | None = None) -> None:
        self._stamps = stamps or {}
        self._limit = min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3) if limit is None else limit
        self._open: dict[PurePath, RandomAccess] = {}
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def read(self, path: PurePath, offset: int, views: Sequence[memoryview], what: str) -> None:
        """Fill ``views`` (of bytes), one after the other, with what the file holds from ``offset`` on.

        Args:
            what: name of the tensor, for the message.

        Raises:
            CheckpointError: the file ends early, cannot be read, or was changed since its header was read.
        """
        try:
            file = self._open.get(path) or self._keep(path)
            if file is not None:
                missing = file.read_into(offset, views)
            else:
                with self._open_same(path) as file:
                    missing = file.read_into(offset, views)
        except OSError as error:
            msg = f"{path}: cannot read tensor {what}: {error.strerror or error}."
            raise CheckpointError(msg) from error
        if missing:
            size = sum(len(view) for view in views)
            msg = (
                f"{path}: tensor {what} ends beyond the end of the file: expected {size} bytes at "
                f"offset {offset}, found {size - missing}. The file is truncated; copy or save it again."
            )
            raise CheckpointError(msg)

    def _keep(self, path: PurePath) -> RandomAccess | None:
        with self._lock:
            if path not in self._open and len(self._open) < self._limit:
                self._open[path] = self._open_same(path)
            return self._open.get(path)

    def _open_same(self, path: PurePath) -> RandomAccess:
        return open_same(path, self._stamps.get(path))

    def check_unchanged(self) -> None:
        """Find out whether what was read is what is there still.

        Raises:
            CheckpointError: a file was changed, replaced or removed since its header was read.
        """
        for path, stamp in self._stamps.items():
            try:
                unchanged = storage_of(path).stamp(path) == stamp
            except OSError:
                unchanged = False
            if not unchanged:
                raise CheckpointError(changed(path))


def open_same(path: PurePath, stamp: Stamp | None) -> RandomAccess:
    """Open a file that must still have ``stamp``; None accepts any.

    Raises:
        CheckpointError: the file was changed or replaced.
        OSError: it cannot be opened.
    """
    file = open_file(path)
    if stamp is not None and file.stamp != stamp:
        file.close()
        raise CheckpointError(changed(path))
    return file


def changed(path: PurePath) -> str:
    """What to say of a file that is no longer what it was."""
    return f"{path} was changed while it was read. Wait until the run no longer writes it, and start again."


def read_tensor(
    files: OpenFiles, path: PurePath, stored: StoredTensor, into: npt.NDArray[np.generic], what: str
) -> None:
    """Read a tensor of any stride into ``into``, an array of its shape and dtype, which may be strided itself.

    What lies between the elements is not read, but for gaps too small to be worth a call.

    Raises:
        CheckpointError: as `OpenFiles.read`.
    """
    shape, stride = stored.spec.shape, stored.stride
    size, span, itemsize = stored.spec.nbytes, stored.span, stored.spec.dtype.itemsize
    if size == 0:
        return
    widest = max(range(len(shape)), key=lambda axis: (shape[axis] - 1) * stride[axis], default=0)
    length, row = (shape[widest], stride[widest] * itemsize) if span > itemsize else (1, 0)
    dense = span <= size or row - stored.narrow(widest, 0, 1).span <= _SLACK
    if length == 1 or (dense and span <= _WIDEST_SPAN):
        data = bytearray(span)
        files.read(path, stored.offset, [memoryview(data)], what)
        strides = tuple(step * itemsize if n > 1 else 0 for step, n in zip(stride, shape, strict=True))
        into[...] = np.ndarray(shape, stored.spec.dtype, data, strides=strides)
        return
    step = min(max(1, _WIDEST_SPAN // row), -(-length // 2)) if dense else 1
    for first in range(0, length, step):
        last = min(length, first + step)
        part = into[(slice(None),) * widest + (slice(first, last),)]
        read_tensor(files, path, stored.narrow(widest, first, last), part, what)
