"""Writing the files of an output and publishing them together."""

import os
import resource
import zlib
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import BinaryIO

from swa_cli.errors import CheckpointError, OutputError, option
from swa_cli.formats import Layout, Provenance, as_text, escape_surrogates, frame_digest
from swa_cli.outputs.destination import ITSELF, Target, check_target
from swa_cli.system.atomic_directory import publish_folder
from swa_cli.system.atomic_file import publish, writer_at
from swa_cli.system.storage import LocalFile, open_file

_BLOCK = 1 << 20


class Writer:
    """Writes into the files of a layout, which have their full size already.

    Args:
        streams: one per file.
        copied: SHA-256 of the files that were copied beside them, by name.
    """

    def __init__(
        self, layout: Layout, streams: Iterable[BinaryIO], copied: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._layout = layout
        self._copied = copied
        self._descriptors = [stream.fileno() for stream in streams]
        self._starts = layout.starts
        self._writers = [writer_at(descriptor) for descriptor in self._descriptors]
        for descriptor, file in zip(self._descriptors, layout.files, strict=True):
            os.ftruncate(descriptor, file.size)

    @property
    def offsets(self) -> dict[str, int]:
        """Offset of each tensor, as if the files were concatenated."""
        return self._layout.offsets

    def write(self, offset: int, view: memoryview) -> None:
        """Write bytes at an offset, as if the files were concatenated; safe from several threads."""
        number = bisect_right(self._starts, offset) - 1
        self._writers[number](offset - self._starts[number], view)

    def finish(self, provenance: Provenance) -> None:
        """Write everything except the tensors, which must be written already."""
        self.seal(provenance, self.frame(provenance))

    def frame(self, provenance: Provenance) -> dict[str, str]:
        """Write the same, as far as it does not depend on what is returned: the SHA-256 of each file's frame, by name.

        Args:
            provenance: of its full length, with anything for these digests.
        """
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            digests = list(pool.map(partial(self._frame, provenance), range(len(self._descriptors))))
        names = [file.name if self._layout.is_folder else ITSELF for file in self._layout.files]
        return {**dict(zip(names, digests, strict=True)), **self._copied}

    def seal(self, provenance: Provenance, digests: Mapping[str, str]) -> None:
        """Write the provenance with the digests of all files, including those of other ranks."""
        frames = {**provenance.frames, **{escape_surrogates(name): digest for name, digest in digests.items()}}
        record = provenance.model_copy(update={"frames": frames})
        for file, write in zip(self._layout.files, self._writers, strict=True):
            for offset, content in file.seal(record) if file.seal else ():
                write(offset, memoryview(content))

    def _frame(self, provenance: Provenance, number: int) -> str:
        descriptor = self._descriptors[number]

        def crc(offset: int, size: int) -> int:
            check = 0
            for done in range(offset, offset + size, _BLOCK):
                check = zlib.crc32(os.pread(descriptor, min(_BLOCK, offset + size - done), done), check)
            return check

        file = self._layout.files[number]
        for offset, content in file.frame(provenance, crc):
            assert offset + len(content) <= file.size, "a record is longer than was planned"
            self._writers[number](offset, memoryview(content))
        return frame_digest(LocalFile(descriptor), as_text(provenance) if file.seal else None, file.tensors)


@contextmanager
def write_output(target: Target, layout: Layout, *, overwrite: bool) -> Generator[Writer]:
    """Write an output that appears whole when the body ends, and not at all if the body raises.

    Raises:
        OutputError: there is no space, or as `publish` and `publish_folder`.
    """
    if not layout.is_folder:
        with publish(target.path, overwrite=overwrite, size=layout.size) as stream:
            yield Writer(layout, [stream])
        return
    check = partial(check_target, target, overwrite=overwrite)
    with publish_folder(target.path, check, size=layout.size) as folder, fill_folder(folder, layout) as writer:
        yield writer


@contextmanager
def fill_folder(folder: Path, layout: Layout) -> Generator[Writer]:
    """Write the files of ``layout`` into a hidden directory; they are synced to disk when the body ends.

    Raises:
        OSError: the system refuses.
        OutputError: there are more files than can be open.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    if len(layout.files) > limit:
        msg = (
            f"the output would be {len(layout.files):,} files, and no more than {limit:,} can be open at once here. "
            f"Allow larger shards with {option('max_shard_size')}, or more files with ulimit -n."
        )
        raise OutputError(msg)
    with ExitStack() as opened:
        streams = [opened.enter_context((folder / file.name).open("xb+")) for file in layout.files]
        copied = {path.name: _copy(path, folder / path.name) for path in layout.copies}
        yield Writer(layout, streams, copied)
        for stream in streams:
            os.fsync(stream.fileno())


def _copy(path: PurePath, to: Path) -> str:
    """Copy a file and return its SHA-256.

    Raises:
        CheckpointError: it cannot be read.
    """
    with to.open("xb+") as stream:
        stream.writelines(_blocks_of(path))
        stream.flush()
        os.fsync(stream.fileno())
        return frame_digest(LocalFile(stream.fileno()), None, ())


def _blocks_of(path: PurePath) -> Iterator[bytes]:
    try:
        with open_file(path) as file:
            for start in range(0, file.size, _BLOCK):
                yield file.read(start, _BLOCK)
    except OSError as error:
        msg = f"{path}: cannot be read, and {option('like')} copies it: {error.strerror or error}."
        raise CheckpointError(msg) from error
