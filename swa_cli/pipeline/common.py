"""Functions that the steps share: required options, reports, selections, opening an average."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from swa_cli.checkpoints import Selection, open_single
from swa_cli.config.reporters import REPORTERS
from swa_cli.config.schema import AverageConfig, EvalConfig
from swa_cli.errors import UsageError, option
from swa_cli.formats import SUFFIXES, Checkpoint, recorded_key
from swa_cli.system.atomic_file import check_output
from swa_cli.system.process_group import world_size
from swa_cli.system.regular_files import open_stream

Notify = Callable[[str], None]

T = TypeVar("T")


def only_process(command: str) -> None:
    """Refuse to be one of several ranks.

    Raises:
        UsageError: torchrun started several.
    """
    if world_size() > 1:
        msg = (
            f"swa {command} runs as one process, and torchrun started several. swa average, swa bn-update and swa eval "
            "can run as several."
        )
        raise UsageError(msg)


def require(value: T | None, what: str, *, key: str, example: str | None = None) -> T:
    """Return ``value``, or raise an error that says how to give it.

    Args:
        key: the key in the configuration.
        example: a value for the message.

    Raises:
        UsageError: ``value`` is missing or empty.
    """
    if not value:
        section, _, name = key.partition(".")
        named = option(section if name == "class_path" else name, example)
        msg = f"no {what} given: name it with {named}, or as {key} in the configuration."
        raise UsageError(msg)
    return value


def check_report(path: Path | None, name: str) -> None:
    """Check, before the work starts, that a report can be written; an existing report will be replaced.

    Args:
        path: the file; None for no report, ``-`` for standard output.
        name: name of the option, which is that of the reporter.

    Raises:
        UsageError: the path has the suffix of a checkpoint, or names an existing file that is no such report.
        OutputError: the file cannot be written.
    """
    if path is None or str(path) == "-":
        return
    if path.name.endswith(SUFFIXES):
        msg = f"{option(name)} {path}: that is the name of a checkpoint, which would be replaced. Name another file."
        raise UsageError(msg)
    check_output(path, overwrite=True)
    start = REPORTERS[name].start if name in REPORTERS else b""
    if path.is_file() and not _starts_with(path, start):
        msg = f"{option(name)} {path}: that file exists and is not {name.upper()}. Name another one."
        raise UsageError(msg)


def _starts_with(path: Path, start: bytes) -> bool:
    """Return whether the file starts with ``start``, is empty, or cannot be read (which is reported elsewhere)."""
    with suppress(OSError), open_stream(path) as file:
        return file.read(len(start)) in {start, b""}
    return True


def open_average(path: Path, *, key: str | None) -> Checkpoint:
    """Open an average, by its file or its directory.

    Args:
        key: path of its state_dict; None: the one in its provenance, or else a usual one.

    Raises:
        SourceError, CheckpointError: as `open_single`.
    """
    return open_single(path, key=key or recorded_key(path))


def selection_of(options: AverageConfig | EvalConfig) -> Selection:
    """Return the selection of a section.

    Raises:
        UsageError: its options contradict each other.
    """
    return Selection(**{field.name: getattr(options, field.name) for field in fields(Selection)})
