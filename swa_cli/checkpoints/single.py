"""Opening one checkpoint by its file, or by the directory that contains only it."""

from pathlib import Path

from swa_cli.checkpoints.directories import checkpoint_files
from swa_cli.errors import SourceError, shortened
from swa_cli.formats import Checkpoint, about_directories, open_checkpoint


def open_single(path: Path, *, key: str | None = None) -> Checkpoint:
    """Open a file, an index of shards, or the only checkpoint in a directory (such as Hugging Face's model folders).

    Raises:
        SourceError: the directory has no checkpoint, or several.
        CheckpointError: the checkpoint cannot be read.
    """
    if not path.is_dir():
        return open_checkpoint(path, key=key)
    try:
        found = checkpoint_files(path)
        other = None if found else about_directories([path])
    except OSError as error:
        msg = f"cannot read the directory {path}: {error.strerror or error}."
        raise SourceError(msg) from error
    if other:
        raise SourceError(other)
    if len(found) != 1:
        names = shortened([entry.name for entry in found]) or "none"
        msg = f"expected a checkpoint or a directory that holds one, found {path} with {names}. Name the file."
        raise SourceError(msg)
    return open_checkpoint(found[0], key=key)
