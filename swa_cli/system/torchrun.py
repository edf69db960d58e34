"""How the processes that torchrun starts meet, and which of them talks to the user.

They meet by gloo, whatever device does the work: what they send each other is small and on the CPU.
"""

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, final

from swa_cli.errors import RankError
from swa_cli.system.process_group import ALONE, ProcessGroup, own_rank, world_size

_TO_MEET = timedelta(minutes=10)
_TO_WORK = timedelta(days=7)  # until the last has done its share; one that is gone is noticed at once

T = TypeVar("T")

_peers: list[tuple[str, int]] = []
"""Host and process number of every rank, once they have met."""
_stores: list[Any] = []
"""torch's store of keys and values, which under torchrun outlives every rank; empty before they have met."""


@contextmanager
def process_group() -> Generator[ProcessGroup]:
    """Wait until all ranks are there; a single process waits for none, and does without torch.

    Raises:
        RankError: they do not come together.
    """
    if world_size() == 1:
        yield ALONE
        return
    import torch.distributed as dist  # noqa: PLC0415
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    try:
        store, rank, size = next(rendezvous("env://", timeout=_TO_MEET))
        _stores[:] = [store]
        with _stdout_is_stderr():  # gloo of torch 2.8 prints who has met
            dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=_TO_MEET)
            handle = dist.new_group(timeout=_TO_WORK)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        msg = f"the ranks do not come together: {reason}. Start them with torchrun."
        raise RankError(msg) from error
    try:
        transport = _Gloo(rank=dist.get_rank(), size=dist.get_world_size(), handle=handle)
        group = ProcessGroup(rank=transport.rank, size=transport.size, transport=transport)
        _peers[:] = group.gather(lambda: (socket.gethostname(), os.getpid()))
        yield group
        if not group.is_first:
            _peers.clear()  # rank 0 has all there is to say
    finally:
        dist.destroy_process_group()


def is_reporting_rank(peers: Sequence[tuple[str, int]] = _peers) -> bool:
    """Return whether this process talks to the user: rank 0 does, or the first that is left.

    Args:
        peers: host and process number of every rank.
    """
    before = peers[: own_rank()]
    return own_rank() == 0 or (bool(before) and all(_is_gone(host, number) for host, number in before))


def claims_error_report() -> bool:
    """Return whether this process says why all end; only one gets True.

    A rank that hears of an error late may find those before it gone because they have reported it, and not because
    they were killed.
    """
    if not is_reporting_rank():
        return False
    with suppress(IndexError, RuntimeError):  # a store that rank 0 kept itself went with it
        return _stores[0].add("error reported", 1) == 1
    return True


@final
@dataclass(frozen=True, kw_only=True)
class _Gloo:
    """The transport of torch.distributed."""

    rank: int
    size: int
    handle: Any
    """torch's handle of the group."""

    def gather(self, value: T, /) -> list[T]:
        import torch.distributed as dist  # noqa: PLC0415

        gathered: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(gathered, value, group=self.handle)
        except RuntimeError as error:
            msg = "another rank ended before its share was done; nothing was written. Its own output may say why."
            raise RankError(msg) from error
        return gathered

    def wait_for_first(self) -> None:
        import torch.distributed as dist  # noqa: PLC0415

        if self.rank:
            _peers.clear()  # it has the same to say
            with suppress(RuntimeError):
                dist.barrier(group=self.handle)


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


def _is_gone(host: str, number: int) -> bool:
    """Return whether a process of this machine has ended; of another machine's nothing is known."""
    if host != socket.gethostname():
        return False
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in {"Z", "X"}
