"""What the steps share: asking for what must be there or what is selected, opening an average."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from swa_cli.checkpoints import Checkpoint, Selection, open_single
from swa_cli.config import AverageConfig, EvalConfig
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


def selection_of(options: AverageConfig | EvalConfig) -> Selection:
    """What a section says of which checkpoints are meant.

    Raises:
        UsageError: it contradicts itself.
    """
    return Selection(**{field.name: getattr(options, field.name) for field in fields(Selection)})
