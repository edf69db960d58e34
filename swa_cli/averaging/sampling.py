"""Sampling a few places of every source during averaging, to compare the sources with each other."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.chunks import Piece, TensorSlice
from swa_cli.averaging.context import Worker
from swa_cli.averaging.outliers import Ratios, blocks_of, outliers, ratios_at
from swa_cli.averaging.plan import AveragePlan
from swa_cli.averaging.unrelated import Correlations, are_unrelated, correlations_at
from swa_cli.formats import Checkpoint, OpenFiles, real_dtype

_PLACES = 32
_LENGTH = 2048
"""Largest number of elements of a place."""
_SHARE = 64
"""All places together are one in this many elements, unless that makes places shorter than `_SHORT`."""
_SHORT = 64
_SHORTEST = 16
"""Number of elements that a place should have; fewer are not informative."""
_MOST = 1 << 18
"""Largest number of elements of a place over all sources."""
_MOST_PAIRS = 1 << 21
"""Largest number of pairs of sources compared over all places."""


class Place(NamedTuple):
    """Elements of a flattened tensor that are compared between all sources."""

    tensor: str
    start: int
    stop: int


def choose_places(plan: AveragePlan) -> list[Place]:
    """Spread places evenly over all averaged elements; none for too few sources or elements."""
    k = len(plan.sources)
    tensors = [tensor for tensor in plan.tensors if tensor.policy == "combined" and tensor.spec.numel]
    ends = np.cumsum([0, *(tensor.spec.numel for tensor in tensors)])
    total = int(ends[-1])
    pairs = sum((block.stop - block.start) ** 2 for block in blocks_of(k))
    count = min(_PLACES, total // _SHORTEST, max(1, _MOST_PAIRS // pairs))
    if k == 1 or not count:
        return []
    length = min(max(_SHORT, total // count // _SHARE), _LENGTH, total // count, max(_SHORTEST, _MOST // k))
    places: list[Place] = []
    for number in range(count):
        at = total * number // count
        index = int(np.searchsorted(ends, at, side="right")) - 1
        start = at - int(ends[index])
        tensor = tensors[index]
        places.append(Place(tensor.name, start, min(start + length, tensor.spec.numel)))
    return places


class Sampler:
    """Reads each place of all sources right after the piece that holds it, while it is in the page cache."""

    def __init__(self, plan: AveragePlan, files: OpenFiles) -> None:
        self._plan, self._files = plan, files
        self._places: dict[str, list[tuple[int, Place]]] = {}
        for number, place in enumerate(choose_places(plan)):
            self._places.setdefault(place.tensor, []).append((number, place))
        self._blocks = blocks_of(len(plan.sources))
        self._seen: dict[int, tuple[list[Ratios | None], list[Correlations | None]]] = {}

    def look(self, piece: Piece) -> None:
        """Compare the sources at the places that start in ``piece``; safe from several threads.

        Raises:
            CheckpointError: as `OpenFiles.read`.
        """
        for part in piece.parts:
            for number, place in self._places.get(part.tensor.name, ()):
                if _holds(part, place.start):
                    rows = np.stack([self._read(source, place) for source in self._plan.sources])
                    blocks = [rows[block] for block in self._blocks]
                    self._seen[number] = [*map(ratios_at, blocks)], [*map(correlations_at, blocks)]

    def outliers(self) -> Mapping[PurePath, float]:
        """Return the outliers and their distances; see `swa_cli.averaging.outliers`."""
        sources = self._plan.sources
        found = outliers([ratios for ratios, _ in self._in_order()], len(sources))
        return {sources[number].path: ratio for number, ratio in found.items()}

    def are_unrelated(self) -> bool:
        """Return whether no two sources resemble each other; see `swa_cli.averaging.unrelated`."""
        return are_unrelated([correlations for _, correlations in self._in_order()])

    def _in_order(self) -> list[tuple[list[Ratios | None], list[Correlations | None]]]:
        return [self._seen[number] for number in sorted(self._seen)]

    def _read(self, source: Checkpoint, place: Place) -> npt.NDArray[np.float64]:
        values = source.read_elements(self._files, place.tensor, place.start, place.stop)
        with np.errstate(all="ignore"):  # NaN and infinity, which may be let through
            return values.view(real_dtype(values.dtype)).astype(np.float64)


class SamplingWorker:
    """A `Worker` that samples the places of each finished piece."""

    def __init__(self, worker: Worker, sampler: Sampler) -> None:
        self._worker, self._sampler = worker, sampler

    def submit(self, piece: Piece) -> None:
        """See `Worker`."""
        self._worker.submit(piece)
        self._sampler.look(piece)

    def finish(self) -> None:
        """See `Worker`."""
        self._worker.finish()


def _holds(part: TensorSlice, start: int) -> bool:
    if part.box is None:
        return part.start <= start < part.stop
    return not any(first for first, _ in part.box)  # boxes are small; the first stands for all
