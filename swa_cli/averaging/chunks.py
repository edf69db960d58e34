"""Cutting a plan into pieces that fit small buffers, and reading and writing one piece."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from swa_cli.averaging.plan import AveragePlan, Policy, TensorPlan
from swa_cli.formats import Box, Checkpoint, Dtype, OpenFiles, TensorLayout, reals

Write = Callable[[int, memoryview], None]
"""Writes bytes at an offset of the output."""

ReadPlan = dict[int, "list[_Run]"]
"""How a piece is read from sources of each layout."""

_GAP = 1024
"""Largest gap in bytes between two tensors that is read rather than skipped."""


class TensorSlice(NamedTuple):  # there are as many as tensors: a plain tuple is made in a quarter of a dataclass's time
    """Elements ``start`` to ``stop`` of a flattened tensor, or those of a ``box`` of it, with their output offset.

    ``output`` is the offset of the slice's first element, or with a box that of the tensor's first element.
    """

    tensor: TensorPlan
    start: int
    stop: int
    output: int
    box: Box | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.stop - self.start if self.box is None else prod(last - first for first, last in self.box)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Slices that are read, averaged and written together; all have the same policy and dtype."""

    index: int
    policy: Policy
    dtype: Dtype
    parts: tuple[TensorSlice, ...]
    numel: int


