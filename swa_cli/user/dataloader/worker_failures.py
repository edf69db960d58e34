"""When the death of a loader's worker is heard of."""

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, cast

T = TypeVar("T")
_END: Any = object()
_A_MOMENT = 0.05  # seconds
_Handler = Callable[[int, FrameType | None], object]


def deaths_told_while_loading(stream: Iterable[T]) -> Generator[T]:
    """What ``stream`` gives; that a worker died is raised where the next batch is asked for, and nowhere else.

    torch raises it from a signal handler, at any line of the program: in the middle of the model, or of putting
    something back. Between batches the signal is only noted; where a worker's end first shows as a broken pipe, it is
    waited for.
    """
    entries = iter(stream)
    while True:
        try:
            entry = next(entries, _END)
        except Exception:
            with _noted() as tell:
                time.sleep(_A_MOMENT)
            tell()
            raise
        if entry is _END:
            return
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
