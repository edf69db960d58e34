"""Publishing a file: whole or not at all."""

import errno
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from swa_cli.errors import OutputError, option
from swa_cli.system import temporary_paths

_WORTH_SENDING = 1 << 18  # bytes


def check_output(target: Path, *, overwrite: bool) -> None:
    """Find out before the work starts whether ``target`` could be published.

    Raises:
        OutputError: ``target`` exists and ``overwrite`` is false, is not a regular file, or its folder is
            missing or not writable.
    """
    try:
        _check_output(target, overwrite=overwrite)
    except (OSError, ValueError) as error:  # ValueError: a null character
        msg = f"cannot write {target}: {getattr(error, 'strerror', None) or 'a file name holds no null character'}."
        raise OutputError(msg) from error


def _check_output(target: Path, *, overwrite: bool) -> None:
    folder, end = target.parent, written(target)
    if not folder.is_dir():
        msg = f"cannot write {target}: there is no directory {folder}. Make it first, or name another output."
        raise OutputError(msg)
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "not a regular file"
        msg = f"cannot write {target}: it is {kind}. Name a file to be written."
        raise OutputError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already. Name another output, or replace it with {option('force', True)}."
        raise OutputError(msg)
    if end.is_symlink():
        msg = f"cannot write {target}: it is a symbolic link that leads to itself. Remove it, or name another output."
        raise OutputError(msg)
    if not end.parent.is_dir():
        msg = (
            f"cannot write {target}: it is a symbolic link to {end}, and there is no directory {end.parent}. Make it "
            "first, or name another output."
        )
        raise OutputError(msg)
    if not os.access(end.parent, os.W_OK | os.X_OK):
        msg = f"cannot write {target}: no permission to write in {end.parent if target.is_symlink() else folder}."
        raise OutputError(msg)


def check_space(target: Path, size: int) -> None:
    """Find out before the work starts whether ``size`` bytes fit on the disk of ``target``.

    Raises:
        OutputError: they do not.
    """
    free = shutil.disk_usage(written(target).parent).free
    if size > free:
        msg = (
            f"cannot write {target}: it takes {size:,} bytes, and {free:,} are free there. Free some space or name "
            "another place."
        )
        raise OutputError(msg)


@contextmanager
def publish(target: Path, *, overwrite: bool, size: int = 0) -> Generator[BinaryIO]:
    """Write ``target`` so that at any moment it is either absent, the old file whole, or the new one whole.

    The body writes to a hidden temporary file in the same folder; it is synced and renamed over ``target``
    when the body ends, and removed when the body raises anything, KeyboardInterrupt included. What runs that were
    killed left for ``target`` is removed first. Permissions are those of the umask.

    Args:
        size: bytes that must fit on the disk.

    Raises:
        OutputError: as `check_output`; also when a write fails (a full disk, a quota).
    """
    check_output(target, overwrite=overwrite)
    check_space(target, size)
    target = written(target)
    temporary_paths.clear(target)
    with explained(target), temporary_paths.temporary(target) as (temporary, descriptor):
        with os.fdopen(descriptor, "w+b", closefd=False) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        check_output(target, overwrite=overwrite)
        temporary.replace(target)
        sync_folder(target.parent)


def writer_at(descriptor: int) -> Callable[[int, memoryview], None]:
    """A function that puts bytes at an offset of an open file, from any thread.

    What is written is on its way to the disk at once, so that the sync at the end has little left to wait for.
    """

    def write(offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += os.pwrite(descriptor, view[done:], offset + done)
        if len(view) >= _WORTH_SENDING:
            with suppress(OSError):
                os.posix_fadvise(descriptor, offset, len(view), os.POSIX_FADV_DONTNEED)

    return write


def written(target: Path) -> Path:
    """The file that is written: through a symbolic link the one it names, as an in-place edit would go."""
    return Path(os.path.realpath(target))


def sync_folder(folder: Path) -> None:
    """See to it that the names in ``folder`` are on the disk; some file systems cannot."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def explained(target: Path) -> Generator[None]:
    """Turn what the system says within the body into an error about ``target``.

    Raises:
        OutputError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        what = "; free some space or name another place" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        msg = f"cannot write {target}: {reason}. Nothing was left behind{what}."
        raise OutputError(msg) from error
