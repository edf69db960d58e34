"""Checking, from the header, that a file holds the weights of its model."""

from collections.abc import Sequence

from swa_cli.errors import CheckpointError, shortened
from swa_cli.formats import Checkpoint, is_averaged

_FEW = 10
"""One tensor named ``weight`` in this many may be empty."""


def check_complete(sources: Sequence[Checkpoint]) -> None:
    """Refuse files whose average would lack some of the weights.

    Raises:
        CheckpointError: entries of the state_dict hold weights in another form than tensors; or its floating-point
            tensors are empty, all of them or those named ``weight``. DeepSpeed's ZeRO stage 3 leaves tensors of shape
            [0] in place of partitioned parameters, beside small parameters and buffers that are whole.
    """
    for source in sources:
        if source.lost:
            msg = (
                f"{source.path}: entries of the state_dict hold weights and are not tensors, so the average would lack "
                f"them: {shortened(source.lost)}. Save them as tensors of the state_dict: numpy arrays with "
                "torch.from_numpy, nested ones under dotted names, quantized ones as they were before quantization."
            )
            raise CheckpointError(msg)
    for source in {id(source.tensors): source for source in sources}.values():
        _check_not_empty(source)


def _check_not_empty(source: Checkpoint) -> None:
    floating = {name: stored.spec for name, stored in source.tensors.items() if is_averaged(stored.spec.dtype)}
    empty = [name for name, spec in floating.items() if not spec.numel]
    if not empty:
        return
    weights = [name for name in floating if name.rpartition(".")[2] == "weight"]
    placeholders = [name for name in weights if floating[name].shape == (0,)]
    if len(empty) == len(floating) or len(placeholders) * _FEW > len(weights):
        msg = (
            f"{source.path}: {len(empty):,} of {len(floating):,} floating tensors are empty: {shortened(empty)}. "
            "DeepSpeed's ZeRO stage 3 leaves such placeholders: turn each checkpoint into a whole one with the "
            "zero_to_fp32.py in its folder, and average those."
        )
        raise CheckpointError(msg)
