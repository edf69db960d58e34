"""Standard output for results, standard error for the rest, and one way for every failure to end."""

import os
import signal
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager

import typer
from rich.console import Console

from swa_cli.errors import SwaError
from swa_cli.progress import Advance, Unit

INTERRUPTED = 130
_WIDTH_OF_FILES = 120


def stdout() -> Console:
    """Where results go; a file or a pipe gets lines wide enough for a table of long names."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return Console(highlight=False, width=width)


def stderr() -> Console:
    """Where everything else goes."""
    return Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Print a line of the result; long lines are left to the terminal."""
    stdout().print(message, markup=False, soft_wrap=True)


def notify(message: str) -> None:
    """Tell the user something worth knowing that is not the result."""
    _print_labelled("note", "yellow", message)


@contextmanager
def exit_on_error(*, debug: bool) -> Generator[None]:
    """End on any failure with one message and an exit code.

    The code is that of the error (1, or 2 for usage), 130 for Ctrl-C, 143 for a termination signal, 1 for a bug of
    our own. With ``debug`` the traceback comes first.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except SwaError as error:
        _show_traceback(debug)
        _print_labelled("error", "bold red", str(error))
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        _show_traceback(debug)
        _print_labelled("error", "bold red", "interrupted; the output was not written.")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # noqa: BLE001  # the last resort: a bug still ends in one message
        _show_traceback(debug)
        kind = type(error).__name__
        hint = "" if debug else " Please report it with what --debug shows."
        _print_labelled("error", "bold red", f"a bug in swa-cli: {kind}: {error}.{hint}")
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: object) -> None:
    """End by an exception, so that `finally` runs and no temporary file is left."""
    del frame
    sys.exit(128 + number)


@contextmanager
def track(description: str, *, total: int | None, unit: Unit) -> Generator[Advance]:
    """A progress bar on standard error, where that is a terminal."""
    from rich.progress import (  # noqa: PLC0415  # not needed for --help
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    )
    console = stderr()
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)


def _print_labelled(label: str, style: str, message: str) -> None:
    console = stderr()
    console.print(f"{label}:", style=style, end=" ")
    console.print(message, markup=False, soft_wrap=True)


def _show_traceback(debug: bool) -> None:  # noqa: FBT001
    if debug:
        traceback.print_exc()
