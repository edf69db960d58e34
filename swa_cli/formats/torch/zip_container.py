"""The zip container of ``torch.save``: a pickle, and beside it one record for each storage."""

import re

from swa_cli.errors import CheckpointError
from swa_cli.formats.latest import Latest
from swa_cli.formats.provenance_text import PROVENANCE
from swa_cli.formats.torch.unpickle import Pickled, TorchFile, read_pickle
from swa_cli.formats.torch.zip_reader import ZipDirectory
from swa_cli.system.storage import RandomAccess

_OTHER_ARCHIVES = {
    "constants.pkl": "a TorchScript archive",
    "model.json": "a TorchScript archive",
    "archive_format": "a torch.export archive",
    "archive_version": "a torch.export archive",
    ".data/extern_modules": "a torch.package archive",
}
_VERSION = re.compile(rb"([1-9]|10)\n?")
"""Torch reads versions 1 to 10 of its archives."""
_READ_BY_TORCH = (".format_version", ".data/serialization_id", ".data/version")

_latest = Latest[tuple[bytes, Pickled]]()
"""The pickles of a run are often equal, byte by byte. Nothing may change what they hold."""


def read_zip(file: RandomAccess) -> TorchFile:
    """What the file holds.

    Raises:
        CheckpointError: another kind of archive, one of another machine's byte order, or a damaged one.
        Exception: of any kind, when the pickle is damaged.
    """
    records = ZipDirectory(file)
    for marker, kind in _OTHER_ARCHIVES.items():
        if marker in records:
            msg = f"{kind}, not a checkpoint. Save the weights with torch.save(model.state_dict(), path)."
            raise CheckpointError(msg)
    if "data.pkl" not in records:
        msg = "a zip file, but not one that torch.save wrote: it has no data.pkl. Leave it out."
        raise CheckpointError(msg)
    version = records.read("version") if "version" in records else b""
    if not _VERSION.fullmatch(version):
        msg = f"of a version of the format that torch does not read ({version[:10]!r}). It is damaged; save it again."
        raise CheckpointError(msg)
    alignment = records.read(".storage_alignment") if ".storage_alignment" in records else b"64"
    if not alignment.isdigit():
        msg = f"its record .storage_alignment is no number ({alignment[:10]!r}); the file is damaged."
        raise CheckpointError(msg)
    for name in _READ_BY_TORCH:
        if name in records:
            records.read(name).decode()
    if "byteorder" in records and records.read("byteorder") != b"little":
        msg = "saved on a big-endian machine. Load it with torch.load there or here, and save it again."
        raise CheckpointError(msg)
    pickle = records.read("data.pkl")
    before = _latest.value
    pickled = before[1] if before and before[0] == pickle else read_pickle(pickle)
    _latest.value = pickle, pickled
    if pickled.end != len(pickle):
        msg = "something follows the pickle in its record; the file is damaged."
        raise CheckpointError(msg)

    def place(key: str) -> tuple[int, int]:
        try:
            return records.extent(f"data/{key}")
        except KeyError:
            msg = f"its record data/{key} is missing; the file is damaged."
            raise CheckpointError(msg) from None

    def check_storages() -> None:
        for key, storage in pickled.storages.items():
            expected, size = storage.numel * storage.dtype.itemsize, place(key)[1]
            if size != expected:
                msg = f"its record data/{key} is damaged: expected {expected:,} bytes, found {size:,}. Save it again."
                raise CheckpointError(msg)

    metadata = {PROVENANCE: records.read(PROVENANCE).decode()} if PROVENANCE in records else {}
    return TorchFile(
        contents=pickled.contents,
        pickle=pickle,
        start=0,
        place=lambda storage: place(storage.key),
        metadata=metadata,
        layout=records.extents,
        storages=pickled.storages,
        check_storages=check_storages,
    )
