"""A user's loader, passed over again and shared between ranks: seeds, limits, shares, and what goes wrong."""

import multiprocessing
import os
import random
import signal
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from swa_cli.errors import DataError, UserCodeError
from swa_cli.user.dataloader import Passes, samples_in, with_batch_size
from swa_cli.user.datamodule import iterate

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


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def global_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # pyright: ignore


@pytest.mark.parametrize("kind", EVERY)
def test_every_pass_and_every_run_gives_the_same_batches(kind):
    passes = Passes(EVERY[kind]())

    first = batches(passes)
    seed_everything(98)
    second = batches(passes)
    seed_everything(99)
    other_run = batches(Passes(EVERY[kind]()))

    assert len(first) > 1
    assert first == second == other_run
    assert passes.repeatable


@pytest.mark.parametrize("kind", [*SAMPLED, "iterable", "iterable in workers", "list"])
def test_the_batches_are_those_of_the_loader_itself_after_seeding(kind):
    torch.manual_seed(7)
    expected = batches(EVERY[kind]())

    assert batches(Passes(EVERY[kind](), seed=None if "generator" in kind else 7)) == expected


@pytest.mark.parametrize("kind", ["shuffled", "augmented", "augmented in workers", "augmented in buckets"])
def test_another_seed_gives_other_batches(kind):
    assert batches(Passes(EVERY[kind](), seed=1)) != batches(Passes(EVERY[kind](), seed=2))


def test_augmentation_differs_from_batch_to_batch():
    drawn = torch.tensor([row for batch in batches(Passes(AUGMENTED["augmented"]())) for row in batch])[:, 1:]

    assert len(drawn.unique()) == 3 * SAMPLES


@pytest.mark.parametrize("workers", [1, 2])
def test_augmentation_does_not_depend_on_the_number_of_workers(workers):
    assert batches(Passes(DataLoader(Augmented(), 4, shuffle=True, num_workers=workers))) == batches(
        Passes(DataLoader(Augmented(), 4, shuffle=True))
    )


def test_without_automatic_batching_every_sample_has_a_seed_of_its_own():
    def make():
        return DataLoader(Augmented(), None, shuffle=True)

    single = batches(Passes(make()))

    assert len({tuple(sample[1:]) for sample in single}) == SAMPLES
    assert interleaved(shares(make, 2)) == single


def test_workers_that_are_running_already_do_not_go_on_where_they_were():
    loader = AUGMENTED["augmented in workers that persist"]()
    used = batches(loader)

    passes = Passes(loader)

    assert batches(passes) == batches(passes) == batches(Passes(AUGMENTED["augmented in workers"]())) != used


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


def test_a_worker_s_info_holds_the_user_s_dataset():
    class Opened(Numbers):
        offset = 0

        def __getitem__(self, index: int):
            return torch.tensor(index + self.offset)

    def open_file(worker: int) -> None:
        info = get_worker_info()
        assert info is not None
        info.dataset.offset = 100  # pyright: ignore

    loader = DataLoader(Opened(), 4, num_workers=2, worker_init_fn=open_file)

    assert batches(Passes(loader))[0] == [100, 101, 102, 103]


def test_datasets_that_fetch_whole_batches_still_do():
    class Fetching(Numbers):
        def __getitems__(self, indices: list[int]):
            return [torch.tensor(-index) for index in indices]

    assert batches(Passes(DataLoader(Fetching(), 4)))[1] == [-4, -5, -6, -7]


def test_the_user_s_loader_stays_as_it_was():
    loader = DataLoader(Numbers(), 4, shuffle=True, num_workers=1, persistent_workers=True)
    before = dict(vars(loader))

    list(Passes(loader, num_batches=2, ranks=2, rank=1))
    with_batch_size(loader, 3)

    assert vars(loader) == before


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("kind", EVERY)
def test_the_shares_of_the_ranks_are_the_single_stream(kind, ranks):
    single = batches(Passes(EVERY[kind]()))

    assert interleaved(shares(EVERY[kind], ranks)) == single


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("kind", EVERY)
def test_limits_are_of_all_ranks_together(kind, ranks):
    single = batches(Passes(EVERY[kind]()))
    sizes = [len(batch) if isinstance(batch, list) else 1 for batch in single]
    enough = next(count for count in range(len(sizes) + 1) if sum(sizes[:count]) >= 9)

    assert interleaved(shares(EVERY[kind], ranks, num_batches=2)) == single[:2]
    assert interleaved(shares(EVERY[kind], ranks, num_samples=9)) == single[:enough]
    assert interleaved(shares(EVERY[kind], ranks, num_samples=9, num_batches=1)) == single[:1]
    assert interleaved(shares(EVERY[kind], ranks, num_samples=10**6)) == single


