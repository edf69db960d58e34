"""Standard output for results, standard error for the rest; all that is shown there is made visible first."""

import os
import signal
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO, final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from swa_cli.errors import OutputError, Terminated
from swa_cli.system.progress import Advance, Unit
from swa_cli.system.torchrun import is_reporting_rank
from swa_cli.text import is_visible, visible, visible_lines

_WIDTH_OF_FILES = 120


@final
class VisibleConsole(Console):
    """A console on which no text but our own colours and line breaks can steer the terminal.

    Renderables should hold texts as ``str``: those are made visible before they are laid out. What comes as anything
    else is caught when it has been, at the cost of the layout.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, highlight=False, emoji=False, markup=False)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Turn a text into one that is safe to show, with escapes for what the terminal's encoding lacks."""
        shown = visible(text).encode(self.encoding, "backslashreplace").decode(self.encoding)
        return super().render_str(shown, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, and see to it that nothing but line breaks of ours is left that cannot be seen."""
        for segment in super().render(renderable, options):
            if segment.control or all(map(is_visible, segment.text.split("\n"))):
                yield segment
            else:
                yield segment._replace(text=visible_lines(segment.text))

    def on_broken_pipe(self) -> None:
        """Leave a broken pipe to the caller; rich would end the program itself."""
        raise BrokenPipeError


@dataclass
class _Streams:
    """Where output goes if not to `sys.stdout` and `sys.stderr`, which the user's code may close or replace."""

    messages: TextIO | None = None


streams = _Streams()


def stdout() -> VisibleConsole:
    """Where results go; a file or a pipe gets lines wide enough for a table of long names."""
    terminal = sys.stdout is not None and sys.stdout.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    width = None if terminal or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return VisibleConsole(width=width)


def stderr() -> VisibleConsole:
    """Where everything else goes."""
    return VisibleConsole(file=streams.messages, stderr=True)


def say(message: str) -> None:
    """Print a line of the result; long lines are left to the terminal. Of several ranks one speaks."""
    if is_reporting_rank():
        with _results():
            stdout().print(message, soft_wrap=True)


def show(what: RenderableType) -> None:
    """Print a table of the result. Of several ranks one speaks."""
    if is_reporting_rank():
        with _results():
            stdout().print(what)


def write(text: str) -> None:
    """Put a whole file on standard output."""
    with _results():
        sys.stdout.write(text)
        sys.stdout.flush()


def notify(message: str) -> None:
    """Tell the user something worth knowing that is not the result."""
    if is_reporting_rank():
        print_labelled("note", "yellow", message)


def warn(what: RenderableType) -> None:
    """Show on standard error what the reader must know before the numbers."""
    if is_reporting_rank():
        with suppress(OSError, ValueError):
            stderr().print(what)


def print_labelled(label: str, style: str, *lines: str) -> None:
    """Print a message on standard error, as far as that can be written to."""
    console = stderr()
    with suppress(OSError, ValueError):  # it is full, or closed
        console.print(f"{label}:", style=style, end=" ", soft_wrap=True)
        for line in lines:
            console.print(line, soft_wrap=True)


def print_whole(text: str) -> None:
    """Print a text of several lines on standard error, as far as that can be written to; nothing is shortened."""
    with suppress(OSError, ValueError):
        print(visible_lines(text), file=streams.messages or sys.stderr)


def caution(message: str) -> None:
    """Tell the user that the result is most likely useless."""
    if is_reporting_rank():
        print_labelled("warning", "bold red", message)


@contextmanager
def _results() -> Generator[None]:
    """Turn what the system says of standard output into an end of the program.

    Raises:
        Terminated: nobody reads it any more.
        OutputError: it cannot be written to.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise Terminated(signal.SIGPIPE) from error
    except (OSError, ValueError) as error:  # ValueError: Python's own stream was closed
        msg = f"cannot write to standard output: {getattr(error, 'strerror', None) or error}."
        raise OutputError(msg) from error


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
    words = TextColumn("{task.description}", markup=False)
    columns: list[ProgressColumn] = [words, BarColumn(), *amounts, TimeRemainingColumn()]
    with Progress(
        *columns, console=console, transient=True, disable=not (console.is_terminal and is_reporting_rank())
    ) as progress:
        task = progress.add_task(visible(description), total=total)
        yield lambda amount: progress.advance(task, amount)
