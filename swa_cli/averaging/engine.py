"""Handing out pieces to workers, each in a thread of its own."""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock

from swa_cli.averaging.job import NotFiniteError, Worker
from swa_cli.averaging.pieces import Piece
from swa_cli.progress import Advance

_MOST_THREADS = 8


def default_threads() -> int:
    """As many as there are cores for us, but no more than have been found to help."""
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))


def work(
    pieces: Iterable[Piece], workers: Sequence[Worker], *, advance: Advance, bytes_of: Callable[[Piece], int]
) -> None:
    """Do all pieces, each by whichever worker is free.

    Args:
        advance: told the bytes of each piece, from any of the threads, by one at a time.

    Raises:
        Exception: of the first piece, in their order, that failed; whatever the threads, it is always the same one.
    """
    queue = _Queue(iter(pieces))

    def run(worker: Worker) -> None:
        piece = None
        try:
            for piece in queue.take():
                worker.submit(piece)
                with queue.lock:
                    advance(bytes_of(piece))
            worker.finish()
        except NotFiniteError as error:
            queue.fail(error.piece.index, error)
        except Exception as error:  # noqa: BLE001  # raised below
            queue.fail(piece.index if piece else 0, error)

    with ThreadPoolExecutor(len(workers), thread_name_prefix="swa-average") as pool:
        try:
            futures = [pool.submit(run, worker) for worker in workers]
            wait(futures)
            for future in futures:
                future.result()  # raises what is no Exception
        except BaseException:
            queue.stopped = True  # a signal: let each thread end its piece and no more
            raise
    if queue.failures:
        raise min(queue.failures, key=lambda failure: failure[0])[1]


@dataclass
class _Queue:
    pieces: Iterable[Piece]
    lock: Lock = field(default_factory=Lock)
    stopped: bool = False
    failures: list[tuple[int, Exception]] = field(default_factory=list[tuple[int, Exception]])

    def take(self) -> Generator[Piece]:
        """Pieces, in their order over all threads, until there are no more or one has failed."""
        while True:
            with self.lock:
                piece = None if self.stopped else next(iter(self.pieces), None)
            if piece is None:
                return
            yield piece

    def fail(self, index: int, error: Exception) -> None:
        with self.lock:
            self.stopped = True
            self.failures.append((index, error))