@given(
    samples=st.integers(0, 40),
    size=st.integers(1, 9),
    ranks=st.integers(1, 5),
    num_batches=st.none() | st.integers(1, 12),
    num_samples=st.none() | st.integers(1, 50),
    drop_last=st.booleans(),
    sampled=st.booleans(),
)
def test_the_union_of_the_shares_is_the_limited_stream(
    samples, size, ranks, num_batches, num_samples, drop_last, sampled
):
    expected = []
    for start in range(0, samples, size):
        batch = list(range(start, min(start + size, samples)))
        short = drop_last and len(batch) < size
        have_batches = num_batches is not None and len(expected) == num_batches
        have_samples = num_samples is not None and sum(map(len, expected)) >= num_samples
        if not (short or have_batches or have_samples):
            expected.append(batch)

    def make():
        loader = DataLoader(range(samples), size, drop_last=drop_last)  # pyright: ignore
        return loader if sampled else list(loader)

    limits: dict = {"num_batches": num_batches, "num_samples": num_samples}
    parts = shares(make, ranks, **limits)

    assert interleaved(parts) == expected
    if sampled or num_samples is None:
        assert [len(Passes(make(), rank=rank, ranks=ranks, **limits)) for rank in range(ranks)] == [
            len(part) for part in parts
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_loaded_that_another_rank_loads_or_that_is_beyond_the_limit(workers):
    loaded = multiprocessing.Array("i", SAMPLES)

    class Counting(Numbers):
        def __getitem__(self, index: int):
            loaded[index] += 1
            return super().__getitem__(index)

    def loader():
        return DataLoader(Counting(), 2, num_workers=workers)

    list(Passes(loader(), num_batches=5, rank=1, ranks=2))
    assert [index for index in range(SAMPLES) if loaded[index]] == [2, 3, 6, 7]

    list(Passes(loader(), num_samples=3))
    assert loaded[:8] == [1, 1, 2, 2, 0, 0, 1, 1]


def test_an_endless_sampler_is_asked_only_up_to_the_limit():
    loader = DataLoader(Numbers(), 4, sampler=Endless(range(SAMPLES)), num_workers=1)

    assert batches(Passes(loader, num_samples=10)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("kind", "shared_by"),
    [(kind, "batches") for kind in SAMPLED | AUGMENTED] + [(kind, "index") for kind in WHOLE],
)
def test_how_the_ranks_share_is_said(kind, shared_by):
    assert Passes(EVERY[kind](), rank=1, ranks=2).shared_by == shared_by
    assert Passes(EVERY[kind]()).shared_by == "alone"


@pytest.mark.parametrize("kind", ["a sampler", "a sampler in a batch sampler", "a loader that is wrapped"])
def test_a_loader_that_shares_its_data_out_is_taken_as_it_is(kind):
    def loader(rank: int):
        sampler = DistributedSampler(Numbers(), 2, rank)
        if kind == "a sampler":
            return DataLoader(Numbers(), 4, sampler=sampler)
        inner = DataLoader(Numbers(), batch_sampler=BatchSampler(sampler, 4, drop_last=False))
        if kind == "a sampler in a batch sampler":
            return inner
        outer = Doubling()
        outer.inner = inner
        return outer

    for rank, own_limit in [(0, 2), (1, 1)]:
        whole, own = batches(loader(rank)), Passes(loader(rank), rank=rank, ranks=2)

        assert own.shared_by == "itself"
        assert batches(own) == whole
        assert len(own) == len(whole) == 3
        assert own.digest == 0
        assert batches(Passes(loader(rank), rank=rank, ranks=2, num_batches=3)) == whole[:own_limit]
        assert batches(Passes(loader(rank), rank=rank, ranks=2, num_samples=9)) == whole[:own_limit]


def test_a_distributed_sampler_for_one_process_shares_nothing():
    loader = DataLoader(Numbers(), 4, sampler=DistributedSampler(Numbers(), 1, 0))

    assert Passes(loader, rank=0, ranks=2).shared_by == "batches"


def test_the_digest_tells_whether_the_samplers_agree():
    def passes(seed: int, rank: int, kind: str = "a generator of its own"):
        loader = DataLoader(Numbers(), 4, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return Passes(loader if kind != "list" else WHOLE[kind](), rank=rank, ranks=2)

    ranks = [passes(5, 0), passes(5, 1), passes(6, 1)]
    assert [each.digest for each in ranks] == [0, 0, 0]
    for each in ranks:
        list(each)
    one, two, other = (each.digest for each in ranks)

    assert one == two != 0
    assert other not in (0, one)
    next(iter(ranks[0]))
    assert ranks[0].digest == 0
    listed = passes(5, 0, "list")
    assert list(listed)
    assert listed.digest == 0


def test_the_digest_of_a_limited_stream_is_of_what_the_limit_lets_through():
    digests = []
    for samples, limit in [(8, None), (12, 2), (12, None)]:
        passes = Passes(DataLoader(range(samples), 4), num_batches=limit)  # pyright: ignore
        list(passes)
        digests.append(passes.digest)

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind != "augmented in buckets"])
@pytest.mark.parametrize("limits", [{}, {"num_batches": 3}, {"num_batches": 100}])
def test_the_length_is_that_of_the_share(kind, limits):
    if kind.startswith("iter"):
        with pytest.raises(TypeError):
            len(Passes(EVERY[kind](), **limits))
    else:
        passes = [Passes(EVERY[kind](), rank=rank, ranks=2, **limits) for rank in range(2)]
        assert [len(each) for each in passes] == [len(list(each)) for each in passes]


