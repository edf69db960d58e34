"""The CUDA back end on a real device, where there is one."""

import hashlib

import pytest
import torch

from swa_cli.averaging import Engine, average, plan_average
from swa_cli.averaging.cuda_ring import WORKERS
from swa_cli.checkpoints import find_checkpoints

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("n", [3, 49])
@pytest.mark.parametrize("chunk", [1000, None])
def test_cuda_and_cpu_give_the_same_bytes(tmp_path, n, chunk):
    for step in range(n):
        wide = torch.randn(3000, dtype=torch.float64)
        state = {str(dtype): wide.to(dtype) for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
        state |= {
            "f8": wide.to(torch.float8_e4m3fn),
            "c": torch.randn(500, dtype=torch.complex64),
            "n": torch.tensor(1),
        }
        torch.save(state, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path / f"{step}.pt" for step in range(n)]).checkpoints)

    digests = set()
    for device in ("cpu", "cuda"):
        average(plan, tmp_path / f"{device}.safetensors", engine=Engine(device=device, chunk=chunk), overwrite=True)
        digests.add(hashlib.sha256((tmp_path / f"{device}.safetensors").read_bytes()).hexdigest())

    assert len(digests) == 1


def test_cuda_holds_less_than_256_mib(tmp_path):
    for step in range(3):
        torch.save({"w": torch.randn(50_000_000).bfloat16()}, tmp_path / f"{step}.pt")
    torch.cuda.reset_peak_memory_stats()

    average(
        plan_average(find_checkpoints([tmp_path]).checkpoints), tmp_path / "o.safetensors", engine=Engine(device="cuda")
    )

    assert WORKERS == 2
    assert torch.cuda.max_memory_reserved() <= 256 << 20
