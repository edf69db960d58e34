"""Integers, bools and other tensors that are kept, compared or averaged exactly."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.chunks import Piece, ReadPlan, fill
from swa_cli.averaging.context import AverageContext
from swa_cli.averaging.diagnose import explain_disagreement
from swa_cli.averaging.fingerprints import sums_of_parts
from swa_cli.errors import MismatchError
from swa_cli.formats import Dtype


def resolve_integers(piece: Piece, job: AverageContext, views: Sequence[memoryview]) -> memoryview:
    """Return the elements of a piece that is not combined in float64, in the first of two ``views``.

    Args:
        views: two buffers, each large enough for the piece.

    Raises:
        MismatchError: the elements differ between sources, and must agree.
        CheckpointError: as `fill`.
    """
    sources = job.plan.read_by(piece.parts[0].tensor)
    kept, other = (view[: piece.numel * piece.dtype.itemsize] for view in views)
    runs: ReadPlan = {}
    fill(piece, sources[0], job.files, kept, runs)
    if piece.policy == "rounded":
        weights = [int(weight) for weight in job.plan.combiner.weights]
        mean = _Mean(_integers(kept, piece.dtype), weights)
        for source, weight in zip(sources[1:], weights[1:], strict=True):
            fill(piece, source, job.files, other, runs)
            mean.add(_integers(other, piece.dtype), weight)
        job.fingerprints.add(piece, sums_of_parts(piece, mean.totals().view(np.uint64)))
        _integers(kept, piece.dtype)[:] = mean.rounded()
        return kept
    for source in sources[1:]:
        fill(piece, source, job.files, other, runs)
        if not np.array_equal(np.frombuffer(kept, np.uint8), np.frombuffer(other, np.uint8)):
            raise MismatchError(explain_disagreement(piece, sources[0], source))
    job.fingerprints.add(piece, sums_of_parts(piece, np.frombuffer(kept, np.uint8)))
    return kept


class _Mean:
    """The exact mean of integers, as quotient and remainder by the sum of the weights, so that no sum overflows."""

    def __init__(self, values: npt.NDArray[np.integer], weights: Sequence[int]) -> None:
        self.wide = np.uint64 if values.dtype.kind == "u" else np.int64
        self.n = self.wide(sum(weights))
        self.quotients = np.zeros(len(values), self.wide)
        self.remainders = np.zeros(len(values), self.wide)
        self.add(values, weights[0])

    def add(self, values: npt.NDArray[np.integer], weight: int) -> None:
        quotients, remainders = np.divmod(values.astype(self.wide), self.n)
        self.quotients += quotients * self.wide(weight)
        self.remainders += remainders * self.wide(weight)

    def totals(self) -> npt.NDArray[np.integer]:
        """Return the weighted sums modulo 2⁶⁴."""
        return self.quotients * self.n + self.remainders

    def rounded(self) -> npt.NDArray[np.integer]:
        """Return the mean rounded to the nearest integer, ties to even."""
        carried, rest = np.divmod(self.remainders, self.n)
        mean = self.quotients + carried
        two = self.wide(2)
        up = (rest * two > self.n) | ((rest * two == self.n) & (mean % two == 1))
        return mean + up.astype(self.wide)


def _integers(view: memoryview, dtype: Dtype) -> npt.NDArray[np.integer]:
    """Return the integers in ``view``; bools are 0 and 1."""
    return cast("npt.NDArray[np.integer]", np.frombuffer(view, np.uint8 if dtype.name == "bool" else dtype))
