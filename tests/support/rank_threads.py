"""Ranks as threads of one process."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from swa_cli.errors import SwaError
from swa_cli.system.process_group import Ranks


@dataclass
class Meeting:
    """Where threads exchange values, as ``all_gather_object`` does between processes."""

    size: int
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=30)

    def gather(self, rank: int, value: Any) -> list[Any]:
        self.values[rank] = value
        self.barrier.wait()
        everything = [self.values[number] for number in range(self.size)]
        self.barrier.wait()
        return everything


def together(size: int, monkeypatch, work) -> list[Any]:
    """What each of several ranks gives, or the error that ends it."""
    meeting = Meeting(size)
    monkeypatch.setattr(Ranks, "_gather", lambda self, value: meeting.gather(self.rank, value))
    monkeypatch.setattr(Ranks, "_let_speak", lambda self: None)

    def one(rank: int) -> Any:
        try:
            return work(Ranks(rank=rank, size=size, group=None))
        except SwaError as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))
