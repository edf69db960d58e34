"""CUDA as an `Accelerator`."""

from collections.abc import Callable

import torch

from swa_cli.averaging.cuda_ring import Accelerator, Event


def cuda(name: str) -> Accelerator:
    """Return the CUDA device ``name``: ``cuda:1``, or ``cuda`` for the first."""
    device = torch.device("cuda:0" if name == "cuda" else name)
    return Accelerator(
        device=device,
        make_queue=lambda: _Stream(device),
        host_buffer=lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True),
    )


class _Stream:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def put(self, work: Callable[[], object]) -> None:
        # Without the first, leaving the second would make each thread start CUDA on the first device too.
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            work()

    def record(self) -> torch.cuda.Event:
        event = torch.cuda.Event(blocking=True)  # a thread that waits for it leaves the core to others
        event.record(self._stream)
        return event

    def wait(self, event: Event) -> None:
        assert isinstance(event, torch.cuda.Event)
        self._stream.wait_event(event)
