"""Ranks as threads of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from swa_cli.errors import SwaError
from swa_cli.system.process_group import ProcessGroup


@dataclass
class Meeting:
    """Where threads exchange values, as ``all_gather_object`` does between processes."""

    size: int
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=30)


@dataclass
class Threads:
    """The transport of one of the threads."""

    meeting: Meeting
    rank: int

    def gather(self, value: Any) -> list[Any]:
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        everything = [self.meeting.values[number] for number in range(self.meeting.size)]
        self.meeting.barrier.wait()
        return everything

    def wait_for_first(self) -> None:
        """All threads end by themselves."""


def together(size: int, work) -> list[Any]:
    """What each of several ranks gives, or the error that ends it."""
    meeting = Meeting(size)

    def one(rank: int) -> Any:
        try:
            return work(ProcessGroup(rank=rank, size=size, transport=Threads(meeting, rank)))
        except SwaError as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
