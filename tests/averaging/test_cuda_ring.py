"""The device back end, with a stand-in for the device."""

import pytest
import torch

from support.late_device import late_device
from support.runs import digest, plan_of, save_as, states_of_all_kinds
from swa_cli.averaging import Engine, average, cuda_ring, plan_average
from swa_cli.averaging.context import AverageContext
from swa_cli.averaging.fingerprints import Fingerprints
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import DeviceError, NonFiniteError
from swa_cli.formats import OpenFiles, open_checkpoint


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threads", [1, 2])
def test_the_device_gives_the_same_bytes_however_late_it_works(tmp_path, monkeypatch, seed, threads):
    for step, state in enumerate(states_of_all_kinds(7)):
        save_as("torch", state, tmp_path / f"epoch-{step}")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    average(plan, tmp_path / "cpu.safetensors")
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(seed))

    result = average(plan, tmp_path / "device.safetensors", engine=Engine(device="cuda", threads=threads, chunk=40))

    assert result.device == "cuda"
    assert digest(tmp_path / "device.safetensors") == digest(tmp_path / "cpu.safetensors")


def test_the_device_names_the_first_piece_that_is_not_finite(tmp_path, monkeypatch):
    states = [{"w": torch.zeros(400)} for _ in range(3)]
    states[1]["w"][[130, 390]] = torch.nan
    for step, state in enumerate(states):
        torch.save(state, tmp_path / f"{step}.pt")
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)

    with pytest.raises(NonFiniteError, match=r"1\.pt: tensor w holds nan at index \[130\]"):
        average(plan, tmp_path / "o.safetensors", engine=Engine(device="cuda", chunk=20))
    assert not (tmp_path / "o.safetensors").exists()


def test_a_device_without_memory_is_an_error_of_its_own(tmp_path, monkeypatch):
    def full(name):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", full)

    with pytest.raises(DeviceError, match=r"device cuda:0 failed: CUDA out of memory\. Use `device='cpu'`"):
        average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors", engine=Engine(device="cuda:0"))
    assert not (tmp_path / "o.safetensors").exists()


def test_the_device_holds_less_than_256_mib_whatever_the_model(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    plan = plan_of([tmp_path / "1.pt"])
    prints = Fingerprints(plan)
    job = AverageContext(plan=plan, files=OpenFiles(), write=lambda *_: None, fingerprints=prints)
    worker = cuda_ring.DeviceWorker(job, late_device(0)("cuda"))

    combining = plan.combiner.on_device(cuda_ring.CHUNK, torch.device("cpu"), allow_nonfinite=False)
    total = combining.total(cuda_ring.CHUNK).nbytes
    held = sum(slot.device.nbytes for slot in [*worker._all_slots, *worker._all_outputs]) + total
    for_rounding = 5 * total  # float64 bits, float32, what it was rounded to, and flags

    assert held >= 7 * total
    assert cuda_ring.WORKERS * (held + for_rounding) <= 256 << 20


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16"])
@pytest.mark.parametrize("value", [1000.0, 480.0, 70000.0, float("inf"), float("nan")])
def test_what_is_too_large_is_the_same_error_or_the_same_bytes_on_a_device(tmp_path, monkeypatch, dtype, value):
    torch.save({"w": torch.tensor([1.0, value])}, tmp_path / "1.pt")
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    source = open_checkpoint(tmp_path / "1.pt")

    def outcome(device: str, **options) -> str:
        plan = plan_average([source], dtype=dtype, **options)
        output = tmp_path / f"{device}.safetensors"
        try:
            average(plan, output, engine=Engine(device=device), overwrite=True)
        except NonFiniteError as error:
            return str(error)
        return digest(output)

    assert outcome("cuda") == outcome("cpu")
    assert outcome("cuda", allow_nonfinite=True) == outcome("cpu", allow_nonfinite=True)
