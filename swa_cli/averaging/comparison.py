"""Comparing the bytes of an average with those in a file."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock

import numpy as np

from swa_cli.averaging.diagnose import index_of
from swa_cli.averaging.plan import TensorPlan
from swa_cli.formats import Checkpoint


@dataclass
class BytewiseDiff:
    """Receives the bytes of an average and compares them with a file.

    ``offsets`` are the tensors' positions as if they were stored one after the other. ``differing`` maps each tensor
    that differs to its first difference.
    """

    average: Checkpoint
    tensors: Sequence[TensorPlan]
    differing: dict[str, str] = field(default_factory=dict[str, str])
    _first: dict[str, int] = field(default_factory=dict[str, int])
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        # Those without elements are nowhere; they would hide the one that starts where they do.
        self._there = [tensor for tensor in self.tensors if tensor.spec.nbytes]
        self._starts = [0, *accumulate(tensor.spec.nbytes for tensor in self._there)]
        starts = {tensor.name: start for tensor, start in zip(self._there, self._starts, strict=False)}
        self.offsets = {tensor.name: starts.get(tensor.name, 0) for tensor in self.tensors}

    def compare(self, offset: int, view: memoryview) -> None:
        """Compare bytes that would be written; safe from several threads."""
        done = 0
        while done < len(view):
            number = bisect_right(self._starts, offset + done) - 1
            length = min(len(view) - done, self._starts[number + 1] - offset - done)
            self._compare(self._there[number], offset + done - self._starts[number], view[done : done + length])
            done += length

    def _compare(self, tensor: TensorPlan, at: int, view: memoryview) -> None:
        size = tensor.spec.dtype.itemsize
        start = at // size
        found = self.average.get_elements(tensor.name, start, start + len(view) // size)
        if found.tobytes() == view.tobytes():
            return
        expected = np.frombuffer(view, tensor.spec.dtype)
        differ = np.flatnonzero((expected.view(np.uint8) != found.view(np.uint8)).reshape(-1, size).any(axis=1))
        first = int(differ[0])
        with self._lock:
            if start + first < self._first.get(tensor.name, start + first + 1):
                self._first[tensor.name] = start + first
                self.differing[tensor.name] = (
                    f"tensor {tensor.name} differs at index {index_of(start + first, tensor.spec.shape)}: expected "
                    f"{expected[first].item()}, found {found[first].item()}"
                )
