"""A checkpoint, opened lazily."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from swa_cli.formats.file_reader import OpenFiles, read_tensor
from swa_cli.formats.provenance import Provenance
from swa_cli.formats.tensor_layout import Box, TensorLayout, TensorSpec, boxes_of
from swa_cli.system.storage import Stamp

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint: the header is in memory, tensors are read when asked for.

    The vocabulary is that of ``safetensors.safe_open``. No file stays open between reads, so any number of
    checkpoints can be held at once.
    """

    path: PurePath
    """Of this machine, or the URL of a remote file, which says where the tensors are read from."""
    tensors: Mapping[str, TensorLayout]
    files: tuple[PurePath, ...] = ()
    """The files that hold the tensors, if ``path`` is not one itself but an index or a directory."""
    stamps: Mapping[PurePath, Stamp] = field(default_factory=dict[PurePath, Stamp])
    """What the files were when their headers were read."""
    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    """``global_step``, ``step``, ``iteration``, ``epoch`` and the like, as far as the file holds them."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """How good the file says it is, by the names of the metrics; from its contents, else from its name."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """The safetensors metadata; empty for torch files."""
    provenance: Provenance | None = None
    """What swa-cli says of a file that it wrote; None for any other file."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Entries of the state_dict that are not tensors but plain values (``_extra_state``): what JSON can hold."""
    left_out: tuple[str, ...] = ()
    """Entries of the state_dict that are neither tensors nor plain values."""
    lost: tuple[str, ...] = ()
    """Those of them that hold weights: packed, nested, numpy arrays."""
    networks: tuple[str, ...] = ()
    """Those of the ``alternatives`` that are not these weights once more, but other networks or parts of the model."""
    alternatives: tuple[str, ...] = ()
    """Keys of other mappings of tensors in the file (an EMA, say), for ``--key``."""
    container: str = ""
    """What kind of file it is, in words."""
    template: Literal["safetensors", "torch"] | None = None
    """The container of its files if an output can have the same structure, else None."""
    key: str = ""
    """Dotted key under which the weights lie; empty where they are all there is."""
    caveat: str = ""
    """What the layout cannot guarantee, which the user should know."""
    stripped: tuple[str, ...] = ()
    """Prefixes of wrappers that the names had."""
    optimizer_is_empty: bool | None = None
    """Whether the optimizer beside the weights has no state; None where there is none."""

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors, in the order of the file."""
        return tuple(self.tensors)

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype, without reading the tensor."""
        return self.tensors[name].spec

    def file_of(self, number: int) -> PurePath:
        """The file that a `TensorLayout` means by its number."""
        return self.files[number] if self.files else self.path

    @property
    def file_bytes(self) -> int:
        """Size of all its files."""
        return sum(stamp.size for stamp in self.stamps.values())

    def get_tensor(self, name: str) -> "torch.Tensor":
        """The whole tensor for torch, contiguous, on the CPU, in its stored dtype.

        Raises:
            CheckpointError: the file ends before the tensor does, or cannot be read.
        """
        import torch  # noqa: PLC0415  # averaging on the CPU does without

        layout = self.tensors[name]
        spec = layout.spec
        values = torch.empty(spec.shape, dtype=getattr(torch, spec.dtype.name))
        if spec.numel:
            raw = values.reshape(-1).view(torch.uint8).numpy()
            with OpenFiles(self.stamps, limit=1) as files:
                if layout.is_row_major:
                    self.read_runs(files, name, 0, spec.numel, raw.data)
                else:
                    whole = tuple((0, size) for size in spec.shape)
                    self.read_box(files, name, whole, raw.view(spec.dtype).reshape(spec.shape))
        return values

    def get_elements(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Elements ``start`` to ``stop`` of the flattened tensor (row-major), one-dimensional.

        Raises:
            CheckpointError: as `get_tensor`.
        """
        with OpenFiles(self.stamps, limit=1) as files:
            return self.read_elements(files, name, start, stop)

    def read_elements(self, files: OpenFiles, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        """`get_elements`, from files that stay open.

        Raises:
            CheckpointError: as `OpenFiles.read`.
        """
        layout = self.tensors[name]
        dtype = layout.spec.dtype
        if layout.is_row_major:
            values = np.empty(max(0, stop - start), dtype)
            self.read_runs(files, name, start, stop, values.view(np.uint8).data)
            return values
        parts = [np.empty(0, dtype)]
        for box in boxes_of(layout.spec.shape, start, stop):
            values = np.empty([last - first for first, last in box], dtype)
            self.read_box(files, name, box, values)
            parts.append(values.reshape(-1))
        return np.concatenate(parts)

    def read_runs(self, files: OpenFiles, name: str, start: int, stop: int, view: memoryview) -> None:
        """Fill ``view`` (of bytes) with elements ``start`` to ``stop`` of a tensor whose layout is row-major.

        Raises:
            CheckpointError: as `OpenFiles.read`.
        """
        at = 0
        for file, offset, length in self.tensors[name].runs(start, stop) if start < stop else ():
            files.read(self.file_of(file), offset, [view[at : at + length]], name)
            at += length

    def read_box(self, files: OpenFiles, name: str, box: Box, into: npt.NDArray[np.generic]) -> None:
        """Fill ``into``, an array of the shape of ``box``, with its elements.

        Raises:
            CheckpointError: as `OpenFiles.read`.
        """
        for start, stored in self.tensors[name].extents(box):
            place = tuple(slice(first, first + size) for first, size in zip(start, stored.spec.shape, strict=True))
            read_tensor(files, self.file_of(stored.file), stored, into[(*place, ...)], name)
