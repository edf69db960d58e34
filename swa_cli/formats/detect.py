"""Open one file; its bytes, not its name, decide which container it is."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from swa_cli.errors import CheckpointError, option
from swa_cli.formats.checkpoint import Checkpoint
from swa_cli.formats.foreign import about_format, is_of_dcp
from swa_cli.formats.hf_sharded import INDEX_SUFFIX, open_sharded
from swa_cli.formats.hf_trainer_state import with_trainer_state
from swa_cli.formats.provenance import Provenance
from swa_cli.formats.provenance_text import read_provenance
from swa_cli.formats.safetensors.header import looks_like_safetensors, open_safetensors
from swa_cli.formats.torch.legacy_container import looks_legacy
from swa_cli.formats.torch.reader import open_torch
from swa_cli.formats.torch.zip_reader import ZIP_MAGIC
from swa_cli.system.gc_pause import gc_paused
from swa_cli.system.storage import RandomAccess, open_file

_HEAD = 512
_TAR_MAGIC_AT = 257


def open_checkpoint(path: PurePath, *, key: str | None = None) -> Checkpoint:
    """Read the header of a safetensors or torch file, or of all that an index names; no tensor is read.

    Args:
        key: dotted key of the state_dict in a torch file that holds several.

    Raises:
        CheckpointError: not a checkpoint, truncated, with a damaged record, or refused; the message says what was
            found.
    """
    with gc_paused():
        return with_trainer_state(_with_record(_open(path, key)))


def read_record(path: PurePath, metadata: Mapping[str, str]) -> Provenance | None:
    """Return what swa-cli says of a file that it wrote, from the metadata in it.

    Raises:
        CheckpointError: what is stored as the record is none.
    """
    try:
        return read_provenance(metadata)
    except CheckpointError as error:
        msg = f"{path}: {error}"
        raise CheckpointError(msg) from error


def _with_record(checkpoint: Checkpoint) -> Checkpoint:
    record = read_record(checkpoint.path, checkpoint.metadata)
    return checkpoint if record is None else replace(checkpoint, provenance=record)


def _open(path: PurePath, key: str | None) -> Checkpoint:
    if path.name.endswith(INDEX_SUFFIX):
        return open_sharded(path, lambda shard: _open(shard, key))
    try:
        with open_file(path) as file:
            return _open_file(path, file, key)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}."
        raise CheckpointError(msg) from error


def _open_file(path: PurePath, file: RandomAccess, key: str | None) -> Checkpoint:
    head = file.read(0, _HEAD)
    if is_of_dcp(path):  # each tensor in it is a torch file
        raise CheckpointError(f"{path}: {about_format(path)}")
    if head.startswith(ZIP_MAGIC) or looks_legacy(head):
        try:
            return open_torch(path, file, key=key)
        except CheckpointError as error:
            other = about_format(path)  # .zip, .npz
            if other is None:
                raise
            raise CheckpointError(f"{path}: {other}") from error
    if looks_like_safetensors(head):
        if key is not None:
            msg = f"{path}: a safetensors file is flat and has no key {key!r}; leave out {option('key')}."
            raise CheckpointError(msg)
        return open_safetensors(path, file)
    raise CheckpointError(f"{path}: {about_format(path, head) or _what_it_is(head)}")


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
