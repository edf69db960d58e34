"""The safetensors container: its header, read and written.

The format (https://huggingface.co/docs/safetensors): eight bytes of little-endian header length, a JSON header
that maps each name to dtype, shape and byte range, then the tensors' bytes without gaps.
"""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from swa_cli.errors import CheckpointError, OutputError
from swa_cli.formats.dtypes import BY_NAME
from swa_cli.formats.file_reader import open_same
from swa_cli.formats.provenance_text import EXTRA_STATE, PROVENANCE
from swa_cli.formats.tensor_layout import StoredTensor, TensorSpec, row_major, spec_of
from swa_cli.formats.torch.rebuild import MOST_DIMENSIONS
from swa_cli.formats.torch.state_dict import strip_wrappers, wrappers_in
from swa_cli.formats.training_step import COUNTERS
from swa_cli.system.checked_json import check_values
from swa_cli.system.storage import RandomAccess, Stamp

NAMES = {
    BY_NAME[dtype]: name
    for dtype, name in {
        "float64": "F64",
        "float32": "F32",
        "float16": "F16",
        "bfloat16": "BF16",
        "complex64": "C64",
        "float8_e4m3fn": "F8_E4M3",
        "float8_e4m3fnuz": "F8_E4M3FNUZ",
        "float8_e8m0fnu": "F8_E8M0",
        "float8_e5m2": "F8_E5M2",
        "float8_e5m2fnuz": "F8_E5M2FNUZ",
        "int64": "I64",
        "int32": "I32",
        "int16": "I16",
        "int8": "I8",
        "bool": "BOOL",
        "uint64": "U64",
        "uint32": "U32",
        "uint16": "U16",
        "uint8": "U8",
    }.items()
}
"""The format's names of the dtypes that it can store."""
_DTYPES = {name: dtype for dtype, name in NAMES.items()}

RESERVED = frozenset({"format", PROVENANCE, EXTRA_STATE, *COUNTERS})
"""Keys of the metadata that are no names of tensors."""

_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100_000_000  # what the library lets pass
_MOST_VALUES, _BYTES_OF_VALUE = 1_000_000, 16
"""Of a header: nine for each tensor."""
_MOST_METADATA = 100_000


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file that starts with these bytes (at least nine) claims to be safetensors."""
    return len(head) > _LENGTH.size and head[_LENGTH.size : _LENGTH.size + 1] == b"{"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of a file says."""

    text: bytes
    file_size: int
    names: frozenset[str]
    """Of the tensors, as they stand in the file."""
    stored: Mapping[str, StoredTensor]
    """The tensors, by the names in the file; tied ones by each of theirs."""
    tensors: Mapping[str, StoredTensor]
    """The same, by their names without wrappers."""
    metadata: Mapping[str, str]
    stripped: tuple[str, ...]


def stored_names(path: PurePath, stamp: Stamp) -> tuple[frozenset[str], Mapping[str, str]]:
    """Return the names of the tensors as they stand in a file that was opened before, and its metadata.

    Args:
        stamp: of the file when it was opened.

    Raises:
        CheckpointError: the file cannot be read, or was changed.
    """
    try:
        with open_same(path, stamp) as file:
            header = read_header(path, file)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}."
        raise CheckpointError(msg) from error
    return header.names, header.metadata


def read_header(path: PurePath, file: RandomAccess) -> Header:
    """Read the header of a safetensors file.

    Args:
        path: of the file, which is open as ``file``.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: the header is malformed, disagrees with the size of the file, or names a dtype that
            torch does not have.
    """
    try:
        return _read_header(file)
    except (SafetensorError, ValueError, RecursionError) as error:
        msg = f"{path}: not a whole safetensors file ({error}). It is truncated or damaged; copy or save it again."
        raise CheckpointError(msg) from error
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error


_latest: list[Header] = []
"""The header read last: the files of a run often have one and the same, and it may be long."""


