"""A copy of a checkpoint with some tensors replaced."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from swa_cli.checkpoints.provenance import Provenance, to_metadata
from swa_cli.checkpoints.safetensors_file import file_order, write_safetensors
from swa_cli.checkpoints.stored import Checkpoint
from swa_cli.files import publish


def replace_tensors(
    checkpoint: Checkpoint, output: Path, tensors: Mapping[str, torch.Tensor], provenance: Provenance
) -> None:
    """Publish ``checkpoint`` as safetensors with ``tensors`` in place of its own; the others keep their bytes.

    Args:
        output: may be the file of ``checkpoint`` itself.
        tensors: converted to the dtype that the checkpoint stores.

    Raises:
        OutputError: ``output`` cannot be written; it is then as it was.
        CheckpointError: the checkpoint ends early.
    """
    specs = {name: stored.spec for name, stored in checkpoint.tensors.items()}

    def chunks() -> Iterator[torch.Tensor]:
        for name in file_order(specs):
            new = tensors.get(name)
            yield checkpoint.get_tensor(name) if new is None else new.detach().cpu().to(specs[name].dtype)

    with publish(output, overwrite=True) as stream:
        write_safetensors(stream, specs, chunks(), {**checkpoint.metadata, **to_metadata(provenance)})
