"""One result, whatever the threads, the pieces, the device and the layout of the files."""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support.late_device import late_device
from support.measuring import cost
from support.references import mean_rounded_once
from support.runs import digest, same, save_as, states_of_all_kinds
from swa_cli.averaging import Engine, auto_device, average, cuda_ring, plan_average
from swa_cli.averaging.chunks import Piece, cut
from swa_cli.averaging.context import AverageContext
from swa_cli.averaging.fingerprints import Fingerprints
from swa_cli.averaging.plan import AveragePlan
from swa_cli.averaging.sampling import choose_places
from swa_cli.averaging.workers import work
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import CheckpointError, DeviceError, NonFiniteError, OutputError
from swa_cli.formats import OpenFiles, open_checkpoint
from swa_cli.formats.safetensors.header import safetensors_entries

CONTAINERS = ["torch", "nested", "reversed", "safetensors", "shards 2", "shards 3"]


def plan_of(paths: list[Path]) -> AveragePlan:
    return plan_average([open_checkpoint(path) for path in paths])


def test_layouts_and_containers_change_nothing(tmp_path):
    states = states_of_all_kinds(6)
    alike = [save_as("torch", state, tmp_path / f"alike-{step}") for step, state in enumerate(states)]
    mixed = [
        save_as(container, state, tmp_path / f"mixed-{step}")
        for step, (container, state) in enumerate(zip(CONTAINERS, states, strict=True))
    ]

    average(plan_of(alike), tmp_path / "alike.safetensors")
    average(plan_of(mixed), tmp_path / "mixed.safetensors")

    result = load_file(tmp_path / "mixed.safetensors")
    for name, tensor in load_file(tmp_path / "alike.safetensors").items():
        assert same(result[name], tensor), name
        if tensor.dtype in {torch.float32, torch.float64, torch.float16, torch.bfloat16}:
            assert same(tensor, mean_rounded_once([state[name].contiguous() for state in states])), name
    assert set(result) == set(states[0]) - {"h.tied_too"}


@pytest.mark.parametrize("container", CONTAINERS)
def test_threads_pieces_and_the_order_of_arguments_change_no_byte(tmp_path, container):
    for step, state in enumerate(states_of_all_kinds()):
        save_as(container, state, tmp_path / f"epoch-{step}")
    paths = sorted(path for path in tmp_path.iterdir())
    digests = set()
    for threads, chunk in [(None, None), (1, 8), (1, 50), (2, 97), (3, 1 << 20), (8, 30)]:
        random.shuffle(paths)
        output = tmp_path / "out.safetensors"
        plan = plan_average(find_checkpoints(paths).checkpoints)
        average(plan, output, engine=Engine(threads=threads, chunk=chunk))
        digests.add(digest(output))
        output.unlink()

    assert len(digests) == 1


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


def test_a_device_without_memory_is_an_error_of_its_own(tmp_path, monkeypatch):
    def full(name):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", full)

    with pytest.raises(DeviceError, match=r"device cuda:0 failed: CUDA out of memory\. Use --device cpu"):
        average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors", engine=Engine(device="cuda:0"))
    assert not (tmp_path / "o.safetensors").exists()


def test_a_small_job_is_not_worth_starting_cuda_for(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked for CUDA"))

    assert average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors").device == "cpu"


@given(
    numels=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    transposed=st.lists(st.booleans(), min_size=12, max_size=12),
    chunk=st.integers(1, 100),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_small_and_make_up_every_tensor_once(tmp_path, numels, transposed, chunk):
    state = {
        f"t{i}": torch.arange(4.0 * n).view(n, 4).t() if flip else torch.arange(1.0 * n)
        for i, (n, flip) in enumerate(zip(numels, transposed, strict=False))
    }
    torch.save(state, tmp_path / "1.pt")
    plan = plan_of([tmp_path / "1.pt"])
    _, offsets = safetensors_entries({tensor.name: tensor.spec for tensor in plan.tensors})

    pieces = list(cut(plan, plan.tensors, offsets, chunk=chunk))

    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert all(0 < piece.numel <= chunk for piece in pieces)
    assert all(sum(part.numel for part in piece.parts) == piece.numel for piece in pieces)
    (tmp_path / "o.safetensors").unlink(missing_ok=True)
    average(plan, tmp_path / "o.safetensors", engine=Engine(chunk=chunk))
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(tmp_path / "o.safetensors").items())


def test_many_small_tensors_are_read_by_few_calls(tmp_path, monkeypatch):
    for step in range(2):
        save_file({f"layer.{i}": torch.randn(8) for i in range(1000)}, tmp_path / f"{step}.safetensors")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    calls = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: calls.append(1) or real(*arguments))

    average(plan, tmp_path / "o.safetensors")

    assert len(calls) == 2 * (1 + len(choose_places(plan)))


