"""Checkpoints of other formats: what they are, and how to make of them what is read here."""

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from swa_cli.errors import shortened
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


def is_dcp(folder: PurePath) -> bool:
    """Whether a folder is a checkpoint of torch.distributed.checkpoint.

    Raises:
        OSError: it cannot be read.
    """
    found = {entry.path: entry.is_file for entry in storage_of(folder).listing(folder)}
    return found.get(folder / _METADATA, False) and any(path.suffix == _DATA for path in found)


def is_of_dcp(path: PurePath) -> bool:
    """Whether a file is one of those that make up such a checkpoint, by its name."""
    return path.suffix == _DATA or path.name == _METADATA


def about_dcp(folders: Sequence[PurePath]) -> str:
    """What to do with checkpoints of torch.distributed.checkpoint."""
    first = str(folders[0])
    which = f"{first} is a checkpoint" if len(folders) == 1 else f"{shortened([*map(str, folders)])} are checkpoints"
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
        return f"a part of a checkpoint. {about_dcp([path.parent])}"
    suffix = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), path.suffix.lower())
    return next((f"{what}. {advice}" for suffixes, (what, advice) in _FORMATS.items() if suffix in suffixes), None)
