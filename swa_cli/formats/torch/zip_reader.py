"""The directory of a zip archive, read for one thing: where a record's bytes lie.

The names are those of PKWARE's APPNOTE.TXT, section 4.3. A directory of 100,000 records is indexed by one tight loop;
an entry is looked at only when its record is asked for. What other readers could read as another archive is refused:
names that occur twice, records that share bytes, headers that contradict the directory, more than one end.

The archives of a training run often differ in their folder's name and in checksums only. Where all else is the same as
in the archive before, byte by byte, so is where its records lie.
"""

from bisect import bisect_right
from dataclasses import dataclass
from struct import Struct
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt

from swa_cli.errors import CheckpointError
from swa_cli.formats.latest import Latest
from swa_cli.system.storage import RandomAccess

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
_NEAR, _NEIGHBOURS = 1 << 13, 32
"""Headers no further apart than two pages are read together, so many at once."""
_LONGEST_NAME = 100
"""Of a record, longer than torch's: the headers of others are read one by one."""
_CRC_IN_ENTRY, _CRC_IN_HEADER, _CRC_SIZE = 16, 14, 4
_NAME_LENGTH_IN_HEADER = slice(26, 28)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Known:
    """An archive that was read: its directory and headers without checksums and folder, and what they say."""

    directory: Bytes
    local: Bytes | None
    """The headers of the records, as far as all names are short."""
    start: int
    entries: dict[bytes, int]
    at: npt.NDArray[np.int64]
    headers: list[int]
    extents: dict[str, tuple[int, int]]


_latest = Latest[_Known]()
"""The archive that was read last."""


