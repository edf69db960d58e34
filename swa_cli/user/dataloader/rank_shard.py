"""The part of a stream that one rank processes, within limits on batches and samples."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


@dataclass(frozen=True, kw_only=True)
class RankShard:
    """Every ``ranks``-th entry of a stream from ``rank`` on, within limits that count all ranks together."""

    rank: int
    ranks: int
    num_batches: int | None
    num_samples: int | None

    def of(self, stream: Iterable[T], size_of: Callable[[T], int]) -> Generator[tuple[int, T]]:
        """Yield this rank's entries with their positions; nothing beyond the limits is taken from ``stream``."""
        return ((place, entry) for place, entry in self.limited(stream, size_of) if place % self.ranks == self.rank)

    def limited(self, stream: Iterable[T], size_of: Callable[[T], int]) -> Generator[tuple[int, T]]:
        """Yield all entries within the limits with their positions."""
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
        """Return how many entries of a stream of length ``total`` are this rank's."""
        limit = total if self.num_batches is None else min(total, self.num_batches)
        return len(range(self.rank, limit, self.ranks))

    def divided(self) -> "RankShard":
        """Return a shard that takes all of a stream that is sharded already, with this rank's part of the limits."""
        limits = (self.num_batches, self.num_samples)
        own = [None if limit is None else len(range(self.rank, limit, self.ranks)) for limit in limits]
        return RankShard(rank=0, ranks=1, num_batches=own[0], num_samples=own[1])
