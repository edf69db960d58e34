"""The arithmetic: every tensor, piece by piece, through one float64 accumulator."""

from collections.abc import Iterator, Sequence

import torch

from swa_cli.averaging.plan import AveragePlan, TensorPlan
from swa_cli.averaging.rounding import round_once
from swa_cli.checkpoints import Checkpoint
from swa_cli.errors import MismatchError, NonFiniteError
from swa_cli.progress import Advance

CHUNK = 1 << 20
"""Elements taken at a time: 8 MiB of accumulator, whatever the size of the model or the number of sources."""


_PIECES_IF_TRANSPOSED = 8


def stream_average(
    plan: AveragePlan, *, device: torch.device, allow_nonfinite: bool, advance: Advance, chunk: int = CHUNK
) -> Iterator[torch.Tensor]:
    """Yield the bytes of the average, in the order of ``plan.tensors``, as flat CPU tensors of output dtype.

    Each is the sum in float64 over the sources in order, divided once by their number and rounded once. The
    result does not depend on ``chunk`` or ``device``.

    Args:
        advance: told the number of bytes read.

    Raises:
        NonFiniteError: NaN or infinity in a source, or a mean too large for the output dtype.
        MismatchError: an integer tensor that differs between sources.
        CheckpointError: a file that ends early.
    """
    for tensor in plan.tensors:
        size = _chunk_of(plan, tensor, chunk)
        for start in range(0, tensor.spec.numel, size):
            stop = min(start + size, tensor.spec.numel)
            if tensor.policy == "mean":
                yield _mean(plan.sources, tensor, start, stop, device, allow_nonfinite=allow_nonfinite)
            elif tensor.policy == "agree":
                yield _agreed(plan.sources, tensor.name, start, stop)
            else:
                yield plan.sources[-1].get_elements(tensor.name, start, stop)
            advance(plan.bytes_of(tensor) * (stop - start) // tensor.spec.numel)


def _chunk_of(plan: AveragePlan, tensor: TensorPlan, chunk: int) -> int:
    """A transposed tensor is read nearly whole for every piece of it; a few larger pieces bound that."""
    if all(source.tensors[tensor.name].is_contiguous for source in plan.sources):
        return chunk
    return max(chunk, -(-tensor.spec.numel // _PIECES_IF_TRANSPOSED))


def _mean(
    sources: Sequence[Checkpoint],
    tensor: TensorPlan,
    start: int,
    stop: int,
    device: torch.device,
    *,
    allow_nonfinite: bool,
) -> torch.Tensor:
    total = _as_real(sources[0].get_elements(tensor.name, start, stop).to(device)).to(torch.float64)
    for source in sources[1:]:
        total += _as_real(source.get_elements(tensor.name, start, stop).to(device))
    total /= len(sources)
    rounded = round_once(total, _real_dtype(tensor.spec.dtype))
    if not allow_nonfinite and not bool(_is_finite(rounded).all()):
        raise NonFiniteError(_explain_nonfinite(sources, tensor, start, stop))
    rounded = rounded.cpu()
    return torch.view_as_complex(rounded) if tensor.spec.dtype.is_complex else rounded


def _as_real(values: torch.Tensor) -> torch.Tensor:
    if values.is_complex():
        return torch.view_as_real(values)
    if values.dtype.itemsize == 1:  # float8 has no arithmetic; every float8 is a float32
        return values.to(torch.float32)
    return values


def _real_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _is_finite(values: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(values.to(torch.float32) if values.dtype.itemsize == 1 else values)


def _explain_nonfinite(sources: Sequence[Checkpoint], tensor: TensorPlan, start: int, stop: int) -> str:
    for source in sources:
        values = _as_real(source.get_elements(tensor.name, start, stop))
        bad = torch.nonzero(~torch.isfinite(values).reshape(stop - start, -1).all(dim=1))
        if len(bad):
            at = int(bad[0])
            index = _index(start + at, tensor.spec.shape)
            found = [value.item() for value in values.reshape(stop - start, -1)[at]]
            return (
                f"{source.path}: tensor {tensor.name} holds {found[0] if len(found) == 1 else found} at index {index}, "
                "expected finite numbers. Leave that checkpoint out, or let it through with --allow-nonfinite."
            )
    return (
        f"tensor {tensor.name}: the mean is too large for {str(tensor.spec.dtype).removeprefix('torch.')}, although "
        "every source is finite. Choose a wider --dtype, or let infinities through with --allow-nonfinite."
    )


def _agreed(sources: Sequence[Checkpoint], name: str, start: int, stop: int) -> torch.Tensor:
    first = sources[0].get_elements(name, start, stop)
    for source in sources[1:]:
        values = source.get_elements(name, start, stop)
        # As bytes: torch compares few of the unsigned kinds.
        differ = torch.nonzero(values.view(torch.uint8) != first.view(torch.uint8))
        if len(differ):
            at = int(differ[0]) // first.element_size()
            index = _index(start + at, sources[0].spec(name).shape)
            msg = (
                f"tensor {name} ({sources[0].spec(name)}) must be equal in all checkpoints, differs at index {index}: "
                f"{first[at].item()} in {sources[0].path}, {values[at].item()} in {source.path}. "
                "An integer has no average; leave out the checkpoints that differ."
            )
            raise MismatchError(msg)
    return first


def _index(flat: int, shape: tuple[int, ...]) -> list[int]:
    index: list[int] = []
    for size in reversed(shape):
        flat, position = divmod(flat, size)
        index.append(position)
    return index[::-1]
