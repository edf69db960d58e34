"""The CPU back end: one worker's buffers, small enough to stay in its cache, and its loop over the sources."""

import numpy as np
import numpy.typing as npt
import torch

from swa_cli.averaging.arithmetic import real_dtype, rounded_mean
from swa_cli.averaging.integers import settle
from swa_cli.averaging.job import Job, NotFiniteError
from swa_cli.averaging.pieces import Piece, Runs, fill, put

CHUNK = 1 << 17
"""Elements of a piece: half a megabyte of float32, and twice that in float64."""

_WIDEST = 8  # bytes of a real number


class CpuWorker:
    """Reads a piece of every source into one buffer, adds it up in another, rounds it into a third."""

    def __init__(self, job: Job, *, chunk: int = CHUNK) -> None:
        self._job = job
        self._read, self._out = (np.empty(chunk * _WIDEST, np.uint8) for _ in range(2))
        self._total = np.empty(chunk, np.float64)
        self._wide = torch.empty(chunk, dtype=torch.float32)

    def submit(self, piece: Piece) -> None:
        """See `Worker`."""
        if piece.policy == "mean":
            view = self._mean(piece)
        else:
            view = settle(piece, self._job, (self._out.data, self._read.data))
        put(piece, view, self._job.write)

    def finish(self) -> None:
        """See `Worker`: nothing is ever left under way."""

    def _mean(self, piece: Piece) -> memoryview:
        job, sources = self._job, self._job.plan.sources
        n = piece.numel * (2 if piece.dtype.is_complex else 1)
        total, view = self._total[:n], self._read.data
        runs: Runs = {}
        for number, source in enumerate(sources):
            dtype = real_dtype(fill(piece, source, job.files, view, runs))
            values = self._as_array(dtype, n)
            if number == 0:
                np.copyto(total, values)
            else:
                np.add(total, values, out=total)
        out = torch.from_numpy(self._out[: n * real_dtype(piece.dtype).itemsize]).view(real_dtype(piece.dtype))
        finite = rounded_mean(torch.from_numpy(total), len(sources), out, allow_nonfinite=job.allow_nonfinite)
        if not finite:
            raise NotFiniteError(piece)
        return self._out.data

    def _as_array(self, dtype: torch.dtype, n: int) -> npt.NDArray[np.floating]:
        """What was read, as an array that numpy can add to float64: it casts in passing what it has a dtype for."""
        raw = self._read[: n * dtype.itemsize]
        if dtype in {torch.float32, torch.float64}:
            return raw.view(np.float32 if dtype == torch.float32 else np.float64)
        return self._wide[:n].copy_(torch.from_numpy(raw).view(dtype)).numpy()
