"""A sum over the bits of each tensor, taken before anything is rounded away, which tells if a source was another.

Of a mean it is the sum modulo 2⁶⁴ of the float64 totals (of all sources, before the division) read as integers: a bit
flipped in one source changes a total even where the mean rounds to the same. Of a mean of integers it is the sum of
their totals, of what is kept that of its bytes. Sums modulo 2⁶⁴ do not depend on the order, and so neither on pieces,
threads nor the device.
"""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.pieces import Piece
from swa_cli.averaging.plan import TensorPlan

_MODULUS = 1 << 64


class Fingerprints:
    """The sums of all tensors, as far as they have been averaged; added to from any thread."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}
        self._lock = Lock()

    def begin(self, tensors: Sequence[TensorPlan]) -> None:
        """Count some tensors from zero: none of them was averaged yet, or all are averaged again."""
        self._sums.update((tensor.name, 0) for tensor in tensors)

    def add(self, piece: Piece, sums: Sequence[int]) -> None:
        """Add what was summed up of each part of a piece."""
        with self._lock:
            for part, one in zip(piece.parts, sums, strict=True):
                self._sums[part.tensor.name] = (self._sums[part.tensor.name] + one) % _MODULUS

    def as_mapping(self) -> Mapping[str, int]:
        """From names of tensors to numbers below 2⁶⁴."""
        return dict(self._sums)


def sums_of_parts(piece: Piece, values: npt.NDArray[np.unsignedinteger[Any]]) -> list[int]:
    """The sum modulo 2⁶⁴ for each part of a piece, of which ``values`` holds equally many for each element."""
    if len(piece.parts) == 1:
        return [int(values.sum(dtype=np.uint64))]
    return np.add.reduceat(values, starts_of_parts(piece, len(values)), dtype=np.uint64).tolist()


def starts_of_parts(piece: Piece, size: int) -> npt.NDArray[np.int64]:
    """Where each part starts in an array of ``size`` values that holds equally many for each element."""
    lengths = np.array([0, *(part.numel for part in piece.parts[:-1])])
    return np.cumsum(lengths) * (size // piece.numel)
