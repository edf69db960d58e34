"""Workers that fail, die, or are told to stop."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from swa_cli.averaging import Engine, average, plan_average
from swa_cli.averaging.chunks import Piece
from swa_cli.averaging.workers import work
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import NonFiniteError


def test_the_first_of_several_failures_is_told_whatever_the_threads(tmp_path):
    states = [{"w": torch.zeros(1000), "z": torch.zeros(1000)} for _ in range(2)]
    states[0]["z"][7] = torch.inf
    states[1]["w"][900] = torch.nan
    for step, state in enumerate(states):
        torch.save(state, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    messages = set()
    for threads in (1, 2, 4, 8) * 5:
        with pytest.raises(NonFiniteError) as caught:
            average(plan, tmp_path / "o.safetensors", engine=Engine(threads=threads, chunk=10))
        messages.add(str(caught.value))

    assert len(messages) == 1
    assert "1.pt: tensor w holds nan at index [900]" in messages.pop()


class Recording:
    """A worker that only takes note, or dies at one of the pieces."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.dies_at = dies_at

    def submit(self, piece) -> None:
        self.seen.append(piece.index)
        if piece.index == self.dies_at:
            raise SystemExit(3)

    def finish(self) -> None: ...


def numbered(n: int) -> list[Piece]:
    return [Piece(index=i, policy="combined", dtype=np.dtype("f4"), parts=(), numel=0) for i in range(n)]


def test_a_worker_that_dies_of_no_ordinary_error_ends_all():
    worker = Recording(dies_at=2)

    with pytest.raises(SystemExit):
        work(numbered(100), [worker], advance=lambda _: None, bytes_of=lambda _: 0)
    assert worker.seen == [0, 1, 2]


def test_a_signal_ends_the_work_after_the_pieces_under_way():
    def interrupt():
        while not worker.seen:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    class Slow(Recording):
        def submit(self, piece) -> None:
            super().submit(piece)
            time.sleep(0.2)
            self.done = len(self.seen)

    worker = Slow()
    signalling = threading.Thread(target=interrupt)
    signalling.start()

    with pytest.raises(KeyboardInterrupt):
        work(numbered(1000), [worker], advance=lambda _: None, bytes_of=lambda _: 0)
    done = worker.done
    signalling.join()
    assert done == len(worker.seen) < 1000  # the piece under way was waited for
    time.sleep(0.5)
    assert len(worker.seen) == done
