"""A copy of a checkpoint with some tensors replaced."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from swa_cli.checkpoints.checkpoint import Checkpoint
from swa_cli.checkpoints.dtypes import is_floating
from swa_cli.checkpoints.provenance import Provenance, to_metadata
from swa_cli.checkpoints.rounding import round_once
from swa_cli.checkpoints.safetensors_file import file_order, safetensors_header
from swa_cli.checkpoints.ties import find_ties
from swa_cli.errors import NonFiniteError
from swa_cli.files import publish


def replace_tensors(
    checkpoint: Checkpoint, output: Path, tensors: Mapping[str, torch.Tensor], provenance: Provenance
) -> None:
    """Publish ``checkpoint`` as safetensors with ``tensors`` in place of its own; the others keep their bytes.

    Args:
        output: may be the file of ``checkpoint`` itself.
        tensors: converted to the dtype that the checkpoint stores; of a tied tensor, under any of its names.

    Raises:
        OutputError: ``output`` cannot be written; it is then as it was.
        NonFiniteError: a tensor is not finite in that dtype.
        CheckpointError: the checkpoint ends early.
    """
    tied = find_ties([checkpoint])
    stored = {tied.get(name, name): _converted(checkpoint, name, tensor) for name, tensor in tensors.items()}
    specs = {name: entry.spec for name, entry in checkpoint.tensors.items() if name not in tied}
    metadata = {**checkpoint.metadata, **to_metadata(provenance, tied=tied, extra=checkpoint.extra)}
    with publish(output, overwrite=True) as stream:
        stream.write(safetensors_header(specs, metadata)[0])
        for name in file_order(specs):
            values = stored[name] if name in stored else checkpoint.get_elements(name, 0, specs[name].numel)
            stream.write(values.tobytes())


def _converted(checkpoint: Checkpoint, name: str, tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """What is to be stored in place of a tensor of the checkpoint, in its dtype."""
    spec = checkpoint.spec(name)
    if not is_floating(spec.dtype):
        return tensor.detach().cpu().numpy().astype(spec.dtype)
    values = round_once(tensor.detach().cpu().to(torch.float64).contiguous().numpy(), spec.dtype)
    if not np.isfinite(values).all():
        msg = (
            f"{checkpoint.path}: {name} is stored as {spec}, in which its new values overflow. Average with --dtype "
            "float32, which can hold them."
        )
        raise NonFiniteError(msg)
    return values
