"""Finding the file, tensor and element that made a piece fail."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.chunks import Piece, TensorSlice
from swa_cli.averaging.combiners import combine_arrays
from swa_cli.averaging.plan import AveragePlan
from swa_cli.errors import option, shortened
from swa_cli.formats import BY_NAME, Checkpoint, real_dtype, round_once

_BLOCK = 1 << 16


def explain_nonfinite(piece: Piece, plan: AveragePlan) -> str:
    """Describe the first source, tensor and index with NaN or infinity, or say that only the result overflows.

    Raises:
        CheckpointError: a file can no longer be read.
    """
    for part in piece.parts:
        tensor = part.tensor
        for source in plan.sources:
            for start, values in _elements(source, part, _BLOCK):
                rows = _as_doubles(values)
                bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
                if len(bad):
                    at = int(bad[0])
                    found = rows[at].tolist()
                    index = index_of(start + at, tensor.spec.shape)
                    return (
                        f"{source.path}: tensor {tensor.name} holds {found[0] if len(found) == 1 else found} at index "
                        f"{index}, expected finite numbers. Leave that checkpoint out, or let it through with "
                        f"{option('allow_nonfinite', True)}."
                    )
    large = list(dict.fromkeys(part.tensor.name for part in piece.parts if _overflows(part, plan)))
    names = shortened(large or [piece.parts[0].tensor.name])
    is_widest = real_dtype(piece.dtype) == BY_NAME["float64"]
    what, remedy = plan.combiner.overflow(is_widest=is_widest)
    dtype, wider = ("float64", ", and there is no wider dtype") if is_widest else (piece.dtype.name, "")
    return (
        f"tensor {names}: {what} is too large for {dtype}, although every source is finite{wider}. {remedy}, or let "
        f"infinities through with {option('allow_nonfinite', True)}."
    )


def explain_disagreement(piece: Piece, first: Checkpoint, other: Checkpoint) -> str:
    """Describe the first tensor and index at which two sources differ, with both values.

    Raises:
        CheckpointError: a file can no longer be read.
    """
    for part in piece.parts:
        name = part.tensor.name
        pairs = zip(_elements(first, part, _BLOCK), _elements(other, part, _BLOCK), strict=True)
        for (start, expected), (_, found) in pairs:
            differ = np.flatnonzero(expected.view(np.uint8) != found.view(np.uint8))
            if len(differ):
                at = int(differ[0]) // expected.itemsize
                return (
                    f"tensor {name} ({first.spec(name)}) must be equal in all checkpoints, differs at index "
                    f"{index_of(start + at, part.tensor.spec.shape)}: {expected[at].item()} in {first.path}, "
                    f"{found[at].item()} in {other.path}. Leave out the checkpoints that differ, or choose what "
                    f"becomes of integers with {option('integers')}."
                )
    return f"{other.path} was changed while it was read."


def _elements(source: Checkpoint, part: TensorSlice, block: int) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
    """Yield the blocks of a slice (of the whole tensor, if the slice is a box) and the start of each."""
    first, last = (part.start, part.stop) if part.box is None else (0, part.tensor.spec.numel)
    for start in range(first, last, block):
        yield start, source.get_elements(part.tensor.name, start, min(last, start + block))


def _overflows(part: TensorSlice, plan: AveragePlan) -> bool:
    block = plan.combiner.piece_size(_BLOCK)
    for blocks in zip(*(_elements(source, part, block) for source in plan.sources), strict=True):
        combined = combine_arrays(plan.combiner, [_as_doubles(values) for _, values in blocks])
        rounded = round_once(combined, real_dtype(part.tensor.spec.dtype))
        if not np.isfinite(rounded.astype(np.float64)).all():
            return True
    return False


def _as_doubles(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return each element as a row of one real number, or of two for a complex element."""
    real = real_dtype(values.dtype)
    with np.errstate(invalid="ignore"):  # NaN is what is looked for
        return values.view(real).astype(np.float64).reshape(len(values), -1)


def index_of(flat: int, shape: tuple[int, ...]) -> list[int]:
    """Return the index of an element of a flattened tensor, one number per axis."""
    index: list[int] = []
    for size in reversed(shape):
        flat, position = divmod(flat, size)
        index.append(position)
    return index[::-1]
