"""Files behind a URL, read through fsspec_: object stores, web servers, other machines.

.. _fsspec: https://filesystem-spec.readthedocs.io
"""

import errno
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from types import TracebackType
from typing import Any, Protocol, Self, cast, final

from swa_cli.system.storage.protocol import Entry, Stamp

_BLOCK = 1 << 26
"""Bytes that are fetched at once (64 MiB)."""
_VERSIONS = (
    *("ETag", "etag", "VersionId", "version_id", "generation", "blob_id", "md5Hash", "content_md5", "Content-MD5"),
    *("Digest", "CRC", "LastModified", "last_modified", "Last-Modified", "updated", "mtime", "modified", "created"),
)
"""The names by which file systems of fsspec say which version of a file there is."""
_REASONS = (
    (FileNotFoundError, errno.ENOENT),
    (PermissionError, errno.EACCES),
    (IsADirectoryError, errno.EISDIR),
    (NotADirectoryError, errno.ENOTDIR),
    (TimeoutError, errno.ETIMEDOUT),
)


class _FileSystem(Protocol):
    """What is used of ``fsspec.AbstractFileSystem``."""

    def info(self, path: str) -> Mapping[str, Any]: ...
    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes: ...
    def ls(self, path: str, *, detail: bool) -> list[Mapping[str, Any]]: ...
    def find(self, path: str) -> list[str]: ...
    def invalidate_cache(self, path: str | None = None) -> None: ...


@final
class RemoteFile:
    """A file of which ranges of bytes are asked for, each by a request of its own."""

    def __init__(self, path: PurePath, file_system: _FileSystem, where: str, stamp: Stamp) -> None:
        self._path, self._file_system, self._where = path, file_system, where
        self.stamp = stamp

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
        stop = min(offset + length, self.size)
        if offset >= stop:  # which servers refuse
            return b""
        with _as_os_error(self._path):
            return self._file_system.cat_file(self._where, start=offset, end=stop)[: stop - offset]

    def read_into(self, offset: int, views: Sequence[memoryview]) -> int:
        """See `RandomAccess`."""
        missing, data = sum(map(len, views)), memoryview(b"")
        for view in views:
            done = 0
            while done < len(view):
                if not data:
                    data = memoryview(self.read(offset, min(missing, _BLOCK)))
                    if not data:
                        return missing
                count = min(len(data), len(view) - done)
                view[done : done + count] = data[:count]
                data = data[count:]
                offset, done, missing = offset + count, done + count, missing - count
        return 0

    def close(self) -> None:
        """Do nothing: no connection belongs to one file."""


@final
class RemoteStorage:
    """All file systems that fsspec knows, each by the scheme of its URLs.

    Credentials and other options come from where fsspec looks for them: its configuration, the environment.
    """

    def open(self, path: PurePath) -> RemoteFile:
        """See `Storage`."""
        with _as_os_error(path):
            file_system, where = _find(path)
        return RemoteFile(path, file_system, where, self.stamp(path))

    def stamp(self, path: PurePath) -> Stamp:
        """See `Storage`."""
        info = self._info(path)
        if info.get("type") == "directory":
            raise OSError(errno.EISDIR, "it is a directory, not a regular file", str(path))
        size = info.get("size")
        if not isinstance(size, int):
            raise OSError(errno.EINVAL, "its size is not known", str(path))
        return Stamp(size, " ".join(f"{key}={info[key]}" for key in _VERSIONS if key in info), str(path))

    def exists(self, path: PurePath) -> bool:
        """See `Storage`."""
        try:
            self._info(path)
        except FileNotFoundError:
            return False
        return True

    def listing(self, path: PurePath) -> list[Entry]:
        """See `Storage`."""
        with _as_os_error(path):
            file_system, where = _find(path)
            found = [(str(info["name"]).rstrip("/"), info["type"]) for info in file_system.ls(where, detail=True)]
        return [
            Entry(path / name.rpartition("/")[2], kind == "file", kind == "directory")
            for name, kind in found
            if name != where.rstrip("/")  # a placeholder of the directory itself
        ]

    def files_below(self, path: PurePath) -> Iterator[PurePath]:
        """See `Storage`."""
        with _as_os_error(path):
            file_system, where = _find(path)
            found = file_system.find(where)
        yield from (path / name[len(where) :].lstrip("/") for name in found)

    def _info(self, path: PurePath) -> Mapping[str, Any]:
        with _as_os_error(path):
            file_system, where = _find(path)
            file_system.invalidate_cache(where)  # of listings, which would hide a change
            return file_system.info(where)


def _find(path: PurePath) -> tuple[_FileSystem, str]:
    from fsspec import core  # noqa: PLC0415  # slow to import, and most checkpoints are local

    if "::" in str(path).partition("://")[2]:  # would lead elsewhere, and may be in a name that a file gives
        raise OSError(errno.EINVAL, "a name in a URL holds no '::'", str(path))
    return cast("tuple[_FileSystem, str]", core.url_to_fs(str(path)))


@contextmanager
def _as_os_error(path: PurePath) -> Generator[None]:
    """Raise what a file system raises, which can be anything, as an OSError with a reason in words."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise
        number = next((number for kind, number in _REASONS if isinstance(error, kind)), None)
        reason = os.strerror(number) if number else str(error).strip().partition("\n")[0] or type(error).__name__
        raise OSError(number or errno.EIO, reason.rstrip("."), str(path)) from error
