"""Calling the user's code, with any exception turned into one message."""

import os
import re
import sysconfig
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from swa_cli.errors import SwaError, Terminated, UserCodeError
from swa_cli.user.process_state import users_own

_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_SHARED_MEMORY = re.compile(r"shared memory|Bus error|</?torch_\d+_\d+", re.IGNORECASE)
"""Matches torch's errors when a worker finds no room in /dev/shm for a batch."""
_FULL = (
    ". The workers of a DataLoader hand over batches in /dev/shm, which is full or missing: enlarge it "
    "(docker run --shm-size=8g), or set num_workers=0"
)


@contextmanager
def user_code(doing: str) -> Generator[None]:
    """Turn an exception of the body into an error that says what was being done and at which line it failed.

    ``sys.exit()`` counts as a failure, so that the user's script cannot end ours with exit code 0. Process-wide
    settings that the body changes (see `users_own`) stay in force in later bodies, and nowhere else.

    Raises:
        UserCodeError: the body raised anything but one of our own errors or an interrupt.
    """
    try:
        with users_own():
            yield
    except BaseException as error:
        if isinstance(error, SwaError) or type(error) in {KeyboardInterrupt, Terminated}:
            raise
        reason = f"it called sys.exit({_code_of(error)})" if isinstance(error, SystemExit) else reason_of(error)
        msg = f"{doing} failed: {reason}{_where(error)}{_FULL if _SHARED_MEMORY.search(reason) else ''}"
        raise UserCodeError(msg) from error


def reason_of(error: BaseException) -> str:
    """Return type and message in one line; for an error in a DataLoader worker, without its traceback."""
    text = text_of(error)
    if "Original Traceback" in text:
        lines = text.splitlines()
        frames = [index for index, line in enumerate(lines) if line.startswith("  ")]
        return " ".join(" ".join(lines[frames[-1] + 1 :]).split()) if frames else lines[-1]
    return f"{type(error).__name__}: {' '.join(text.split()) or 'no message'}"


def raised_by_user(error: BaseException) -> str | None:
    """Return a message if an unexpected exception was raised in the user's code, else None.

    Any line of ours may call a property or method that a user's class overrides.
    """
    frames = _frames(error)
    places = [index for index, frame in enumerate(frames) if frame.filename.startswith(_OURS)]
    below = frames[places[-1] + 1 :] if places else frames
    if not places or not any(_is_users(frame) for frame in below):
        return None
    return f"the user's code failed: {reason_of(error)}{_where(error)}"


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, or a note if its ``__str__`` raises."""
    try:
        return str(error)
    except BaseException as other:  # noqa: BLE001  # __str__ may be the user's
        return f"its str() raises {type(other).__name__}"


def _code_of(error: SystemExit) -> str:
    try:
        return repr(error.code)
    except BaseException:  # noqa: BLE001  # likewise
        return "..."


def _frames(error: BaseException) -> traceback.StackSummary:
    """Return the real traceback, even if the class overrides ``__traceback__``."""
    kept: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    return traceback.extract_tb(kept)


def _is_users(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame is neither ours nor Python's nor an installed package's."""
    others = (_OURS, sysconfig.get_path("stdlib"), "<")
    return "site-packages" not in frame.filename and not frame.filename.startswith(others)


def _where(error: BaseException) -> str:
    """Return the innermost line of the user's code, in parentheses, or nothing."""
    users = [frame for frame in _frames(error) if _is_users(frame)]
    return f" (at {users[-1].filename}:{users[-1].lineno})" if users else ""
