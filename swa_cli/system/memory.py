"""How much memory there is to be had."""

from contextlib import suppress
from pathlib import Path

import torch

from swa_cli.system.process_group import local_size

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that this process may take on ``device``; None where the system does not tell.

    Of the CPU's memory, what is available within the container's limits, by the number of ranks on this machine.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    known = [found for found in (_available(), *(_left(*files) for files in _LIMITS)) if found is not None]
    return min(known) // local_size() if known else None


def _available() -> int | None:
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _left(limit: str, used: str) -> int | None:
    with suppress(OSError, ValueError):  # "max": there is no limit
        return int(Path(limit).read_text(encoding="ascii")) - int(Path(used).read_text(encoding="ascii"))
    return None
