"""When the death of a loader's worker is heard of."""

import signal
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar, cast

T = TypeVar("T")
_Handler = Callable[[int, FrameType | None], object]


def deaths_told_while_loading(stream: Iterable[T]) -> Generator[T]:
    """What ``stream`` gives; that a worker died is raised where the next batch is asked for, and nowhere else.

    torch raises it from a signal handler, at whatever line the program is: in the middle of the model, or of putting
    something back. Between batches the signal is only noted.
    """
    for entry in stream:
        with _noted() as tell:
            yield entry
        tell()


@contextmanager
def _noted() -> Generator[Callable[[], None]]:
    """Hold back what torch does at the end of a child process; what is given does it, if one came to its end."""
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

    def tell() -> None:
        if ended:
            cast("_Handler", handler)(number, None)

    signal.signal(number, note)
    try:
        yield tell
    finally:
        signal.signal(number, handler)
