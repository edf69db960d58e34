"""The processes that share a command's work: one, or those that torchrun starts.

What travels between them are names, numbers and errors, never tensors: each rank reads its share from the files.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast, final

from swa_cli.errors import RankError, SwaError, kind_of

T = TypeVar("T")


def own_rank() -> int:
    """Return this process's rank; 0 where torchrun did not start it."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """Return how many ranks there are."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_size() -> int:
    """Return how many ranks there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def own_device(device: str) -> str:
    """Return a device of its own for each rank of a machine where ``device`` is ``cuda``, else ``device``."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and world_size() > 1 else device


class Transport(Protocol):
    """Carries values between the ranks of a group."""

    def gather(self, value: T, /) -> list[T]:
        """Return every rank's value, on all ranks.

        Raises:
            RankError: a rank ended before it gave its value.
        """
        ...

    def wait_for_first(self) -> None:
        """Wait until rank 0 has left: torchrun ends all others as soon as one has ended."""
        ...


@final
class _Alone:
    """The transport of a single process."""

    def gather(self, value: T, /) -> list[T]:
        return [value]

    def wait_for_first(self) -> None:
        """Return at once."""


_NO_OTHERS = _Alone()


@final
@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """All ranks, as one of them sees them; a single process is a group of one.

    Every rank calls the same methods in the same order. An error on one rank is raised on all.
    """

    rank: int = 0
    size: int = 1
    transport: Transport = _NO_OTHERS

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.rank == 0

    def gather(self, work: Callable[[], T], *, own_data: bool = False) -> list[T]:
        """Let every rank do its part of a step; return what each gave, on all ranks.

        Args:
            own_data: the work is on data of this rank's own, so that an error names the rank.

        Raises:
            SwaError: the same on all ranks, if the step failed on one.
            RankError: a rank ended before its part was done.
        """
        parts = self.transport.gather(self._attempt(work, named=own_data))
        self._raise_first(error for _, error in parts)
        return [cast("T", value) for value, _ in parts]

    def own(self, work: Callable[[], T]) -> T:
        """Let every rank do its part of a step; return this rank's value, which need not be fit to be sent.

        Raises:
            SwaError, RankError: as `gather`.
        """
        value, error = self._attempt(work)
        self._raise_first(self.transport.gather(error))
        return cast("T", value)

    def first(self, work: Callable[[], T]) -> T:
        """Let rank 0 do a step; return its value on all ranks.

        Raises:
            SwaError, RankError: as `gather`.
        """
        return cast("T", self.gather(lambda: work() if self.is_first else None)[0])

    def same(self, work: Callable[[], object]) -> bool:
        """Return whether ``work`` gives the same on all ranks.

        Raises:
            SwaError, RankError: as `gather`.
        """
        found = self.gather(work) if self.size > 1 else []
        return all(value == found[0] for value in found)

    def finish(self, work: Callable[[], T]) -> T | None:
        """Let rank 0 do the last step, after which it needs no other; return its value, and None on the others.

        Raises:
            SwaError: the same on all ranks, if the step failed.
        """
        value, error = self._attempt(work) if self.is_first else (None, None)
        with suppress(*[RankError] if self.is_first else []):
            self._raise_first(self.transport.gather(error))
        if error is not None:
            raise error
        return value

    def _attempt(self, work: Callable[[], T], *, named: bool = False) -> tuple[T | None, SwaError | None]:
        try:
            return work(), None
        except SwaError as error:
            if named and self.size > 1:
                error.add_subject(f"rank {self.rank}")
            return None, error
        except Exception as error:  # the others must hear of it, whatever it is
            if self.size == 1:
                raise
            return None, SwaError(f"rank {self.rank} failed: {kind_of(error)}: {error}.")

    def _raise_first(self, errors: Iterable[SwaError | None]) -> None:
        error = next((error for error in errors if error is not None), None)
        if error is not None:
            self.transport.wait_for_first()
            raise error


ALONE = ProcessGroup()
"""The group of a single process."""
