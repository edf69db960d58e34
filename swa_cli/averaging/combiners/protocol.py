"""The interface of a combiner, which the back ends, verification and provenance use."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array")


class Accumulator(Protocol[Array]):
    """Buffers of one worker, reused for every piece.

    A worker calls `add` once for each source, in order, then `total`, then `result`. ``Array`` is that of numpy or
    torch. Each has as many real numbers as the piece; a complex number is two.
    """

    def add(self, number: int, values: Array) -> None:
        """Take the values of source ``number``, of any real floating dtype; the array is overwritten afterwards."""
        ...

    def total(self, n: int) -> Array:
        """Return ``n`` float64 numbers that stand for the sources; the caller may make all their NaNs the same one."""
        ...

    def result(self, n: int) -> Array:
        """Return ``n`` float64 numbers, not yet rounded to the dtype of the output; may overwrite the total."""
        ...


@dataclass(frozen=True, kw_only=True)
class Words:
    """How reports name what was combined."""

    noun: str
    """What the output is of its checkpoints: the ``average``."""
    adjective: str
    """What its BatchNorm statistics are: ``averaged``."""
    label: str
    """A name for a row of a table: ``SWA``."""
    deed: str
    """The start of a sentence that goes on with the checkpoints: ``Averaged``."""
    rule: str
    """What became of floating tensors: ``averaged in float64, rounded once``."""


class Combiner(Protocol):
    """A way to combine the values that all sources hold at one element of the model.

    The result must not depend on how elements are cut into pieces, nor on the device: both accumulators give the same
    bits.
    """

    words: ClassVar[Words]
    """How reports name the result."""

    @classmethod
    def make(cls, paths: Sequence[PurePath], parameters: "Parameters") -> Self:
        """Return the combiner for checkpoints in the order of averaging.

        Raises:
            UsageError: a parameter that it does not take, or a wrong one.
        """
        ...

    @property
    def name(self) -> str:
        """The value of the option ``combine``, which the record of the output holds."""
        ...

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each source counts; all 1 where they count the same."""
        ...

    @property
    def hides_sources(self) -> bool:
        """Whether a source can change while the total stays; fingerprints are then taken of the sources' own bits."""
        ...

    def piece_size(self, most: int) -> int:
        """Return how many elements a piece may have so that the buffers hold at most ``most`` float64 numbers."""
        ...

    def overflow(self, *, is_widest: bool) -> tuple[str, str]:
        """Say what can be too large for the output although every source is finite, and what to do about it.

        Args:
            is_widest: there is no wider dtype to choose for the output.
        """
        ...

    def on_cpu(
        self, size: int, scratch: npt.NDArray[np.float64], *, allow_nonfinite: bool
    ) -> Accumulator[npt.NDArray[Any]]:
        """Return buffers for pieces of up to ``size`` real numbers.

        Args:
            scratch: ``size`` numbers that `add` and `total` may overwrite.
            allow_nonfinite: without it, NaN or infinity in any source must give NaN or infinity.
        """
        ...

    def on_device(self, size: int, device: "torch.device", *, allow_nonfinite: bool) -> "Accumulator[torch.Tensor]":
        """Return the same for a device of torch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The options that only some combiners take; a combiner refuses those that it does not."""

    weights: Sequence[float] | None = None
    ema: float | None = None

    @property
    def given(self) -> list[str]:
        """The names of those that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


class CombinerModule(Protocol):
    """A module of this package that can be chosen by name."""

    COMBINER: "type[Combiner]"
