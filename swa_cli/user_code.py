"""Calling code that the user wrote: whatever it raises becomes one message."""

import sysconfig
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
    text = str(error)
    if "Original Traceback" in text:
        lines = text.splitlines()
        frames = [index for index, line in enumerate(lines) if line.startswith("  ")]
        return " ".join(" ".join(lines[frames[-1] + 1 :]).split()) if frames else lines[-1]
    return f"{type(error).__name__}: {' '.join(text.split()) or 'no message'}"


def _where(error: BaseException) -> str:
    """The innermost frame that is neither ours nor Python's nor an installed package's: the user's line."""
    others = (str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<")
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(others)]
    return f" (at {users[-1].filename}:{users[-1].lineno})" if users else ""
