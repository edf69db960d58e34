"""What a reader of a checkpoint layout offers, and by what it recognises its checkpoints."""

from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.system.storage import RandomAccess, open_file, storage_of

_HEAD = 512


@dataclass(frozen=True)
class PossibleCheckpoint:
    """A file or directory that may be a checkpoint."""

    path: PurePath
    names: frozenset[str] = frozenset()
    """The names in a directory; empty for a file."""
    head: bytes = b""
    """The first bytes of a file; empty for a directory."""
    opened: RandomAccess | None = None

    @property
    def file(self) -> RandomAccess:
        """The open file, for a reader that claims files."""
        assert self.opened is not None, "a directory has no bytes"
        return self.opened


@contextmanager
def possible_checkpoint(path: PurePath) -> Generator[PossibleCheckpoint]:
    """Open a file or list a directory, for readers to look at.

    Raises:
        OSError: neither can be done.
    """
    try:
        file = open_file(path)
    except IsADirectoryError:
        yield PossibleCheckpoint(path, names=frozenset(entry.path.name for entry in storage_of(path).listing(path)))
        return
    with file:
        yield PossibleCheckpoint(path, head=file.read(0, _HEAD), opened=file)


class CheckpointReader(Protocol):
    """A checkpoint layout: how its checkpoints are recognised and opened, and what the reference page says of it."""

    @property
    def name(self) -> str:
        """The name of the layout."""
        ...

    @property
    def description(self) -> str:
        """What such a checkpoint consists of, in one line."""
        ...

    @property
    def written_by(self) -> str:
        """The libraries and trainers that write it."""
        ...

    @property
    def kept(self) -> str:
        """What is read of it beside the weights."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The endings of files that are looked at in a directory; empty for a layout that is a directory."""
        ...

    def claims(self, entry: PossibleCheckpoint) -> bool:
        """Whether this is such a checkpoint, by its first bytes or by the names in a directory.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def parts(self, path: PurePath) -> Collection[str]:
        """Return the names of files beside the file ``path`` that are no checkpoints of their own, since it is one.

        Raises:
            CheckpointError: the file cannot be read.
        """
        ...

    def open(self, entry: PossibleCheckpoint, *, key: str | None) -> Checkpoint:
        """Read the header, and no tensor.

        Args:
            key: dotted key of the state_dict where a file may hold several.

        Raises:
            CheckpointError: it is truncated, damaged or refused; the message names the file and what was found.
            OSError: it cannot be read.
        """
        ...
