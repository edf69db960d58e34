"""Calling code that the user wrote: whatever it raises becomes one message."""

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from swa_cli.errors import SwaError, UserCodeError


@contextmanager
def user_code(doing: str) -> Generator[None]:
    """Turn an exception of the body into an error that says what was being done, and at which line it failed.

    Raises:
        UserCodeError: the body raised anything but an error of our own.
    """
    try:
        yield
    except SwaError:
        raise
    except Exception as error:
        reason = str(error).strip() or "no message"
        msg = f"{doing} failed: {type(error).__name__}: {reason}{_where(error)}"
        raise UserCodeError(msg) from error


def _where(error: BaseException) -> str:
    """The innermost frame outside of installed packages: the user's line, not torch's."""
    own = str(Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith((own, "<"))]
    return f" (at {users[-1].filename}:{users[-1].lineno})" if users else ""
