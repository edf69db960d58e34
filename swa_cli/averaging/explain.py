"""Which file, tensor and element it was, once something is known to be wrong with a piece."""

from collections.abc import Iterator

import torch

from swa_cli.averaging.pieces import Part, Piece
from swa_cli.averaging.plan import AveragePlan, TensorPlan
from swa_cli.checkpoints import Checkpoint

_BLOCK = 1 << 20


def explain_nonfinite(piece: Piece, plan: AveragePlan) -> str:
    """The first source, tensor and index that hold NaN or infinity; or that the mean alone is too large.

    Raises:
        CheckpointError: a file that cannot be read any more.
    """
    for part in piece.parts:
        tensor = part.tensor
        for source in plan.sources:
            for start, values in _elements(source, part):
                rows = values.reshape(-1, 1) if not values.is_complex() else torch.view_as_real(values)
                wide = rows.to(torch.float32) if rows.dtype.itemsize == 1 else rows
                bad = torch.nonzero(~torch.isfinite(wide).all(dim=1))
                if len(bad):
                    at = int(bad[0])
                    found = [value.item() for value in wide[at]]
                    return (
                        f"{source.path}: tensor {tensor.name} holds {found[0] if len(found) == 1 else found} at index "
                        f"{_index(start + at, tensor.spec.shape)}, expected finite numbers. Leave that checkpoint out, "
                        "or let it through with --allow-nonfinite."
                    )
    names = ", ".join(dict.fromkeys(part.tensor.name for part in piece.parts if _overflows(part, plan)))
    return (
        f"tensor {names}: the mean is too large for {str(piece.dtype).removeprefix('torch.')}, although every source "
        "is finite. Choose a wider --dtype, or let infinities through with --allow-nonfinite."
    )


def explain_disagreement(piece: Piece, first: Checkpoint, other: Checkpoint) -> str:
    """The first tensor and index at which two sources differ, and what they hold there.

    Raises:
        CheckpointError: a file that cannot be read any more.
    """
    for part in piece.parts:
        name = part.tensor.name
        for (start, expected), (_, found) in zip(_elements(first, part), _elements(other, part), strict=True):
            # As bytes: torch compares few of the unsigned kinds.
            differ = torch.nonzero(expected.view(torch.uint8) != found.view(torch.uint8))
            if len(differ):
                at = int(differ[0]) // expected.element_size()
                return (
                    f"tensor {name} ({first.spec(name)}) must be equal in all checkpoints, differs at index "
                    f"{_index(start + at, part.tensor.spec.shape)}: {expected[at].item()} in {first.path}, "
                    f"{found[at].item()} in {other.path}. Leave out the checkpoints that differ, or choose what "
                    "becomes of integers with --integers."
                )
    msg = "no difference found"  # pragma: no cover  # the files changed meanwhile
    raise AssertionError(msg)  # pragma: no cover


def _elements(source: Checkpoint, part: Part) -> Iterator[tuple[int, torch.Tensor]]:
    """Of a part, or of the whole tensor where the part is a box: blocks, and where each starts."""
    first, last = (part.start, part.stop) if part.box is None else (0, part.tensor.spec.numel)
    for start in range(first, last, _BLOCK):
        yield start, source.get_elements(part.tensor.name, start, min(last, start + _BLOCK))


def _overflows(part: Part, plan: AveragePlan) -> bool:
    blocks = [_elements(source, part) for source in plan.sources]
    for values in zip(*blocks, strict=True):
        real = [torch.view_as_real(v) if v.is_complex() else v for _, v in values]
        mean = torch.stack([r.to(torch.float64) for r in real]).mean(0)
        if not bool(torch.isfinite(mean.to(_real(part.tensor)).to(torch.float64)).all()):
            return True
    return False


def _real(tensor: TensorPlan) -> torch.dtype:
    return tensor.spec.dtype.to_real() if tensor.spec.dtype.is_complex else tensor.spec.dtype


def _index(flat: int, shape: tuple[int, ...]) -> list[int]:
    index: list[int] = []
    for size in reversed(shape):
        flat, position = divmod(flat, size)
        index.append(position)
    return index[::-1]
