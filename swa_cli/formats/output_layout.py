"""What an output will consist of, known to the byte before anything is written."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import PurePath

from swa_cli.formats.frame import ByteRange
from swa_cli.formats.provenance import Provenance
from swa_cli.formats.tensor_layout import TensorSpec
from swa_cli.system.storage import storage_of

Crc = Callable[[int, int], int]
"""CRC-32 of a number of bytes from an offset on, of a file whose tensors are written."""
Frame = Callable[[Provenance, Crc], Iterable[tuple[int, bytes]]]
"""Everything in a file but the tensors: bytes, and where each stretch of them goes."""
Seal = Callable[[Provenance], Iterable[tuple[int, bytes]]]
"""The same of what depends on the record, once the rest is written."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is to be written: tensors by the names that a model gives them, without wrappers.

    ``tied`` has the further names of tensors among them, ``extra`` entries of the state_dict that are no tensors.
    ``provenance`` is of the length that the one at the end will have.
    """

    specs: Mapping[str, TensorSpec]
    tied: Mapping[str, str]
    extra: Mapping[str, object]
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class OutputFile:
    """One file: its size, at which byte each of its tensors starts (all row-major), and what surrounds them.

    ``tensors`` are all stretches of tensors; ``seal`` is None for a file without the record.
    """

    name: str
    size: int
    offsets: Mapping[str, int]
    tensors: Sequence[ByteRange]
    frame: Frame
    seal: Seal | None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of an output, and files that are copied beside them.

    ``is_folder``: whether they lie in a folder of their own; a layout of one file else.
    """

    files: tuple[OutputFile, ...]
    is_folder: bool = False
    copies: tuple[PurePath, ...] = ()
    left_out: tuple[str, ...] = field(default=())
    """What a file that this one is like holds besides, and this one does not."""

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(file.size for file in self.files) + sum(storage_of(path).stamp(path).size for path in self.copies)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each file would begin if they lay one after the other."""
        return tuple(accumulate((file.size for file in self.files), initial=0))[:-1]

    @property
    def offsets(self) -> dict[str, int]:
        """Where each tensor would begin if the files lay one after the other."""
        return {
            name: start + offset
            for start, file in zip(self.starts, self.files, strict=True)
            for name, offset in file.offsets.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of all files, copies included."""
        return (*(file.name for file in self.files), *(path.name for path in self.copies))
