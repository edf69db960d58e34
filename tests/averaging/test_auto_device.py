"""Whether CUDA is worth starting is found by trying."""

import pytest
import torch

from support.late_device import late_device
from support.runs import digest, plan_of
from swa_cli.averaging import auto_device, average, plan_average
from swa_cli.checkpoints import find_checkpoints


def run_for_auto(tmp_path, monkeypatch, seconds):
    """Average on what auto chooses, where each device takes so many seconds for a trial; also who did how much."""
    for step in range(3):
        torch.save({f"w{i}": torch.randn(50) for i in range(9)}, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    monkeypatch.setattr(auto_device, "WORTH_TRYING", 0)
    monkeypatch.setattr(auto_device, "TRIAL", 1000)
    monkeypatch.setattr(auto_device, "WARM_UP", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    done = []

    def run(device, tensors):
        done.append((device, len(tensors)))
        if isinstance(seconds[device], Exception):
            raise seconds[device]
        return seconds[device]

    return auto_device.run_on_the_faster(plan, run), done


@pytest.mark.parametrize(("on_cpu", "on_cuda", "rest"), [(1.0, 2.0, "cpu"), (2.0, 1.0, "cuda:0")])
def test_auto_gives_the_rest_to_the_faster(tmp_path, monkeypatch, on_cpu, on_cuda, rest):
    said, done = run_for_auto(tmp_path, monkeypatch, {"cpu": on_cpu, "cuda:0": on_cuda})

    assert done == [("cpu", 2), ("cuda:0", 1), ("cuda:0", 2), (rest, 4)]
    assert said == f"{rest} (measured: cpu {1.2e-6 / on_cpu:.1f} GB/s, cuda:0 {1.2e-6 / on_cuda:.1f} GB/s)"


def test_auto_does_without_a_device_that_fails(tmp_path, monkeypatch):
    full = torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
    said, done = run_for_auto(tmp_path, monkeypatch, {"cpu": 1.0, "cuda:0": full})

    assert done == [("cpu", 2), ("cuda:0", 1), ("cpu", 7)]
    assert said == "cpu (cuda:0 failed: CUDA out of memory.)"


def test_auto_shares_the_work_without_changing_a_byte(tmp_path, monkeypatch):
    for step in range(3):
        torch.save({f"w{i}": torch.randn(50) for i in range(9)}, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    average(plan, tmp_path / "cpu.safetensors")
    monkeypatch.setattr(auto_device, "WORTH_TRYING", 0)
    monkeypatch.setattr(auto_device, "TRIAL", 1000)
    monkeypatch.setattr(auto_device, "WARM_UP", 1)
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    result = average(plan, tmp_path / "auto.safetensors")

    assert digest(tmp_path / "auto.safetensors") == digest(tmp_path / "cpu.safetensors")
    assert "measured: cpu " in result.device


def test_a_small_job_is_not_worth_starting_cuda_for(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked for CUDA"))

    assert average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors").device == "cpu"
