"""The fingerprint of a tensor: one for all threads, pieces and devices, another where one bit of a source is."""

import pytest
import torch
from safetensors.torch import load_file

from support.late_device import late_device
from support.references import exact_fingerprint, fingerprint_of_mean
from support.runs import save_as, states_of_all_kinds
from swa_cli.averaging import Engine, auto_device, average, plan_average
from swa_cli.checkpoints import find_checkpoints

WEIGHTS = [0.3, 1, 2, 1 / 3, 7.7]


def fingerprints(folder, output, *, engine=None, exact=False, **options):
    plan = plan_average(find_checkpoints([folder]).checkpoints, allow_nonfinite=True, **options)
    engine = engine or Engine(device="cpu")
    result = average(plan, output, engine=engine, checksum=exact, overwrite=True)
    assert set(result.fingerprints) == {tensor.name for tensor in plan.tensors}
    return result.fingerprints


@pytest.fixture
def run(tmp_path):
    """The states of a run of every kind of tensor, and the folder that holds it."""
    states = states_of_all_kinds(5)
    (tmp_path / "run").mkdir()
    for step, state in enumerate(states):
        save_as("torch", state, tmp_path / "run" / f"epoch-{step}")
    return states, tmp_path / "run"


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_it_is_the_sum_of_the_bits(tmp_path, run, weights, exact):
    states, folder = run
    found = fingerprints(folder, tmp_path / "o.safetensors", weights=weights, exact=exact)

    for name, fingerprint in found.items():
        tensors = [state[name].contiguous() for state in states]
        if tensors[0].is_complex() or tensors[0].is_floating_point():
            totals = fingerprint_of_mean(tensors, weights or [1.0] * 5)
            assert fingerprint == (exact_fingerprint(tensors) if exact else totals), name
        else:
            assert fingerprint == sum(tensors[-1].view(-1).view(torch.uint8).tolist()), name
    assert found["n.empty"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_threads_pieces_and_the_device_change_nothing(tmp_path, run, monkeypatch, weights, exact):
    folder = run[1]
    expected = fingerprints(folder, tmp_path / "o.safetensors", weights=weights, exact=exact)
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(3))

    for engine in [
        *(Engine(device="cpu", threads=threads, chunk=chunk) for threads, chunk in [(1, 8), (2, 97), (3, 50)]),
        *(Engine(device="cuda", threads=threads, chunk=chunk) for threads, chunk in [(1, 2), (2, 40), (1, 1000)]),
    ]:
        assert fingerprints(folder, tmp_path / "o.safetensors", engine=engine, weights=weights, exact=exact) == expected


def test_a_second_attempt_on_the_cpu_counts_nothing_twice(tmp_path, monkeypatch):
    def fail_late(name):
        accelerator = late_device(0)(name)
        real, left = accelerator.host_buffer, [40]

        def host_buffer(size):
            left[0] -= 1
            if left[0] < 0:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(size)

        object.__setattr__(accelerator, "host_buffer", host_buffer)
        return accelerator

    (tmp_path / "run").mkdir()
    for step in range(3):
        torch.save({f"w{i}": torch.randn(50 + i) for i in range(9)}, tmp_path / "run" / f"{step}.pt")
    expected = fingerprints(tmp_path / "run", tmp_path / "o.safetensors")
    monkeypatch.setattr(auto_device, "WORTH_TRYING", 0)
    monkeypatch.setattr(auto_device, "TRIAL", 1000)
    monkeypatch.setattr(auto_device, "WARM_UP", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    shared = fingerprints(tmp_path / "run", tmp_path / "o.safetensors", engine=Engine())
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", fail_late)
    after_failure = fingerprints(tmp_path / "run", tmp_path / "o.safetensors", engine=Engine())

    assert shared == expected
    assert after_failure == expected


def tensors(path) -> dict[str, bytes]:
    return {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=lambda dtype: str(dtype)[6:])
def test_one_bit_of_one_source_changes_it_though_the_mean_rounds_it_away(tmp_path, dtype):
    states = [{"w": torch.randn(300).to(dtype), "other": torch.randn(4)} for _ in range(10)]
    (tmp_path / "run").mkdir()
    for step, state in enumerate(states):
        torch.save(state, tmp_path / "run" / f"{step}.pt")
    before = fingerprints(tmp_path / "run", tmp_path / "before.safetensors")
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    unchanged = 0
    for at in range(0, 300, 30):
        flipped = {name: tensor.clone() for name, tensor in states[4].items()}
        flipped["w"].view(bits)[at] ^= 1
        torch.save(flipped, tmp_path / "run" / "4.pt")

        after = fingerprints(tmp_path / "run", tmp_path / "after.safetensors")

        assert after["w"] != before["w"]
        assert after["other"] == before["other"]
        unchanged += tensors(tmp_path / "after.safetensors") == tensors(tmp_path / "before.safetensors")
    assert unchanged > 0


@pytest.mark.parametrize("integers", ["agree", "last", "first", "mean-round"])
def test_one_bit_of_an_integer_changes_it(tmp_path, integers):
    (tmp_path / "run").mkdir()
    found = []
    for value in (-6, -5):
        for step in range(3):
            torch.save({"ids": torch.tensor([2**62, value, 3])}, tmp_path / "run" / f"{step}.pt")
        found.append(fingerprints(tmp_path / "run", tmp_path / "o.safetensors", integers=integers)["ids"])

    assert found[0] != found[1]
    if integers == "mean-round":
        assert found[0] == 3 * (2**62 - 6 + 3) % 2**64


@pytest.mark.parametrize("others", [0.0, torch.inf, 1e30])
def test_no_value_of_another_source_hides_a_bit(tmp_path, others):
    """Not of a zero beside large numbers, nor of anything beside infinity."""
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        torch.save({"w": torch.full((3,), others)}, tmp_path / "run" / f"{step}.pt")
    found = set()
    for bit in (None, *range(32)):
        values = torch.zeros(3)
        if bit is not None:
            values.view(torch.int32)[1] ^= 1 << bit if bit < 31 else -(2**31)
        torch.save({"w": values}, tmp_path / "run" / "0.pt")
        found.add(fingerprints(tmp_path / "run", tmp_path / "o.safetensors", exact=True)["w"])

    assert len(found) == 33


def test_nan_gives_one_fingerprint_whatever_its_bits(tmp_path, monkeypatch):
    """The bits of a NaN, and of infinity less infinity, are up to the device; what is let through may not be."""
    found = set()
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    (tmp_path / "run").mkdir()
    for pattern in (0x7FC00000, 0x7FC00123, -0x3FFFFF):
        values = torch.tensor([pattern, 0x7F800000, 0x3F800000], dtype=torch.int32).view(torch.float32)
        assert values[0].isnan()
        torch.save({"w": values}, tmp_path / "run" / "0.pt")
        torch.save({"w": torch.tensor([1.0, -torch.inf, 1.0])}, tmp_path / "run" / "1.pt")
        for device in ("cpu", "cuda"):
            engine = Engine(device=device)
            found.add(fingerprints(tmp_path / "run", tmp_path / "o.safetensors", engine=engine)["w"])

    assert len(found) == 1
