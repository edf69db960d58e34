"""Random states: put back, wound back and seeded."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
)

from support.loaders import EVERY, SAMPLES, Augmented, Numbers, batches, global_states
from swa_cli.user.dataloader import Passes


@pytest.mark.parametrize("kind", ["augmented", "augmented in buckets", "augmented in workers", "wraps a loader"])
def test_what_is_drawn_between_batches_changes_neither_them_nor_itself(kind):
    expected = batches(Passes(EVERY[kind]()))
    torch.manual_seed(3)
    undisturbed = torch.rand(5).tolist()

    torch.manual_seed(3)
    drawn, got = [], []
    for batch in Passes(EVERY[kind]()):
        got.append(batch.tolist())
        drawn.append(torch.rand(()).item())

    assert got == expected
    assert drawn[:5] == undisturbed


@pytest.mark.parametrize("end", ["at its end", "when left", "after an error"])
@pytest.mark.parametrize("kind", ["augmented", "iterable"])
def test_the_random_states_are_put_back(kind, end):
    class Raises(Augmented):
        def __getitem__(self, index: int):
            if index == 9:
                raise ZeroDivisionError
            return super().__getitem__(index)

    class StreamRaises(IterableDataset):
        def __iter__(self):
            yield from (torch.rand(()) for _ in range(9))
            raise ZeroDivisionError

    raising = DataLoader(Raises() if kind == "augmented" else StreamRaises(), 4)
    before = global_states()

    if end == "after an error":
        with pytest.raises(ZeroDivisionError):
            list(Passes(raising))
    elif end == "when left":
        assert len([batch for batch, _ in zip(Passes(EVERY[kind]()), range(2), strict=False)]) == 2
    else:
        assert list(Passes(EVERY[kind]()))

    assert global_states() == before


def test_generators_of_its_own_are_wound_back_and_seeded_only_if_a_seed_is_given():
    class Sampler:
        def __init__(self) -> None:
            self.python, self.numpy = random.Random(1), np.random.default_rng(1)
            self.old, self.torch = np.random.RandomState(1), torch.Generator().manual_seed(1)

        def __iter__(self):
            for _ in range(3):
                yield self.python.randrange(SAMPLES)
                yield int(self.numpy.integers(SAMPLES))
                yield int(self.old.randint(SAMPLES))
                yield int(torch.randint(SAMPLES, (), generator=self.torch))

    def loader():
        return DataLoader(Numbers(), 4, sampler=Sampler())

    passes, seeded = Passes(loader()), Passes(loader(), seed=2)

    assert batches(loader()) == batches(passes) == batches(passes)
    assert batches(seeded) == batches(seeded) != batches(passes)


def test_generators_of_a_dataset_and_of_what_it_wraps_are_wound_back():
    class Drawing(Numbers):
        def __init__(self) -> None:
            self.rng = np.random.default_rng(4)

        def __getitem__(self, index: int):
            return torch.tensor(self.rng.random())

    passes = Passes(DataLoader(torch.utils.data.Subset(Drawing(), range(9)), 4))

    assert batches(passes) == batches(passes)
