"""Files of this machine, read with ``preadv``."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from types import TracebackType
from typing import Self, final

from swa_cli.system.regular_files import open_regular
from swa_cli.system.storage.protocol import Entry, Stamp

_MOST_VIEWS = 1024  # IOV_MAX


@final
class LocalFile:
    """An open file, by its descriptor, which `close` closes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.stamp = _stamp(os.fstat(descriptor))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """See `RandomAccess`."""
        return self.stamp.size

    def read(self, offset: int, length: int) -> bytes:
        """See `RandomAccess`."""
        data = os.pread(self._descriptor, length, offset)
        while 0 < len(data) < length and (
            more := os.pread(self._descriptor, length - len(data), offset + len(data))
        ):  # the system reads 2 GiB at once, and a network file system less
            data += more
        return data

    def read_into(self, offset: int, views: Sequence[memoryview]) -> int:
        """See `RandomAccess`."""
        at, done = 0, 0  # the view that is being filled, and how much of it is
        while at < len(views):
            batch = [views[at][done:], *views[at + 1 : at + _MOST_VIEWS]] if done else views[at : at + _MOST_VIEWS]
            count = os.preadv(self._descriptor, batch, offset)
            if count == 0:
                return sum(len(view) for view in views[at:]) - done
            offset += count
            done += count
            while at < len(views) and done >= len(views[at]):
                done -= len(views[at])
                at += 1
        return 0

    def close(self) -> None:
        """See `RandomAccess`."""
        os.close(self._descriptor)


@final
class LocalStorage:
    """The file systems of this machine: regular files only, and links are followed."""

    def open(self, path: PurePath) -> LocalFile:
        """See `Storage`."""
        return LocalFile(open_regular(Path(path)))

    def stamp(self, path: PurePath) -> Stamp:
        """See `Storage`; anything has a stamp here."""
        return _stamp(os.stat(path))  # noqa: PTH116  # a path of no class in particular

    def exists(self, path: PurePath) -> bool:
        """See `Storage`."""
        return Path(path).exists()

    def listing(self, path: PurePath) -> list[Entry]:
        """See `Storage`."""
        with os.scandir(path) as found:
            return [Entry(path / entry.name, entry.is_file(), entry.is_dir()) for entry in found]

    def files_below(self, path: PurePath) -> Iterator[PurePath]:
        """See `Storage`; links to directories are not followed."""
        for above, _, names in os.walk(path):
            for name in names:
                yield Path(above, name)


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))