@pytest.mark.parametrize("kind", ["list", "without batches", "augmented in buckets"])
def test_a_length_in_samples_of_unknown_batches_is_not_known(kind):
    with pytest.raises(TypeError):
        len(Passes(EVERY[kind](), num_samples=9))


def test_knowing_the_length_of_an_iterable_dataset_warns_of_nothing_later():
    class Sized(Stream):
        def __len__(self) -> int:
            return 4

    passes = Passes(DataLoader(Sized(), 4))

    assert len(passes) == 1
    assert len(list(passes)) == 6


@pytest.mark.parametrize(
    "loader",
    [
        (torch.arange(3) for _ in range(4)),
        iter(DataLoader(Numbers(), 4)),
        DataLoader(Numbers(), 4, sampler=iter(range(8))),  # pyright: ignore
        DataLoader(Numbers(), batch_sampler=iter([[1, 2], [3]])),  # pyright: ignore
    ],
    ids=["generator", "iterator of a loader", "sampler", "batch sampler"],
)
def test_what_can_be_passed_over_once_says_so(loader):
    passes = Passes(loader, num_batches=2)

    assert not passes.repeatable
    assert len(list(passes)) == 2


def test_the_first_batches_of_a_generator_are_given_and_no_more_are_taken():
    generator = iter(range(10))

    assert list(Passes(generator, num_batches=3)) == [0, 1, 2]
    assert next(generator) == 3


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        ([torch.zeros(4, 2), torch.zeros(4)], 4),
        ([["a", "b"], torch.zeros(2)], 2),
        (([torch.zeros(3, 5, 5)] * 8, [{"boxes": torch.zeros(2, 4)}] * 8), 8),
        ([{"image": torch.zeros(3, 5, 5)}] * 8, 8),
        ({"pixels": torch.zeros(5, 1), "label": torch.zeros(5), "split": "train"}, 5),
        ((torch.zeros(50, 4), torch.zeros(2, 90), torch.zeros(6)), None),
        (torch.tensor(1), 1),
        ("text", None),
        (object(), None),
    ],
)
def test_the_samples_of_a_batch_are_the_length_that_its_parts_agree_on(batch, size):
    assert samples_in(batch) == size


def test_samples_that_cannot_be_counted_are_not_limited():
    batches = [(torch.zeros(50, 4), torch.zeros(2, 90), torch.zeros(6))] * 3

    with pytest.raises(DataError, match=r"of type tuple has does not follow.*--num-batches"):
        list(Passes(batches, num_samples=10))


def in_order_of_loading(loader, **limits):
    """What the loader says of each batch, beside the number that the collate function has put into it."""
    passes = Passes(loader, **limits)
    return [(passes.told, n) for n in passes]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", ["plain", "sizes of its own", "dataset that fetches all at once"])
def test_the_sampler_says_how_many_samples_a_batch_has(workers, make):
    dataset: Any = list(range(10))
    loader = DataLoader(dataset, batch_size=4, collate_fn=len, num_workers=workers)
    expected = [4, 4, 2]
    if make == "sizes of its own":
        sizes = [[0, 1, 2, 3, 4], [5], [6, 7]]
        loader = DataLoader(dataset, batch_sampler=sizes, collate_fn=len, num_workers=workers)
        expected = [5, 1, 2]
    elif make == "dataset that fetches all at once":
        loader = DataLoader(Slices(), sampler=[[0, 1, 2], [3, 4]], batch_size=None, num_workers=workers)
        expected = [3, 2]

    assert in_order_of_loading(loader) == [(n, n) for n in expected]
    assert in_order_of_loading(loader, num_batches=2) == [(n, n) for n in expected[:2]]


