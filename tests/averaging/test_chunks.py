"""How tensors are cut into pieces and read."""

import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support.references import mean_rounded_once
from support.runs import plan_of, same
from swa_cli.averaging import Engine, average, plan_average
from swa_cli.averaging.chunks import cut
from swa_cli.averaging.sampling import choose_places
from swa_cli.checkpoints import find_checkpoints
from swa_cli.formats.safetensors.header import safetensors_entries


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
