"""The zip container of ``torch.save``: its directory tells where each storage lies, its pickle what they are.

The pickle is read and never run (`swa_cli.checkpoints.torch_pickle`); tensors stay on disk until they are asked for,
and whatever else the file holds (optimizer state) is never read.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from swa_cli.checkpoints.checkpoint import Checkpoint
from swa_cli.checkpoints.steps import counters_of
from swa_cli.checkpoints.stored import StoredTensor, TensorSpec
from swa_cli.checkpoints.torch_pickle import PickledTensor, read_pickle
from swa_cli.checkpoints.unwrap import find_state_dict, other_state_dicts, strip_wrappers
from swa_cli.errors import CheckpointError, listing

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20"

# A record's local header (APPNOTE.TXT 4.3.7): its length is 30 bytes, a name and an extra field.
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def open_torch(path: Path, *, key: str | None = None) -> Checkpoint:
    """Read the directory and the pickle of a torch zip file, and find its state_dict.

    Args:
        key: dotted key of the state_dict inside the file; by default the usual ones are looked for.

    Raises:
        CheckpointError: the file is truncated or damaged, its pickle needs code that is not known to be harmless
            (all such globals are listed), or it holds no state_dict or several.
    """
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            records = _records(archive)
            contents = _contents(records, stream)
            where, state = find_state_dict(contents, key)
            named = {name: value for name, value in state.items() if isinstance(name, str)}
            tensors = {name: value for name, value in named.items() if isinstance(value, PickledTensor)}
            stored = {name: _stored(name, tensor, records, stream) for name, tensor in tensors.items()}
            return Checkpoint(
                path=path,
                tensors=strip_wrappers(stored),
                counters=counters_of(cast("Mapping[Any, Any]", contents)),
                left_out=tuple(str(name) for name in state if name not in tensors),
                alternatives=other_state_dicts(contents, where.split(".", maxsplit=1)[0]) if where else (),
            )
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error
    except Exception as error:  # a damaged archive or pickle can raise anything at all
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        msg = f"{path}: not a whole torch checkpoint ({reason}). It is truncated or damaged; copy or save it again."
        raise CheckpointError(msg) from error


def _records(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The records of the archive, without the folder that torch puts them all in."""
    return {info.filename.partition("/")[2]: info for info in archive.infolist()}


def _contents(records: Mapping[str, zipfile.ZipInfo], stream: BinaryIO) -> object:
    for marker, kind in (("constants.pkl", "a TorchScript archive"), ("archive_format", "a torch.export archive")):
        if marker in records:
            msg = f"{kind}, not a checkpoint. Save the weights with torch.save(model.state_dict(), path)."
            raise CheckpointError(msg)
    if "data.pkl" not in records:
        msg = "a zip file, but not one that torch.save wrote: it has no data.pkl. Leave it out."
        raise CheckpointError(msg)
    if "byteorder" in records and _read(records["byteorder"], stream) != b"little":
        msg = "saved on a big-endian machine. Load it with torch.load there or here, and save it again."
        raise CheckpointError(msg)
    contents, blocked = read_pickle(_read(records["data.pkl"], stream))
    if blocked:
        msg = (
            f"refused, because its pickle asks for code that could do anything:\n{listing(blocked)}\n"
            "Nothing was run. Save the state_dict alone, torch.save(model.state_dict(), path), or as safetensors."
        )
        raise CheckpointError(msg)
    return contents


def _read(record: zipfile.ZipInfo, stream: BinaryIO) -> bytes:
    """The record's bytes, without its CRC: ``torch.serialization.set_crc32_options(False)`` leaves that wrong."""
    stream.seek(_data_offset(record, stream))
    return stream.read(record.file_size)


def _stored(name: str, tensor: PickledTensor, records: Mapping[str, zipfile.ZipInfo], stream: BinaryIO) -> StoredTensor:
    """Where ``tensor`` lies in the file, once it is known to lie within its record."""
    if tensor.unsupported or tensor.storage is None:
        msg = f"tensor {name} is {tensor.unsupported}; only dense tensors can be averaged."
        raise CheckpointError(msg)
    spec = TensorSpec(shape=tensor.shape, dtype=tensor.dtype)
    if (
        len(tensor.stride) != len(tensor.shape)
        or min((*tensor.shape, *tensor.stride, tensor.storage_offset), default=0) < 0
    ):
        msg = f"tensor {name} has shape {list(tensor.shape)} and stride {list(tensor.stride)}: the file is damaged."
        raise CheckpointError(msg)
    record = records.get(f"data/{tensor.storage.key}")
    if record is None:
        msg = f"tensor {name}: its record data/{tensor.storage.key} is missing; the file is damaged."
        raise CheckpointError(msg)
    start = tensor.storage_offset * spec.dtype.itemsize
    stored = StoredTensor(spec=spec, offset=_data_offset(record, stream) + start, stride=tensor.stride)
    if start + stored.span > record.file_size:
        msg = (
            f"tensor {name} reaches beyond its record: expected {start + stored.span} bytes, found {record.file_size}; "
            "the file is damaged."
        )
        raise CheckpointError(msg)
    return stored


def _data_offset(record: zipfile.ZipInfo, stream: BinaryIO) -> int:
    """Where the record's bytes start in the file; they must lie there as they are."""
    if record.compress_type != zipfile.ZIP_STORED:
        msg = (
            f"record {record.filename} is compressed, by another program than torch. Load and save it again with torch."
        )
        raise CheckpointError(msg)
    stream.seek(record.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if magic != ZIP_MAGIC:
        msg = f"record {record.filename} does not start where the directory says; the file is damaged."
        raise CheckpointError(msg)
    return record.header_offset + _LOCAL_HEADER.size + name_length + extra_length