class Slices(Dataset):
    def __getitem__(self, index):
        return len(index)


def test_a_single_index_may_stand_for_a_batch_and_so_says_nothing():
    dataset: Any = [3, 4]
    passes = Passes(DataLoader(dataset, batch_size=None))

    assert [(passes.told, n) for n in passes] == [(None, 3), (None, 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_raises_in_the_middle_is_one_error_that_names_the_batch(workers):
    class Broken(Numbers):
        def __getitem__(self, index: int):
            if index == 9:
                raise ValueError("no image 9")
            return super().__getitem__(index)

    before = global_states()
    loaded = iterate(Passes(DataLoader(Broken(), 4, num_workers=workers)))

    assert [batch.tolist() for batch in islice(loaded, 2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(UserCodeError, match="loading batch 2 failed: ValueError: no image 9"):
        next(loaded)
    assert global_states() == before


def test_a_sampler_that_raises_is_one_error():
    def indices():
        yield from range(5)
        raise ValueError("no more")

    with pytest.raises(UserCodeError, match="loading batch 1 failed: ValueError: no more"):
        list(iterate(Passes(DataLoader(Numbers(), 4, sampler=indices()))))  # pyright: ignore


@pytest.mark.slow
def test_a_worker_that_dies_is_one_error():
    class Dies(Numbers):
        def __getitem__(self, index: int):
            return os._exit(3) if index == 9 else super().__getitem__(index)

    with pytest.raises(UserCodeError, match=r"loading batch \d failed: .*worker.* exited unexpectedly"):
        list(iterate(Passes(DataLoader(Dies(), 4, num_workers=2))))


def test_a_worker_that_dies_between_batches_is_an_error_of_the_next():
    class Dies(Numbers):
        def __getitem__(self, index: int):
            return os._exit(3) if index == 9 else super().__getitem__(index)

    loaded = iterate(Passes(DataLoader(Dies(), 4, num_workers=1)))
    next(loaded)
    handler = signal.getsignal(signal.SIGCHLD)
    for worker in multiprocessing.active_children():
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # pyright: ignore

    sum(range(1000))  # the model is at work, and hears nothing of it
    with pytest.raises(UserCodeError, match=r"loading batch \d failed: .*worker.* exited unexpectedly"):
        list(loaded)
    assert signal.getsignal(signal.SIGCHLD) is not handler
    assert "signal_handling" in signal.getsignal(signal.SIGCHLD).__module__  # pyright: ignore


@pytest.mark.parametrize("loader", [DataLoader(Numbers(), 40, drop_last=True), [], iter([])])
def test_an_empty_loader_is_an_error(loader):
    with pytest.raises(DataError, match="loader is empty"):
        list(iterate(Passes(loader)))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_another_batch_size_keeps_the_order_and_drop_last(drop_last, own):
    class Own(DataLoader):
        def __len__(self) -> int:
            return super().__len__()

    loader = (Own if own else DataLoader)(Numbers(), 4, shuffle=True, drop_last=drop_last)
    order = [int(index) for batch in Passes(loader) for index in batch]

    rebuilt = with_batch_size(loader, 7)
    given = batches(Passes(rebuilt))

    assert isinstance(rebuilt, type(loader))
    assert len(rebuilt) == len(given)
    assert [len(batch) for batch in given] == ([7, 7, 7] if drop_last else [7, 7, 7, 2])
    assert [index for batch in given for index in batch][:20] == order[:20]


@pytest.mark.parametrize("workers", [0, 2])
def test_another_batch_size_of_an_iterable_dataset(workers):
    rebuilt = with_batch_size(DataLoader(Stream(), 4, num_workers=workers, drop_last=True), 5)

    assert {len(batch) for batch in batches(Passes(rebuilt))} == {5}


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        ([1, 2], "it is a list, not a torch DataLoader that iterates as torch's does"),
        (Reiterating(Numbers(), 4), "it is a Reiterating, not a torch DataLoader"),
        (DataLoader(Numbers(), None), r"its dataset or its sampler makes the batches \(batch_size=None\)"),
        (DataLoader(Numbers(), batch_sampler=Buckets()), "a Buckets makes its batches"),  # pyright: ignore
    ],
)
def test_a_loader_that_cannot_be_rebuilt_says_why_and_what_to_do(loader, why):
    with pytest.raises(DataError, match=f"--batch-size 5: .*{why}.* --data-arg batch_size=5"):
        with_batch_size(loader, 5)
