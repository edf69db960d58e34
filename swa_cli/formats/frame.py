"""The frame of an output: every byte of a file but its averaged tensors, which can be derived anew, and its record.

Names, shapes, the pickle, the directory of an archive and all else that readers use are in it. Its SHA-256 is in the
record, and so the record, which has a checksum of its own, is left out.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable

from swa_cli.errors import CheckpointError
from swa_cli.formats.provenance_text import PROVENANCE
from swa_cli.formats.torch.zip_reader import ZIP_MAGIC, ZipDirectory
from swa_cli.system.storage import RandomAccess

ByteRange = tuple[int, int]
"""The first byte and the one after the last."""

_BLOCK = 1 << 20
_LENGTH = 8
_ENTRY_MAGIC = b"PK\x01\x02"
_CRC_IN_HEADER, _CRC_IN_ENTRY, _CRC_BYTES = 14, 16, 4
_LONGEST_HEADER = 512
"""Bytes of the header before the record that swa-cli writes into an archive, at most."""


def frame_digest(file: RandomAccess, record: str | None, tensors: Iterable[ByteRange]) -> str:
    """Return the SHA-256 of the frame of an open file, in hexadecimal.

    Args:
        record: the text of the record that the file must hold; None for a file that holds none, all of which counts.
        tensors: where its tensors lie.

    Raises:
        CheckpointError: the file does not hold that record. The message has no file name.
        OSError: it cannot be read.
    """
    size = file.size
    left_out = {*tensors, *(() if record is None else _record_in(file, record.encode()))}
    hashed = hashlib.sha256()
    at = 0
    for start, stop in [*sorted(left_out), (size, size)]:
        while at < start and (block := file.read(at, min(_BLOCK, start - at))):
            hashed.update(block)
            at += len(block)
        at = max(at, stop)
    return hashed.hexdigest()


def _record_in(file: RandomAccess, record: bytes) -> list[ByteRange]:
    if file.read(0, len(ZIP_MAGIC)) == ZIP_MAGIC:
        return _record_in_zip(file, record)
    length = int.from_bytes(file.read(0, _LENGTH), "little")
    header = file.read(_LENGTH, min(length, file.size))
    value = json.dumps(record.decode(), ensure_ascii=False).encode()
    at = _LENGTH + header.find(value)
    if at < _LENGTH:
        _refuse()
    return [(at, at + len(value))]


def _record_in_zip(file: RandomAccess, record: bytes) -> list[ByteRange]:
    """Where the record is, which is the last of the archive, and its CRC-32 before it and in the directory."""
    directory = ZipDirectory(file)
    offset, length = directory.extent(PROVENANCE) if PROVENANCE in directory else (0, 0)
    if file.read(offset, length) != record:
        _refuse()
    start = max(0, offset - _LONGEST_HEADER)
    header = start + file.read(start, offset - start).rfind(ZIP_MAGIC)
    end = offset + length
    entry = end + file.read(end, file.size - end).rfind(_ENTRY_MAGIC)
    sums = (header + _CRC_IN_HEADER, entry + _CRC_IN_ENTRY)
    if any(file.read(at, _CRC_BYTES) != zlib.crc32(record).to_bytes(_CRC_BYTES, "little") for at in sums):
        _refuse()
    return [(offset, end), *((at, at + _CRC_BYTES) for at in sums)]


def _refuse() -> None:
    msg = "it does not hold the record of the average."
    raise CheckpointError(msg)