class ZipDirectory:
    """The records of an archive, without the folder that torch puts them all in.

    Raises:
        CheckpointError: the directory is not there or not whole, or can be read in two ways.
    """

    def __init__(self, file: RandomAccess) -> None:
        self._file: Final = file
        self._directory, self._start, count = self._read_directory()
        self._folder: Final = self._first_folder()
        known = self._known(count)
        self._entries, self._headers = (known.entries, known.headers) if known else self._index(count)
        longest = len(self._folder) + max(map(len, self._entries), default=0)
        self._width = _LOCAL_HEADER.size + min(longest, _LONGEST_NAME)
        self._local = self._read_headers()
        self.extents: Final = self._extents(known)
        """Where records lie, as far as they have been asked for; the same object for archives of one layout."""

    def __contains__(self, name: str) -> bool:
        return name.encode(errors="surrogatepass") in self._entries

    def read(self, name: str) -> bytes:
        """The record's bytes, without its CRC: ``torch.serialization.set_crc32_options(False)`` leaves that wrong."""
        offset, size = self.extent(name)
        return self._file.read(offset, size)

    def extent(self, name: str) -> tuple[int, int]:
        """At which byte of the file the record's bytes start, and how many they are; they lie there as they are.

        Raises:
            KeyError: there is no such record.
            CheckpointError: it is compressed, or not where the directory says.
        """
        found = self.extents.get(name)
        if found is None:
            found = self.extents[name] = self._find_extent(name)
        return found

    def _find_extent(self, name: str) -> tuple[int, int]:
        at = self._entries[name.encode(errors="surrogatepass")]
        fields = _ENTRY.unpack_from(self._directory, at)
        _, flags, method, packed, size, name_length, extra_length, _, _, _, header = fields
        after = at + _ENTRY.size + name_length
        if _IN_ZIP64 in (packed, size, header):
            size, packed, header = self._zip64(after, extra_length, (size, packed, header))
        full_name = self._directory[after - name_length : after]
        if method:
            shown = full_name.decode(errors="backslashreplace")
            msg = f"record {shown} is compressed, by another program than torch. Load and save it again with torch."
            raise CheckpointError(msg)
        length = _LOCAL_HEADER.size + name_length
        following = bisect_right(self._headers, header)
        local = self._local_header(following - 1, header, length)
        if len(local) < _LOCAL_HEADER.size or not local.startswith(ZIP_MAGIC):
            msg = f"record {name} does not start where the directory says; the file is damaged."
            raise CheckpointError(msg)
        _, *same, its_packed, its_size, its_name_length, its_extra_length = _LOCAL_HEADER.unpack_from(local)
        unknown = (0, _IN_ZIP64) if flags & _SIZES_FOLLOW else (_IN_ZIP64,)
        if (
            (same != [flags, method] or its_name_length != name_length or local[_LOCAL_HEADER.size :] != full_name)
            or (its_packed != size and its_packed not in unknown)
            or (its_size != size and its_size not in unknown)
            or packed != size
        ):
            msg = f"record {name} is another in its header than in the directory; the file is damaged."
            raise CheckpointError(msg)
        offset = header + length + its_extra_length
        if offset + size > (self._headers[following] if following < len(self._headers) else self._start):
            msg = f"record {name} reaches into what follows it; the file is truncated or damaged."
            raise CheckpointError(msg)
        return offset, size

    def _local_header(self, number: int, start: int, length: int) -> bytes:
        if length > self._width:
            return self._file.read(start, length)
        return self._local[number * self._width : number * self._width + length]

    def _read_headers(self) -> bytes:
        """The headers of all records in their order, each cut or filled up to one width."""
        headers, width, found, first = self._headers, self._width, list[bytes](), 0
        while first < len(headers):
            after, start = first + 1, headers[first]
            while after < min(len(headers), first + _NEIGHBOURS) and headers[after] - headers[after - 1] <= _NEAR:
                after += 1
            window = self._file.read(start, headers[after - 1] - start + width)
            found += [window[header - start : header - start + width] for header in headers[first:after]]
            first = after
        return b"".join([header.ljust(width, b"\0") for header in found])

    def _known(self, count: int) -> _Known | None:
        """The archive before, if the directory is the same but for the folder and checksums."""
        known, size = _latest.value, len(self._directory)
        if known is None or (known.start, len(known.headers), len(known.directory)) != (self._start, count, size):
            return None
        directory = _plain(self._directory, known.at, self._folder, _CRC_IN_ENTRY, _ENTRY.size)
        if directory is None or not np.array_equal(directory, known.directory):
            return None
        self._folder.decode()
        return known

    def _extents(self, known: _Known | None) -> dict[str, tuple[int, int]]:
        """Those of the archive before, if the headers of all records are the same, too; else none so far."""
        count, width, folder = len(self._headers), self._width, self._folder
        local = None
        if len(folder) + max(map(len, self._entries)) <= _LONGEST_NAME:
            local = _plain(self._local, np.arange(count) * width, folder, _CRC_IN_HEADER, _LOCAL_HEADER.size)
        if local is not None:
            rows = local.reshape(count, width)
            names = rows[:, _NAME_LENGTH_IN_HEADER].copy().view("<u2")
            rows[np.arange(width) >= _LOCAL_HEADER.size + names] = 0
            if known and known.local is not None and np.array_equal(local, known.local):
                return known.extents
        at = np.fromiter(self._entries.values(), np.int64, count)
        directory = _plain(self._directory, at, folder, _CRC_IN_ENTRY, _ENTRY.size)
        extents: dict[str, tuple[int, int]] = {}
        if directory is not None:
            _latest.value = _Known(directory, local, self._start, self._entries, at, self._headers, extents)
        return extents

    def _read_directory(self) -> tuple[bytes, int, int]:
        """The directory, where in the file it begins, and how many records it has."""
        for length in (_TAIL, _END.size + _LONGEST_COMMENT):
            start = max(0, self._file.size - length)
            tail = self._file.read(start, length)
            found = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
            if found >= 0:
                _, *fields, comment = _END.unpack_from(tail, found)
                if found + _END.size + comment != len(tail):
                    _refuse("something follows its end")
                return self._read_extent(start + found, fields)
        return _refuse("it has no directory at its end")

    def _read_extent(self, end: int, fields: list[int]) -> tuple[bytes, int, int]:
        locator = self._file.read(max(0, end - _END64_LOCATOR.size), _END64_LOCATOR.size)
        if locator.startswith(b"PK\x06\x07"):
            _, disk, at, disks = _END64_LOCATOR.unpack(locator)
            if disk or disks != 1:
                _refuse("it is one of several volumes")
            record = self._file.read(at, _END64.size) if at < end else b""
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
        directory = self._file.read(offset, size)
        if len(directory) < size:
            _refuse("its directory is cut short")
        return directory, offset, count

    def _index(self, count: int) -> tuple[dict[bytes, int], list[int]]:
        """Where in the directory each record is described, by its name within the folder; and all headers in order."""
        directory, folder, at = self._directory, self._folder, 0
        start, size_of_entry, unpack = self._start, _ENTRY.size, _ENTRY.unpack_from
        within_folder, last = len(folder), len(directory) - size_of_entry
        entries: dict[bytes, int] = {}
        headers: list[int] = []
        is_ascii = directory.isascii()
        while at < len(directory):
            if at > last:
                _refuse("its directory is damaged")
            fields = unpack(directory, at)
            magic, flags, method, packed, size, name_length, extra_length, comment, disk, attributes, header = fields
            if magic != b"PK\x01\x02":
                _refuse("its directory is damaged")
            after = at + size_of_entry + name_length
            name = directory[at + size_of_entry : after]
            if not name.startswith(folder):
                _refuse("its records are not all in one folder")
            if disk or flags & ~_HARMLESS or attributes & _IS_FOLDER or (packed != size and not method):
                _refuse(f"its record {name.decode(errors='backslashreplace')} is of no kind that torch reads")
            if header == _IN_ZIP64:
                header = self._zip64(after, extra_length, (size, packed, header))[2]
            if not is_ascii:
                name.decode()  # torch reads no archive with other names
            if header + _LOCAL_HEADER.size + (0 if packed == _IN_ZIP64 else packed) > start:
                _refuse("its directory names what is not there")
            headers.append(header)
            entries[name[within_folder:]] = at
            at = after + extra_length + comment
        names = {*map(bytes.lower, entries)}  # as torch compares them
        if at != len(directory) or len(names) != count or len(headers) != count:
            _refuse("its directory names a record twice, or not as many as it says")
        headers.sort()
        return entries, headers

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


def _plain(content: bytes, at: npt.NDArray[np.int64], folder: bytes, crc: int, name: int) -> Bytes | None:
    """Headers or entries that begin ``at``, with zeros for checksums and folder; None where the folder is another."""
    plain = np.frombuffer(content, np.uint8).copy()
    places = at[:, None] + np.arange(name, name + len(folder))
    if not np.array_equal(plain[places], np.broadcast_to(np.frombuffer(folder, np.uint8), places.shape)):
        return None
    plain[places] = 0
    plain[at[:, None] + np.arange(crc, crc + _CRC_SIZE)] = 0
    return plain


def _refuse(reason: str) -> NoReturn:
    raise CheckpointError(
        f"not a whole torch checkpoint ({reason}). It is truncated or damaged; copy or save it again."
    )
