"""Checkpoints of other formats: what they are, and how to make of them what is read here."""

import shlex
from collections.abc import Collection, Sequence
from pathlib import PurePath

from swa_cli.errors import shortened
from swa_cli.formats.protocol import PossibleCheckpoint
from swa_cli.system.storage import storage_of

_FORMATS = {
    (".gguf",): (
        "a GGUF file (llama.cpp), quantized for inference",
        "Average the checkpoints that it was converted from, and convert the average.",
    ),
    (".h5", ".hdf5", ".keras"): (
        "an HDF5 or Keras file",
        "Load the weights into the PyTorch model and save its state_dict with torch.save or safetensors.",
    ),
    (".msgpack",): (
        "a Flax file",
        "Load the weights into the PyTorch model (transformers: from_flax=True) and save them again.",
    ),
    (".onnx",): ("an ONNX file", "Average the checkpoints that it was exported from, and export the average."),
    (".npz", ".npy"): ("a numpy file", "Save the arrays as tensors of a state_dict with torch.save or safetensors."),
    (".nemo",): ("a NeMo archive", "Unpack it (tar -xf) and name the model_weights.ckpt in it."),
    (".zip", ".tar", ".gz", ".tgz", ".zst", ".7z"): ("an archive", "Unpack it and name the checkpoint inside."),
}
_MAGIC = {
    b"GGUF": ".gguf",
    b"\x89HDF\r\n\x1a\n": ".h5",
    b"\x93NUMPY": ".npy",
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
}
_METADATA, _DATA = ".metadata", ".distcp"


def is_of_dcp(path: PurePath) -> bool:
    """Whether a file is one of those that make up such a checkpoint, by its name."""
    return path.suffix == _DATA or path.name == _METADATA


def about_directory(entry: PossibleCheckpoint) -> str | None:
    """What a directory is that is a checkpoint of a known other format, and what to do; None for any other."""
    return _about_dcp([entry.path]) if _is_dcp(entry.names) else None


def about_directories(directories: Sequence[PurePath]) -> str | None:
    """What to do with the checkpoints of other formats that lie in directories; None if none is known.

    Raises:
        OSError: a directory cannot be read.
    """
    listings = {directory: storage_of(directory).listing(directory) for directory in directories}
    distributed = [
        directory
        for directory, entries in listings.items()
        if _is_dcp({entry.path.name for entry in entries}) and not directory.name.startswith("optim")
    ]
    if distributed:
        return _about_dcp(distributed)
    files = (entry.path for entries in listings.values() for entry in sorted(entries) if entry.is_file)
    found = next(((path, what) for path in files if (what := about_format(path))), None)
    return f"no checkpoints in {directories[0]}. {found[0]} is {found[1]}" if found else None


def _is_dcp(names: Collection[str]) -> bool:
    """Whether a directory of these names is a checkpoint of torch.distributed.checkpoint."""
    return _METADATA in names and any(name.endswith(_DATA) for name in names)


def _about_dcp(directories: Sequence[PurePath]) -> str:
    first = str(directories[0])
    which = f"{shortened([*map(str, directories)])} are checkpoints" if directories[1:] else f"{first} is a checkpoint"
    convert = f"dcp_to_torch {shlex.quote(first)} {shlex.quote(f'{first}.pt')}"
    return (
        f"{which} of torch.distributed.checkpoint, a format that is not read yet. Make a torch file of each: "
        f"python -m torch.distributed.checkpoint.format_utils {convert}. Then average these files."
    )


def about_format(path: PurePath, head: bytes = b"") -> str | None:
    """What a file of a known other format is, and what to do; None for any other file.

    Args:
        head: its first bytes, which say more than the name.
    """
    if is_of_dcp(path):
        return f"a part of a checkpoint. {_about_dcp([path.parent])}"
    suffix = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), path.suffix.lower())
    return next((f"{what}. {advice}" for suffixes, (what, advice) in _FORMATS.items() if suffix in suffixes), None)
