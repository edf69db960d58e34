"""Call code that the user wrote, and turn any exception of it into one message."""

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
"""What torch says if a worker cannot hand over a batch."""
_FULL = (
    ". The workers of a DataLoader hand over batches in /dev/shm, which is full or missing: enlarge it "
    "(docker run --shm-size=8g), or set num_workers=0"
)


@contextmanager
def user_code(doing: str) -> Generator[None]:
    """Turn an exception of the body into an error that says what was being done, and at which line it failed.

    ``sys.exit()`` counts as a failure: the user's script must not end ours as if all were well. So does any exception
    of a class of its own, even one derived from ours. What the body changes of the process (`users_own`) is in force
    in the bodies that come later, and nowhere else.

    Raises:
        UserCodeError: the body raised anything but an error of our own or an interrupt.
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
    """Type and message in one line; of an error in a DataLoader's worker, the error itself, not its traceback."""
    text = text_of(error)
    if "Original Traceback" in text:
        lines = text.splitlines()
        frames = [index for index, line in enumerate(lines) if line.startswith("  ")]
        return " ".join(" ".join(lines[frames[-1] + 1 :]).split()) if frames else lines[-1]
    return f"{type(error).__name__}: {' '.join(text.split()) or 'no message'}"


def raised_by_user(error: BaseException) -> str | None:
    """What to say of an exception that came out of the user's code where we had not expected any; else None.

    A property or a method that a user's class overrides may be called at any line of ours.
    """
    frames = _frames(error)
    places = [index for index, frame in enumerate(frames) if frame.filename.startswith(_OURS)]
    below = frames[places[-1] + 1 :] if places else frames
    if not places or not any(_is_users(frame) for frame in below):
        return None
    return f"the user's code failed: {reason_of(error)}{_where(error)}"


def text_of(error: BaseException) -> str:
    """What it says of itself, if it can."""
    try:
        return str(error)
    except BaseException as other:  # noqa: BLE001  # it is the user's method
        return f"its str() raises {type(other).__name__}"


def _code_of(error: SystemExit) -> str:
    try:
        return repr(error.code)
    except BaseException:  # noqa: BLE001  # likewise
        return "..."


def _frames(error: BaseException) -> traceback.StackSummary:
    """The traceback that Python keeps, even if the class overrides ``__traceback__``."""
    kept: TracebackType | None = BaseException.__dict__["__traceback__"].__get__(error)
    return traceback.extract_tb(kept)


def _is_users(frame: traceback.FrameSummary) -> bool:
    """Neither ours nor Python's nor an installed package's."""
    others = (_OURS, sysconfig.get_path("stdlib"), "<")
    return "site-packages" not in frame.filename and not frame.filename.startswith(others)


def _where(error: BaseException) -> str:
    """The innermost line of the user's."""
    users = [frame for frame in _frames(error) if _is_users(frame)]
    return f" (at {users[-1].filename}:{users[-1].lineno})" if users else ""
