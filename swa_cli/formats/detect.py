"""Which reader opens a file or directory: the first that claims it, and what to say of one that none claims."""

from collections.abc import Sequence
from pathlib import PurePath

from swa_cli.errors import CheckpointError
from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.foreign import about_directory, about_format, is_of_dcp
from swa_cli.formats.protocol import CheckpointReader, PossibleCheckpoint, possible_checkpoint

_TAR_MAGIC_AT = 257


def open_with(readers: Sequence[CheckpointReader], path: PurePath, *, key: str | None) -> Checkpoint:
    """Open a checkpoint with the first of ``readers`` that claims it.

    Raises:
        CheckpointError: none does, or the one that does refuses it; the message says what was found.
    """
    try:
        with possible_checkpoint(path) as entry:
            return _open(readers, entry, key)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}."
        raise CheckpointError(msg) from error


def _open(readers: Sequence[CheckpointReader], entry: PossibleCheckpoint, key: str | None) -> Checkpoint:
    path = entry.path
    if is_of_dcp(path):  # each tensor in it is a torch file
        raise CheckpointError(f"{path}: {about_format(path)}")
    reader = next((reader for reader in readers if reader.claims(entry)), None)
    if reader is None and entry.opened is None:
        raise CheckpointError(about_directory(entry) or f"{path} is a directory, not a checkpoint. Name the file.")
    if reader is None:
        raise CheckpointError(f"{path}: {about_format(path, entry.head) or _what_it_is(entry.head)}")
    try:
        return reader.open(entry, key=key)
    except CheckpointError as error:
        other = about_format(path)  # .zip, .npz
        if other is None:
            raise
        raise CheckpointError(f"{path}: {other}") from error


def _what_it_is(head: bytes) -> str:
    if not head:
        return "the file is empty. Its writing was probably cut short; remove it or save it again."
    if head.startswith(b"ustar", _TAR_MAGIC_AT):
        return (
            "a tar archive. If torch wrote it (before 0.1.10), load it with torch.load(path, weights_only=False), "
            "which runs what it holds, and save it again; otherwise unpack it and name the checkpoint inside."
        )
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself. Fetch it with git lfs pull."
    if head.startswith(b"\x80"):
        return (
            "a pickle that torch.save did not write. Load it with the program that wrote it, and save the state_dict "
            "with torch.save or safetensors."
        )
    return (
        f"neither safetensors nor a torch checkpoint (it starts with {head[:8]!r}). It may be damaged, or not a "
        "checkpoint at all; leave it out."
    )
