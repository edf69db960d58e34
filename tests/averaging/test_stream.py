"""One result, whatever the threads, the pieces, the device and the layout of the files."""

import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.boxes import boxed_checkpoint
from support.measuring import cost
from support.references import mean_rounded_once
from support.runs import digest, plan_of, same, save_as, states_of_all_kinds
from swa_cli.averaging import Engine, average, plan_average
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import CheckpointError, OutputError
from swa_cli.formats import open_checkpoint

CONTAINERS = ["torch", "nested", "reversed", "safetensors", "shards 2", "shards 3"]


@pytest.mark.parametrize("axes", [(0,), (1,), None], ids=["rows", "columns", "boxes"])
@pytest.mark.parametrize("chunk", [3, 64, 1 << 18])
def test_tensors_in_several_places_give_the_same_average(tmp_path, axes, chunk):
    shapes = {"a": (6, 10), "b": (5,), "c": (4, 3, 5), "d": (1, 7), "e": (300, 4)}
    rng = np.random.default_rng(0)
    states = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(4)]
    boxed = [
        boxed_checkpoint(state, tmp_path / str(step), random.Random(step), axes) for step, state in enumerate(states)
    ]
    whole = save_as("torch", {name: torch.from_numpy(array) for name, array in states[1].items()}, tmp_path / "whole")
    plan = plan_average([boxed[0], open_checkpoint(whole), *boxed[2:]])

    average(plan, tmp_path / "average.safetensors", engine=Engine(chunk=chunk, threads=2))

    result = load_file(tmp_path / "average.safetensors")
    for name in shapes:
        assert same(result[name], mean_rounded_once([torch.from_numpy(state[name]) for state in states])), name


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


def test_a_file_cut_short_under_way_is_named(tmp_path):
    for step in range(3):
        save_file({"w": torch.randn(5000)}, tmp_path / f"{step}.safetensors")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints)
    os.truncate(tmp_path / "1.safetensors", 9000)

    with pytest.raises(CheckpointError, match=r"1\.safetensors was changed while it was read"):
        average(plan, tmp_path / "o.safetensors", engine=Engine(chunk=100))
    assert not (tmp_path / "o.safetensors").exists()


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


def test_an_output_that_does_not_fit_is_refused_at_once(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(1000)}, tmp_path / "1.pt")
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 3999))  # pyright: ignore

    with pytest.raises(OutputError, match=r"it takes [45],\d{3} bytes, and 3,999 are free there"):
        average(plan_of([tmp_path / "1.pt"]), tmp_path / "o.safetensors")
