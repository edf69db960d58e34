"""Torch files to be written: a state_dict alone, or any pickle with its storages."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from swa_cli.formats.file_reader import OpenFiles
from swa_cli.formats.output_layout import Contents, Crc, OutputFile
from swa_cli.formats.provenance import Provenance
from swa_cli.formats.provenance_text import PROVENANCE, as_text
from swa_cli.formats.torch import pickle_edit as edit
from swa_cli.formats.torch import pickle_tree as tree
from swa_cli.formats.torch.pickle_tree import Node
from swa_cli.formats.torch.tensor_calls import Stored
from swa_cli.formats.torch.zip_writer import Record, frame_archive, frame_last, plan_archive
from swa_cli.system.storage import Stamp

_FOLDER = "archive/"
_BEFORE = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
_AFTER = {"version": b"3\n"}
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CopiedStorage:
    """A storage that is copied from another file: which, what that file was when it was read, first byte and size."""

    path: PurePath
    stamp: Stamp
    offset: int
    size: int


def torch_file(contents: Contents, *, name: str) -> OutputFile:
    """A file that ``torch.load`` gives as a dict of all tensors of ``contents``, tied ones in one storage."""
    stored = {short: Stored(str(key), spec) for key, (short, spec) in enumerate(contents.specs.items())}
    entries = {short: stored[short].node() for short in contents.specs}
    entries |= {short: stored[kept].node() for short, kept in contents.tied.items()}
    entries |= {short: edit.plain(value) for short, value in contents.extra.items()}
    return archive_file(edit.dict_(entries), stored, {}, contents.provenance, name=name)


def archive_file(
    root: Node, stored: Mapping[str, Stored], kept: Mapping[str, CopiedStorage], provenance: Provenance, *, name: str
) -> OutputFile:
    """The archive that holds the pickle of ``root``, the tensors, and by their keys the storages that are copied."""
    records = {"data.pkl": tree.write_tree(root), **_BEFORE}
    records |= {f"data/{tensor.key}": tensor.spec.nbytes for tensor in stored.values()}
    records |= {f"data/{key}": storage.size for key, storage in kept.items()}
    records |= {**_AFTER, PROVENANCE: as_text(provenance).encode()}
    archive = plan_archive([Record(name=_FOLDER + record, content=content) for record, content in records.items()])

    def frame(provenance: Provenance, crc: Crc) -> Iterator[tuple[int, bytes]]:
        for key, storage in kept.items():
            yield from _copied(storage, to=archive.offsets[f"{_FOLDER}data/{key}"])
        yield from frame_archive(archive, {_FOLDER + PROVENANCE: as_text(provenance).encode()}, crc)

    offsets = {short: archive.offsets[f"{_FOLDER}data/{tensor.key}"] for short, tensor in stored.items()}
    return OutputFile(
        name=name,
        size=archive.size,
        offsets=offsets,
        tensors=[(offset, offset + stored[short].spec.nbytes) for short, offset in offsets.items()],
        frame=frame,
        seal=lambda provenance: frame_last(archive, as_text(provenance).encode()),
    )


def _copied(storage: CopiedStorage, *, to: int) -> Iterator[tuple[int, bytes]]:
    with OpenFiles({storage.path: storage.stamp}) as files:
        for done in range(0, storage.size, _BLOCK):
            content = bytearray(min(_BLOCK, storage.size - done))
            files.read(storage.path, storage.offset + done, [memoryview(content)], "that is kept")
            yield to + done, bytes(content)
