"""A report as text: in a file, whole or not at all, or alone on standard output."""

from collections.abc import Callable
from pathlib import Path

from swa_cli.cli.terminal import write
from swa_cli.errors import OutputError
from swa_cli.system.atomic_file import publish
from swa_cli.system.process_group import is_reporting_rank
from swa_cli.text import visible_lines


def is_stdout(target: Path | None) -> bool:
    """Whether ``-`` was given: the report is then all that standard output has."""
    return str(target) == "-"


def save(target: Path | None, render: Callable[[], str], *, otherwise: str = "") -> None:
    """Write what ``render`` gives to ``target``, or print it for ``-``; nothing for None. Of several ranks one writes.

    To be called before anything is printed, so that nothing that happens to the terminal can lose the file.

    Args:
        otherwise: what the user has all the same if it cannot be written.

    Raises:
        OutputError: it cannot be written.
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
