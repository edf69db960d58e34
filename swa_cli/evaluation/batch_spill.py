"""Batches buffered for the next group of models: in memory, or beyond a limit in a temporary file."""

import pickle
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, Any, final

from swa_cli.errors import option
from swa_cli.user.guard import user_code

_IN_MEMORY = 1 << 30
"""Size in bytes from which a temporary file is used."""


@final
class BatchSpill:
    """Values that are read back once, in order. Tensors return to the device that they were on."""

    def __init__(self, file: IO[bytes]) -> None:
        """Start with no values."""
        self._file, self._count = file, 0

    def put(self, value: object) -> None:
        """Append ``value``.

        Raises:
            UserCodeError: ``value`` cannot be pickled.
        """
        raised = f"raise {option('max_resident_models')} to keep more in memory"
        with user_code(f"buffering a batch for the next group of models ({raised})"):
            pickle.dump(value, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._count += 1

    def __iter__(self) -> Generator[Any]:
        self._file.seek(0)
        for _ in range(self._count):
            with user_code("reading a buffered batch for the next group of models"):
                value = pickle.load(self._file)  # noqa: S301  # our own, from our own temporary file
            yield value


@contextmanager
def batch_spill() -> Generator[BatchSpill]:
    """Open a buffer that is deleted when the body ends."""
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        yield BatchSpill(file)
