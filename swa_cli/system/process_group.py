"""The processes that torchrun starts: which of them this is, and what they tell each other.

What travels between them are names, numbers and errors, never tensors: each rank reads its share from the files. So
gloo serves for every device that does the averaging.
"""

import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from swa_cli.errors import RankError, SwaError, kind_of

_TO_MEET = timedelta(minutes=10)
_TO_WORK = timedelta(days=7)  # until the last has done its share; one that is gone is noticed at once

T = TypeVar("T")

_peers: list[tuple[str, int]] = []
"""Host and process number of every rank, once they have met."""
_stores: list[Any] = []
"""torch's store of keys and values, which under torchrun outlives every rank; empty before they have met."""


class Step(Protocol):
    """Lets every rank do its part, and gives what each gave: `Ranks.step`, or `alone`."""

    def __call__(self, work: Callable[[], T], /) -> list[T]:
        """Do ``work``."""
        ...


def alone(work: Callable[[], T], /) -> list[T]:
    """The step of a single rank."""
    return [work()]


def own_rank() -> int:
    """This process's rank; 0 where torchrun did not start it."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """How many ranks there are."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_size() -> int:
    """How many ranks there are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


def own_device(device: str) -> str:
    """``cuda`` is a GPU of its own for each rank of a machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and world_size() > 1 else device


def is_reporting_rank() -> bool:
    """Whether it is for this process to talk to the user: for rank 0, or the first that is left."""
    before = _peers[: own_rank()]
    return own_rank() == 0 or (bool(before) and all(_is_gone(host, number) for host, number in before))


def claims_error_report() -> bool:
    """Whether it is for this process to say why all end, which one does.

    A rank that hears of it late may find those before it gone because they have said it, and not because they were
    killed.
    """
    if not is_reporting_rank():
        return False
    with suppress(IndexError, RuntimeError):  # a store that rank 0 kept itself went with it
        return _stores[0].add("error reported", 1) == 1
    return True


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """All ranks, as one of them sees them."""

    rank: int
    size: int
    group: Any
    """torch's handle of them."""

    def step(self, work: Callable[[], T]) -> list[T]:
        """Let every rank do its part of a step; what each gave.

        Raises:
            SwaError: the same on all ranks, if the step failed on one.
            RankError: a rank ended before its part was done.
        """
        mine: tuple[T | None, SwaError | None]
        try:
            mine = work(), None
        except SwaError as error:
            mine = None, error
        except Exception as error:  # noqa: BLE001  # the others must hear of it, whatever it is
            mine = None, SwaError(f"rank {self.rank} failed: {kind_of(error)}: {error}.")
        parts = self._gather(mine)
        for _, error in parts:
            if error is not None:
                self._let_speak()
                raise error
        return [cast("T", value) for value, _ in parts]

    def named_step(self, work: Callable[[], T]) -> list[T]:
        """As `step`, for work on data of this rank's own: an error says which rank's."""

        def named() -> T:
            try:
                return work()
            except SwaError as error:
                error.add_subject(f"rank {self.rank}")
                raise

        return self.step(named)

    def tell(self, work: Callable[[], T]) -> None:
        """Let rank 0 do the last step, after which it needs none of the others."""
        if self.rank == 0:
            with suppress(RankError):
                self.step(work)
        else:
            self.step(lambda: None)

    def _let_speak(self) -> None:
        """Wait for rank 0 to leave: torchrun ends all others as soon as one has ended."""
        import torch.distributed as dist  # noqa: PLC0415

        if self.rank:
            _peers.clear()  # it has the same to say
            with suppress(RuntimeError):
                dist.barrier(group=self.group)

    def _gather(self, value: T) -> list[T]:
        import torch.distributed as dist  # noqa: PLC0415  # one process does without

        gathered: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(gathered, value, group=self.group)
        except RuntimeError as error:
            msg = "another rank ended before its share was done; nothing was written. Its own output may say why."
            raise RankError(msg) from error
        return gathered


@contextmanager
def init_process_group() -> Generator[Ranks]:
    """Wait until all ranks are there.

    Raises:
        RankError: they do not come together.
    """
    import torch.distributed as dist  # noqa: PLC0415
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    try:
        store, rank, size = next(rendezvous("env://", timeout=_TO_MEET))
        _stores[:] = [store]
        with _stdout_is_stderr():  # gloo of torch 2.8 prints who has met
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_TO_MEET)
            group = dist.new_group(timeout=_TO_WORK)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        msg = f"the ranks do not come together: {reason}. Start them with torchrun."
        raise RankError(msg) from error
    try:
        ranks = Ranks(rank=dist.get_rank(), size=dist.get_world_size(), group=group)
        _peers[:] = ranks.step(lambda: (socket.gethostname(), os.getpid()))
        yield ranks
        if ranks.rank:
            _peers.clear()  # rank 0 has all there is to say
    finally:
        dist.destroy_process_group()


@contextmanager
def _stdout_is_stderr() -> Generator[None]:
    """For what is written without Python's knowledge: standard output is for the result."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@contextmanager
def meet_if_several() -> Generator[Ranks | None]:
    """As `init_process_group`; None where this is the only process.

    Raises:
        RankError: as `init_process_group`.
    """
    if world_size() == 1:
        yield None
        return
    with init_process_group() as ranks:
        yield ranks


def once(ranks: Ranks | None, work: Callable[[], None]) -> None:
    """Let one process do the last step, after which nobody needs the others."""
    if ranks:
        ranks.tell(work)
    else:
        work()


def _is_gone(host: str, number: int) -> bool:
    """Whether a process of this machine has ended; of another's nothing is known."""
    if host != socket.gethostname():
        return False
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in {"Z", "X"}
