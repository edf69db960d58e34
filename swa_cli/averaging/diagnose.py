"""Which file, tensor and element it was, once something is known to be wrong with a piece."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.chunks import Piece, TensorSlice
from swa_cli.averaging.plan import AveragePlan
from swa_cli.errors import shortened
from swa_cli.formats import BY_NAME, Checkpoint, real_dtype, round_once

_BLOCK = 1 << 16


def explain_nonfinite(piece: Piece, plan: AveragePlan) -> str:
    """The first source, tensor and index that hold NaN or infinity; or that the mean alone is too large.

    Raises:
        CheckpointError: a file that cannot be read any more.
    """
    for part in piece.parts:
        tensor = part.tensor
        for source in plan.sources:
            for start, values in _elements(source, part):
                rows = _as_doubles(values)
                bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
                if len(bad):
                    at = int(bad[0])
                    found = rows[at].tolist()
                    index = index_of(start + at, tensor.spec.shape)
                    return (
                        f"{source.path}: tensor {tensor.name} holds {found[0] if len(found) == 1 else found} at index "
                        f"{index}, expected finite numbers. Leave that checkpoint out, or let it through with "
                        "--allow-nonfinite."
                    )
    large = list(dict.fromkeys(part.tensor.name for part in piece.parts if _overflows(part, plan)))
    names = shortened(large or [piece.parts[0].tensor.name])
    if real_dtype(piece.dtype) == BY_NAME["float64"]:
        remedy = "Choose smaller weights, leave" if plan.is_weighted else "Leave"
        return (
            f"tensor {names}: the sum of the sources is too large for float64, although every source is finite, and "
            f"there is no wider dtype. {remedy} out the checkpoint with such large values, or let infinities through "
            "with --allow-nonfinite."
        )
    remedy = "a wider --dtype or smaller weights" if plan.is_weighted else "a wider --dtype"
    return (
        f"tensor {names}: the mean is too large for {piece.dtype.name}, although every source "
        f"is finite. Choose {remedy}, or let infinities through with --allow-nonfinite."
    )


def explain_disagreement(piece: Piece, first: Checkpoint, other: Checkpoint) -> str:
    """The first tensor and index at which two sources differ, and what they hold there.

    Raises:
        CheckpointError: a file that cannot be read any more.
    """
    for part in piece.parts:
        name = part.tensor.name
        for (start, expected), (_, found) in zip(_elements(first, part), _elements(other, part), strict=True):
            differ = np.flatnonzero(expected.view(np.uint8) != found.view(np.uint8))
            if len(differ):
                at = int(differ[0]) // expected.itemsize
                return (
                    f"tensor {name} ({first.spec(name)}) must be equal in all checkpoints, differs at index "
                    f"{index_of(start + at, part.tensor.spec.shape)}: {expected[at].item()} in {first.path}, "
                    f"{found[at].item()} in {other.path}. Leave out the checkpoints that differ, or choose what "
                    "becomes of integers with --integers."
                )
    return f"{other.path} was changed while it was read."


def _elements(source: Checkpoint, part: TensorSlice) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
    """Of a part, or of the whole tensor where the part is a box: blocks, and where each starts."""
    first, last = (part.start, part.stop) if part.box is None else (0, part.tensor.spec.numel)
    for start in range(first, last, _BLOCK):
        yield start, source.get_elements(part.tensor.name, start, min(last, start + _BLOCK))


def _overflows(part: TensorSlice, plan: AveragePlan) -> bool:
    for blocks in zip(*(_elements(source, part) for source in plan.sources), strict=True):
        total = np.zeros(())
        with np.errstate(over="ignore"):
            for (_, values), weight in zip(blocks, plan.weights, strict=True):
                total = total + _as_doubles(values) * weight
        rounded = round_once(total / plan.divisor, real_dtype(part.tensor.spec.dtype))
        if not np.isfinite(rounded.astype(np.float64)).all():
            return True
    return False


def _as_doubles(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Each element as a row of one number, or of two for a complex one."""
    real = real_dtype(values.dtype)
    with np.errstate(invalid="ignore"):  # NaN is what is looked for
        return values.view(real).astype(np.float64).reshape(len(values), -1)


def index_of(flat: int, shape: tuple[int, ...]) -> list[int]:
    """The index, one number for each axis, of an element of a flattened tensor."""
    index: list[int] = []
    for size in reversed(shape):
        flat, position = divmod(flat, size)
        index.append(position)
    return index[::-1]
