"""Records: the numbers per unit from which scores are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_LARGEST = 1e100
"""Largest magnitude whose squares still have finite sums over any data set."""


@dataclass(frozen=True, kw_only=True)
class Records:
    """Numbers per unit, from which all scores are computed.

    A unit is what the test set is a sample of: an example, an image, a graph, a sequence.

    Attributes:
        columns: float64, (units,) or (units, d): sums over the unit's elements (its pixels, say), and their ``count``.
        tallies: float64, any shape: sums over all units, for scores without an interval.
    """

    columns: Mapping[str, Array]
    tallies: Mapping[str, Array]

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(next(iter(self.columns.values())))


def too_large(records: Records, unit: str) -> str | None:
    """Return a description of the first number that is NaN or above 1e100, from which no score can be computed."""
    for name, values in records.columns.items():
        wrong = ~(np.abs(values) <= _LARGEST)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            return f"{name.removeprefix('score.')} of {unit} {place[0]} is {values[place]:.3g}"
    return None


def join(parts: Sequence[Records]) -> Records:
    """Concatenate the records of several batches."""
    first = parts[0]
    return Records(
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        tallies={name: np.sum([part.tallies[name] for part in parts], axis=0) for name in first.tallies},
    )
