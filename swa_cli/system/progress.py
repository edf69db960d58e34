"""How the library reports progress without knowing a terminal."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

Advance = Callable[[int], None]
Unit = Literal["bytes", "batches"]


class Track(Protocol):
    """Opens one progress bar.

    ``total`` is in ``unit``, or None where it is not known beforehand. The context manager yields a function
    that advances the bar by so many units.
    """

    def __call__(self, description: str, *, total: int | None, unit: Unit) -> AbstractContextManager[Advance]:
        """Open a bar called ``description``."""
        ...


@contextmanager
def silent(description: str, *, total: int | None, unit: Unit) -> Generator[Advance]:
    """The default of the library: no progress is shown."""
    del description, total, unit

    def advance(amount: int) -> None:
        del amount

    yield advance
