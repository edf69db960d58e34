"""What one rank has of a stream within limits."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


@dataclass(frozen=True, kw_only=True)
class RankShard:
    """Of a stream within limits, every ``ranks``-th entry from ``rank`` on."""

    rank: int
    ranks: int
    num_batches: int | None
    num_samples: int | None

    def of(self, stream: Iterable[T], size_of: Callable[[T], int]) -> Generator[tuple[int, T]]:
        """The share's entries, each with its place; nothing beyond the limits is taken from ``stream``."""
        return ((place, entry) for place, entry in self.limited(stream, size_of) if place % self.ranks == self.rank)

    def limited(self, stream: Iterable[T], size_of: Callable[[T], int]) -> Generator[tuple[int, T]]:
        """All entries within the limits, numbered."""
        entries, samples = iter(stream), 0
        for place in count():
            if place == self.num_batches or (self.num_samples is not None and samples >= self.num_samples):
                return
            entry = next(entries, _END)
            if entry is _END:
                return
            if self.num_samples is not None:
                samples += size_of(entry)
            yield place, entry

    def length(self, total: int) -> int:
        """How many entries of a stream of ``total`` are the share's."""
        limit = total if self.num_batches is None else min(total, self.num_batches)
        return len(range(self.rank, limit, self.ranks))

    def divided(self) -> "RankShard":
        """All of a stream that is a share already, with this rank's part of the limits."""
        limits = (self.num_batches, self.num_samples)
        own = [None if limit is None else len(range(self.rank, limit, self.ranks)) for limit in limits]
        return RankShard(rank=0, ranks=1, num_batches=own[0], num_samples=own[1])
