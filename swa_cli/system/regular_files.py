"""Opening files to read them: regular files only.

Opening a FIFO waits for a writer, and opening or reading a device can change it. Every file that is read is opened
here.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, *, follow: bool = True) -> int:
    """Open a regular file for reading and return its descriptor.

    Its kind is checked before it is opened, and again on the descriptor: what takes its place in between neither
    blocks nor is read.

    Args:
        follow: go through a symbolic link at the end of the path.

    Raises:
        OSError: it cannot be opened, or is not a regular file; ``strerror`` says so.
    """
    try:
        _check_regular(path, os.stat(path, follow_symlinks=follow))  # noqa: PTH116  # one call for both
    except ValueError as error:
        raise OSError(errno.EINVAL, "a file name holds no null character", str(path)) from error
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        _check_regular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_stream(path: Path) -> BinaryIO:
    """Open a regular file for reading as a stream of bytes.

    Raises:
        OSError: as `open_regular`.
    """
    return os.fdopen(open_regular(path), "rb")


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """Return the contents of a regular file.

    Args:
        most: bytes that it may hold; None for any number.

    Raises:
        OSError: as `open_regular`, or the file is larger; ``strerror`` says so.
    """
    with open_stream(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it holds {size:,} bytes, expected at most {most:,}", str(path))
        return stream.read(size)


def _check_regular(path: Path, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        number = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
        raise OSError(number, f"it is {_KINDS.get(kind, 'a symbolic link')}, not a regular file", str(path))
