"""What was read of the latest file and serves the next, since the files of a training run are much alike."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """One value, or none; any thread may replace it at any time."""

    def __init__(self) -> None:
        self.value: T | None = None
        _FORGET.append(self._forget)

    def _forget(self) -> None:
        self.value = None


_FORGET: list[Callable[[], None]] = []


def forget_latest() -> None:
    """Free the memory of all that is kept for a next file."""
    for forget in _FORGET:
        forget()
