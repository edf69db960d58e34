"""A user's loader, passed over again and shared between ranks: seeds, limits, shares, and what goes wrong."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    get_worker_info,
)

from support.loaders import AUGMENTED, EVERY, SAMPLED, SAMPLES, Augmented, Numbers, batches, interleaved, shares
from swa_cli.errors import DataError
from swa_cli.user.dataloader import Passes, samples_in, with_batch_size


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


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

    with pytest.raises(DataError, match=r"of type tuple is ambiguous.*`num_batches`"):
        list(Passes(batches, num_samples=10))


def in_order_of_loading(loader, **limits):
    """What the loader says of each batch, beside the number that the collate function has put into it."""
    passes = Passes(loader, **limits)
    return [(passes.n_indices, n) for n in passes]


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

    assert [(passes.n_indices, n) for n in passes] == [(None, 3), (None, 4)]
