"""One checkpoint, by its file or by the folder that holds it alone."""

from pathlib import Path

from swa_cli.checkpoints.directories import checkpoint_files
from swa_cli.errors import SourceError, shortened
from swa_cli.formats import Checkpoint, about_dcp, is_dcp, open_checkpoint, read_record, read_zip
from swa_cli.system.storage import open_file


def recorded_key(path: Path) -> str | None:
    """Return the key under which swa-cli put the average in a torch file that is like another; None for other files.

    Raises:
        CheckpointError: the record of the file cannot be read.
    """
    try:
        with open_file(path) as file:
            metadata = read_zip(file).metadata
    except Exception:  # noqa: BLE001  # it is no such file; a damaged one can raise anything
        return None
    record = read_record(path, metadata)
    return record.options.key if record and record.options and record.options.like else None


def open_single(path: Path, *, key: str | None = None) -> Checkpoint:
    """Open a file, an index of shards, or what a folder holds, as Hugging Face's model folders do.

    Raises:
        SourceError: the folder holds no checkpoint, or several.
        CheckpointError: it cannot be read.
    """
    if not path.is_dir():
        return open_checkpoint(path, key=key)
    try:
        found = checkpoint_files(path)
        if not found and is_dcp(path):
            raise SourceError(about_dcp([path]))
    except OSError as error:
        msg = f"cannot read the directory {path}: {error.strerror or error}."
        raise SourceError(msg) from error
    if len(found) != 1:
        names = shortened([entry.name for entry in found]) or "none"
        msg = f"expected a checkpoint or a directory that holds one, found {path} with {names}. Name the file."
        raise SourceError(msg)
    return open_checkpoint(found[0], key=key)
