"""What a place that holds files offers, be it the local disk or an object store."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from types import TracebackType
from typing import NamedTuple, Protocol, Self


class Stamp(NamedTuple):
    """What a file was when it was opened: a file that changed since has another stamp."""

    size: int
    version: int | str
    """The time of its last change in nanoseconds, or what the object store calls its version."""
    identity: tuple[int, int] | str
    """Device and inode, by which two paths of one file are known; the URL of a remote file."""


class Entry(NamedTuple):
    """A file or directory in a listing; links are followed."""

    path: PurePath
    is_file: bool
    is_directory: bool


class RandomAccess(Protocol):
    """An open file, read at any offset and from any thread; closed at the end of a ``with``."""

    @property
    def stamp(self) -> Stamp:
        """The stamp of the file when it was opened."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the file when it was opened."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on, or fewer where the file ends.

        Raises:
            OSError: the bytes cannot be read.
        """
        ...

    def read_into(self, offset: int, views: Sequence[memoryview]) -> int:
        """Fill ``views`` (of bytes), one after the other, with the bytes from ``offset`` on.

        Returns:
            The number of bytes that the file lacks.

        Raises:
            OSError: the bytes cannot be read.
        """
        ...

    def close(self) -> None:
        """Release what the open file holds."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """A place that holds files. Each method raises OSError, with the reason in ``strerror``."""

    def open(self, path: PurePath) -> RandomAccess:
        """Open a file for reading; anything but a regular file is refused."""
        ...

    def stamp(self, path: PurePath) -> Stamp:
        """Return the present stamp of a file without opening it."""
        ...

    def exists(self, path: PurePath) -> bool:
        """Return whether there is a file or directory."""
        ...

    def listing(self, path: PurePath) -> list[Entry]:
        """Return what lies directly in a directory, in no particular order."""
        ...

    def files_below(self, path: PurePath) -> Iterator[PurePath]:
        """Yield the files in a directory and in all directories below it; those that cannot be read are left out."""
        ...
