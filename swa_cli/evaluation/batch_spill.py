"""What is put aside while others are at work: in memory, or beyond that in a temporary file."""

import pickle
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, Any, final

from swa_cli.user.guard import user_code

_IN_MEMORY = 1 << 30
"""Bytes beyond which a temporary file takes over."""


@final
class Shelf:
    """Values, given back once, in order. Tensors come back on the device that they were on."""

    def __init__(self, file: IO[bytes]) -> None:
        """Nothing is there yet."""
        self._file, self._count = file, 0

    def put(self, value: object) -> None:
        """Put ``value`` aside.

        Raises:
            UserCodeError: it holds what cannot be pickled.
        """
        with user_code("putting a batch aside until the next group of members (--at-once has more of them at once)"):
            pickle.dump(value, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._count += 1

    def __iter__(self) -> Generator[Any]:
        self._file.seek(0)
        for _ in range(self._count):
            with user_code("taking a batch up again for the next group of members"):
                value = pickle.load(self._file)  # noqa: S301  # our own, from our own temporary file
            yield value


@contextmanager
def shelf() -> Generator[Shelf]:
    """One that is gone when the body ends."""
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        yield Shelf(file)
