"""Writing a checkpoint again with some tensors replaced."""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from swa_cli.errors import NonFiniteError, option
from swa_cli.formats import Checkpoint, Contents, Provenance, find_ties, is_floating, round_once
from swa_cli.outputs.destination import Target, plan_layout
from swa_cli.outputs.writer import write_output
from swa_cli.system.storage import Url, locate

_CHUNK = 1 << 22


def replace_tensors(
    checkpoint: Checkpoint,
    target: Target,
    tensors: Mapping[str, torch.Tensor],
    provenance: Provenance,
    *,
    overwrite: bool = True,
) -> tuple[str, ...]:
    """Publish ``checkpoint`` with some tensors replaced by ``tensors``; the others keep their bytes.

    The provenance of the BatchNorm statistics gets the CRC-32 of each replaced tensor.

    Args:
        target: the output, which may be the file of ``checkpoint``.
        overwrite: replace an existing output; otherwise refuse to, even if it appears during the work.
        tensors: new values, converted to the checkpoint's dtypes; for a tied tensor, under any of its names.

    Returns:
        Entries of ``checkpoint`` that are left out.

    Raises:
        OutputError: the target cannot be written; an existing file is unchanged.
        NonFiniteError: a tensor is not finite in the checkpoint's dtype.
        CheckpointError: the checkpoint ends early.
    """
    tied = find_ties([checkpoint])
    stored = {tied.get(name, name): _converted(checkpoint, name, tensor) for name, tensor in tensors.items()}
    if provenance.bn_update:
        sums = {name: zlib.crc32(stored[tied.get(name, name)].tobytes()) for name in sorted(tensors)}
        update = provenance.bn_update.model_copy(update={"tensors": sums})
        provenance = provenance.model_copy(update={"bn_update": update})
    contents = Contents(
        specs={name: entry.spec for name, entry in checkpoint.tensors.items() if name not in tied},
        tied=tied,
        extra=checkpoint.extra,
        provenance=provenance.model_copy(update={"folder": _seen_from(target.folder, checkpoint, provenance.folder)}),
    )
    record, layout = plan_layout(target, contents)
    with write_output(target, layout, overwrite=overwrite) as writer:
        for name, offset in layout.offsets.items():
            numel, size = contents.specs[name].numel, contents.specs[name].dtype.itemsize
            for start in range(0, numel, _CHUNK):
                stop = min(numel, start + _CHUNK)
                values = (
                    stored[name].reshape(-1)[start:stop]
                    if name in stored
                    else checkpoint.get_elements(name, start, stop)
                )
                writer.write(offset + start * size, memoryview(values.tobytes()))
        writer.finish(record)
    return layout.left_out


def _seen_from(output_folder: Path, checkpoint: Checkpoint, folder: str | None) -> str | None:
    """Convert the directory of the sources in the provenance, relative to the checkpoint, to another base."""
    if folder is None or isinstance(locate(folder), Url):
        return folder
    if isinstance(checkpoint.path, Url):
        return str(checkpoint.path.parent.joined(folder))
    if output_folder.resolve() == Path(checkpoint.path).parent.resolve():
        return folder
    there = os.path.realpath(checkpoint.path.parent / folder)
    return os.path.relpath(there, os.path.realpath(output_folder))


def _converted(checkpoint: Checkpoint, name: str, tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return the new value of a tensor in the checkpoint's dtype."""
    spec = checkpoint.spec(name)
    if not is_floating(spec.dtype):
        return tensor.detach().cpu().numpy().astype(spec.dtype)
    values = round_once(tensor.detach().cpu().to(torch.float64).contiguous().numpy(), spec.dtype)
    if not np.isfinite(values).all():
        msg = (
            f"{checkpoint.path}: {name} is stored as {spec}, in which its new values overflow. Average with "
            f"{option('dtype', 'float32')}, which can hold them."
        )
        raise NonFiniteError(msg)
    return values
