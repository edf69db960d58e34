"""Checkpoints whose tensors lie in boxes, in several files, as no container of today stores them all."""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from swa_cli.formats import Checkpoint, TensorLayout
from swa_cli.formats.tensor_layout import Extent, ShardedTensor, StoredTensor, row_major, spec_of
from swa_cli.system.storage import storage_of

Slices = tuple[slice, ...]


def guillotine(shape: tuple[int, ...], rng: random.Random, axes: tuple[int, ...] | None = None) -> list[Slices]:
    """Cut an array into boxes by straight cuts, along ``axes`` only."""
    boxes = [tuple(slice(0, size) for size in shape)]
    for _ in range(rng.randint(0, 5)):
        box = boxes.pop(rng.randrange(len(boxes)))
        long = [
            axis for axis in (axes or range(len(shape))) if axis < len(shape) and box[axis].stop - box[axis].start > 1
        ]
        if not long:
            boxes.append(box)
            continue
        axis = rng.choice(long)
        at = rng.randrange(box[axis].start + 1, box[axis].stop)
        sides = slice(box[axis].start, at), slice(at, box[axis].stop)
        boxes += [(*box[:axis], side, *box[axis + 1 :]) for side in sides]
    return boxes


def boxed_checkpoint(
    arrays: Mapping[str, np.ndarray], folder: Path, rng: random.Random, axes: tuple[int, ...] | None = None
) -> Checkpoint:
    """Write each tensor as boxes, each into one of three files."""
    folder.mkdir()
    files = tuple(folder / f"{number}.bin" for number in range(3))
    contents = [bytearray(b"junk") for _ in files]
    layouts: dict[str, TensorLayout] = {}
    for name, array in arrays.items():
        extents = []
        for box in guillotine(array.shape, rng, axes):
            values = array[box]
            number = rng.randrange(len(files))
            stored = StoredTensor(
                spec_of(values.shape, array.dtype), len(contents[number]), row_major(values.shape), number
            )
            contents[number] += values.tobytes() + bytes(rng.randrange(3) * array.itemsize)
            extents.append(Extent(tuple(part.start for part in box), stored))
        extents.sort()
        spec = spec_of(array.shape, array.dtype)
        layouts[name] = extents[0].stored if len(extents) == 1 else ShardedTensor(spec, tuple(extents))
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    return Checkpoint(
        path=folder, files=files, tensors=layouts, stamps={path: storage_of(path).stamp(path) for path in files}
    )
