"""The element-wise median of the checkpoints.

Yin et al. 2018 (arXiv:1803.01498) use it against workers that send arbitrary values. docs/explanation/combining.md says
when to choose it. Values are sorted as integers in the order of the numbers, -0.0 before 0.0: so there is one result,
bit for bit, for every device and library. NaN sorts first or last.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.combiners.protocol import Parameters, Words
from swa_cli.errors import UsageError, option

if TYPE_CHECKING:
    import torch

WORDS = Words(
    noun="median",
    adjective="median",
    label="median",
    deed="Wrote the median of",
    rule="combined to their median in float64, rounded once",
)
_MAGNITUDE = (1 << 63) - 1
"""All bits of a float64 except its sign."""


@dataclass(frozen=True)
class Median:
    """The middle value in float64; for an even number, half the sum of the two middle values."""

    count: int
    """Of sources."""
    name: ClassVar[str] = "median"
    words: ClassVar[Words] = WORDS
    hides_sources: ClassVar[bool] = True

    @classmethod
    def make(cls, paths: Sequence[PurePath], parameters: Parameters) -> "Median":
        """Return the median of so many checkpoints.

        Raises:
            UsageError: weights or a decay, which it has no use for.
        """
        if parameters.given:
            names = " and ".join(option(name) for name in parameters.given)
            msg = (
                f"{option('combine', 'median')} counts every checkpoint once and takes no {names}. Leave out "
                f"{'them' if len(parameters.given) > 1 else names}, or choose {option('combine', 'mean')}."
            )
            raise UsageError(msg)
        return cls(len(paths))

    @property
    def weights(self) -> tuple[float, ...]:
        """See `Combiner`."""
        return (1.0,) * self.count

    def piece_size(self, most: int) -> int:
        """See `Combiner`: the values of all sources are there at once."""
        return max(1, most // self.count)

    def overflow(self, *, is_widest: bool) -> tuple[str, str]:
        """See `Combiner`."""
        if is_widest:
            return "the sum of the two middle values", "Leave out a checkpoint with such large values"
        return "the median", f"Choose a wider {option('dtype')}"

    def on_cpu(self, size: int, scratch: npt.NDArray[np.float64], *, allow_nonfinite: bool) -> "_Sorting":  # noqa: ARG002
        """See `Combiner`."""

        def sort(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            rows.sort(axis=0)
            return rows

        return _Sorting(self.count, np.empty(self.count * size), np, sort, allow_nonfinite=allow_nonfinite)

    def on_device(self, size: int, device: "torch.device", *, allow_nonfinite: bool) -> "_Sorting":
        """See `Combiner`."""
        import torch  # noqa: PLC0415  # the CPU does without it

        def sort(rows: torch.Tensor) -> torch.Tensor:
            return torch.sort(rows, dim=0).values

        values = torch.empty(self.count * size, dtype=torch.float64, device=device)
        return _Sorting(self.count, values, torch, sort, allow_nonfinite=allow_nonfinite)


class _Sorting:
    """The values of all sources, in arrays of numpy or torch, which spell what is needed alike."""

    def __init__(
        self, count: int, values: Any, library: Any, sort: Callable[[Any], Any], *, allow_nonfinite: bool
    ) -> None:
        self._count, self._values = count, values
        self._library, self._sort = library, sort
        self._allow_nonfinite = allow_nonfinite

    def add(self, number: int, values: Any) -> None:
        row = self._values[number * len(values) : (number + 1) * len(values)]
        row[...] = values
        bits = row.view(self._library.int64)
        bits ^= (bits >> 63) & _MAGNITUDE  # in the order of the numbers; the same once more takes it back

    def total(self, n: int) -> Any:
        bits = self._values[: self._count * n].view(self._library.int64).reshape(self._count, n)
        rows = self._sort(bits)
        lowest, lower, upper, highest = (
            self._numbers(rows[index]) for index in (0, (self._count - 1) // 2, self._count // 2, -1)
        )
        median = lower if self._count % 2 else (lower + upper) * 0.5
        unwanted = self._unwanted(lowest) | self._unwanted(highest)
        self._median = self._library.where(unwanted, math.nan, median)
        return self._median

    def result(self, n: int) -> Any:
        return self._median[:n]

    def _numbers(self, bits: Any) -> Any:
        return (bits ^ ((bits >> 63) & _MAGNITUDE)).view(self._library.float64)

    def _unwanted(self, values: Any) -> Any:
        """Which of the lowest or highest values make the result NaN."""
        return self._library.isnan(values) if self._allow_nonfinite else ~self._library.isfinite(values)


COMBINER = Median
