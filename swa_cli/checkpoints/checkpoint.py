"""A checkpoint, opened lazily."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from swa_cli.checkpoints.reading import OpenFiles, read_tensor
from swa_cli.checkpoints.stored import StoredTensor, TensorSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One checkpoint: the header is in memory, tensors are read when asked for.

    The vocabulary is that of ``safetensors.safe_open``. No file stays open between reads, so any number of
    checkpoints can be held at once.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...] = ()
    """The files that hold the tensors, if ``path`` is the index of a sharded checkpoint."""
    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    """``global_step``, ``step``, ``iteration`` or ``epoch``, as far as the file holds them."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """The safetensors metadata; empty for torch files."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """Entries of the state_dict that are not tensors but plain values (``_extra_state``): what JSON can hold."""
    left_out: tuple[str, ...] = ()
    """Entries of the state_dict that are neither tensors nor plain values."""
    alternatives: tuple[str, ...] = ()
    """Keys of other mappings of tensors in the file (an EMA, say), for ``--key``."""
    step: int | None = None

    def keys(self) -> tuple[str, ...]:
        """Names of the tensors, in the order of the file."""
        return tuple(self.tensors)

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype, without reading the tensor."""
        return self.tensors[name].spec

    def file_of(self, stored: StoredTensor) -> Path:
        """The file that holds one of the tensors."""
        return self.files[stored.file] if self.files else self.path

    def get_tensor(self, name: str) -> "torch.Tensor":
        """The whole tensor for torch, contiguous, on the CPU, in its stored dtype.

        Raises:
            CheckpointError: the file ends before the tensor does, or cannot be read.
        """
        import torch  # noqa: PLC0415  # averaging on the CPU does without

        stored = self.tensors[name]
        values = torch.empty(stored.spec.shape, dtype=getattr(torch, stored.spec.dtype.name))
        if stored.spec.numel:
            raw = values.reshape(-1).view(torch.uint8).numpy()
            self._read(name, stored, raw.view(stored.spec.dtype).reshape(stored.spec.shape))
        return values

    def get_elements(self, name: str, start: int, stop: int) -> npt.NDArray[np.generic]:
        """Elements ``start`` to ``stop`` of the flattened tensor (row-major), one-dimensional.

        Raises:
            CheckpointError: as `get_tensor`.
        """
        stored = self.tensors[name]
        if stored.is_contiguous:
            size = stored.spec.dtype.itemsize
            part = StoredTensor(
                spec=TensorSpec(shape=(stop - start,), dtype=stored.spec.dtype),
                offset=stored.offset + start * size,
                stride=(1,),
                file=stored.file,
            )
            return self._read(name, part, np.empty(stop - start, stored.spec.dtype))
        # Of a tensor that is not contiguous, the rows that hold these elements, and no more.
        inner = prod(stored.spec.shape[1:])
        first, last = start // inner, -(-stop // inner)
        rows = stored.narrow(0, first, last)
        values = self._read(name, rows, np.empty(rows.spec.shape, rows.spec.dtype))
        return values.reshape(-1)[start - first * inner : stop - first * inner]

    def _read(self, name: str, stored: StoredTensor, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Fill ``values``, contiguous and of the shape of ``stored``."""
        with OpenFiles(limit=1) as files:
            if stored.is_contiguous and values.size:
                files.read(self.file_of(stored), stored.offset, [values.reshape(-1).view(np.uint8).data], name)
            else:
                read_tensor(files, self.file_of(stored), stored, values, name)
        return values
