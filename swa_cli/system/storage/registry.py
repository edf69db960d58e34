"""The storage of a path, by the scheme of its URL."""

import errno
from contextlib import suppress
from pathlib import PurePath

from swa_cli.system.storage.local import LocalStorage
from swa_cli.system.storage.protocol import RandomAccess, Storage
from swa_cli.system.storage.remote import RemoteStorage
from swa_cli.system.storage.url import Url

_LOCAL, _REMOTE = LocalStorage(), RemoteStorage()


def storage_of(path: PurePath) -> Storage:
    """Return the storage that holds ``path``: fsspec for a `Url`, this machine for any other path."""
    return _REMOTE if isinstance(path, Url) else _LOCAL


def open_file(path: PurePath) -> RandomAccess:
    """Open a file for reading.

    Raises:
        OSError: the file cannot be opened, or is not a regular one; ``strerror`` has the reason.
    """
    return storage_of(path).open(path)


def is_there(path: PurePath) -> bool:
    """Return whether there is a file or directory at ``path``; False as well if that cannot be found out."""
    with suppress(OSError):
        return storage_of(path).exists(path)
    return False


def read_file(path: PurePath, *, most: int | None = None) -> bytes:
    """Return the contents of a file.

    Args:
        most: the largest size in bytes that is accepted; None for any size.

    Raises:
        OSError: as `open_file`, or the file is larger; ``strerror`` has the reason.
    """
    with open_file(path) as file:
        if most is not None and file.size > most:
            raise OSError(errno.EFBIG, f"it holds {file.size:,} bytes, expected at most {most:,}", str(path))
        return file.read(0, file.size)
