"""Shards are joined to a tensor if they are disjoint and nothing is missing."""

import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from support.boxes import guillotine
from swa_cli.errors import CheckpointError
from swa_cli.formats.shards import join_shards
from swa_cli.formats.tensor_layout import Extent, ShardedTensor, StoredTensor, row_major, spec_of

FLOAT = np.dtype("float32")
CHECKPOINT = Path("run/step-1")


def extent(start: tuple[int, ...], shape: tuple[int, ...], file: int, dtype: np.dtype = FLOAT) -> Extent:
    return Extent(start, StoredTensor(spec_of(shape, dtype), 100 * file, row_major(shape), file))


def join(*shards: Extent):
    return join_shards(CHECKPOINT, "w", shards, [CHECKPOINT / f"{number}.bin" for number in range(20)])


@pytest.mark.parametrize("seed", range(20))
def test_boxes_of_a_tensor_are_joined_and_any_other_set_is_not(seed):
    rng = random.Random(seed)
    shape = rng.choice([(9,), (5, 6), (3, 4, 5)])
    boxes = guillotine(shape, rng)
    rng.shuffle(boxes)
    shards = [
        extent(tuple(side.start for side in box), tuple(side.stop - side.start for side in box), number)
        for number, box in enumerate(boxes)
    ]

    layout = join(*shards)

    assert layout.spec == spec_of(shape, FLOAT)
    assert sorted(found.start for found in layout.extents(tuple((0, size) for size in shape))) == sorted(
        shard.start for shard in shards
    )
    if len(shards) > 1:
        assert isinstance(layout, ShardedTensor)
        for number, shard in enumerate(shards):
            covered = sum(
                all(
                    low <= at < low + size
                    for at, low, size in zip(index, other.start, other.stored.spec.shape, strict=True)
                )
                for other in shards[:number] + shards[number + 1 :]
                for index in product(*map(range, shape))
            )
            assert covered == np.prod(shape) - shard.stored.spec.numel  # disjoint: the oracle counts elements
        inner = [
            number
            for number, shard in enumerate(shards)
            if any(
                start + size < whole
                for start, size, whole in zip(shard.start, shard.stored.spec.shape, shape, strict=True)
            )
        ]
        lost = rng.choice(inner)
        rest = shards[:lost] + shards[lost + 1 :]
        smaller = tuple(
            max(shard.start[axis] + shard.stored.spec.shape[axis] for shard in rest) for axis in range(len(shape))
        )
        if np.prod(smaller) != sum(shard.stored.spec.numel for shard in rest):
            with pytest.raises(
                CheckpointError, match=r"run/step-1: tensor w: expected \d+ elements, of float32 .*, found"
            ):
                join(*rest)
    with pytest.raises(CheckpointError, match=r"run/step-1: tensor w: \[.*\] in .*\.bin and \[.*\] in .*\.bin overlap"):
        join(*shards, shards[0]._replace(stored=shards[0].stored._replace(file=len(shards))))


def test_a_tensor_on_one_rank_lies_in_one_place():
    whole = extent((0, 0), (2, 3), 1)

    assert join(extent((2, 0), (0, 3), 0), whole) == whole.stored


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_a_tensor_without_elements_needs_none(shape):
    assert join(extent((0, 0), shape, 0)) == extent((0, 0), shape, 0).stored


def test_scalars_of_two_files_overlap():
    assert join(extent((), (), 0)).spec == spec_of((), FLOAT)
    with pytest.raises(CheckpointError, match=r"tensor w: \[\] in 0\.bin and \[\] in 1\.bin overlap"):
        join(extent((), (), 0), extent((), (), 1))


@pytest.mark.parametrize(
    "other", [extent((1, 0), (1, 3), 1, np.dtype("float16")), extent((1,), (3,), 1)], ids=["dtype", "axes"]
)
def test_shards_of_two_kinds_are_refused(other):
    with pytest.raises(
        CheckpointError, match=r"tensor w is float32 \[1, 3\] in 0\.bin and float.* in 1\.bin\. Files are missing or"
    ):
        join(extent((0, 0), (1, 3), 0), other)
