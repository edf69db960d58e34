"""What is kept of the data that a candidate has seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_LARGEST = 1e100
"""Of sums of so large numbers, and of their squares, the sums over any data set are numbers too."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Numbers of each unit, from which all scores follow.

    A unit is what a test set is a sample of: an example, an image, a graph, a sequence.

    Attributes:
        columns: float64, (units,) or (units, d). Sums over the unit's elements (its pixels, say), with their ``count``.
        tallies: float64, of any shape: sums over all units, for what no interval is wanted of.
    """

    columns: Mapping[str, Array]
    tallies: Mapping[str, Array]

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return len(next(iter(self.columns.values())))


def too_large(records: Records, unit: str) -> str | None:
    """Which number of which unit is NaN or beyond 1e100, from which no scores can be had; None where none is."""
    for name, values in records.columns.items():
        wrong = ~(np.abs(values) <= _LARGEST)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            return f"{name.removeprefix('score.')} of {unit} {place[0]} is {values[place]:.3g}"
    return None


def join(parts: Sequence[Records]) -> Records:
    """The records of several batches, one after the other."""
    first = parts[0]
    return Records(
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        tallies={name: np.sum([part.tallies[name] for part in parts], axis=0) for name in first.tallies},
    )
