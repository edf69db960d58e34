"""Streaming an average: pieces, workers and the device."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import PurePath

from swa_cli.averaging import cpu
from swa_cli.averaging.auto_device import run_on_the_faster
from swa_cli.averaging.chunks import Piece, Write, cut
from swa_cli.averaging.context import AverageContext, NotFiniteError, Worker
from swa_cli.averaging.diagnose import explain_nonfinite
from swa_cli.averaging.fingerprints import Fingerprints
from swa_cli.averaging.plan import AveragePlan, TensorPlan
from swa_cli.averaging.sampling import Sampler, SamplingWorker
from swa_cli.averaging.workers import default_threads, work
from swa_cli.errors import DeviceError, NonFiniteError, option
from swa_cli.formats import OpenFiles, checksums
from swa_cli.system.progress import Advance

_LEAST = 2  # elements of a piece: the two numbers of a complex one


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How an average is computed; no setting changes a bit of the result.

    ``device`` is ``cpu``, ``cuda:0``, or ``auto``: the CPU, unless CUDA is available and the work is large enough for a
    trial. ``threads`` (at most two for CUDA) and ``chunk`` (elements of a piece) have defaults for each device.
    """

    device: str = "auto"
    threads: int | None = None
    chunk: int | None = None


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """Findings about an average after it is written."""

    device: str
    """The device, and why, if it was chosen by a trial."""
    fingerprints: Mapping[str, int]
    """Fingerprint of every tensor, see `swa_cli.averaging.fingerprints`."""
    outliers: Mapping[PurePath, float]
    """The sources that lie apart from the others, see `swa_cli.averaging.outliers`."""
    unrelated: bool
    """Whether no two sources resemble each other, see `swa_cli.averaging.unrelated`."""
    sha256: Mapping[PurePath, str]
    """SHA-256 of the files that were to be hashed, in hexadecimal."""


def stream_average(
    plan: AveragePlan,
    offsets: Mapping[str, int],
    write: Write,
    *,
    engine: Engine,
    advance: Advance,
    hashed: Collection[PurePath] = (),
    exact: bool = False,
) -> Streamed:
    """Write the average of every tensor of ``plan`` at its offset.

    Each element is the result of the plan's combiner in float64, rounded once.

    Args:
        write: is called from several threads at once.
        advance: is called with the number of bytes read.
        hashed: source files to hash in the same pass.
        exact: compute the exact fingerprints, even if the combiner does not need them.

    Raises:
        NonFiniteError: a source holds NaN or infinity, or a result overflows the output dtype.
        MismatchError: an integer tensor differs between sources.
        CheckpointError: a file ends early, or was changed since its header was read.
        DeviceError: the device fails, or has no memory left.
    """
    stamps = {path: stamp for source in plan.sources for path, stamp in source.stamps.items()}
    threads = engine.threads or default_threads()
    with OpenFiles(stamps) as files, checksums({path: stamps[path] for path in hashed}, threads=threads) as digests:
        sampler = Sampler(plan, files)
        job = AverageContext(
            plan=plan,
            files=files,
            write=write,
            fingerprints=Fingerprints(plan, exact=exact or plan.combiner.hides_sources),
        )

        def run(device: str, tensors: Sequence[TensorPlan]) -> float:
            """Average some of the tensors; return the seconds it took, without the start."""
            job.fingerprints.begin(tensors)
            pieces = cut(plan, tensors, offsets, chunk=_chunk(device, plan, engine))
            first = [*islice(pieces, _most_workers(device, engine))]
            workers = _workers(job, device, engine, count=max(1, len(first)))
            start = time.perf_counter()
            sampling = [SamplingWorker(worker, sampler) for worker in workers]
            work(chain(first, pieces), sampling, advance=advance, bytes_of=lambda piece: _bytes_of(plan, piece))
            return time.perf_counter() - start

        try:
            if engine.device == "auto":
                device = run_on_the_faster(plan, run)
            else:
                device = engine.device
                run(device, plan.tensors)
        except NotFiniteError as error:
            raise NonFiniteError(explain_nonfinite(error.piece, plan)) from None
        except RuntimeError as error:
            if engine.device in {"cpu", "auto"}:
                raise
            reason = str(error).partition("\n")[0].rstrip(".")
            msg = f"device {engine.device} failed: {reason}. Use {option('device', 'cpu')}."
            raise DeviceError(msg) from error
        sha256 = digests()
        files.check_unchanged()
    return Streamed(
        device=device,
        fingerprints=job.fingerprints.as_mapping(),
        outliers=sampler.outliers(),
        unrelated=sampler.are_unrelated(),
        sha256=sha256,
    )


def _chunk(device: str, plan: AveragePlan, engine: Engine) -> int:
    """Return the largest number of elements of a piece on a device."""
    most = engine.chunk or cpu.CHUNK
    if device != "cpu":
        from swa_cli.averaging import cuda_ring as ring  # noqa: PLC0415  # the CPU does without torch

        most = engine.chunk or ring.CHUNK
    return max(_LEAST, plan.combiner.piece_size(most))


def _most_workers(device: str, engine: Engine) -> int:
    """Return the largest number of workers of a device."""
    if device == "cpu":
        return engine.threads or default_threads()
    from swa_cli.averaging import cuda_ring as ring  # noqa: PLC0415  # the CPU does without torch

    return min(engine.threads or ring.WORKERS, ring.WORKERS)


def _workers(job: AverageContext, device: str, engine: Engine, *, count: int) -> Sequence[Worker]:
    """Return the workers of a device, each with its own buffers."""
    chunk = _chunk(device, job.plan, engine)
    if device == "cpu":
        return [cpu.CpuWorker(job, chunk=chunk) for _ in range(count)]
    from swa_cli.averaging import cuda  # noqa: PLC0415  # the CPU does without torch
    from swa_cli.averaging import cuda_ring as ring  # noqa: PLC0415

    accelerator = cuda.cuda(device)
    return [ring.DeviceWorker(job, accelerator, chunk=chunk) for _ in range(count)]


def _bytes_of(plan: AveragePlan, piece: Piece) -> int:
    sources = plan.read_by(piece.parts[0].tensor)
    return piece.numel * sum(source.tensors[piece.parts[0].tensor.name].spec.dtype.itemsize for source in sources)
