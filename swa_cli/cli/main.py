"""The programs: ``swa`` with its commands, and ``swa-average``, ``swa-bn-update``, ``swa-eval``.

Slow imports happen here, after Ctrl-C has got a handler that prints a message.
"""

import io
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

_ELSEWHERE = (
    "error: swa-cli runs on Linux; this is {}. It reads with preadv, measures with /proc and places threads by "
    "sched_getaffinity. On macOS or Windows, run it in a Linux container or under WSL 2.\n"
)
_CLOSED = "error: standard output is closed, and the result goes there. Redirect it to a file or to /dev/null.\n"
_INTERRUPTED = "error: interrupted; nothing was left half-written.\n"


def swa() -> None:
    """``swa``."""
    _run("swa")


def swa_average() -> None:
    """``swa-average``."""
    _run("swa_average")


def swa_bn_update() -> None:
    """``swa-bn-update``."""
    _run("swa_bn_update")


def swa_eval() -> None:
    """``swa-eval``."""
    _run("swa_eval")


def _run(program: str) -> None:
    if sys.platform != "linux":
        _leave(_ELSEWHERE.format(sys.platform), 1)
    _fill_descriptors()
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        _leave(_CLOSED, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an encoding that lacks a character loses no result
    # Before a command starts and after it ends, there is nothing to clean up.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.unraisablehook = _unraisable
    warnings.formatwarning = _formatted
    from swa_cli.cli import commands  # noqa: PLC0415

    getattr(commands, program)()


def _fill_descriptors() -> None:
    """Open /dev/null in place of closed standard streams, whose numbers the next opened file would take."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _interrupted(number: int, frame: FrameType | None) -> None:
    del number, frame
    _leave(_INTERRUPTED, 130)


def _leave(message: str, code: int) -> None:
    os.write(2, message.encode())
    os._exit(code)


def _unraisable(hooked: Any) -> None:
    """Show what Python cannot raise, unless a message has said already why the program ends."""
    ending = sys.modules.get("swa_cli.cli.ending")
    if ending is None or not ending.quietened:
        from contextlib import redirect_stderr  # noqa: PLC0415

        with redirect_stderr(io.StringIO()) as said:
            sys.__unraisablehook__(hooked)
        sys.stderr.write(_visible(said.getvalue()))


_of_python = warnings.formatwarning


def _formatted(*arguments: Any, **settings: Any) -> str:
    """What Python shows of a warning, which may come from the user's code."""
    return _visible(_of_python(*arguments, **settings))


def _visible(text: str) -> str:
    from swa_cli.text import visible_lines  # noqa: PLC0415

    return visible_lines(text)
