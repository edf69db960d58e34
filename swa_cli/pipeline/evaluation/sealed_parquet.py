"""A checksum in a parquet file: pyarrow ends the whole program on some damaged files, so none is given to it."""

import hashlib
from typing import BinaryIO

_SEAL = b"swa-cli sha256: "
_DIGEST = 32
_END = 8  # the length of the footer, little-endian in 4 bytes, and b"PAR1"
_CHUNK = 1 << 20


def seal(stream: BinaryIO) -> None:
    """Put the SHA-256 of a whole parquet file before its footer, a place that no reader looks at.

    Args:
        stream: the file, open to be read and written.
    """
    end = stream.seek(0, 2)
    footer = _footer_at(stream, end)
    digest = _digest(stream, footer, 0)
    stream.seek(footer)
    after = stream.read()
    stream.seek(footer)
    stream.write(_SEAL + digest + after)


def check_seal(stream: BinaryIO) -> None:
    """Compare a file with the checksum that `seal` put into it.

    Raises:
        ValueError: it has none, or is not as it was written.
    """
    end = stream.seek(0, 2)
    before = _footer_at(stream, end) - len(_SEAL) - _DIGEST
    found = b""
    if before >= 0:
        stream.seek(before)
        found = stream.read(len(_SEAL) + _DIGEST)
    if not found.startswith(_SEAL):
        msg = "it has no checksum before its footer"
        raise ValueError(msg)
    if found != _SEAL + _digest(stream, before, len(found)):
        msg = "it is not as it was written: its checksum is another"
        raise ValueError(msg)
    stream.seek(0)


def _footer_at(stream: BinaryIO, end: int) -> int:
    """Where the footer begins by what its length says, before the start for a file that is too short."""
    stream.seek(max(0, end - _END))
    return end - _END - int.from_bytes(stream.read(4), "little")


def _digest(stream: BinaryIO, hole: int, length: int) -> bytes:
    """The SHA-256 of a file without ``length`` bytes at ``hole``."""
    digest = hashlib.sha256()
    stream.seek(0)
    left = hole
    while left and (chunk := stream.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    stream.seek(hole + length)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()