def cut(plan: AveragePlan, tensors: Sequence[TensorPlan], offsets: Mapping[str, int], *, chunk: int) -> Iterator[Piece]:
    """Cut ``tensors`` into pieces of at most ``chunk`` real numbers (a complex element is two).

    Args:
        offsets: offset of each tensor in the output, in bytes.
    """
    layouts = list({id(source.tensors): source.tensors for source in plan.sources}.values())
    index = 0
    parts: list[TensorSlice] = []
    filled = 0
    kind: object = None  # of the tensors in ``parts``

    def piece() -> Piece:
        first = parts[0].tensor
        return Piece(index=index, policy=first.policy, dtype=first.spec.dtype, parts=tuple(parts), numel=filled)

    for tensor in tensors:
        policy, spec = tensor.policy, tensor.spec
        numel, size = spec.numel, max(1, chunk // reals(1, spec.dtype))
        read = layouts if policy == "combined" else [source.tensors for source in plan.read_by(tensor)]
        stored = [layout[tensor.name] for layout in read]
        flat = all([layout.is_row_major for layout in stored])  # noqa: C419  # twice as fast, for 30,000 tensors
        before, kind = (
            kind,
            (policy, spec.dtype, [layout.spec.dtype for layout in stored] if policy == "combined" else None),
        )
        if parts and not (flat and filled + numel <= size and kind == before):
            yield piece()
            index, parts, filled = index + 1, [], 0
        if flat and 0 < numel < size:
            parts.append(TensorSlice(tensor, 0, numel, offsets[tensor.name]))
            filled += numel
            continue
        for part in _parts(tensor, offsets[tensor.name], size) if flat else _boxes(tensor, offsets, stored, size):
            parts.append(part)
            filled += part.numel
            if filled >= size or not flat:
                yield piece()
                index, parts, filled = index + 1, [], 0
    if parts:
        yield piece()


def fill(piece: Piece, source: Checkpoint, files: OpenFiles, view: memoryview, runs: ReadPlan) -> Dtype:
    """Read the elements of a piece from a source into ``view``; return the dtype in which they are stored.

    Args:
        runs: a cache that the caller keeps from source to source and empties for each piece.

    Raises:
        CheckpointError: as `OpenFiles.read`.
    """
    part = piece.parts[0]
    name = part.tensor.name
    dtype = source.spec(name).dtype
    if part.box is not None:
        into = np.frombuffer(view, dtype, piece.numel).reshape([last - first for first, last in part.box])
        source.read_box(files, name, part.box, into)
    elif len(piece.parts) == 1:
        source.read_runs(files, name, part.start, part.stop, view)
    else:
        _fill_many(piece, source, files, view, runs)
    return dtype


def put(piece: Piece, view: memoryview, write: Write) -> None:
    """Write the elements of a piece, contiguous in ``view``, to the output."""
    part = piece.parts[0]
    size = piece.dtype.itemsize
    if part.box is None:
        for output, start, stop in _stretches(piece):
            write(output, view[start * size : stop * size])
        return
    shape = part.tensor.spec.shape
    axis = next((a for a in range(len(shape) - 1, 0, -1) if part.box[a] != (0, shape[a])), 0)
    run = size * prod(last - first for first, last in part.box[axis:])  # whole from this axis on
    for number, start in enumerate(_starts(part.box[:axis], shape)):
        offset = part.output + size * (start * prod(shape[axis:]) + part.box[axis][0] * prod(shape[axis + 1 :]))
        write(offset, view[number * run : (number + 1) * run])


def _stretches(piece: Piece) -> Iterator[tuple[int, int, int]]:
    """Yield the stretches of a piece that are contiguous in the output: offset, first element, last element + 1."""
    size = piece.dtype.itemsize
    output, start, stop = piece.parts[0].output, 0, piece.parts[0].numel
    for part in piece.parts[1:]:
        if part.output != output + (stop - start) * size:
            yield output, start, stop
            output, start = part.output, stop
        stop += part.numel
    yield output, start, stop


def _starts(box: Box, shape: Sequence[int]) -> Iterator[int]:
    """Yield the row-major indices of all elements of ``box`` within the leading axes of ``shape``."""
    if not box:
        yield 0
        return
    for before in _starts(box[:-1], shape):
        for index in range(*box[-1]):
            yield before * shape[len(box) - 1] + index


def _parts(tensor: TensorPlan, output: int, size: int) -> Iterator[TensorSlice]:
    for start in range(0, tensor.spec.numel, size):
        stop = min(start + size, tensor.spec.numel)
        yield TensorSlice(tensor=tensor, start=start, stop=stop, output=output + start * tensor.spec.dtype.itemsize)


def _boxes(
    tensor: TensorPlan, offsets: Mapping[str, int], stored: Sequence[TensorLayout], size: int
) -> Iterator[TensorSlice]:
    """Yield boxes of a tensor that some source does not store row by row.

    They are cut along the axis whose neighbours lie furthest apart in the output and in every source: rows of a
    tensor that is merely padded or channels-last, squares of a transposed one. So each byte is read once, in the
    longest possible runs.
    """
    shape = tensor.spec.shape
    whole = tuple((0, length) for length in shape)
    strides = [
        tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))),
        *(extent.stored.stride for layout in stored for extent in layout.extents(whole)),
    ]
    lengths = list(shape)
    while prod(lengths) > size:
        apart = [(min(stride[axis] for stride in strides), lengths[axis], axis) for axis in range(len(shape))]
        axis = max((entry for entry in apart if entry[1] > 1), key=lambda entry: entry[:2])[2]
        lengths[axis] = -(-lengths[axis] // 2)

    def boxes(axis: int) -> Iterator[Box]:
        if axis == len(shape):
            yield ()
            return
        for start in range(0, shape[axis], lengths[axis]):
            for rest in boxes(axis + 1):
                yield ((start, min(start + lengths[axis], shape[axis])), *rest)

    for box in boxes(0):
        yield TensorSlice(tensor=tensor, start=0, stop=0, output=offsets[tensor.name], box=box)


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes of one file that one call reads: the position in the piece of each stretch, or -1 for a gap."""

    file: int
    offset: int
    stretches: tuple[tuple[int, int], ...]
    name: str


def _fill_many(piece: Piece, source: Checkpoint, files: OpenFiles, view: memoryview, runs: ReadPlan) -> None:
    """Read many tensors with few calls: one call for those that lie close together in a file."""
    known = runs.get(id(source.tensors))
    if known is None:
        known = runs[id(source.tensors)] = list(_runs_of(piece, source.tensors))
    junk = memoryview(bytearray(_GAP))
    for run in known:
        views = [view[at : at + length] if at >= 0 else junk[:length] for at, length in run.stretches]
        what = run.name if len(views) == 1 else f"{run.name} or one that follows it"
        files.read(source.file_of(run.file), run.offset, views, what)


def _runs_of(piece: Piece, tensors: Mapping[str, TensorLayout]) -> Iterator[_Run]:
    wanted: list[tuple[int, int, int, int, str]] = []
    at = 0
    for part in piece.parts:
        for file, offset, length in tensors[part.tensor.name].runs(part.start, part.stop):
            wanted.append((file, offset, at, length, part.tensor.name))
            at += length
    wanted.sort()
    file, begin, at, length, name = wanted[0]
    stretches, end = [(at, length)], begin + length
    for number, offset, at, length, other in wanted[1:]:
        gap = offset - end
        if number != file or not 0 <= gap <= _GAP:
            yield _Run(file, begin, tuple(stretches), name)
            file, begin, stretches, name = number, offset, [(at, length)], other
        elif gap == 0 and at == sum(stretches[-1]):
            stretches[-1] = (stretches[-1][0], stretches[-1][1] + length)
        else:
            stretches += [(-1, gap), (at, length)] if gap else [(at, length)]
        end = offset + length
    yield _Run(file, begin, tuple(stretches), name)
