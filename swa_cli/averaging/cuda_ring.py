"""The back end for an accelerator: a ring of pinned host buffers between the files and the device.

Each worker has three queues of the device (CUDA streams): copies to it, arithmetic, copies back. While the device adds
one source, the next is being copied to it and the one after that is being read. Only events order the queues, so the
same code runs on a stand-in without CUDA.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from swa_cli.averaging.chunks import Piece, ReadPlan, fill, put
from swa_cli.averaging.context import AverageContext, NotFiniteError
from swa_cli.averaging.cpu import CpuWorker
from swa_cli.averaging.fingerprints import BitSums, starts_of_parts
from swa_cli.averaging.torch_kernels import forget_nan_bits, round_on_device, sums_on_device, widened
from swa_cli.formats import Dtype, real_dtype, reals

CHUNK = 1 << 20
"""Number of elements of a piece: 4 MiB of float32."""
WORKERS = 2
"""Threads, each with a ring of its own; both together stay below 256 MiB of device memory (see `Accelerator`)."""

_SLOTS = 4
_WIDEST = 8  # bytes of a real number


class Event(Protocol):
    """A point in a queue."""

    def synchronize(self) -> None:
        """Block this thread until the queue reaches that point."""
        ...


class Queue(Protocol):
    """A queue of work for the device, which runs asynchronously in the order of submission."""

    def put(self, work: Callable[[], object]) -> None:
        """Add work."""
        ...

    def record(self) -> Event:
        """Return an event that follows all work submitted so far."""
        ...

    def wait(self, event: Event) -> None:
        """Let later work wait for ``event`` of another queue."""
        ...


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A device and what is needed to use it.

    A worker holds on it 4 + 2 buffers of 8 bytes an element, the total of a mean, and what rounding needs for a moment
    (less than five times that): 12 × 8 MiB, so 192 MiB for two of them, besides what CUDA itself takes to start.
    """

    device: torch.device
    make_queue: Callable[[], Queue]
    host_buffer: Callable[[int], torch.Tensor]
    """Allocates so many bytes of memory for asynchronous copies (pinned memory)."""


class _Slot:
    """A host buffer and its counterpart on the device; each event is None until the slot's first use."""

    def __init__(self, accelerator: Accelerator, size: int) -> None:
        self.host = accelerator.host_buffer(size)
        self.device = torch.empty(size, dtype=torch.uint8, device=accelerator.device)
        self.copied: Event | None = None  # the host buffer may be overwritten
        self.used: Event | None = None  # the one on the device may be


class _Output:
    """Buffers for a rounded result, with the piece that is being copied back and the event at its end."""

    def __init__(self, accelerator: Accelerator, size: int) -> None:
        self.host = accelerator.host_buffer(size)
        self.device = torch.empty(size, dtype=torch.uint8, device=accelerator.device)
        self.pending: tuple[Piece, list[int] | None, Event] | None = None
        self._accelerator = accelerator
        self.make_room(1)

    def make_room(self, parts: int) -> None:
        """For notes on a piece: 1 if it is finite, then the sum of each part. Nothing may be pending."""
        self.notes_host = self._accelerator.host_buffer(8 * (1 + parts)).view(torch.int64)
        self.notes = torch.empty(1 + parts, dtype=torch.int64, device=self._accelerator.device)


class DeviceWorker:
    """Reads into the ring, lets the device add and round, and writes each result one piece later."""

    def __init__(self, job: AverageContext, accelerator: Accelerator, *, chunk: int = CHUNK) -> None:
        self._job = job
        self._to, self._combine, self._back = (accelerator.make_queue() for _ in range(3))
        self._all_slots = [_Slot(accelerator, chunk * _WIDEST) for _ in range(_SLOTS)]
        self._ring = cycle(self._all_slots)
        self._all_outputs = [_Output(accelerator, chunk * _WIDEST) for _ in range(2)]
        self._outputs = cycle(self._all_outputs)
        self._combining = job.plan.combiner.on_device(chunk, accelerator.device, allow_nonfinite=job.allow_nonfinite)
        self._on_cpu = CpuWorker(job, chunk=chunk)

    def submit(self, piece: Piece) -> None:
        """See `Worker`."""
        if piece.policy != "combined" or piece.dtype.itemsize == 1:
            self._on_cpu.submit(piece)
            return
        n = reals(piece.numel, piece.dtype)
        runs: ReadPlan = {}
        bits = BitSums(piece) if self._job.fingerprints.exact else None
        for number, source in enumerate(self._job.plan.sources):
            slot = next(self._ring)
            if slot.copied:
                slot.copied.synchronize()
            dtype = real_dtype(fill(piece, source, self._job.files, slot.host.numpy().data, runs))
            if bits:
                bits.add(slot.host.numpy()[: n * dtype.itemsize], dtype.itemsize)
            self._send(slot, n * dtype.itemsize)
            values = slot.device[: n * dtype.itemsize].view(_in_torch(dtype))
            self._combine.put(partial(self._add, number, values))
            slot.used = self._combine.record()
        self._receive(piece, n, bits.sums if bits else None)

    def finish(self) -> None:
        """See `Worker`."""
        for output in sorted(self._all_outputs, key=lambda output: output.pending[0].index if output.pending else -1):
            self._write(output)

    def _send(self, slot: _Slot, size: int) -> None:
        if slot.used:
            self._to.wait(slot.used)
        self._to.put(partial(slot.device[:size].copy_, slot.host[:size], non_blocking=True))
        slot.copied = self._to.record()
        self._combine.wait(slot.copied)

    def _receive(self, piece: Piece, n: int, exact_sums: list[int] | None) -> None:
        output = next(self._outputs)
        self._write(output)
        if len(output.notes) <= len(piece.parts):
            output.make_room(len(piece.parts))
        dtype = real_dtype(piece.dtype)
        size = n * dtype.itemsize
        device = output.device[:size]
        starts = starts_of_parts(piece, n)
        self._combine.put(partial(self._round, output, device.view(_in_torch(dtype)), n, starts))
        self._back.wait(self._combine.record())
        self._back.put(partial(output.host[:size].copy_, device, non_blocking=True))
        self._back.put(partial(output.notes_host.copy_, output.notes, non_blocking=True))
        output.pending = piece, exact_sums, self._back.record()

    def _add(self, number: int, values: torch.Tensor) -> None:
        self._combining.add(number, widened(values))

    def _round(self, output: _Output, out: torch.Tensor, n: int, starts: npt.NDArray[np.int64]) -> None:
        allow_nonfinite = self._job.allow_nonfinite
        total = self._combining.total(n)
        if allow_nonfinite:
            forget_nan_bits(total)
        output.notes[1 : 1 + len(starts)].copy_(sums_on_device(total, starts))
        output.notes[:1].copy_(round_on_device(self._combining.result(n), out, allow_nonfinite=allow_nonfinite))

    def _write(self, output: _Output) -> None:
        """Wait for the result that is being copied back and write it, which frees the buffers."""
        if output.pending is None:
            return
        (piece, exact_sums, copied), output.pending = output.pending, None
        copied.synchronize()
        finite, *sums = cast("list[int]", output.notes_host[: 1 + len(piece.parts)].tolist())
        if not finite:
            raise NotFiniteError(piece)
        self._job.fingerprints.add(piece, sums if exact_sums is None else exact_sums)
        put(piece, output.host.numpy().data, self._job.write)


def _in_torch(dtype: Dtype) -> torch.dtype:
    return getattr(torch, dtype.name)