def _read_header(file: RandomAccess) -> Header:
    size = file.size
    head = file.read(0, _LENGTH.size)
    (length,) = _LENGTH.unpack(head)
    text = file.read(_LENGTH.size, min(length, size, _LONGEST_HEADER + 1))
    for header in _latest:
        if header.text == text and header.file_size == size:
            return header
    check_values(text, max(_MOST_VALUES, len(text) // _BYTES_OF_VALUE))
    _check(head + text, size)
    entries = cast("dict[str, Any]", json.loads(text))
    metadata = cast("dict[str, str]", entries.pop("__metadata__", None) or {})
    if len(metadata) > _MOST_METADATA:
        msg = f"its metadata have {len(metadata):,} entries, expected at most {_MOST_METADATA:,}."
        raise CheckpointError(msg)
    start = _LENGTH.size + len(text)
    tensors = {name: _stored(name, entry, start) for name, entry in entries.items()}
    tied = {
        name: tensors[kept]
        for name, kept in metadata.items()
        if kept in tensors and name not in tensors and _may_be_tied(name, kept, metadata)
    }
    stored = MappingProxyType(tensors | tied)
    short, stripped = strip_wrappers(stored), wrappers_in(stored)
    _latest[:] = [
        Header(
            text=text,
            file_size=size,
            names=frozenset(entries),
            stored=stored,
            tensors=MappingProxyType(short) if stripped else stored,
            metadata=MappingProxyType(metadata),
            stripped=stripped,
        )
    ]
    return _latest[0]


def _check(header: bytes, size: int) -> None:
    """Let the library check offsets, overlaps and sizes of a file of ``size`` bytes.

    It reads files by their paths only: it gets one in memory, with holes in place of the tensors.

    Raises:
        SafetensorError: the header is malformed, or is not that of a file of this size.
    """
    descriptor = os.memfd_create("safetensors header")
    try:
        os.write(descriptor, header)
        os.ftruncate(descriptor, size)
        with safe_open(f"/proc/self/fd/{descriptor}", framework="np"):
            pass
    finally:
        os.close(descriptor)


def _may_be_tied(name: str, kept: str, metadata: Mapping[str, str]) -> bool:
    """Whether an entry of the metadata can mean two names of a tensor, and not, say, ``{"epoch": "1"}``.

    In a file that swa-cli wrote every entry whose value is the name of a tensor does, but for reserved keys.
    """
    return name not in RESERVED and (PROVENANCE in metadata or "." in name or "." in kept)


def _stored(name: str, entry: Mapping[str, Any], start: int) -> StoredTensor:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        msg = f"tensor {name} has dtype {entry['dtype']}, which cannot be averaged."
        raise CheckpointError(msg)
    shape = tuple(entry["shape"])
    if len(shape) > MOST_DIMENSIONS:
        msg = f"tensor {name} has {len(shape):,} dimensions, and torch and numpy know {MOST_DIMENSIONS} at most."
        raise CheckpointError(msg)
    return StoredTensor(
        spec=spec_of(shape, dtype), offset=start + int(entry["data_offsets"][0]), stride=row_major(shape)
    )


def file_order(specs: Mapping[str, TensorSpec]) -> list[str]:
    """The order in which the format stores tensors: widest dtype first, so that each lies aligned, then by name."""
    return sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))


def safetensors_entries(specs: Mapping[str, TensorSpec]) -> tuple[bytes, Mapping[str, int]]:
    """What a header says of ``specs``, stored in `file_order`, and at which byte after the header each tensor goes."""
    entries: dict[str, object] = {}
    offsets: dict[str, int] = {}
    end = 0
    for name in file_order(specs):
        spec, offsets[name] = specs[name], end
        end += spec.nbytes
        entries[name] = {"dtype": NAMES[spec.dtype], "shape": spec.shape, "data_offsets": [offsets[name], end]}
    return _as_json(entries), offsets


def safetensors_header(entries: bytes, metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file, from its `safetensors_entries`.

    Raises:
        OutputError: they are more than the format allows.
    """
    first = _as_json({"__metadata__": dict(metadata)})
    text = first if entries == b"{}" else first[:-1] + b"," + entries[1:]
    text += b" " * (-len(text) % _LENGTH.size)
    if len(text) > _LONGEST_HEADER:
        msg = (
            f"the header would take {len(text):,} bytes, and safetensors files have {_LONGEST_HEADER:,} at most. Leave "
            "entries out of the state_dict that are not tensors (_extra_state)."
        )
        raise OutputError(msg)
    return _LENGTH.pack(len(text)) + text


def _as_json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
