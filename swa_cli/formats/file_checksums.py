"""SHA-256 of whole files, by threads of their own beside other work on the same files."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from swa_cli.errors import CheckpointError
from swa_cli.formats.file_reader import Stamp, changed, open_same

_BLOCK = 1 << 20

Digests = Callable[[], Mapping[Path, str]]
"""Waits for the last digest; all of them, in hexadecimal."""


@contextmanager
def checksums(stamps: Mapping[Path, Stamp], *, threads: int) -> Generator[Digests]:
    """Hash files while the body of a ``with`` does something else; an error in it ends the hashing too.

    All files are hashed in turns, a megabyte at a time, as an average reads them side by side: what the one of the two
    fetches from the disk, the other finds in memory.

    Args:
        stamps: of the files when their headers were read.

    Raises:
        CheckpointError: from the digests: a file that cannot be read, or was changed since its header was read.
    """
    hashing = _Hashing(stamps)
    threads = max(1, min(threads, len(stamps)))
    with ThreadPoolExecutor(threads, thread_name_prefix="swa-checksum") as pool:
        futures = [pool.submit(hashing.run) for _ in range(min(threads, len(stamps)))]

        def digests() -> Mapping[Path, str]:
            for future in futures:
                future.result()
            return {path: digest.hexdigest() for path, digest in hashing.digests.items()}

        try:
            yield digests
        finally:
            hashing.stopped = True


class _Hashing:
    """Files that wait for their next block to be hashed, each by one thread at a time."""

    def __init__(self, stamps: Mapping[Path, Stamp]) -> None:
        self.digests = {path: hashlib.sha256() for path in stamps}
        self.stopped = False
        self._stamps = stamps
        self._waiting = deque((path, 0) for path in stamps)

    def run(self) -> None:
        buffer = memoryview(bytearray(_BLOCK))
        while not self.stopped:
            try:
                path, offset = self._waiting.popleft()
            except IndexError:  # the files that are left are in other hands
                return
            try:
                done = self._hash_block(path, offset, buffer)
            except BaseException:
                self.stopped = True
                raise
            if offset + done < self._stamps[path][2]:
                self._waiting.append((path, offset + done))

    def _hash_block(self, path: Path, offset: int, buffer: memoryview) -> int:
        """Hash what comes next in a file; how many bytes that was."""
        try:
            descriptor = open_same(path, self._stamps[path])
            try:
                count = os.preadv(descriptor, [buffer], offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            msg = f"{path}: cannot be read for its checksum: {error.strerror or error}."
            raise CheckpointError(msg) from error
        if count == 0 and self._stamps[path][2]:
            raise CheckpointError(changed(path))
        self.digests[path].update(buffer[:count])
        return count
