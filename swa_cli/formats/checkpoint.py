"""A checkpoint, opened lazily."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from swa_cli.formats.file_reader import OpenFiles, Stamp, read_tensor
from swa_cli.formats.provenance import Provenance
from swa_cli.formats.tensor_layout import StoredTensor, TensorSpec

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
    stamps: Mapping[Path, Stamp] = field(default_factory=dict[Path, Stamp])
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
    key: str = ""
    """Dotted key under which the weights lie; empty where they are all there is."""
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

    def file_of(self, number: int) -> Path:
        """The file that a `StoredTensor` means by ``file``."""
        return self.files[number] if self.files else self.path

    @property
    def file_bytes(self) -> int:
        """Size of all its files."""
        return sum(stamp[2] for stamp in self.stamps.values())

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
        parts = [
            self._read(name, part, np.empty(part.spec.shape, part.spec.dtype)) for part in stored.parts(start, stop)
        ]
        flat = [part.reshape(-1) for part in parts]
        return flat[0] if len(flat) == 1 else np.concatenate([np.empty(0, stored.spec.dtype), *flat])

    def _read(self, name: str, stored: StoredTensor, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Fill ``values``, contiguous and of the shape of ``stored``."""
        with OpenFiles(self.stamps, limit=1) as files:
            if stored.is_contiguous and values.size:
                files.read(self.file_of(stored.file), stored.offset, [values.reshape(-1).view(np.uint8).data], name)
            else:
                read_tensor(files, self.file_of(stored.file), stored, values, name)
        return values
