"""Carrying out a plan on the CPU, on a device, or on whichever of them turns out to be faster."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from swa_cli.averaging import cpu
from swa_cli.averaging.engine import default_threads, work
from swa_cli.averaging.explain import explain_nonfinite
from swa_cli.averaging.job import Job, NotFiniteError, Worker
from swa_cli.averaging.pieces import Piece, Write, cut
from swa_cli.averaging.plan import AveragePlan, TensorPlan
from swa_cli.checkpoints import OpenFiles
from swa_cli.errors import NonFiniteError
from swa_cli.progress import Advance

WORTH_TRYING = 16 << 30
"""Bytes to be read from which on ``auto`` tries CUDA, which takes the better part of a second to start (16 GiB)."""
TRIAL = 1 << 30
"""Bytes that each of CPU and CUDA reads of these, before the faster one is given the rest."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How an average is computed; none of it changes a bit of the result.

    ``device`` is ``cpu``, ``cuda:0``, or ``auto``: the CPU, unless there is CUDA and so much to do that it is worth
    trying. ``threads`` and ``chunk`` (elements of a piece) have defaults for each device.
    """

    device: str = "auto"
    threads: int | None = None
    chunk: int | None = None


def stream_average(
    plan: AveragePlan,
    offsets: Mapping[str, int],
    write: Write,
    *,
    engine: Engine,
    allow_nonfinite: bool,
    advance: Advance,
) -> str:
    """Write the average of every tensor of ``plan`` at its offset; which device did it.

    Each element is the sum in float64 over the sources in order, divided once by their number and rounded once.

    Args:
        write: called from several threads at once.
        advance: told the number of bytes read.

    Raises:
        NonFiniteError: NaN or infinity in a source, or a mean too large for the output dtype.
        MismatchError: an integer tensor that differs between sources.
        CheckpointError: a file that ends early.
    """
    with OpenFiles() as files:
        job = Job(plan=plan, files=files, write=write, allow_nonfinite=allow_nonfinite)

        def run(device: str, tensors: Sequence[TensorPlan]) -> float:
            """Average some of the tensors; seconds taken, without those to start."""
            workers, chunk = _workers(job, device, engine)
            start = time.perf_counter()
            pieces = cut(plan, tensors, offsets, chunk=chunk)
            work(pieces, workers, advance=advance, bytes_of=lambda piece: _bytes_of(plan, piece))
            return time.perf_counter() - start

        try:
            if engine.device == "auto":
                return _run_on_the_faster(plan, run)
            run(engine.device, plan.tensors)
        except NotFiniteError as error:
            raise NonFiniteError(explain_nonfinite(error.piece, plan)) from None
        return engine.device


def _workers(job: Job, device: str, engine: Engine) -> tuple[Sequence[Worker], int]:
    """Workers for a device, and how many elements their pieces may have."""
    if device == "cpu":
        chunk = engine.chunk or cpu.CHUNK
        return [cpu.CpuWorker(job, chunk=chunk) for _ in range(engine.threads or default_threads())], chunk
    from swa_cli.averaging import cuda  # noqa: PLC0415  # the CPU does without torch
    from swa_cli.averaging import device as ring  # noqa: PLC0415

    accelerator = cuda.cuda(device)
    chunk = engine.chunk or ring.CHUNK
    count = min(engine.threads or ring.WORKERS, ring.WORKERS)
    return [ring.DeviceWorker(job, accelerator, chunk=chunk) for _ in range(count)], chunk


def _run_on_the_faster(plan: AveragePlan, run: Callable[[str, Sequence[TensorPlan]], float]) -> str:
    """Let the CPU and CUDA each average some tensors, and the faster one the rest."""
    if plan.bytes_to_read < WORTH_TRYING or not _sees_cuda():
        run("cpu", plan.tensors)
        return "cpu"
    first = _up_to(plan, 0)
    second = _up_to(plan, first)
    trials = {"cpu": plan.tensors[:first], "cuda:0": plan.tensors[first:second]}
    rates = {device: plan.bytes_of(tensors) / run(device, tensors) for device, tensors in trials.items()}
    faster = max(rates, key=lambda device: rates[device])
    run(faster, plan.tensors[second:])
    measured = ", ".join(f"{device} {rate / 1e9:.1f} GB/s" for device, rate in rates.items())
    return f"{faster} (measured: {measured})"


def _sees_cuda() -> bool:
    import torch  # noqa: PLC0415  # the CPU does without it

    return torch.cuda.is_available()


def _up_to(plan: AveragePlan, start: int) -> int:
    """The tensor after those from ``start`` on that make up a trial."""
    size = 0
    for index in range(start, len(plan.tensors)):
        if size >= TRIAL:
            return index
        size += plan.bytes_of(plan.tensors[index : index + 1])
    return len(plan.tensors)


def _bytes_of(plan: AveragePlan, piece: Piece) -> int:
    sources = plan.read_by(piece.parts[0].tensor)
    return piece.numel * sum(source.tensors[piece.parts[0].tensor.name].spec.dtype.itemsize for source in sources)
