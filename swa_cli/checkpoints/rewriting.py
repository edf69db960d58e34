"""A copy of a checkpoint with some tensors replaced."""

from collections.abc import Mapping
from pathlib import Path

import torch

from swa_cli.checkpoints.checkpoint import Checkpoint
from swa_cli.checkpoints.provenance import Provenance, to_metadata
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
    stored = {
        tied.get(name, name): tensor.detach().cpu().to(getattr(torch, checkpoint.spec(name).dtype.name))
        for name, tensor in tensors.items()
    }
    for name, tensor in stored.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            msg = (
                f"{checkpoint.path}: {name} is stored as {checkpoint.spec(name)}, in which its new values overflow. "
                "Average with --dtype float32, which can hold them."
            )
            raise NonFiniteError(msg)
    specs = {name: entry.spec for name, entry in checkpoint.tensors.items() if name not in tied}
    metadata = {**checkpoint.metadata, **to_metadata(provenance, tied=tied, extra=checkpoint.extra)}
    with publish(output, overwrite=True) as stream:
        stream.write(safetensors_header(specs, metadata)[0])
        for name in file_order(specs):
            tensor = stored[name] if name in stored else checkpoint.get_tensor(name)
            if tensor.numel():
                stream.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