def test_the_first_of_several_failures_is_told_whatever_the_threads(tmp_path):
    states = [{"w": torch.zeros(1000), "z": torch.zeros(1000)} for _ in range(2)]
    states[0]["z"][7] = torch.inf
    states[1]["w"][900] = torch.nan
    for step, state in enumerate(states):
        torch.save(state, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    messages = set()
    for threads in (1, 2, 4, 8) * 5:
        with pytest.raises(NonFiniteError) as caught:
            average(plan, tmp_path / "o.safetensors", engine=Engine(threads=threads, chunk=10))
        messages.add(str(caught.value))

    assert len(messages) == 1
    assert "1.pt: tensor w holds nan at index [900]" in messages.pop()


def test_a_file_cut_short_under_way_is_named(tmp_path):
    for step in range(3):
        save_file({"w": torch.randn(5000)}, tmp_path / f"{step}.safetensors")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    os.truncate(tmp_path / "1.safetensors", 9000)

    with pytest.raises(CheckpointError, match=r"1\.safetensors was changed while it was read"):
        average(plan, tmp_path / "o.safetensors", engine=Engine(chunk=100))
    assert not (tmp_path / "o.safetensors").exists()


class Recording:
    """A worker that only takes note, or dies at one of the pieces."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.dies_at = dies_at

    def submit(self, piece) -> None:
        self.seen.append(piece.index)
        if piece.index == self.dies_at:
            raise SystemExit(3)

    def finish(self) -> None: ...


def numbered(n: int) -> list[Piece]:
    return [Piece(index=i, policy="mean", dtype=np.dtype("f4"), parts=(), numel=0) for i in range(n)]


def test_a_worker_that_dies_of_no_ordinary_error_ends_all():
    worker = Recording(dies_at=2)

    with pytest.raises(SystemExit):
        work(numbered(100), [worker], advance=lambda _: None, bytes_of=lambda _: 0)
    assert worker.seen == [0, 1, 2]


def test_a_signal_ends_the_work_after_the_pieces_under_way():
    def interrupt():
        while not worker.seen:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    class Slow(Recording):
        def submit(self, piece) -> None:
            super().submit(piece)
            time.sleep(0.2)
            self.done = len(self.seen)

    worker = Slow()
    signalling = threading.Thread(target=interrupt)
    signalling.start()

    with pytest.raises(KeyboardInterrupt):
        work(numbered(1000), [worker], advance=lambda _: None, bytes_of=lambda _: 0)
    done = worker.done
    signalling.join()
    assert done == len(worker.seen) < 1000  # the piece under way was waited for
    time.sleep(0.5)
    assert len(worker.seen) == done


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_five_hundred_checkpoints_with_few_descriptors(tmp_path, suffix):
    for step in range(500):
        state = {"w": torch.full((3,), float(step)), "n": torch.tensor(step)}
        path = tmp_path / f"{step}.{suffix}"
        torch.save(state, path) if suffix == "pt" else save_file(state, path)
    command = [sys.executable, "-m", "swa_cli", "average", tmp_path, "-o", tmp_path / "o.safetensors"]

    done = subprocess.run(
        [*command, "--integers", "mean-round"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
    )

    assert (done.returncode, done.stderr) == (0, "")
    result = load_file(tmp_path / "o.safetensors")
    assert result["w"].tolist() == [249.5] * 3
    assert result["n"] == 250  # 249.5, to the even one


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_of_a_checkpoint_only_the_weights_are_read(tmp_path, kind):
    weights = 0
    for folder, scale in {"small": 1, "large": 100}.items():
        (tmp_path / folder).mkdir()
        for step in range(3):
            state = {f"layer.{i}.weight": torch.randn(50, 10 * scale).t() for i in range(20)}
            moments = {i: {"m": torch.randn(2, 500 * scale)} for i in range(20)}
            weights = sum(tensor.nbytes for tensor in state.values()) * 3
            contents = {"optimizer": moments, "state_dict": state, "epoch": step}
            torch.save(contents, tmp_path / folder / f"{step}.pt", _use_new_zipfile_serialization=kind == "zip")

    read = cost("rchar", tmp_path / "small", tmp_path / "large")

    assert weights <= read <= 1.05 * weights


def test_the_device_holds_less_than_256_mib_whatever_the_model(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "1.pt")
    plan = plan_of([tmp_path / "1.pt"])
    prints = Fingerprints(plan)
    job = AverageContext(
        plan=plan, files=OpenFiles(), write=lambda *_: None, allow_nonfinite=False, fingerprints=prints
    )
    worker = cuda_ring.DeviceWorker(job, late_device(0)("cuda"))

    held = sum(slot.device.nbytes for slot in [*worker._all_slots, *worker._all_outputs]) + worker._total.nbytes
    for_rounding = 5 * worker._total.nbytes  # float64 bits, float32, what it was rounded to, and flags

    assert held >= 7 * worker._total.nbytes
    assert cuda_ring.WORKERS * (held + for_rounding) <= 256 << 20


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16"])
@pytest.mark.parametrize("value", [1000.0, 480.0, 70000.0, float("inf"), float("nan")])
def test_what_is_too_large_is_the_same_error_or_the_same_bytes_on_a_device(tmp_path, monkeypatch, dtype, value):
    torch.save({"w": torch.tensor([1.0, value])}, tmp_path / "1.pt")
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    plan = plan_average([open_checkpoint(tmp_path / "1.pt")], dtype=dtype)

    def outcome(device: str, **options) -> str:
        output = tmp_path / f"{device}.safetensors"
        try:
            average(plan, output, engine=Engine(device=device), overwrite=True, **options)
        except NonFiniteError as error:
            return str(error)
        return digest(output)

    assert outcome("cuda") == outcome("cpu")
    assert outcome("cuda", allow_nonfinite=True) == outcome("cpu", allow_nonfinite=True)


def test_a_file_that_is_replaced_meanwhile_is_noticed(tmp_path):
    for step in range(2):
        save_file({"a": torch.ones(50), "b": torch.ones(50)}, tmp_path / f"{step}.safetensors")
    plan = plan_average([open_checkpoint(tmp_path / f"{step}.safetensors") for step in range(2)])
    save_file({"a": torch.ones(50), "b": torch.ones(50), "aa": torch.ones(9)}, tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "1.safetensors")

    with pytest.raises(CheckpointError, match=r"1\.safetensors was changed while it was read"):
        average(plan, tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_a_file_that_is_written_to_meanwhile_is_noticed(tmp_path):
    for step in range(2):
        save_file({"a": torch.ones(50)}, tmp_path / f"{step}.safetensors")
    plan = plan_average([open_checkpoint(tmp_path / f"{step}.safetensors") for step in range(2)])

    def write(amount: int) -> None:
        os.utime(tmp_path / "0.safetensors", (1, 1))

    @contextlib.contextmanager
    def track(description, *, total, unit):
        yield write

    with pytest.raises(CheckpointError, match=r"0\.safetensors was changed while it was read"):
        average(plan, tmp_path / "o.safetensors", track=track)
    assert not (tmp_path / "o.safetensors").exists()


def test_small_tensors_of_two_dtypes_become_one(tmp_path):
    for step in range(2):
        state = {f"w{i}": torch.full((3,), float(i + step), dtype=torch.float16 if i % 2 else None) for i in range(6)}
        torch.save(state, tmp_path / f"{step}.pt")

    plan = plan_average(find_checkpoints([tmp_path]).checkpoints, dtype="float32")
    average(plan, tmp_path / "o.safetensors")

    result = load_file(tmp_path / "o.safetensors")
    assert {name: tensor.tolist() for name, tensor in result.items()} == {f"w{i}": [i + 0.5] * 3 for i in range(6)}


def test_more_tensors_lie_in_one_piece_than_one_call_can_read(tmp_path):
    states = [{f"t{i}": torch.randn(3) for i in range(3000)} for _ in range(2)]
    for step, state in enumerate(states):
        torch.save(dict(reversed(state.items())), tmp_path / f"{step}.pt")

    average(plan_average(find_checkpoints([tmp_path]).checkpoints), tmp_path / "o.safetensors")

    result = load_file(tmp_path / "o.safetensors")
    assert all(same(result[name], mean_rounded_once([state[name] for state in states])) for name in states[0])


def test_columns_are_read_by_few_calls(tmp_path, monkeypatch):
    base = torch.randn(20_000, 30)
    torch.save({"columns": base[:, 4:10]}, tmp_path / "1.pt")
    calls = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: calls.append(1) or real(*arguments))

    average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors")

    assert len(calls) < 10
    assert torch.equal(load_file(tmp_path / "o.safetensors")["columns"], base[:, 4:10])


def test_pieces_of_one_element_hold_a_complex_number(tmp_path):
    torch.save({"c": torch.randn(5, dtype=torch.complex64)}, tmp_path / "1.pt")

    average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors", engine=Engine(chunk=1))

    assert torch.equal(load_file(tmp_path / "o.safetensors")["c"], torch.load(tmp_path / "1.pt")["c"])


def test_an_output_that_does_not_fit_is_refused_at_once(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(1000)}, tmp_path / "1.pt")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 3999))  # pyright: ignore

    with pytest.raises(OutputError, match=r"it takes [45],\d{3} bytes, and 3,999 are free there"):
        average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors")
