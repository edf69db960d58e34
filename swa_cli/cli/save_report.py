"""Saving a report to a file, whole or not at all, or to standard output."""

from collections.abc import Callable
from pathlib import Path

from swa_cli.cli.terminal import write
from swa_cli.errors import OutputError
from swa_cli.system.atomic_file import publish
from swa_cli.system.torchrun import is_reporting_rank
from swa_cli.text import visible_lines


def is_stdout(target: Path | None) -> bool:
    """Return whether the target is ``-``, standard output, which then has nothing but the report."""
    return str(target) == "-"


def save(target: Path | None, render: Callable[[], str], *, otherwise: str = "") -> None:
    """Write the text that ``render`` returns to ``target``, or print it for ``-``; do nothing for None.

    Of several ranks one writes. Call this before anything is printed, so that a broken terminal cannot lose the file.

    Args:
        otherwise: what was written nevertheless, for the message of an error.

    Raises:
        OutputError: the file cannot be written.
    """
    if target is None or not is_reporting_rank():
        return
    if is_stdout(target):
        write(visible_lines(render()))
        return
    try:
        with publish(target, overwrite=True) as stream:
            stream.write(visible_lines(render()).encode())
    except OutputError as error:
        raise OutputError(*error.args[:-1], " ".join(filter(None, (error.args[-1], otherwise)))) from error
