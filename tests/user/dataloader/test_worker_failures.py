"""What a loader raises becomes one error."""

import multiprocessing
import os
import signal
from itertools import islice

import pytest
from torch.utils.data import (
    DataLoader,
)

from support.loaders import Numbers, global_states
from swa_cli.errors import DataError, UserCodeError
from swa_cli.user.dataloader import Passes
from swa_cli.user.datamodule import iterate


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
