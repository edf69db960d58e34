"""The directory of a zip archive, read for one thing: where a record's bytes lie.

The names are those of PKWARE's APPNOTE.TXT, section 4.3. A directory of 100,000 records is indexed by one tight loop;
an entry is looked at only when its record is asked for.
"""

import os
from collections.abc import Iterator
from struct import Struct
from typing import Final, NoReturn

from swa_cli.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"

_END = Struct("<4s4xHHIIH")  # end of central directory: magic, (disks), records here, records, size, offset, comment
_END64_LOCATOR = Struct("<4s4xQ4x")
_END64 = Struct("<4s20xQQQQ")  # zip64 end of central directory: magic, records here, records, size, offset
_ENTRY = Struct("<4s6xH8xIIHHH8xI")  # magic, method, compressed, size, lengths of name, extra, comment, header offset
_LENGTHS = Struct("<HHH").unpack_from
_LENGTHS_AT = 28
_LOCAL_HEADER = Struct("<4s22xHH")  # magic, lengths of name and extra
_EXTRA = Struct("<HH")
_ZIP64_EXTRA = 1
_U64 = Struct("<Q")
_IN_ZIP64 = 0xFFFFFFFF
_LONGEST_COMMENT = 0xFFFF
_TAIL = 1 << 10


class ZipDirectory:
    """The records of an archive, without the folder that torch puts them all in.

    Raises:
        CheckpointError: the directory is not there or not whole.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor
        self._file_size: Final = os.fstat(descriptor).st_size
        self._directory: Final = self._read_directory()
        self._entries: Final = dict(self._index())

    def __contains__(self, name: str) -> bool:
        return name.encode(errors="surrogatepass") in self._entries

    def read(self, name: str) -> bytes:
        """The record's bytes, without its CRC: ``torch.serialization.set_crc32_options(False)`` leaves that wrong."""
        offset, size = self.extent(name)
        return os.pread(self._descriptor, size, offset)

    def extent(self, name: str) -> tuple[int, int]:
        """At which byte of the file the record's bytes start, and how many they are; they lie there as they are.

        Raises:
            KeyError: there is no such record.
            CheckpointError: it is compressed, or not where the directory says.
        """
        at = self._entries[name.encode(errors="surrogatepass")]
        _, method, packed, size, name_length, extra_length, _, header = _ENTRY.unpack_from(self._directory, at)
        after = at + _ENTRY.size + name_length
        if _IN_ZIP64 in (size, header):
            size, _, header = self._zip64(after, extra_length, (size, packed, header))
        if method:
            full_name = self._directory[after - name_length : after].decode(errors="backslashreplace")
            msg = f"record {full_name} is compressed, by another program than torch. Load and save it again with torch."
            raise CheckpointError(msg)
        local = os.pread(self._descriptor, _LOCAL_HEADER.size, header) if header < self._file_size else b""
        if len(local) < _LOCAL_HEADER.size or not local.startswith(ZIP_MAGIC):
            msg = f"record {name} does not start where the directory says; the file is damaged."
            raise CheckpointError(msg)
        _, name_length, extra_length = _LOCAL_HEADER.unpack(local)
        offset = header + _LOCAL_HEADER.size + name_length + extra_length
        if offset + size > self._file_size:
            msg = f"record {name} reaches beyond the end of the file; the file is truncated or damaged."
            raise CheckpointError(msg)
        return offset, size

    def _read_directory(self) -> bytes:
        for length in (_TAIL, _END.size + _LONGEST_COMMENT):
            start = max(0, self._file_size - length)
            tail = os.pread(self._descriptor, length, start)
            found = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
            if found >= 0:
                return self._read_extent(start + found, *_END.unpack_from(tail, found)[3:5])
        return _refuse("it has no directory at its end")

    def _read_extent(self, end: int, size: int, offset: int) -> bytes:
        locator = os.pread(self._descriptor, _END64_LOCATOR.size, max(0, end - _END64_LOCATOR.size))
        if locator.startswith(b"PK\x06\x07"):
            at = _END64_LOCATOR.unpack(locator)[1]
            record = os.pread(self._descriptor, _END64.size, at) if at < end else b""
            if len(record) < _END64.size or not record.startswith(b"PK\x06\x06"):
                _refuse("its zip64 directory is not where it should be")
            size, offset = _END64.unpack(record)[3:5]
        if offset + size > end:
            _refuse("its directory is not where it should be")
        directory = os.pread(self._descriptor, size, offset)
        if len(directory) < size:
            _refuse("its directory is cut short")
        return directory

    def _index(self) -> Iterator[tuple[bytes, int]]:
        directory, at = self._directory, 0
        while at < len(directory):
            if directory[at : at + 4] != b"PK\x01\x02" or at + _ENTRY.size > len(directory):
                _refuse("its directory is damaged")
            name_length, extra_length, comment_length = _LENGTHS(directory, at + _LENGTHS_AT)
            first = at + _ENTRY.size
            after = first + name_length
            yield directory[first:after].partition(b"/")[2], at
            at = after + extra_length + comment_length

    def _zip64(self, at: int, length: int, values: tuple[int, ...]) -> list[int]:
        """``values``, those that do not fit the entry taken from its zip64 extra field, which holds them in order."""
        end = at + length
        while at + _EXTRA.size <= end:
            kind, size = _EXTRA.unpack_from(self._directory, at)
            at += _EXTRA.size
            if kind == _ZIP64_EXTRA:
                break
            at += size
        wide = _U64.iter_unpack(self._directory[at : at + (end - at) // 8 * 8])
        found = [next(wide, (-1,))[0] if value == _IN_ZIP64 else value for value in values]
        if -1 in found:
            _refuse("its directory lacks a zip64 field")
        return found


def _refuse(reason: str) -> NoReturn:
    raise CheckpointError(
        f"not a whole torch checkpoint ({reason}). It is truncated or damaged; copy or save it again."
    )
