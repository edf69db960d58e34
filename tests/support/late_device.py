"""A stand-in for CUDA whose streams work as late as they may."""

import random
from collections import deque
from collections.abc import Callable

import torch

from swa_cli.averaging.cuda_ring import Accelerator


class LateQueue:
    """A stream of a device that puts everything off as long as it may, and then picks whose turn it is at random.

    Work that was not made to wait for what it needs is so done too early or too late, and the result is wrong.
    """

    def __init__(self, everyone: "list[LateQueue]", chosen: random.Random) -> None:
        self.work: deque[Callable[[], object] | LateEvent] = deque()
        self.everyone, self.chosen = everyone, chosen
        everyone.append(self)

    def put(self, work: Callable[[], object]) -> None:
        self.work.append(work)

    def record(self) -> "LateEvent":
        event = LateEvent(self)
        self.work.append(event.happen)
        return event

    def wait(self, event: object) -> None:
        assert isinstance(event, LateEvent)
        self.work.append(event)

    def step(self) -> bool:
        """Do one thing, unless there is nothing to do or something to wait for."""
        if not self.work or (isinstance(self.work[0], LateEvent) and not self.work[0].happened):
            return False
        work = self.work.popleft()
        if not isinstance(work, LateEvent):
            work()
        return True


class LateEvent:
    def __init__(self, queue: LateQueue) -> None:
        self.queue, self.happened = queue, False

    def happen(self) -> None:
        self.happened = True

    def synchronize(self) -> None:
        while not self.happened:
            ready = [queue for queue in self.queue.everyone if queue.work]
            assert any(queue.step() for queue in self.queue.chosen.sample(ready, len(ready))), (
                "they wait for each other"
            )


def late_device(seed: int) -> Callable[[str], Accelerator]:
    """A stand-in for CUDA; the three queues of each worker know of each other only, as they are used by its thread."""
    groups: list[list[LateQueue]] = []

    def make_queue() -> LateQueue:
        if not groups or len(groups[-1]) == 3:
            groups.append([])
        return LateQueue(groups[-1], random.Random(f"{seed} {len(groups)}"))

    return lambda _: Accelerator(
        device=torch.device("cpu"),
        make_queue=make_queue,
        host_buffer=lambda size: torch.empty(size, dtype=torch.uint8),
    )
