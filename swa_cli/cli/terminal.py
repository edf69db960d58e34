"""Standard output for results, standard error for the rest, and one way for every failure to end."""

import io
import os
import signal
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout

import typer
from rich.console import Console, RenderableType

from swa_cli.errors import SwaError, Terminated
from swa_cli.progress import Advance, Unit
from swa_cli.ranks import speaks, tells_the_end, world_size

INTERRUPTED = 130
_WIDTH_OF_FILES = 120


class _Console(Console):
    """rich ends the program itself when a pipe breaks; `exit_on_error` is to do that."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def stdout() -> Console:
    """Where results go; a file or a pipe gets lines wide enough for a table of long names."""
    terminal = sys.stdout is not None and sys.stdout.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    width = None if terminal or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return _Console(highlight=False, emoji=False, markup=False, width=width)


def stderr() -> Console:
    """Where everything else goes."""
    return _Console(stderr=True, highlight=False, emoji=False, markup=False)


def say(message: str) -> None:
    """Print a line of the result; long lines are left to the terminal. Of several ranks one speaks."""
    if not speaks():
        return
    stdout().print(_visible(message), soft_wrap=True)


def show(what: RenderableType) -> None:
    """Print a table of the result. Of several ranks one speaks."""
    if speaks():
        stdout().print(what)


def notify(message: str) -> None:
    """Tell the user something worth knowing that is not the result."""
    if speaks():
        _print_labelled("note", "yellow", message)


def caution(message: str) -> None:
    """Tell the user that the result is most likely useless."""
    if speaks():
        _print_labelled("warning", "bold red", message)


@contextmanager
def exit_on_error(*, debug: bool) -> Generator[None]:
    """End on any failure with one message and an exit code.

    The code is that of the error (1, or 2 for usage), 130 for Ctrl-C, 128 + number for a signal that ends us, 1 for
    a bug of our own. With ``debug`` the traceback comes first.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what is no Unicode
    previous = {number: signal.signal(number, _terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except typer.Exit:
        raise
    except BaseException as error:  # noqa: BLE001  # the last resort: whatever happened ends in one message
        for number in previous:
            signal.signal(number, signal.SIG_IGN)  # torchrun sends one when another rank ends, and we are about to
        # torch raises at the end of a loader's worker, wherever we are.
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if debug:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):  # whoever read our output has gone, and wants no message
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            words = _in_words(error, debug=debug)
            if tells_the_end():
                _print_labelled("error", "bold red", words)
        raise typer.Exit(_exit_code(error)) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def only_results_on_stdout() -> Generator[None]:
    """Within the body, what a user's model or data module prints goes to standard error."""
    with redirect_stdout(sys.stderr):
        yield


def _exit_code(error: BaseException) -> int:
    if isinstance(error, (SwaError, Terminated)):
        return error.exit_code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _in_words(error: BaseException, *, debug: bool) -> str:
    hint = "" if debug else " Please report it with what --debug shows."
    words = f"a bug in swa-cli: {type(error).__name__}: {error}.{hint}"
    if isinstance(error, SwaError):
        words = str(error)
    elif isinstance(error, (KeyboardInterrupt, Terminated, GeneratorExit)):  # the last where a signal came at our end
        words = "interrupted; nothing was left half-written."
        if world_size() > 1:
            words = "interrupted, as all ranks are when another rank ended; nothing was written."
    elif isinstance(error, MemoryError):
        words = "out of memory; nothing was left half-written."
    elif isinstance(error, OSError):
        words = f"cannot use {error.filename or 'a file'}: {error.strerror or error}."
    elif isinstance(error, ImportError):
        words = f"a package that swa-cli needs cannot be imported: {error}. Install swa-cli anew."
    elif "DataLoader worker" in str(error):  # torch raises it wherever the program happens to be
        words = f"a worker of the data loader died: {' '.join(str(error).split())}. num_workers=0 shows why."
    return words


def _terminate(number: int, frame: object) -> None:
    """End by an exception, so that `finally` runs and no temporary file is left."""
    del frame
    raise Terminated(number)


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
    with Progress(
        *columns, console=console, transient=True, disable=not (console.is_terminal and speaks())
    ) as progress:
        task = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(task, amount)


def _visible(message: str) -> str:
    """With what would steer the terminal spelt out: names of files and tensors are somebody else's."""
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in message)


def _print_labelled(label: str, style: str, message: str) -> None:
    console = stderr()
    console.print(f"{label}:", style=style, end=" ")
    console.print(_visible(message), soft_wrap=True)
