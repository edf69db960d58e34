"""Per-tensor checksums of the bits before rounding; `swa verify` uses them to detect changed sources.

For a mean it is the sum modulo 2⁶⁴ of the float64 totals (over all sources, before the division), read as integers. A
flipped bit in one source changes a total even if the mean rounds to the same value, unless the bit is too small beside
the other sources to change the total.

The exact fingerprint is a sum over the sources, of their elements read as unsigned integers of their own size, with an
odd factor per source. A flipped bit in one source changes it by an odd number times a power of two below the modulus,
so always. It costs an eighth more time, and is therefore computed only together with checksums.

For a mean of integers it is the sum of their totals, for tensors that are kept the sum of their bytes. Sums modulo a
power of two do not depend on the order, and so not on pieces, threads or the device.
"""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.chunks import Piece
from swa_cli.averaging.plan import AveragePlan, TensorPlan
from swa_cli.formats import real_dtype

_WIDEST = 8
_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Fingerprints:
    """The sums of all tensors averaged so far; safe from several threads."""

    def __init__(self, plan: AveragePlan, *, exact: bool = False) -> None:
        self._plan = plan
        self.exact = exact
        self._sums: dict[str, int] = {}
        self._lock = Lock()

    def begin(self, tensors: Sequence[TensorPlan]) -> None:
        """Reset some tensors to zero, before they are averaged for the first time or again."""
        self._sums.update((tensor.name, 0) for tensor in tensors)

    def add(self, piece: Piece, sums: Sequence[int]) -> None:
        """Add the sums of each slice of a piece."""
        with self._lock:
            for part, one in zip(piece.parts, sums, strict=True):
                self._sums[part.tensor.name] += one

    def as_mapping(self) -> Mapping[str, int]:
        """Return the fingerprint of each tensor, below 2⁶⁴."""
        tensors = [tensor for tensor in self._plan.tensors if tensor.name in self._sums]
        return {tensor.name: self._sums[tensor.name] % (1 << 8 * self._bytes(tensor)) for tensor in tensors}

    def _bytes(self, tensor: TensorPlan) -> int:
        """Of the smallest number that was summed up: no more of the sum is known."""
        if tensor.policy != "combined" or not self.exact:
            return _WIDEST
        layouts = {id(source.tensors): source.tensors for source in self._plan.sources}.values()
        return min(real_dtype(layout[tensor.name].spec.dtype).itemsize for layout in layouts)


class BitSums:
    """The sums of one piece, source by source."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._source = 0
        self.sums = [0] * len(piece.parts)

    def add(self, raw: npt.NDArray[np.uint8], itemsize: int) -> None:
        """Add the elements of the next source, numbers of ``itemsize`` bytes."""
        values = raw.view(_UNSIGNED[itemsize])
        factor = 2 * self._source + 1
        self._source += 1
        for number, one in enumerate(sums_of_parts(self._piece, values, values.dtype)):
            self.sums[number] += factor * one


def sums_of_parts(
    piece: Piece, values: npt.NDArray[np.unsignedinteger[Any]], dtype: npt.DTypeLike = np.uint64
) -> list[int]:
    """Return the sum of each slice of a piece; ``values`` holds equally many per element, and sums wrap in ``dtype``.

    In their own dtype, numbers are added at the speed of memory.
    """
    if len(piece.parts) == 1:
        return [int(np.add.reduce(values, dtype=dtype))]
    return np.add.reduceat(values, starts_of_parts(piece, len(values)), dtype=dtype).tolist()


def starts_of_parts(piece: Piece, size: int) -> npt.NDArray[np.int64]:
    """Return where each slice starts in an array of ``size`` values with equally many per element."""
    lengths = np.array([0, *(part.numel for part in piece.parts[:-1])])
    return np.cumsum(lengths) * (size // piece.numel)
