"""Distributing pieces to workers, each in its own thread."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

from swa_cli.averaging.chunks import Piece
from swa_cli.averaging.context import NotFiniteError, Worker
from swa_cli.system.progress import Advance

_MOST_THREADS = 8


def default_threads() -> int:
    """Return the number of available cores, up to the number of threads that has been found to help."""
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))


def work(
    pieces: Iterable[Piece], workers: Sequence[Worker], *, advance: Advance, bytes_of: Callable[[Piece], int]
) -> None:
    """Process all pieces, each by the next free worker.

    Args:
        advance: is called with the bytes of each piece, from any thread, one call at a time.

    Raises:
        BaseException: the error of the first failed piece in their order, the same for any number of threads.
    """
    queue = _Queue(iter(pieces))

    def run(worker: Worker, ended: Event) -> None:
        try:
            do_pieces(worker)
        finally:
            ended.set()

    def do_pieces(worker: Worker) -> None:
        index = 0
        try:
            for piece in queue.take():
                index = piece.index
                worker.submit(piece)
                with queue.lock:
                    advance(bytes_of(piece))
        except BaseException as error:  # noqa: BLE001  # raised below
            queue.fail(index, error)
        try:
            worker.finish()  # also after a failure: an earlier piece may still be under way, and fail as well
        except BaseException as error:  # noqa: BLE001
            queue.fail(index, error)

    # Events, which can be waited for again after a signal. One in the midst of futures' wait() leaves locks taken that
    # their threads need, and one in the midst of join() makes Python before 3.13 take the thread for ended.
    ended = [Event() for _ in workers]
    threads = [
        Thread(target=run, args=each, name=f"swa-average-{n}")
        for n, each in enumerate(zip(workers, ended, strict=True))
    ]
    try:
        for thread in threads:
            thread.start()
        for event in ended:
            event.wait()
    except BaseException:
        queue.stopped = True  # a signal: let each thread end its piece and no more
        for thread, event in zip(threads, ended, strict=True):
            if thread.ident is not None:  # it was started
                event.wait()
        raise
    if queue.failures:
        raise min(queue.failures, key=lambda failure: failure[0])[1]


@dataclass
class _Queue:
    pieces: Iterator[Piece]
    lock: Lock = field(default_factory=Lock)
    stopped: bool = False
    failures: list[tuple[int, BaseException]] = field(default_factory=list[tuple[int, BaseException]])

    def take(self) -> Generator[Piece]:
        """Yield pieces, in their order over all threads, until there are no more or one has failed."""
        while True:
            with self.lock:
                piece = None if self.stopped else next(self.pieces, None)
            if piece is None:
                return
            yield piece

    def fail(self, index: int, error: BaseException) -> None:
        with self.lock:
            self.stopped = True
            self.failures.append((error.piece.index if isinstance(error, NotFiniteError) else index, error))
