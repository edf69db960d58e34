"""Checkpoints as torch writes them, and as others change them."""

import warnings
import zipfile
from pathlib import Path

import torch

from swa_cli.formats import Checkpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}


def saved(contents: object, path: Path) -> Path:
    torch.save(contents, path)
    return path


def repacked(path: Path, change) -> Path:
    """The same archive as another zip program writes it; ``change(name, content)`` gives what goes in, or None."""
    with zipfile.ZipFile(path) as source:
        entries = [(info.filename, source.read(info)) for info in source.infolist()]
    with zipfile.ZipFile(path, "w") as target:
        for name, content in entries:
            changed = change(name, content)
            if changed is not None:
                target.writestr(name, *changed)
    return path


def forged(tmp_path: Path, pickled: bytes) -> Path:
    """A checkpoint whose pickle is ``pickled``."""
    return repacked(
        saved(STATE, tmp_path / "x.pt"), lambda name, content: (pickled if name.endswith("data.pkl") else content,)
    )


def assert_equal_states(checkpoint: Checkpoint, state) -> None:
    assert list(checkpoint.keys()) == list(state)
    for name, tensor in state.items():
        read = checkpoint.get_tensor(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor.detach()), name


def save(contents: object, path: Path, *, legacy: bool) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the source of a class is not found
        torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    return path
