"""Temporary files and folders beside a target: named, locked while in use, and cleared away once nobody uses them.

The lock is the system's (``flock``), which ends with the process however it ends: what is not locked was left by a run
that was killed. A file system that has no such locks keeps what is left there.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from swa_cli.system.regular_files import open_regular

TEMPORARY = ".tmp"
REPLACED = ".old"

_NAME = 50  # of the target's name in the temporary one's, which must not grow too long


def beside(target: Path, kind: str = TEMPORARY) -> Path:
    """A hidden name in the folder of ``target`` that no other run has."""
    return target.with_name(f".{_short(target.name)}.{os.getpid()}-{secrets.token_hex(4)}{kind}")


def _short(name: str) -> str:
    """A name that is not too long, and no other one's."""
    return name if len(name) <= _NAME else f"{name[:_NAME]}~{zlib.crc32(os.fsencode(name)):08x}"


@contextmanager
def temporary(target: Path, *, folder: bool = False) -> Generator[tuple[Path, int]]:
    """A new file (or folder) for what is to be moved to ``target``, and a descriptor that holds its lock.

    It is removed if the body raises. Permissions are those of the umask and default ACLs, as for any file that a
    program makes.

    Raises:
        OSError: it cannot be made.
    """
    path, descriptor = beside(target), -1
    try:  # from here on a signal finds the name
        descriptor = _create(path, folder=folder)
        # Another run may have found it before it was locked, and cleared it away.
        while lock(descriptor, wait=True) is not None and not _is_still(path, descriptor):
            os.close(descriptor)
            descriptor = _create(path, folder=folder)
        yield path, descriptor
    except BaseException:
        remove(path)
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _create(path: Path, *, folder: bool) -> int:
    if not folder:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    while True:
        path.mkdir()
        with suppress(FileNotFoundError):  # another run found it before it was open, and cleared it away
            return _open_folder(path)


def clear(target: Path) -> None:
    """Remove what killed runs left for ``target``; put the previous output back if one was killed while swapping."""
    for path in _left_for(target):
        with suppress(OSError):  # it may be gone already, or not be ours to remove
            _clear(path, target)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _left_for(target: Path) -> list[Path]:
    kinds = f"{re.escape(TEMPORARY)}|{re.escape(REPLACED)}"
    pattern = re.compile(rf"\.{re.escape(_short(target.name))}\.\d+-[0-9a-f]{{8}}(?:{kinds})")
    with suppress(OSError):
        return sorted(path for path in target.parent.iterdir() if pattern.fullmatch(path.name))
    return []


def _clear(path: Path, target: Path) -> None:
    is_file = stat.S_ISREG(path.lstat().st_mode)
    descriptor = open_regular(path, follow=False) if is_file else _open_folder(path)
    try:
        locked = lock(descriptor, wait=False)
        if path.name.endswith(REPLACED) and not os.path.lexists(target) and locked is not False:
            path.rename(target)
        elif locked:
            remove(path)
    finally:
        os.close(descriptor)


def _open_folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock an open file or folder for as long as it stays open: whether that was done, or None without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in {errno.EWOULDBLOCK, errno.EACCES} else None
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
