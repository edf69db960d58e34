"""Outputs of members on disk, found again by what they are outputs of."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final
from zlib import crc32

import safetensors
import torch
from safetensors.torch import load, save

from swa_cli import __version__
from swa_cli.errors import OutputError, option
from swa_cli.formats import Checkpoint, checksums
from swa_cli.pipeline.evaluation.output_cache.batch_digest import digest_of
from swa_cli.pipeline.evaluation.output_cache.source_digest import sources_of, user_sources
from swa_cli.pipeline.evaluation.prepare import EvalInputs
from swa_cli.system.atomic_file import explained, writer_at
from swa_cli.system.regular_files import read_regular
from swa_cli.system.temporary_paths import temporary
from swa_cli.user.batch import Batch
from swa_cli.user.import_object import load_target
from swa_cli.user.modules import modules_of

_VERSION = 1
_NAME, _CHECK = "output", "crc32"
_THREADS = 2
_DIGITS = 32


@final
class KeptOutputs:
    """``folder/<model and options>/<member>/<batch>.safetensors``, each an output as the model gave it.

    A member is known by the SHA-256 of its files, a batch by a digest of everything in it, the model by its name,
    arguments, the source files of the classes of its layers and of what else it may call (`sources`), and by how it
    was run. Delete the folder at will.
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

    def digest(self, example: Batch) -> str | None:
        """Of a batch; None where it holds what cannot be told from others."""
        return digest_of([example.args, example.kwargs, example.target])

    def get(self, member: str, batch: str) -> torch.Tensor | None:
        """What is kept, if it can be read and is as it was written."""
        try:
            stored = load(read_regular(self._path(member, batch)))
            output, check = stored[_NAME], int(stored[_CHECK])
        except (OSError, KeyError, ValueError, RuntimeError, safetensors.SafetensorError):
            return None
        if crc32(_bytes_of(output)) != check:
            return None
        self._found += 1
        return output

    def put(self, member: str, batch: str, output: torch.Tensor) -> None:
        """Keep an output at once, so that a later failure does not lose it.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(member, batch)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = (
                f"cannot keep outputs in {path.parent}: {error.strerror or error}. Name another place with "
                f"{option('cache')}."
            )
            raise OutputError(msg) from error
        kept = output.detach().cpu().contiguous()
        contents = save({_NAME: kept, _CHECK: torch.tensor(crc32(_bytes_of(kept)))})
        # Not synced, which would take longer than many a model: what a crash leaves fails the check.
        with explained(path), temporary(path) as (unnamed, descriptor):
            writer_at(descriptor)(0, memoryview(contents))
            unnamed.replace(path)
        self._made += 1

    @property
    def counts(self) -> tuple[int, int]:
        """How many outputs were found, and how many added."""
        return self._found, self._made

    def in_words(self, counts: Sequence[tuple[int, int]]) -> str:
        """How much of it was of use, by the counts of all ranks."""
        found, made = (sum(of_each) for of_each in zip(*counts, strict=True))
        return f"{found:,} outputs from {self._folder.parent} used again, {made:,} added to it."

    def _path(self, member: str, batch: str) -> Path:
        return self._folder / member / f"{batch}.safetensors"


def kept_outputs(job: EvalInputs, folder: Path | None) -> KeptOutputs | None:
    """Return the outputs in ``folder`` of this model run in this way; None without a folder.

    Raises:
        OutputError: there is something else at that place.
    """
    if folder is None:
        return None
    if folder.exists() and not folder.is_dir():
        msg = f"{option('cache', folder)}: expected a folder, found a file."
        raise OutputError(msg)
    target, task = job.model_target, job.task_target
    model = load_target(target.class_path, what="model")
    data = load_target(job.data_target.class_path, what="data module")
    layers = {type(layer) for _, layer in modules_of(job.model)}
    user_task = [load_target(task.class_path, what="task")] if task and "." in task.class_path else []
    what = {
        "version": _VERSION,
        "tool": __version__,
        "torch": torch.__version__,
        "model": target.class_path,
        "arguments": target.init_args,
        "sources": sources_of([model, *layers]),
        "forward": [job.forward.device.type, job.forward.amp, job.forward.channels_last, job.forward.compile],
        "task": None if task is None else [task.class_path, task.init_args],
        "task_sources": sources_of(user_task),
        "user": user_sources(model, more=[*layers, *user_task], data=[data, type(job.data)]),
    }
    return KeptOutputs(folder / _digest(what))


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]


def _bytes_of(tensor: torch.Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
