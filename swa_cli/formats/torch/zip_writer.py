"""The zip container as ``torch.save`` lays it out, with room for the tensors: records stored as they are, aligned.

The names are those of PKWARE's APPNOTE.TXT, section 4.3; sizes beyond four gigabytes are in zip64 fields.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct

from swa_cli.formats.output_layout import Crc

_LOCAL = Struct("<4sHHHHHIIIHH")
_ENTRY = Struct("<4sHHHHHHIIIHHHHHII")
_END = Struct("<4sHHHHIIH")
_END64 = Struct("<4sQHHIIQQQQ")
_END64_LOCATOR = Struct("<4sIQI")
_ZIP64_LOCAL = Struct("<HHQQ")
_ZIP64_ENTRY = Struct("<HHQQQ")
_PADDING = Struct("<HH")
_PADDING_KIND = 0x4246  # "FB", torch's own
_ZIP64_KIND = 1
_ZIP64_VERSION = 45
_VERSION = 20
_UTF8 = 0x800
_NO_DATE = (1 << 5) | 1  # the first of January 1980
_ALIGNMENT = 64
_LIMIT = 0xFFFFFFFF
_MANY = 0xFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record: its bytes, or how many there will be."""

    name: str
    content: bytes | int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.content if isinstance(self.content, int) else len(self.content)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where the records lie, and how large the archive is."""

    records: Sequence[Record]
    headers: Sequence[int]
    offsets: Mapping[str, int]
    directory: int
    end: int
    """Of the entries of the directory."""
    size: int


def plan_archive(records: Sequence[Record]) -> Archive:
    """Decide where everything goes; it depends on the names and sizes of the records alone."""
    headers: list[int] = []
    offsets: dict[str, int] = {}
    at = 0
    for record in records:
        headers.append(at)
        at += len(_local(record, at, 0))
        offsets[record.name] = at
        at += record.size
    directory = at
    for record, header in zip(records, headers, strict=True):
        at += len(_entry(record, header, 0))
    return Archive(
        records=records,
        headers=headers,
        offsets=offsets,
        directory=directory,
        end=at,
        size=at + len(_end(len(records), directory, at)),
    )


def frame_archive(archive: Archive, contents: Mapping[str, bytes], crc: Crc) -> Iterator[tuple[int, bytes]]:
    """Headers, the directory, and the records whose bytes are known.

    Args:
        contents: of records in place of those they were planned with, as long as these.
    """
    entries = bytearray()
    for record, header in zip(archive.records, archive.headers, strict=True):
        content = contents.get(record.name, record.content)
        offset = archive.offsets[record.name]
        check = crc(offset, content) if isinstance(content, int) else zlib.crc32(content)
        yield header, _local(record, header, check)
        if isinstance(content, bytes):
            yield offset, content
        entries += _entry(record, header, check)
    yield archive.directory, bytes(entries) + _end(len(archive.records), archive.directory, archive.end)


def frame_last(archive: Archive, content: bytes) -> Iterator[tuple[int, bytes]]:
    """The last record with another content of the same length, and all that depends on it."""
    record, header = archive.records[-1], archive.headers[-1]
    assert record.size == len(content), "the record is not as long as was planned"
    entry = _entry(record, header, zlib.crc32(content))
    yield header, _local(record, header, zlib.crc32(content))
    yield archive.offsets[record.name], content
    yield archive.end - len(entry), entry


def _local(record: Record, at: int, crc: int) -> bytes:
    name = record.name.encode()
    wide = record.size >= _LIMIT
    extra = _ZIP64_LOCAL.pack(_ZIP64_KIND, 16, record.size, record.size) if wide else b""
    start = at + _LOCAL.size + len(name) + len(extra) + _PADDING.size
    padding = -start % _ALIGNMENT
    extra += _PADDING.pack(_PADDING_KIND, padding) + b"Z" * padding
    size = _LIMIT if wide else record.size
    version = _ZIP64_VERSION if wide else _VERSION
    fields = (b"PK\x03\x04", version, _UTF8, 0, 0, _NO_DATE, crc, size, size, len(name), len(extra))
    return _LOCAL.pack(*fields) + name + extra


def _entry(record: Record, header: int, crc: int) -> bytes:
    name = record.name.encode()
    wide = record.size >= _LIMIT or header >= _LIMIT
    extra = _ZIP64_ENTRY.pack(_ZIP64_KIND, 24, record.size, record.size, header) if wide else b""
    size, at, version = (_LIMIT, _LIMIT, _ZIP64_VERSION) if wide else (record.size, header, _VERSION)
    lengths = (len(name), len(extra), 0)
    fields = (b"PK\x01\x02", version, version, _UTF8, 0, 0, _NO_DATE, crc, size, size, *lengths, 0, 0, 0, at)
    return _ENTRY.pack(*fields) + name + extra


def _end(count: int, directory: int, end: int) -> bytes:
    size = end - directory
    wide = count >= _MANY or end >= _LIMIT
    before = b""
    if wide:
        versions = (_ZIP64_VERSION, _ZIP64_VERSION)
        fields = (b"PK\x06\x06", _END64.size - 12, *versions, 0, 0, count, count, size, directory)
        before = _END64.pack(*fields) + _END64_LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
        count, size, directory = _MANY, _LIMIT, _LIMIT
    return before + _END.pack(b"PK\x05\x06", 0, 0, count, count, size, directory, 0)
