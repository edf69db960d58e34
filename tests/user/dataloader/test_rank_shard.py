"""The batches of a loader shared between ranks."""

import multiprocessing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
)

from support.loaders import (
    AUGMENTED,
    EVERY,
    SAMPLED,
    SAMPLES,
    WHOLE,
    Doubling,
    Endless,
    Numbers,
    Stream,
    batches,
    interleaved,
    shares,
)
from swa_cli.user.dataloader import Passes


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
