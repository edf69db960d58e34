"""Outputs of members on disk, found again by what they are outputs of."""

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import safetensors
import torch
from safetensors.torch import load, save

from swa_cli import __version__
from swa_cli.batches import Example
from swa_cli.checkpoints import Checkpoint, checksums
from swa_cli.errors import OutputError
from swa_cli.files import publish
from swa_cli.pipeline.eval_inputs import EvalJob
from swa_cli.targets import load_target

_VERSION = 1
_NAME = "output"
_THREADS = 2
_DIGITS = 32


@final
class KeptOutputs:
    """``folder/<model and options>/<member>/<batch>.safetensors``, each an output as the model gave it.

    A member is known by the SHA-256 of its files, a batch by that of everything in it, the model by its name, arguments
    and the source file of its class, and by how it was run. Nothing is ever wrong for being old; delete the folder at
    will.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._found = self._made = 0

    def digest_of(self, checkpoint: Checkpoint) -> str:
        """Of the files that hold it and where in them it lies.

        Raises:
            CheckpointError: a file cannot be read.
        """
        with checksums(checkpoint.stamps, threads=_THREADS) as digests:
            hashes = sorted(digests().values())
        return _digest([checkpoint.key, *hashes])

    def digest(self, example: Example) -> str:
        """Of a batch."""
        hashed = hashlib.blake2b(digest_size=_DIGITS // 2)
        _update(hashed, [example.args, example.kwargs, example.target])
        return hashed.hexdigest()

    def get(self, member: str, batch: str) -> torch.Tensor | None:
        """What is kept, if it can be read."""
        try:
            output = load(self._path(member, batch).read_bytes())[_NAME]
        except (OSError, KeyError, safetensors.SafetensorError):
            return None
        self._found += 1
        return output

    def put(self, member: str, batch: str, output: torch.Tensor) -> None:
        """Keep an output, from now on, whatever becomes of the rest.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(member, batch)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"cannot keep outputs in {path.parent}: {error.strerror or error}. Name another place with --cache."
            raise OutputError(msg) from error
        with publish(path, overwrite=True) as stream:
            stream.write(save({_NAME: output.detach().cpu().contiguous()}))
        self._made += 1

    def in_words(self) -> str:
        """How much of it was of use."""
        return f"{self._found:,} outputs from {self._folder.parent} used again, {self._made:,} added to it."

    def _path(self, member: str, batch: str) -> Path:
        return self._folder / member / f"{batch}.safetensors"


def kept_outputs(job: EvalJob) -> KeptOutputs | None:
    """The outputs that ``--cache`` names, of this model run in this way.

    Raises:
        OutputError: there is something else at that place.
    """
    folder = job.config.eval.cache
    if folder is None:
        return None
    if folder.exists() and not folder.is_dir():
        msg = f"--cache {folder}: expected a folder, found a file."
        raise OutputError(msg)
    target, task = job.model_target, job.config.task
    what = {
        "version": _VERSION,
        "tool": __version__,
        "torch": torch.__version__,
        "model": target.class_path,
        "arguments": target.init_args,
        "source": _source_of(target.class_path),
        "forward": [job.forward.device.type, job.forward.amp, job.forward.channels_last, job.forward.compile],
        "task": None if task is None else [task.class_path, task.init_args],
    }
    return KeptOutputs(folder / _digest(what))


def _source_of(class_path: str) -> str:
    """The file that defines the class, whose changes change what the weights mean; empty where there is none."""
    with suppress(OSError, TypeError):
        thing = load_target(class_path, what="model")
        module = sys.modules.get(getattr(thing, "__module__", ""))
        return Path(inspect.getfile(module or cast("Any", thing))).read_text(encoding="utf-8")
    return ""


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]


def _update(hashed: Any, value: object) -> None:
    """Everything in nested sequences and mappings, with what tells one kind from another."""
    if isinstance(value, torch.Tensor):
        dense = value.detach().cpu().contiguous()
        hashed.update(f"tensor {dense.dtype} {list(dense.shape)}".encode())
        hashed.update(dense.reshape(-1).view(torch.uint8).numpy().data if dense.numel() else b"")
    elif isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        hashed.update(f"array {array.dtype} {list(array.shape)}".encode())
        hashed.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    elif isinstance(value, Mapping):
        for name, entry in cast("Mapping[object, object]", value).items():
            hashed.update(f"key {name!r}".encode())
            _update(hashed, entry)
    elif isinstance(value, (list, tuple)):
        hashed.update(f"sequence {len(cast('list[object]', value))}".encode())
        for entry in cast("list[object]", value):
            _update(hashed, entry)
    elif hasattr(value, "to_dict"):  # a graph, as PyTorch Geometric has them
        _update(hashed, cast("Any", value).to_dict())
    else:
        hashed.update(repr(value).encode())
