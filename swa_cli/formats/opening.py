"""Opening a checkpoint of any layout, and finding those that lie in a directory."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import PurePath

from swa_cli.errors import CheckpointError
from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.detect import open_with
from swa_cli.formats.foreign import about_directory
from swa_cli.formats.hf_trainer_state import with_trainer_state
from swa_cli.formats.protocol import PossibleCheckpoint
from swa_cli.formats.provenance import Provenance
from swa_cli.formats.provenance_text import read_provenance
from swa_cli.formats.registry import READERS, SUFFIXES
from swa_cli.formats.torch.zip_container import read_zip
from swa_cli.system.gc_pause import gc_paused
from swa_cli.system.storage import open_file, storage_of


def open_checkpoint(path: PurePath, *, key: str | None = None) -> Checkpoint:
    """Read the header of a checkpoint, or the headers of all its files; no tensor is read.

    Args:
        path: of a file, or of a directory that is a checkpoint by its listing.
        key: dotted key of the state_dict in a torch file that holds several.

    Raises:
        CheckpointError: not a checkpoint, truncated, with a damaged record, or refused; the message says what was
            found.
    """
    with gc_paused():
        checkpoint = open_with(READERS, path, key=key)
        record = _read_record(path, checkpoint.metadata)
        return with_trainer_state(checkpoint if record is None else replace(checkpoint, provenance=record))


def checkpoints_among(directory: PurePath) -> list[PurePath]:
    """Return the paths in a directory that look like checkpoints, or the directory itself if it is one.

    Names that begin with a dot and files that belong to another checkpoint are left out.

    Raises:
        OSError: the directory cannot be read.
    """
    entries = storage_of(directory).listing(directory)
    whole = PossibleCheckpoint(directory, names=frozenset(entry.path.name for entry in entries))
    if any(reader.claims(whole) for reader in READERS):
        return [directory]
    if about_directory(whole):  # Lightning leaves a meta.pt in it
        return []
    files = [entry.path for entry in entries if entry.is_file and not entry.path.name.startswith(".")]
    files = [path for path in files if path.name.endswith(SUFFIXES)]
    parts = {name for path in files for name in _parts(path)}
    return [path for path in files if path.name not in parts]


def recorded_key(path: PurePath) -> str | None:
    """Return the key under which swa-cli put the average in a torch file that is like another; None for other files.

    Raises:
        CheckpointError: the record of the file cannot be read.
    """
    try:
        with open_file(path) as file:
            metadata = read_zip(file).metadata
    except Exception:  # noqa: BLE001  # it is no such file; a damaged one can raise anything
        return None
    record = _read_record(path, metadata)
    return record.options.key if record and record.options and record.options.like else None


def _parts(path: PurePath) -> Collection[str]:
    for reader in READERS:
        if path.name.endswith(reader.suffixes):
            try:
                return reader.parts(path)
            except CheckpointError:  # said when it is opened
                return ()
    return ()


def _read_record(path: PurePath, metadata: Mapping[str, str]) -> Provenance | None:
    """Return what swa-cli says of a file that it wrote, from the metadata in it."""
    try:
        return read_provenance(metadata)
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error
