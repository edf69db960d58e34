"""Publishing a folder of files: all of them or none."""

import ctypes
import errno
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from swa_cli.errors import OutputError, option, shortened
from swa_cli.system import temporary_paths
from swa_cli.system.atomic_file import check_space, explained, sync_folder, written

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


def check_folder(target: Path, *, overwrite: bool, ours: Iterable[str] | None) -> None:
    """Find out before the work starts whether the folder ``target`` could be published.

    Args:
        ours: names of the files in ``target`` that an earlier run put there; None if none did. Nothing else is ever
            removed with it.

    Raises:
        OutputError: there is something else at ``target``, or ``overwrite`` is false, or the folder above it is
            missing or not writable.
    """
    if "\0" in str(target):
        msg = f"cannot write {str(target)!r}: a file name holds no null character."
        raise OutputError(msg)
    above = written(target).parent
    if not above.is_dir():
        msg = f"cannot write {target}: there is no directory {above}. Make it first, or name another output."
        raise OutputError(msg)
    if not os.access(above, os.W_OK | os.X_OK):
        msg = f"cannot write {target}: no permission to write in {above}."
        raise OutputError(msg)
    if not target.exists():
        return
    if not target.is_dir():
        msg = f"cannot write {target}: it is a file, and the output is a directory. Name another output."
        raise OutputError(msg)
    there = sorted(path.name for path in target.iterdir())
    if not there:
        return
    if ours is None:
        msg = (
            f"cannot write {target}: the directory holds files that swa-cli did not write ({shortened(there)}). "
            "Name a directory that is not there yet."
        )
        raise OutputError(msg)
    if not overwrite:
        msg = f"{target} exists already. Name another output, or replace it with {option('force', True)}."
        raise OutputError(msg)
    written_by_us = {name for name in ours if (target / name).is_file()}
    others = sorted(set(there) - written_by_us)
    if others:
        msg = (
            f"cannot replace {target}: it holds files that swa-cli did not put there ({shortened(others)}). Move them "
            "away, or name another output."
        )
        raise OutputError(msg)


@contextmanager
def publish_folder(target: Path, check: Callable[[], None], *, size: int = 0) -> Generator[Path]:
    """Fill a folder so that at any moment ``target`` is either absent, the old one whole, or the new one whole.

    The body gets a hidden temporary folder beside ``target``, and must sync the files that it writes there. When the
    body ends the two change places, and what was there before is removed; when it raises, the temporary folder is.

    Args:
        check: raises if what is at ``target`` is not to be replaced.
        size: bytes that must fit on the disk.

    Raises:
        OutputError: the system refuses.
    """
    place = written(target)
    temporary_paths.clear(place)
    check()
    check_space(target, size)
    with explained(place), temporary_paths.temporary(place, folder=True) as (temporary, _):
        yield temporary
        sync_folder(temporary)
        check()
        _put_in_place(temporary, place)
        sync_folder(place.parent)


def _put_in_place(new: Path, target: Path) -> None:
    try:
        new.rename(target)  # also over an empty folder
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
    else:
        return
    try:
        _exchange(new, target)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        _replace_in_two_steps(new, target)
    else:
        temporary_paths.remove(new)  # where the old one is now


def _exchange(first: Path, second: Path) -> None:
    """Let two names change places at once (Linux: ``renameat2``)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _replace_in_two_steps(new: Path, target: Path) -> None:
    """Where names cannot change places; if this run is killed between the steps, the next one undoes the first."""
    old = temporary_paths.beside(target, temporary_paths.REPLACED)
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        temporary_paths.lock(descriptor, wait=True)  # so that no other run undoes it
        try:
            target.rename(old)
            new.rename(target)
        except BaseException:
            if not os.path.lexists(target) and old.exists():
                old.rename(target)
            raise
        temporary_paths.remove(old)
    finally:
        os.close(descriptor)
