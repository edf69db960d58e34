"""The safetensors container: its dtype names, its header, and a writer that streams.

The format (https://huggingface.co/docs/safetensors): eight bytes of little-endian header length, a JSON header
that maps each name to dtype, shape and byte range, then the tensors' bytes without gaps.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from safetensors import SafetensorError, safe_open

from swa_cli.checkpoints.steps import counters_of
from swa_cli.checkpoints.stored import Checkpoint, StoredTensor, TensorSpec
from swa_cli.checkpoints.unwrap import strip_wrappers
from swa_cli.errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_LENGTH = struct.Struct("<Q")


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file that starts with these bytes (at least nine) claims to be safetensors."""
    return len(head) > _LENGTH.size and head[_LENGTH.size : _LENGTH.size + 1] == b"{"


def open_safetensors(path: Path) -> Checkpoint:
    """Read the header of a safetensors file.

    Raises:
        CheckpointError: the header is malformed, disagrees with the size of the file, or names a dtype that
            torch does not have.
    """
    try:
        with safe_open(path, framework="pt"):  # the library checks offsets, overlaps and sizes
            pass
        with path.open("rb") as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            header = cast("dict[str, Any]", json.loads(stream.read(length)))
    except (SafetensorError, ValueError, RecursionError) as error:
        msg = f"{path}: not a whole safetensors file ({error}). It is truncated or damaged; copy or save it again."
        raise CheckpointError(msg) from error
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}."
        raise CheckpointError(msg) from error
    metadata = cast("dict[str, str]", header.pop("__metadata__", None) or {})
    start = _LENGTH.size + length
    tensors = {name: _stored(path, name, entry, start) for name, entry in header.items()}
    try:
        names = strip_wrappers(tensors)
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error
    return Checkpoint(path=path, tensors=names, metadata=metadata, counters=counters_of(metadata))


def _stored(path: Path, name: str, entry: Mapping[str, Any], start: int) -> StoredTensor:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        msg = f"{path}: tensor {name} has dtype {entry['dtype']}, which cannot be averaged."
        raise CheckpointError(msg)
    shape = tuple(int(size) for size in entry["shape"])
    stride = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        stride[axis] = stride[axis + 1] * shape[axis + 1]
    return StoredTensor(
        spec=TensorSpec(shape=shape, dtype=dtype), offset=start + int(entry["data_offsets"][0]), stride=tuple(stride)
    )


def file_order(specs: Mapping[str, TensorSpec]) -> list[str]:
    """The order in which the format stores tensors: widest dtype first, so that each lies aligned, then by name."""
    return sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))


def write_safetensors(
    stream: BinaryIO, specs: Mapping[str, TensorSpec], chunks: Iterable[torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a header for ``specs``, then the bytes of ``chunks``.

    ``chunks`` are contiguous CPU tensors that, joined, hold every tensor of ``specs`` in `file_order`; no more
    than one of them need exist at a time.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in file_order(specs):
        spec = specs[name]
        header[name] = {
            "dtype": NAMES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH.size)
    stream.write(_LENGTH.pack(len(text)))
    stream.write(text)
    written = 0
    for chunk in chunks:
        if chunk.numel():
            data = chunk.contiguous().view(-1).view(torch.uint8).numpy()
            stream.write(data.data)
            written += data.nbytes
    assert written == offset, f"the chunks hold {written} bytes, the header promises {offset}"
