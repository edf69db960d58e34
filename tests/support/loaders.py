"""Datasets, samplers and loaders of every kind that a user may bring."""

import random
from itertools import islice

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from swa_cli.user.dataloader import Passes

SAMPLES = 23


class Numbers(Dataset):
    """Sample i is the number i."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int):
        return torch.tensor(index)


class Augmented(Numbers):
    """Sample i with what every global random state gives for it."""

    def __getitem__(self, index: int):
        return torch.tensor([index, torch.rand(()), np.random.rand(), random.random()], dtype=torch.float64)


class Stream(IterableDataset):
    """The same numbers, shared between workers as the torch manual has it."""

    def __iter__(self):
        worker = get_worker_info()
        yield from range(worker.id if worker else 0, SAMPLES, worker.num_workers if worker else 1)


class Buckets:
    """A batch sampler of unequal batches, which shuffles at the start, and draws again for each batch."""

    def __iter__(self):
        order = list(range(SAMPLES))
        random.shuffle(order)
        while order:
            size = 1 + int(np.random.randint(4)) + int(torch.randint(3, ()))
            yield order[:size]
            order = order[size:]


class Doubling:
    """A loader of the user's own around a DataLoader whose workers stay alive."""

    def __init__(self) -> None:
        self.inner = DataLoader(Augmented(), 4, shuffle=True, num_workers=2, persistent_workers=True)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self):
        for batch in self.inner:
            yield 2 * batch


class Reiterating(DataLoader):
    """Keeps its iterator over an endless sampler from one pass to the next, as timm's MultiEpochsDataLoader does."""

    iterator = None

    def __iter__(self):  # pyright: ignore
        if self.iterator is None:
            self.iterator = super().__iter__()
        return islice(self.iterator, 6)


class Endless:
    def __init__(self, sampler) -> None:
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from self.sampler


SAMPLED = {
    "in order": lambda: DataLoader(Numbers(), 4),
    "shuffled": lambda: DataLoader(Numbers(), 4, shuffle=True),
    "drop_last": lambda: DataLoader(Numbers(), 4, shuffle=True, drop_last=True),
    "a generator of its own": lambda: DataLoader(
        Numbers(), 4, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "weighted": lambda: DataLoader(Numbers(), 4, sampler=WeightedRandomSampler(list(range(SAMPLES)), 30)),
    "a BatchSampler": lambda: DataLoader(
        Numbers(), batch_sampler=BatchSampler(RandomSampler(Numbers()), 4, drop_last=True)
    ),
    "without batches": lambda: DataLoader(Numbers(), None, shuffle=True),
    "a list as dataset": lambda: DataLoader(list(range(SAMPLES)), 4, shuffle=True),  # pyright: ignore
    "fewer batches than ranks": lambda: DataLoader(Numbers(), 20, shuffle=True),
    "workers": lambda: DataLoader(Numbers(), 4, shuffle=True, num_workers=2),
}


AUGMENTED = {
    "augmented": lambda: DataLoader(Augmented(), 4, shuffle=True),
    "augmented in workers": lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=2),
    "augmented in workers that persist": lambda: DataLoader(
        Augmented(), 4, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "augmented in buckets": lambda: DataLoader(Augmented(), batch_sampler=Buckets()),  # pyright: ignore
    "augmented, in any order": lambda: DataLoader(Augmented(), 4, num_workers=2, in_order=False),
}


WHOLE = {
    "iterable": lambda: DataLoader(Stream(), 4),
    "iterable in workers": lambda: DataLoader(Stream(), 4, num_workers=2),
    "list": lambda: [torch.arange(3) + start for start in range(7)],
    "wraps a loader": Doubling,
    "iterates by itself": lambda: Reiterating(
        Augmented(),
        batch_sampler=Endless(BatchSampler(RandomSampler(Augmented()), 4, drop_last=True)),  # pyright: ignore
    ),
}


EVERY = SAMPLED | AUGMENTED | WHOLE


def batches(loader) -> list:
    return [torch.as_tensor(batch).tolist() for batch in loader]


def shares(make, ranks: int, **limits) -> list[list]:
    return [batches(Passes(make(), rank=rank, ranks=ranks, **limits)) for rank in range(ranks)]


def interleaved(parts: list[list]) -> list:
    """Batch i is the next of rank i modulo their number."""
    taken, queues = [], [list(part) for part in parts]
    while queues[len(taken) % len(queues)]:
        taken.append(queues[len(taken) % len(queues)].pop(0))
    assert not any(queues)
    return taken


def global_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # pyright: ignore
