"""Tensors that lie in several places are read as if they lay in one."""

import random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from support.boxes import boxed_checkpoint
from swa_cli.errors import CheckpointError
from swa_cli.formats import OpenFiles, find_ties
from swa_cli.formats.tensor_layout import Extent, ShardedTensor, StoredTensor, boxes_of, row_major, spec_of

SHAPES = [(7,), (5, 4), (4, 3, 5), (2, 3, 2, 3), (1, 6)]
DTYPES = [np.dtype("float32"), np.dtype(ml_dtypes.bfloat16), np.dtype("complex64"), np.dtype("bool")]


def counted(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("axes", [None, (0,)], ids=["boxes", "rows"])
def test_any_range_and_any_box_of_a_sharded_tensor_is_read(tmp_path, seed, axes):
    rng = random.Random(seed)
    arrays = {f"w{number}": counted(rng.choice(SHAPES), rng.choice(DTYPES)) for number in range(4)}
    checkpoint = boxed_checkpoint(arrays, tmp_path / "boxes", rng, axes)

    with OpenFiles(checkpoint.stamps) as files:
        for name, array in arrays.items():
            flat = array.reshape(-1)
            assert checkpoint.get_tensor(name).reshape(-1).tolist() == flat.tolist()
            for _ in range(10):
                start, stop = sorted(rng.choices(range(array.size + 1), k=2))
                found = checkpoint.get_elements(name, start, stop)
                assert found.dtype == array.dtype
                assert found.tobytes() == flat[start:stop].tobytes()

                firsts = [rng.randrange(size) for size in array.shape]
                box = tuple(
                    (first, rng.randint(first + 1, size)) for first, size in zip(firsts, array.shape, strict=True)
                )
                into = np.zeros([last - first for first, last in box], array.dtype)
                checkpoint.read_box(files, name, box, into)
                assert into.tobytes() == array[tuple(slice(*side) for side in box)].tobytes()
            assert checkpoint.tensors[name].is_row_major or axes is None


@pytest.mark.parametrize("shape", [(), (1,), (6,), (3, 4), (2, 3, 4), (2, 1, 3, 2)])
def test_the_boxes_of_a_range_hold_its_elements_in_order(shape):
    indices = np.arange(np.prod(shape, dtype=int)).reshape(shape)

    for start in range(indices.size + 1):
        for stop in range(start, indices.size + 1):
            boxes = list(boxes_of(shape, start, stop))
            read = [index for box in boxes for index in indices[tuple(slice(*side) for side in box)].reshape(-1)]
            assert read == list(range(start, stop))
            assert len(boxes) <= max(1, 2 * len(shape) - 1)


def rows(*places: tuple[int, int]) -> ShardedTensor:
    """A tensor of two rows, each at a file and an offset."""
    spec = spec_of((1, 3), np.dtype("float32"))
    shards = [
        Extent((row, 0), StoredTensor(spec, at, row_major((1, 3)), file)) for row, (file, at) in enumerate(places)
    ]
    return ShardedTensor(spec_of((2, 3), spec.dtype), tuple(shards))


def test_a_layout_keeps_its_places_among_other_files():
    moved = rows((0, 8), (1, 8)).beside(2)

    assert moved == rows((2, 8), (3, 8))
    assert moved.origin == (2, 8)
    assert list(moved.runs(1, 5)) == [(2, 12, 8), (3, 8, 8)]


def test_sharded_tensors_of_equal_layouts_are_tied(tmp_path):
    checkpoint = boxed_checkpoint({"w": counted((2, 3), np.dtype("float32"))}, tmp_path / "boxes", random.Random(0))
    tensors = {"embed": rows((0, 8), (1, 8)), "head": rows((0, 8), (1, 8)), "other": rows((0, 8), (1, 20))}
    object.__setattr__(checkpoint, "tensors", tensors)

    assert find_ties([checkpoint]) == {"head": "embed"}


def test_a_shard_that_ends_early_is_named(tmp_path):
    checkpoint = boxed_checkpoint({"w": counted((8, 4), np.dtype("float32"))}, tmp_path / "boxes", random.Random(1))
    layout = checkpoint.tensors["w"]
    assert isinstance(layout, ShardedTensor)
    _, stored = layout.shards[-1]
    last = Path(checkpoint.file_of(stored.file))
    last.write_bytes(last.read_bytes()[: stored.offset + 1])
    object.__setattr__(checkpoint, "stamps", {})

    with pytest.raises(CheckpointError, match="tensor w ends beyond the end of the file") as error:
        checkpoint.get_tensor("w")

    assert str(last) in str(error.value)
