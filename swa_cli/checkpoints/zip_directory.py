"""The directory of a zip archive, read for one thing: where a record's bytes lie.

The names are those of PKWARE's APPNOTE.TXT, section 4.3. A directory of 100,000 records is indexed by one tight loop;
an entry is looked at only when its record is asked for. What other readers could read as another archive is refused:
names that occur twice, records that share bytes, headers that contradict the directory, more than one end.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple, NoReturn

from swa_cli.errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"

_END = Struct("<4sHHHHIIH")  # end of central directory: disk, its disk, records here, records, size, offset, comment
_END64_LOCATOR = Struct("<4sIQI")  # disk, where the record is, disks
_END64 = Struct("<4sQ4xIIQQQQ")  # zip64 end of central directory: its size, then the same, without a comment
_LENGTH_AFTER = 12  # bytes before those that the size of a zip64 end counts
_ENTRY = Struct("<4s4xHH8xIIHHHH2xII")  # flags, method, compressed, size, three lengths, disk, attributes, header
_LOCAL_HEADER = Struct("<4s2xHH8xIIHH")  # flags, method, compressed, size, lengths of name and extra
_EXTRA = Struct("<HH")
_ZIP64_EXTRA = 1
_U64 = Struct("<Q")
_IN_ZIP64 = 0xFFFFFFFF
_MANY = 0xFFFF
_LONGEST_COMMENT = 0xFFFF
_TAIL = 1 << 10
_SIZES_FOLLOW, _UTF8 = 0x0008, 0x0800
"""Flags that change nothing in the bytes of a record."""
_LEVELS = 0x0006
"""Flags that say how well a record is compressed; torch writes none."""
_HARMLESS = _SIZES_FOLLOW | _UTF8 | _LEVELS
_IS_FOLDER = 0x10
"""Attribute of an entry that torch reads nothing of."""


class _Entry(NamedTuple):
    name: bytes
    flags: int
    method: int
    packed: int
    size: int
    header: int


class ZipDirectory:
    """The records of an archive, without the folder that torch puts them all in.

    Raises:
        CheckpointError: the directory is not there or not whole, or can be read in two ways.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor
        self._file_size: Final = os.fstat(descriptor).st_size
        self._directory, self._start, count = self._read_directory()
        self._folder = b""
        self._headers: list[int] = []
        self._entries: Final = dict(self._index(count))
        self._headers.sort()

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
        entry = self._entry(name)
        if entry.method:
            full_name = entry.name.decode(errors="backslashreplace")
            msg = f"record {full_name} is compressed, by another program than torch. Load and save it again with torch."
            raise CheckpointError(msg)
        local = os.pread(self._descriptor, _LOCAL_HEADER.size + len(entry.name), entry.header)
        if len(local) < _LOCAL_HEADER.size or not local.startswith(ZIP_MAGIC):
            msg = f"record {name} does not start where the directory says; the file is damaged."
            raise CheckpointError(msg)
        _, flags, method, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack_from(local)
        sizes = {packed, size} - ({0, _IN_ZIP64} if flags & _SIZES_FOLLOW else {_IN_ZIP64})
        same = (local[_LOCAL_HEADER.size :], name_length, flags, method) == (
            *(entry.name, len(entry.name)),
            *(entry.flags, entry.method),
        )
        if not same or not sizes <= {entry.size} or entry.packed != entry.size or flags & ~_HARMLESS:
            msg = f"record {name} is another in its header than in the directory; the file is damaged."
            raise CheckpointError(msg)
        offset = entry.header + _LOCAL_HEADER.size + name_length + extra_length
        if offset + entry.size > self._end_after(entry.header):
            msg = f"record {name} reaches into what follows it; the file is truncated or damaged."
            raise CheckpointError(msg)
        return offset, entry.size

    def _end_after(self, header: int) -> int:
        """Where the next record begins, or the directory."""
        following = bisect_right(self._headers, header)
        return self._headers[following] if following < len(self._headers) else self._start

    def _entry(self, name: str) -> _Entry:
        at = self._entries[name.encode(errors="surrogatepass")]
        fields = _ENTRY.unpack_from(self._directory, at)
        _, flags, method, packed, size, name_length, extra_length, _, _, _, header = fields
        after = at + _ENTRY.size + name_length
        if _IN_ZIP64 in (packed, size, header):
            size, packed, header = self._zip64(after, extra_length, (size, packed, header))
        return _Entry(self._directory[after - name_length : after], flags, method, packed, size, header)

    def _read_directory(self) -> tuple[bytes, int, int]:
        """The directory, where in the file it begins, and how many records it has."""
        for length in (_TAIL, _END.size + _LONGEST_COMMENT):
            start = max(0, self._file_size - length)
            tail = os.pread(self._descriptor, length, start)
            found = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
            if found >= 0:
                _, *fields, comment = _END.unpack_from(tail, found)
                if found + _END.size + comment != len(tail):
                    _refuse("something follows its end")
                return self._read_extent(start + found, fields)
        return _refuse("it has no directory at its end")

    def _read_extent(self, end: int, fields: list[int]) -> tuple[bytes, int, int]:
        locator = os.pread(self._descriptor, _END64_LOCATOR.size, max(0, end - _END64_LOCATOR.size))
        if locator.startswith(b"PK\x06\x07"):
            _, disk, at, disks = _END64_LOCATOR.unpack(locator)
            if disk or disks != 1:
                _refuse("it is one of several volumes")
            record = os.pread(self._descriptor, _END64.size, at) if at < end else b""
            if len(record) < _END64.size or not record.startswith(b"PK\x06\x06"):
                _refuse("its zip64 directory is not where it should be")
            length, *wide = _END64.unpack(record)[1:]
            if at + length + _LENGTH_AFTER != end - _END64_LOCATOR.size:
                _refuse("its zip64 directory is not as long as it says")
            limits = (_MANY, _MANY, _MANY, _MANY, _IN_ZIP64, _IN_ZIP64)
            if any(short not in {value, limit} for short, value, limit in zip(fields, wide, limits, strict=True)):
                _refuse("it has two ends that contradict each other")
            fields, end = [*wide], at
        disk, its_disk, here, count, size, offset = fields
        if disk or its_disk or here != count:
            _refuse("it is one of several volumes")
        if offset + size != end:
            _refuse("its directory is not where it should be")
        directory = os.pread(self._descriptor, size, offset)
        if len(directory) < size:
            _refuse("its directory is cut short")
        return directory, offset, count

    def _index(self, count: int) -> Iterator[tuple[bytes, int]]:
        """Each record's name within the folder, and where in the directory it is described."""
        directory, at = self._directory, 0
        seen: set[bytes] = set()
        self._folder = self._first_folder()
        is_ascii = directory.isascii()
        while at < len(directory):
            if directory[at : at + 4] != b"PK\x01\x02" or at + _ENTRY.size > len(directory):
                _refuse("its directory is damaged")
            fields = _ENTRY.unpack_from(directory, at)
            _, flags, method, packed, size, name_length, extra_length, comment_length, disk, attributes, header = fields
            first = at + _ENTRY.size
            after = first + name_length
            name = directory[first:after]
            if not name.startswith(self._folder):
                _refuse("its records are not all in one folder")
            if disk or flags & ~_HARMLESS or attributes & _IS_FOLDER or (packed != size and not method):
                _refuse(f"its record {name.decode(errors='backslashreplace')} is of no kind that torch reads")
            if header == _IN_ZIP64:
                header = self._zip64(after, extra_length, (size, packed, header))[2]
            if not is_ascii:
                name.decode()  # torch reads no archive with other names
            if header + _LOCAL_HEADER.size + (0 if packed == _IN_ZIP64 else packed) > self._start:
                _refuse("its directory names what is not there")
            self._headers.append(header)
            seen.add(name.lower())  # as torch compares them
            yield name[len(self._folder) :], at
            at = after + extra_length + comment_length
        if at != len(directory) or len(seen) != count or len(self._headers) != count:
            _refuse("its directory names a record twice, or not as many as it says")

    def _first_folder(self) -> bytes:
        if len(self._directory) < _ENTRY.size:
            return _refuse("its directory is empty")
        length = _ENTRY.unpack_from(self._directory)[5]
        folder, slash, _ = self._directory[_ENTRY.size : _ENTRY.size + length].partition(b"/")
        return folder + slash if slash else _refuse("its records are not in a folder")

    def _zip64(self, at: int, length: int, values: tuple[int, ...]) -> list[int]:
        """``values``, those that do not fit the entry taken from its zip64 extra field, which holds them in order."""
        end = at + length
        size = 0
        while at + _EXTRA.size <= end:
            kind, size = _EXTRA.unpack_from(self._directory, at)
            at += _EXTRA.size
            if kind == _ZIP64_EXTRA:
                break
            at += size
        wide = _U64.iter_unpack(self._directory[at : min(end, at + size // 8 * 8)])
        found = [next(wide, (-1,))[0] if value == _IN_ZIP64 else value for value in values]
        if -1 in found:
            _refuse("its directory lacks a zip64 field")
        return found


def _refuse(reason: str) -> NoReturn:
    raise CheckpointError(
        f"not a whole torch checkpoint ({reason}). It is truncated or damaged; copy or save it again."
    )
