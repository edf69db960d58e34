"""SHA-256 of whole files, by threads of their own beside other work on the same files."""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePath

from swa_cli.errors import CheckpointError
from swa_cli.formats.file_reader import changed, open_same
from swa_cli.system.storage import Stamp

_BLOCK = 1 << 20

Digests = Callable[[], Mapping[PurePath, str]]
"""Waits for the last digest; all of them, in hexadecimal."""


@contextmanager
def checksums(stamps: Mapping[PurePath, Stamp], *, threads: int) -> Generator[Digests]:
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

        def digests() -> Mapping[PurePath, str]:
            for future in futures:
                future.result()
            return {path: digest.hexdigest() for path, digest in hashing.digests.items()}

        try:
            yield digests
        finally:
            hashing.stopped = True


class _Hashing:
    """Files that wait for their next block to be hashed, each by one thread at a time."""

    def __init__(self, stamps: Mapping[PurePath, Stamp]) -> None:
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
            if offset + done < self._stamps[path].size:
                self._waiting.append((path, offset + done))

    def _hash_block(self, path: PurePath, offset: int, buffer: memoryview) -> int:
        """Hash the next bytes of a file and return their number."""
        block = buffer[: self._stamps[path].size - offset]
        try:
            with open_same(path, self._stamps[path]) as file:
                missing = file.read_into(offset, [block])
        except OSError as error:
            msg = f"{path}: cannot be read for its checksum: {error.strerror or error}."
            raise CheckpointError(msg) from error
        if missing:
            raise CheckpointError(changed(path))
        self.digests[path].update(block)
        return len(block)
