"""The zip container of ``torch.save``: a pickle, and beside it one record for each storage."""

from functools import cache, lru_cache

from swa_cli.checkpoints.record_text import PROVENANCE
from swa_cli.checkpoints.torch_pickle import TorchFile, read_pickle
from swa_cli.checkpoints.zip_directory import ZipDirectory
from swa_cli.errors import CheckpointError

_OTHER_ARCHIVES = {
    "constants.pkl": "a TorchScript archive",
    "model.json": "a TorchScript archive",
    "archive_format": "a torch.export archive",
    "archive_version": "a torch.export archive",
    ".data/extern_modules": "a torch.package archive",
}

read_once = lru_cache(maxsize=1)(read_pickle)
"""The pickles of a run are often equal, byte by byte. Nobody may change what this gives."""


def read_zip(descriptor: int) -> TorchFile:
    """What the file holds.

    Raises:
        CheckpointError: another kind of archive, one of another machine's byte order, or a damaged one.
        Exception: of any kind, when the pickle is damaged.
    """
    records = ZipDirectory(descriptor)
    for marker, kind in _OTHER_ARCHIVES.items():
        if marker in records:
            msg = f"{kind}, not a checkpoint. Save the weights with torch.save(model.state_dict(), path)."
            raise CheckpointError(msg)
    if "data.pkl" not in records:
        msg = "a zip file, but not one that torch.save wrote: it has no data.pkl. Leave it out."
        raise CheckpointError(msg)
    if "byteorder" in records and records.read("byteorder") != b"little":
        msg = "saved on a big-endian machine. Load it with torch.load there or here, and save it again."
        raise CheckpointError(msg)
    pickle = records.read("data.pkl")
    contents = read_once(pickle).contents

    @cache
    def place(key: str) -> tuple[int, int]:
        try:
            return records.extent(f"data/{key}")
        except KeyError:
            msg = f"its record data/{key} is missing; the file is damaged."
            raise CheckpointError(msg) from None

    metadata = {PROVENANCE: records.read(PROVENANCE).decode()} if PROVENANCE in records else {}
    return TorchFile(
        contents=contents, pickle=pickle, start=0, place=lambda storage: place(storage.key), metadata=metadata
    )
