"""Files of ``torch.save``, opened without loading a tensor and without running their pickle.

Only what describes the file is read: tensors stay on disk until they are asked for, and all else that the file holds
(optimizer state) is never read, but for single numbers such as a metric.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, final

from swa_cli.errors import CheckpointError
from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.latest import Latest
from swa_cli.formats.protocol import PossibleCheckpoint
from swa_cli.formats.suffixes import TORCH
from swa_cli.formats.tensor_layout import StoredTensor, spec_of
from swa_cli.formats.torch.extra_state import plain_values
from swa_cli.formats.torch.legacy_container import looks_legacy, read_legacy
from swa_cli.formats.torch.lost_values import lost_tensors, networks_beside
from swa_cli.formats.torch.optimizer_state import optimizer_is_empty
from swa_cli.formats.torch.pickled_scalars import Number, entries_of, from_bytes, numbers_in
from swa_cli.formats.torch.rebuild import PickledStorage, PickledTensor
from swa_cli.formats.torch.state_dict import (
    find_state_dict,
    other_state_dicts,
    strip_beside,
    strip_wrappers,
    wrappers_in,
)
from swa_cli.formats.torch.tensor_dicts import Mappings
from swa_cli.formats.torch.unpickle import TorchFile
from swa_cli.formats.torch.zip_container import read_zip
from swa_cli.formats.torch.zip_reader import ZIP_MAGIC
from swa_cli.formats.training_metrics import metrics_in_name, metrics_of
from swa_cli.formats.training_step import counters_of
from swa_cli.system.storage import RandomAccess

_MOST_REPEATED = 1 << 27
"""Bytes that tensors may have whose elements lie upon each other; a small file could ask for any number."""
_MOST_TIMES = 8
"""How often the bytes of a file may be read for its tensors, beside that."""
_REMEDIES = {
    "sparse": " Convert it with .to_dense() in the training script before saving.",
    "quantized": " Convert it with .dequantize() in the training script before saving.",
    "a lazy conjugate or negative": " Call .resolve_conj().resolve_neg() in the training script before saving.",
}


@final
class TorchReader:
    """See `CheckpointReader`.

    Nothing that the pickle names is imported or called: it may hold anything at all. Of a whole pickled module, and
    of one beside other things, the state_dict is read.
    """

    name = "torch"
    description = "one file of `torch.save`: a zip archive, or the form from before torch 1.6"
    written_by = "torch, Lightning, timm, fairseq, accelerate, older transformers"
    kept = "tied weights, the step and metrics, plain values of the state_dict (`_extra_state`)"
    suffixes = TORCH

    def claims(self, entry: PossibleCheckpoint) -> bool:
        """See `CheckpointReader`."""
        return entry.head.startswith(ZIP_MAGIC) or looks_legacy(entry.head)

    def parts(self, path: PurePath) -> Collection[str]:  # noqa: ARG002  # it is whole
        """See `CheckpointReader`."""
        return ()

    def open(self, entry: PossibleCheckpoint, *, key: str | None) -> Checkpoint:
        """See `CheckpointReader`; without a key the usual ones are looked for."""
        path = entry.path
        try:
            return _open(path, entry.file, key)
        except CheckpointError as error:
            msg = f"{path}: {error}"
            raise CheckpointError(msg) from error
        except OSError:
            raise
        except Exception as error:  # a damaged archive or pickle can raise anything at all
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            msg = f"{path}: not a whole torch checkpoint ({reason}). It is truncated or damaged; copy or save it again."
            raise CheckpointError(msg) from error


@dataclass(frozen=True, kw_only=True)
class TorchState:
    """The state_dict in a torch file: the dotted key where it lies, and its tensors by the names that the file uses.

    ``top`` is what lies around it.
    """

    file: TorchFile
    top: Mapping[Any, Any]
    where: str
    steps: tuple[str, ...]
    """The keys that lead there; one may hold a dot itself."""
    state: Mapping[Any, Any]
    tensors: Mapping[str, PickledTensor]
    alternatives: tuple[str, ...]
    mappings: Mappings


def read_state(file: RandomAccess, key: str | None) -> TorchState:
    """Read the pickle of an open file and find its state_dict.

    Raises:
        CheckpointError: as `TorchReader.open`, without the name of the file.
        Exception: of any kind, when the file is damaged.
    """
    read = read_zip if _is_zip(file) else read_legacy
    found = read(file)
    mappings = Mappings(len(found.pickle) - found.start)
    where, state = find_state_dict(found.contents, key, mappings)
    top = mappings.of(found.contents) or {}
    steps = (where,) if where in top else tuple(filter(None, where.split(".")))
    return TorchState(
        file=found,
        where=where,
        steps=steps,
        state=state,
        tensors={name: value for name, value in state.items() if type(value) is PickledTensor and type(name) is str},
        alternatives=other_state_dicts(found.contents, steps[0], mappings) if steps else (),
        top=top,
        mappings=mappings,
    )


def _open(path: PurePath, file: RandomAccess, key: str | None) -> Checkpoint:
    found = read_state(file, key)
    tensors = found.tensors
    placed = _place_all(found.file, tensors, file.size)
    others = {name: value for name, value in found.state.items() if name not in tensors}
    plain = plain_values(others)
    extra = strip_beside(plain, tensors)
    kept = {*extra.values()}
    top = found.top
    # Without a key the tensors at the top are the weights, and no metrics.
    read = partial(_read_number, file=file, place=found.file.place) if found.where else None
    return Checkpoint(
        path=path,
        stamps={path: file.stamp},
        tensors=placed.weights,
        counters=counters_of(numbers_in(entries_of(top.get("meta")), read) | numbers_in(top, read)),
        metrics={**metrics_in_name(path), **metrics_of(top, read, path)},
        metadata=found.file.metadata,
        extra={short: plain[name] for short, name in extra.items()},
        left_out=tuple(str(name) for name in others if name not in kept),
        lost=lost_tensors(others, tensors, at_top=not found.where),
        networks=networks_beside(top, found.alternatives, placed.weights, found.mappings),
        alternatives=found.alternatives,
        container="torch, zip" if _is_zip(file) else "torch, from before 1.6",
        template="torch",
        key=found.where,
        stripped=placed.stripped,
        optimizer_is_empty=optimizer_is_empty(top),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Placed:
    """Tensors of a file, and where they lie."""

    tensors: Mapping[str, PickledTensor]
    layout: object
    storages: Mapping[str, PickledStorage]
    file_size: int
    weights: Mapping[str, StoredTensor]
    stripped: tuple[str, ...]


_latest = Latest[_Placed]()
"""Those of the file read last: the next of its run has them at the same places."""


def _place_all(file: TorchFile, tensors: Mapping[str, PickledTensor], file_size: int) -> _Placed:
    """Where ``tensors`` lie in the file, by their names without those of wrappers.

    Raises:
        CheckpointError: one of them, or another storage of the file, is damaged.
    """
    placed = _latest.value
    if (
        (placed and placed.layout is file.layout and placed.file_size == file_size)
        and (placed.tensors == tensors and [*placed.tensors] == [*tensors])
        and placed.storages == file.storages
    ):
        return placed
    stored = {name: _stored(name, tensor, file.place) for name, tensor in tensors.items()}
    file.check_storages()
    _check_amount(stored.values(), file_size)
    placed = _Placed(
        tensors=tensors,
        layout=file.layout,
        storages=file.storages,
        file_size=file_size,
        weights=MappingProxyType(strip_wrappers(stored)),
        stripped=wrappers_in(stored),
    )
    if file.layout is not None:
        _latest.value = placed
    return placed


def _check_amount(stored: Collection[StoredTensor], file_size: int) -> None:
    """Find out whether there is not far more to read than the file holds, tied tensors once."""
    most = _MOST_REPEATED + _MOST_TIMES * file_size
    if sum(tensor.amount for tensor in stored) > most:
        amount = sum(tensor.amount for tensor in {*stored})
        if amount > most:
            msg = (
                f"its tensors repeat the {file_size:,} bytes of the file to {amount:,}. "
                "Save them as tensor.contiguous()."
            )
            raise CheckpointError(msg)


def _is_zip(file: RandomAccess) -> bool:
    return file.read(0, len(ZIP_MAGIC)) == ZIP_MAGIC


def _read_number(
    tensor: PickledTensor, *, file: RandomAccess, place: Callable[[PickledStorage], tuple[int, int]]
) -> Number | None:
    """The only element of a tensor that has one; None for any other, and for one that is damaged."""
    if tensor.unsupported or tensor.shape not in ((), (1,)):
        return None
    try:
        stored = _stored("", tensor, place)
    except CheckpointError:
        return None
    return from_bytes(file.read(stored.offset, stored.spec.nbytes), stored.spec.dtype)


def _stored(name: str, tensor: PickledTensor, place: Callable[[PickledStorage], tuple[int, int]]) -> StoredTensor:
    """Where ``tensor`` lies in the file, once it is known to lie within its storage."""
    shape, stride, first, storage = tensor.shape, tensor.stride, tensor.storage_offset, tensor.storage
    if tensor.unsupported or storage is None:
        remedy = _REMEDIES.get(tensor.unsupported or "", "")
        msg = f"tensor {name} is {tensor.unsupported}; only dense tensors can be averaged.{remedy}"
        raise CheckpointError(msg)
    try:
        offset, size = place(storage)
    except CheckpointError as error:
        msg = f"tensor {name}: {error}"
        raise CheckpointError(msg) from error
    spec = spec_of(shape, tensor.dtype)
    start = storage.start + first * spec.dtype.itemsize
    stored = StoredTensor(spec=spec, offset=offset + start, stride=stride)
    if spec.numel and start + stored.span > size:
        msg = (
            f"tensor {name} reaches beyond its record: expected {start + stored.span} bytes, found {size}; "
            "the file is damaged."
        )
        raise CheckpointError(msg)
    if spec.nbytes > max(size, _MOST_REPEATED):
        msg = (
            f"tensor {name} repeats the {size:,} bytes that are stored to {spec.nbytes:,}. "
            "Save it as tensor.contiguous()."
        )
        raise CheckpointError(msg)
    return stored
