"""What a field of the configuration says of itself beside its type: its help, and how a command line gives it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, final


class Panel(StrEnum):
    """The groups of options in ``--help``, in the order in which they are shown."""

    MODEL = "Model and data"
    TASK = "Task"
    STATISTICS = "Statistics"
    BATCHES = "Batches"
    ROWS = "Rows"
    DECISION = "Decision"
    SPEED = "Speed"
    FILES = "Files"
    SELECTION = "Selection, in this order"


@final
@dataclass(frozen=True, kw_only=True)
class Option:
    """Metadata of a field, to stand in its ``Annotated``.

    Attributes:
        help: one or two sentences for ``--help`` and the reference pages.
        flags: on the command line; by default the field's name with dashes.
        positional: the command takes the values without a flag; ``metavar`` names them.
        in_file_only: no command has a flag for it.
        replaces: keys of the file that are left out where the flag is given, as they do not go together.
        former: names that the field had, which are still read as flags and keys.
        panel: the group of ``--help`` that shows it; by default the first one.
    """

    help: str
    flags: tuple[str, ...] = ()
    positional: bool = False
    in_file_only: bool = False
    replaces: tuple[str, ...] = ()
    former: tuple[str, ...] = ()
    metavar: str | None = None
    panel: Panel | None = None


@final
@dataclass(frozen=True, kw_only=True)
class ImportOption:
    """Metadata of a section that names what to import.

    Attributes:
        help: of the flag with the section's name, which gives the class or function.
        arguments: help of the flag that gives its keyword arguments, ``--model-arg``.
        panel: the group of ``--help`` that shows both.
    """

    help: str
    arguments: str
    panel: Panel


@final
@dataclass(frozen=True)
class Gathered:
    """Metadata of a field that no key sets: it has the values of several keys, by their names."""

    options: Mapping[str, Option]


@final
@dataclass(frozen=True)
class TakenAs:
    """Metadata of a type whose flag takes another one, which its validator reads: text with commas, say."""

    kind: Any


def flag(name: str) -> str:
    """Return the flag that a field of this name has unless its option gives another.

    >>> flag("max_shard_size")
    '--max-shard-size'
    """
    return f"--{name.replace('_', '-')}"
