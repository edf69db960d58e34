"""The mean: with equal weights, given weights, or the weights of an exponential moving average.

Izmailov et al. 2018 (arXiv:1803.05407) average the checkpoints of one run with equal weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.combiners.protocol import Parameters, Words
from swa_cli.averaging.combiners.weights import checked_weights, ema_weights
from swa_cli.errors import UsageError, option

if TYPE_CHECKING:
    import torch

WORDS = Words(
    noun="average",
    adjective="averaged",
    label="SWA",
    deed="Averaged",
    rule="averaged in float64, rounded once",
)


@dataclass(frozen=True)
class Mean:
    """The weighted sum of all sources in float64, divided once."""

    weights: tuple[float, ...]
    name: ClassVar[str] = "mean"
    words: ClassVar[Words] = WORDS
    hides_sources: ClassVar[bool] = False

    @classmethod
    def make(cls, paths: Sequence[PurePath], parameters: Parameters) -> "Mean":
        """Return the mean with equal weights, unless the parameters give others.

        Raises:
            UsageError: weights and a decay, or as `checked_weights` and `ema_weights`.
        """
        weights, ema = parameters.weights, parameters.ema
        if weights is not None and ema is not None:
            msg = f"{option('weights')} and {option('ema')} exclude each other. Give one of them."
            raise UsageError(msg)
        return cls(checked_weights(weights if ema is None else ema_weights(len(paths), ema), paths))

    @cached_property
    def divisor(self) -> float:
        """The sum of the weights, rounded once; the number of sources for equal weights."""
        return math.fsum(self.weights)

    def piece_size(self, most: int) -> int:
        """See `Combiner`: there is one total, however many sources."""
        return most

    def overflow(self, *, is_widest: bool) -> tuple[str, str]:
        """See `Combiner`."""
        is_weighted = any(weight != 1 for weight in self.weights)
        if is_widest:
            remedy = "Choose smaller weights, leave" if is_weighted else "Leave"
            return "the sum of the sources", f"{remedy} out the checkpoint with such large values"
        return "the mean", f"Choose a wider {option('dtype')}{' or smaller weights' if is_weighted else ''}"

    def on_cpu(self, size: int, scratch: npt.NDArray[np.float64], *, allow_nonfinite: bool) -> "_Sum":  # noqa: ARG002
        """See `Combiner`."""
        return _Sum(self, size, scratch)

    def on_device(self, size: int, device: "torch.device", *, allow_nonfinite: bool) -> "_DeviceSum":  # noqa: ARG002
        """See `Combiner`."""
        return _DeviceSum(self, size, device)


class _Sum:
    def __init__(self, mean: Mean, size: int, scratch: npt.NDArray[np.float64]) -> None:
        self._mean = mean
        self._total, self._product = np.empty(size, np.float64), scratch

    def add(self, number: int, values: npt.NDArray[Any]) -> None:
        total, weight = self._total[: len(values)], self._mean.weights[number]
        if weight != 1:
            values = np.multiply(values, weight, out=self._product[: len(values)], dtype=np.float64)
        if number == 0:
            np.copyto(total, values)
        else:
            np.add(total, values, out=total)

    def total(self, n: int) -> npt.NDArray[Any]:
        return self._total[:n]

    def result(self, n: int) -> npt.NDArray[Any]:
        return np.divide(self._total[:n], self._mean.divisor, out=self._total[:n])


class _DeviceSum:
    """The same sum in torch operations, with the same bits on every device."""

    def __init__(self, mean: Mean, size: int, device: "torch.device") -> None:
        import torch  # noqa: PLC0415  # the CPU does without it

        self._mean = mean
        self._total = torch.empty(size, dtype=torch.float64, device=device)

    def add(self, number: int, values: "torch.Tensor") -> None:
        total, weight = self._total[: len(values)], self._mean.weights[number]
        if weight != 1:  # rounded before it is added, as numpy does it: no fused multiply-add, whose bits are others
            values = values.to(total.dtype) * weight
        if number == 0:
            total.copy_(values)
        else:
            total.add_(values)

    def total(self, n: int) -> "torch.Tensor":
        return self._total[:n]

    def result(self, n: int) -> "torch.Tensor":
        # By a tensor: CUDA takes a number's reciprocal and multiplies, which rounds twice.
        return self._total[:n].div_(self._total.new_full((), self._mean.divisor))


COMBINER = Mean
