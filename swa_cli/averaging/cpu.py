"""The CPU back end: a worker with buffers that stay in the cache, and its loop over the sources."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.chunks import Piece, ReadPlan, fill, put
from swa_cli.averaging.context import AverageContext, NotFiniteError
from swa_cli.averaging.fingerprints import BitSums, sums_of_parts
from swa_cli.averaging.integers import resolve_integers
from swa_cli.formats import BY_NAME, Dtype, real_dtype, reals, round_into

CHUNK = 1 << 18
"""Number of elements of a piece: 1 MiB of float32, 2 MiB of float64."""

_BFLOAT16 = BY_NAME["bfloat16"]
_WIDEST = 8  # bytes of a real number


class CpuWorker:
    """Reads a piece of every source into one buffer, combines it in another, rounds it into a third."""

    def __init__(self, job: AverageContext, *, chunk: int = CHUNK) -> None:
        self._job = job
        self._read, self._out = (np.empty(chunk * _WIDEST, np.uint8) for _ in range(2))
        self._combining = job.plan.combiner.on_cpu(
            chunk, self._out.view(np.float64), allow_nonfinite=job.allow_nonfinite
        )
        self._wide = np.empty(chunk, np.float32)
        self._finite = np.empty(chunk, np.bool_)

    def submit(self, piece: Piece) -> None:
        """See `Worker`."""
        if piece.policy == "combined":
            view = self._combine(piece)
        else:
            view = resolve_integers(piece, self._job, (self._out.data, self._read.data))
        put(piece, view, self._job.write)

    def finish(self) -> None:
        """See `Worker`: no piece is ever in progress."""

    def _combine(self, piece: Piece) -> memoryview:
        job = self._job
        n = reals(piece.numel, piece.dtype)
        runs: ReadPlan = {}
        bits = BitSums(piece) if job.fingerprints.exact else None
        with np.errstate(all="ignore"):  # values that are not finite are found below
            for number, source in enumerate(job.plan.sources):
                stored = real_dtype(fill(piece, source, job.files, self._read.data, runs))
                if bits:
                    bits.add(self._read[: n * stored.itemsize], stored.itemsize)
                self._combining.add(number, self._widened(stored, n))
            total = self._combining.total(n)
            if job.allow_nonfinite:
                total[np.isnan(total)] = np.nan  # one NaN for all, whose bits would otherwise depend on the device
            job.fingerprints.add(piece, bits.sums if bits else sums_of_parts(piece, total.view(np.uint64)))
            result = self._combining.result(n)
        dtype = real_dtype(piece.dtype)
        out = self._out[: n * dtype.itemsize].view(dtype)
        round_into(result, out, odd=self._read[: n * _WIDEST].view(np.int64), wide=self._wide[:n])
        if job.allow_nonfinite:
            out[np.isnan(out)] = np.nan
        elif not np.isfinite(out, out=self._finite[:n]).all():
            raise NotFiniteError(piece)
        return self._out.data

    def _widened(self, dtype: Dtype, n: int) -> npt.NDArray[np.generic]:
        """Return the values that were read in a dtype that numpy can combine with float64."""
        raw = self._read[: n * dtype.itemsize]
        if dtype.itemsize == 1:
            return np.take(_all_values(dtype), raw, out=self._wide[:n], mode="clip")
        if dtype == _BFLOAT16:
            np.copyto(self._wide[:n], raw.view(dtype))
            return self._wide[:n]
        return raw.view(dtype)


@lru_cache(maxsize=8)
def _all_values(dtype: Dtype) -> npt.NDArray[np.float32]:
    """Return the float32 values of all 256 float8 bit patterns."""
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
