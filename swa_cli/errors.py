"""Every error that swa_cli raises on purpose.

::

    SwaError                  exit code 1
     +- UsageError            exit code 2: flags or a configuration that make no sense together
     |   +- ConfigError       exit code 2: a configuration file that cannot be understood
     +- SourceError           no checkpoints where they were looked for
     +- CheckpointError       one file that cannot be read as a checkpoint
     +- MismatchError         checkpoints, or a checkpoint and a model, that do not fit together
     +- NonFiniteError        NaN or infinity where a number was needed
     +- VerifyError           an average that is not what its sources give
     +- OutputError           a file that cannot be written
     +- RankError             one of several processes that ended before its share was done
     +- DeviceError           a device that is not there
     +- UserCodeError         the user's model or data module failed or is not what was expected
     +- DataError             a batch, label or output that does not fit the task

    Terminated                exit code 128 + number: a signal asked the program to end

A message names the file and the tensor, what was expected, what was found and what to do. It names options through
`option`: as the arguments of a Python call, or as the flags of the program where that asks for it with `spelling`.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

_LONGEST_LINE = 5000  # characters
LISTED = 10  # an error that lists things names this many, then counts the rest


Spelling = Callable[[str, object, str | None], str]
"""How a program names an option: its field, a value or None, and the section of what takes it as an argument."""


def as_argument(name: str, value: object, of: str | None) -> str:
    """Spell an option as an argument in Python."""
    del of
    if value is None:
        return f"`{name}`"
    return f"`{name}={value if isinstance(value, (bool, int, float, tuple)) else repr(str(value))}`"


_spellings: list[Spelling] = [as_argument]


def option(name: str, value: object = None, *, of: str | None = None) -> str:
    """Name an option in a message.

    Args:
        name: its field in the configuration, or its key, as ``model.init_args``.
        value: what the message proposes for it.
        of: the section of the object that takes it as an argument, ``model``, ``data`` or ``task``.

    >>> option("key"), option("device", "cpu"), option("resize", True, of="task")
    ('`key`', "`device='cpu'`", '`resize=True`')
    """
    return _spellings[-1](name, value, of)


@contextmanager
def spelling(spell: Spelling) -> Generator[None]:
    """Let all messages of the process name options as ``spell`` does, within the body."""
    _spellings.append(spell)
    try:
        yield
    finally:
        _spellings.pop()


class SwaError(Exception):
    """Base of all errors whose message is meant for the user.

    Args:
        lines: of the message. A line break inside of one belongs to a name that the message quotes.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(self.args)

    def add_subject(self, subject: str) -> None:
        """Begin the message with what it is about."""
        self.args = (f"{subject}: {self.args[0]}", *self.args[1:])


class UsageError(SwaError):
    """Options that contradict each other, or one that is missing."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file with an unknown key or a value of the wrong kind."""


class SourceError(SwaError):
    """No such file or directory, or one without checkpoints."""


class CheckpointError(SwaError):
    """A file that is truncated, of an unknown kind, or refused."""


class MismatchError(SwaError):
    """Keys, shapes, dtypes or integer values that differ where they must agree."""


class NonFiniteError(SwaError):
    """NaN or infinity in a checkpoint, a batch or an output."""


class VerifyError(SwaError):
    """An average whose bits are not those that its sources give, or sources that are not those it was made of."""


class OutputError(SwaError):
    """An output that exists, cannot be written, or does not fit on the disk."""


class RankError(SwaError):
    """A rank that ended, or ranks that do not come together."""


class DeviceError(SwaError):
    """A device that torch does not see."""


class UserCodeError(SwaError):
    """A model, data module or batch splitter that cannot be imported, called or used."""


class DataError(SwaError):
    """Data that does not fit the task: an empty loader, labels out of range, logits of a wrong shape."""


class Terminated(BaseException):
    """A signal (SIGTERM, SIGHUP) asked the program to end; like KeyboardInterrupt, no ordinary handler catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"terminated by signal {number}")
        self.exit_code = 128 + number


def kind_of(value: object) -> str:
    """Name of the type of ``value``, for a message."""
    return type(value).__name__


def cut(text: str, most: int = 500) -> str:
    """Return ``text``, or its beginning and end if it is longer than ``most`` characters.

    >>> cut("a" * 9, 5)
    'aa…aa'
    """
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def listed(lines: Sequence[str]) -> list[str]:
    """Return the first ten lines, indented, and one that says how many more there are."""
    shown = [f"  {cut(line, _LONGEST_LINE)}" for line in lines[:LISTED]]
    if len(lines) > LISTED:
        shown.append(f"  … and {len(lines) - LISTED} more")
    return shown


def shortened(names: Sequence[str], count: int | None = None) -> str:
    """The first ten names on one line, then how many more there are.

    Args:
        count: how many there are in all, where ``names`` are only the first of them.
    """
    more = (len(names) if count is None else count) - LISTED
    return ", ".join(cut(name) for name in names[:LISTED]) + (f" and {more} more" if more > 0 else "")
