"""What the steps share: asking for what must be there, opening an average."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from swa_cli.checkpoints import Checkpoint, open_single
from swa_cli.errors import CheckpointError, UsageError

Notify = Callable[[str], None]

T = TypeVar("T")


def needed(value: T | None, what: str, *, flag: str, key: str) -> T:
    """``value``, or an error that says how to give it.

    Raises:
        UsageError: ``value`` is missing or empty.
    """
    if not value:
        msg = f"no {what} given: name it with {flag}, or as {key} in the configuration."
        raise UsageError(msg)
    return value


def open_average(path: Path, *, key: str | None) -> Checkpoint:
    """Open an average, by its file or its folder.

    Args:
        key: that of the checkpoints; an average may be a file without any.

    Raises:
        SourceError, CheckpointError: as `open_single`.
    """
    try:
        return open_single(path, key=key)
    except CheckpointError:
        if key is None:
            raise
        return open_single(path)
