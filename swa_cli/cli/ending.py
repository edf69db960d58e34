"""One way for every failure to end: one message and an exit code."""

import os
import signal
import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

import typer

from swa_cli.cli.flags import flags_of
from swa_cli.cli.terminal import print_labelled, print_whole, streams
from swa_cli.errors import SwaError, Terminated, spelling
from swa_cli.system.process_group import world_size
from swa_cli.system.torchrun import claims_error_report
from swa_cli.user.guard import raised_by_user, text_of
from swa_cli.user.refused_exits import exits_refused

INTERRUPTED = 130


@contextmanager
def exit_on_error(*, debug: bool, flags: Mapping[str, str] | None = None) -> Generator[None]:
    """End on any failure with one message and an exit code; messages name options by their flags.

    The code is that of the error (1, or 2 for usage), 130 for Ctrl-C, 128 + number for a signal that ends us, 1 for
    a bug of our own. With ``debug`` the traceback comes first.

    Args:
        flags: those of the command beside the flags of the configuration, by their fields.
    """
    process, received = os.getpid(), list[int]()

    def end(number: int, frame: FrameType | None) -> None:
        """End by an exception, so that `finally` runs and no temporary file is left; a forked worker just ends."""
        del frame
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)
        raise _ended_by(number)

    ending = [signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # a shell's background jobs are not interrupted
        ending.append(signal.SIGINT)
    previous = {number: signal.signal(number, end) for number in ending}
    previous[signal.SIGPIPE] = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with spelling(flags_of(flags)):
            yield
    except typer.Exit:
        raise
    except BaseException as error:  # noqa: BLE001  # the last resort: every failure ends in one message
        for number in ending:
            signal.signal(number, signal.SIG_IGN)  # torchrun sends one when another rank ends, and we are about to
        # torch raises at the end of a loader's worker, wherever we are.
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if received and not isinstance(error, SystemExit):  # an import or the user's code may have changed it
            error = _ended_by(received[0])
        raise typer.Exit(failed(error, debug=debug)) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def failed(error: BaseException, *, debug: bool) -> int:
    """Say what happened, and return the exit code."""
    if debug:
        print_whole(_traceback())
    else:
        quietened.append(True)
    if isinstance(error, Terminated) and error.exit_code == 128 + signal.SIGPIPE:
        pass  # who read our output has gone, and wants no message
    elif claims_error_report():
        print_labelled("error", "bold red", *_in_words(error, debug=debug))
    _flush_or_drop(sys.stdout)
    return _exit_code(error)


def _traceback() -> str:
    try:
        return traceback.format_exc().rstrip()
    except BaseException as error:  # noqa: BLE001  # the class of the exception is the user's
        return f"The traceback cannot be shown: reading the exception raises {type(error).__name__}."


def _ended_by(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


quietened: list[bool] = []
"""Not empty once a message was printed: what Python cannot raise at the end of a failed program is nobody's news."""


def _flush_or_drop(stream: TextIO) -> None:
    """What cannot be written is not to be tried again when Python ends."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def only_results_on_stdout() -> Generator[None]:
    """Within the body, what a user's code prints goes to standard error, printed from Python or from C.

    Afterwards both streams are what they were, also if the code closed or replaced them. It cannot end the program by
    ``os._exit``.
    """
    before = sys.stdout, sys.stderr
    real = all(_descriptor(stream) == number for number, stream in enumerate(before, start=1))
    kept = [os.dup(1), os.dup(2)] if real else []
    if real:
        before[0].flush()
        os.dup2(2, 1)
        streams.messages = _opened(kept[1], before[1].encoding)
    sys.stdout = sys.stderr
    try:
        with exits_refused():
            yield
    finally:
        sys.stdout, sys.stderr = before
        if real:
            _put_back(kept)
            streams.messages = None


def _put_back(kept: list[int]) -> None:
    for number, (name, descriptor) in enumerate(zip(("stdout", "stderr"), kept, strict=True), start=1):
        stream = getattr(sys, name)
        if stream.closed:
            setattr(sys, name, _opened(number, stream.encoding))
        else:
            stream.flush()
        os.dup2(descriptor, number)
        os.close(descriptor)


def _opened(descriptor: int, encoding: str) -> TextIO:
    return os.fdopen(descriptor, "w", encoding=encoding, errors="backslashreplace", closefd=False)


def _descriptor(stream: TextIO | None) -> int | None:
    with suppress(OSError, ValueError, AttributeError):  # None, closed, or a test's
        assert stream is not None
        return stream.fileno()
    return None


def _exit_code(error: BaseException) -> int:
    if isinstance(error, (SwaError, Terminated)):
        return error.exit_code
    return INTERRUPTED if type(error) is KeyboardInterrupt else 1


def _in_words(error: BaseException, *, debug: bool) -> tuple[str, ...]:
    hint = "" if debug else " Please report it with what --debug shows."
    words = f"a bug in swa-cli: {type(error).__name__}: {text_of(error)}.{hint}"
    if isinstance(error, SwaError):
        return error.args
    if "DataLoader worker" in text_of(error):  # torch raises it wherever the program happens to be
        return (f"a worker of the data loader died: {' '.join(text_of(error).split())}. num_workers=0 shows why.",)
    users = None if type(error) in {KeyboardInterrupt, Terminated} else raised_by_user(error)
    if users:
        words = f"{users}."
    elif isinstance(error, (KeyboardInterrupt, Terminated, GeneratorExit)):  # the last where a signal came at our end
        words = "interrupted; nothing was left half-written."
        if world_size() > 1:
            words = "interrupted, as all ranks are when another rank ended; nothing was written."
    elif isinstance(error, MemoryError) or _lacks_a_thread(error):
        words = "out of memory; nothing was left half-written."
    elif isinstance(error, OSError):
        words = f"cannot use {error.filename or 'a file'}: {error.strerror or error}."
    elif isinstance(error, ImportError):
        words = f"a package that swa-cli needs cannot be imported: {text_of(error)}. Install swa-cli anew."
    return (words,)


def _lacks_a_thread(error: BaseException) -> bool:
    """Whether Python could not start a thread, for want of memory or by a limit on processes."""
    return isinstance(error, RuntimeError) and text_of(error) == "can't start new thread"
