"""The directory of a zip archive, read for one thing: where a record's bytes lie.

The names are those of PKWARE's APPNOTE.TXT, section 4.3. A directory of 100,000 records is indexed by one tight loop;
an entry is looked at only when its record is asked for. What other readers could read as another archive is refused:
names that occur twice, records that share bytes, headers that contradict the directory, more than one end.
"""

import os
from bisect import bisect_right
from struct import Struct
from typing import Final, NoReturn

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
_NEAR, _NEIGHBOURS = 512, 32
"""Headers of small records are read together, so many at once, if no two lie further apart than so many bytes."""


class ZipDirectory:
    """The records of an archive, without the folder that torch puts them all in.

    Raises:
        CheckpointError: the directory is not there or not whole, or can be read in two ways.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor
        self._file_size: Final = os.fstat(descriptor).st_size
        self._directory, self._start, count = self._read_directory()
        self._entries, self._headers = self._index(count)
        self._window, self._window_start = b"", 0

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
        local = self._read_near(header, length)
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
        following = bisect_right(self._headers, header)
        if offset + size > (self._headers[following] if following < len(self._headers) else self._start):
            msg = f"record {name} reaches into what follows it; the file is truncated or damaged."
            raise CheckpointError(msg)
        return offset, size

    def _read_near(self, start: int, length: int) -> bytes:
        """So many bytes from the header at ``start``; those of the headers close behind it are at hand next."""
        within = start - self._window_start
        if within < 0 or within + length > len(self._window):
            last, following = start, bisect_right(self._headers, start)
            for header in self._headers[following : following + _NEIGHBOURS]:
                if header - last > _NEAR:
                    break
                last = header
            self._window = os.pread(self._descriptor, last - start + length, start)
            self._window_start, within = start, 0
        return self._window[within : within + length]

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

    def _index(self, count: int) -> tuple[dict[bytes, int], list[int]]:
        """Where in the directory each record is described, by its name within the folder; and all headers in order."""
        directory, folder, at = self._directory, self._first_folder(), 0
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


def _refuse(reason: str) -> NoReturn:
    raise CheckpointError(
        f"not a whole torch checkpoint ({reason}). It is truncated or damaged; copy or save it again."
    )
