"""Loaders built anew with another batch size."""

import pytest
from torch.utils.data import (
    DataLoader,
)

from support.loaders import Buckets, Numbers, Reiterating, Stream, batches
from swa_cli.errors import DataError
from swa_cli.user.dataloader import Passes, with_batch_size


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
    with pytest.raises(DataError, match=f"^`batch_size=5`: .*{why}.* `batch_size=5`"):
        with_batch_size(loader, 5)
