"""Calling code that the user wrote: whatever it raises becomes one message."""

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from swa_cli.errors import SwaError, Terminated, UserCodeError


@contextmanager
def user_code(doing: str) -> Generator[None]:
    """Turn an exception of the body into an error that says what was being done, and at which line it failed.

    ``sys.exit()`` counts as a failure: the user's script must not end ours as if all were well.

    Raises:
        UserCodeError: the body raised anything but an error of our own or an interrupt.
    """
    try:
        yield
    except (SwaError, KeyboardInterrupt, GeneratorExit, Terminated):
        raise
    except SystemExit as error:
        msg = f"{doing} failed: it called sys.exit({error.code!r}){_where(error)}"
        raise UserCodeError(msg) from error
    except BaseException as error:
        msg = f"{doing} failed: {reason_of(error)}{_where(error)}"
        raise UserCodeError(msg) from error


def reason_of(error: BaseException) -> str:
    """Type and message in one line; of an error in a DataLoader's worker, the error itself, not its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "Original Traceback" in str(error):
        return lines[-1].strip()
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def _where(error: BaseException) -> str:
    """The innermost frame outside of installed packages: the user's line, not torch's."""
    own = str(Path(__file__).parent)
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith((own, "<"))]
    return f" (at {users[-1].filename}:{users[-1].lineno})" if users else ""
