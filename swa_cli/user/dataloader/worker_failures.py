"""Raising the death of a DataLoader worker where a batch is loaded, and nowhere else."""

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, cast

T = TypeVar("T")
_END: Any = object()
_GRACE = 0.05  # seconds
_Handler = Callable[[int, FrameType | None], object]


def raise_deaths_while_loading(stream: Iterable[T]) -> Generator[T]:
    """Iterate over ``stream``; if a worker dies, raise when the next batch is asked for.

    torch raises from a signal handler, at any line of the program: in the middle of the forward pass, or of a
    ``finally``. Here the signal is only recorded between batches. If a worker's death first shows as a broken pipe,
    wait a moment for the signal, whose message is better.
    """
    entries = iter(stream)
    while True:
        try:
            entry = next(entries, _END)
        except Exception:
            with _recorded() as handle:
                time.sleep(_GRACE)
            handle()
            raise
        if entry is _END:
            return
        with _recorded() as handle:
            yield entry
        handle()


@contextmanager
def _recorded() -> Generator[Callable[[], None]]:
    """Hold back torch's handler for the end of a child process; the function that is yielded calls it if one ended."""
    number = getattr(signal, "SIGCHLD", None)  # Windows has none
    handler = None if number is None else signal.getsignal(number)
    is_torch_s = callable(handler) and str(getattr(handler, "__module__", "")).startswith("torch.")
    if number is None or not is_torch_s or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    ended: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        del frame
        ended.append(signum)

    def handle() -> None:
        if ended:
            cast("_Handler", handler)(number, None)

    signal.signal(number, note)
    try:
        yield handle
    finally:
        signal.signal(number, handler)
