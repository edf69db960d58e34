"""What becomes of integers, tied weights, and entries that are not tensors."""

import json
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import MismatchError, OutputError
from swa_cli.formats import open_checkpoint
from swa_cli.user.model import load_checkpoint


def averaged(folder, output, **options):
    average(plan_average(find_checkpoints([folder]).checkpoints, **options), output, overwrite=True)
    return load_file(output)


def save_all(folder, states):
    folder.mkdir(exist_ok=True)
    for step, state in enumerate(states):
        torch.save(state, folder / f"epoch-{step}.pt")
    return folder


@pytest.mark.parametrize(
    ("integers", "ids", "tracked", "mask"),
    [
        ("last", [5, -7], 30, [False, True]),
        ("first", [1, -2], 10, [True, True]),
        ("mean-round", [4, -4], 20, [False, True]),
    ],
)
def test_integers_are_taken_as_asked(tmp_path, integers, ids, tracked, mask):
    states = [
        {"ids": torch.tensor([1, -2]), "bn.num_batches_tracked": torch.tensor(10), "mask": torch.tensor([True, True])},
        {"ids": torch.tensor([5, -3]), "bn.num_batches_tracked": torch.tensor(20), "mask": torch.tensor([False, True])},
        {"ids": torch.tensor([5, -7]), "bn.num_batches_tracked": torch.tensor(30), "mask": torch.tensor([False, True])},
    ]

    result = averaged(save_all(tmp_path / "c", states), tmp_path / "o.safetensors", integers=integers)

    assert result["ids"].tolist() == ids
    assert result["bn.num_batches_tracked"] == tracked
    assert result["mask"].tolist() == mask


INTEGERS = {
    torch.int8: (-(2**7), 2**7 - 1),
    torch.uint8: (0, 2**8 - 1),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
    torch.int64: (-(2**63), 2**63 - 1),
    torch.uint16: (0, 2**16 - 1),
    torch.uint32: (0, 2**32 - 1),
    torch.uint64: (0, 2**64 - 1),
}


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: str(dtype)[6:])
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rounded_mean_is_exact_at_the_ends_of_the_range(tmp_path, dtype, data):
    low, high = INTEGERS[dtype]
    value = st.integers(low, high) | st.sampled_from([low, low + 1, high - 1, high])
    n = data.draw(st.integers(1, 5))
    rows = [data.draw(st.lists(value, min_size=6, max_size=6)) for _ in range(n)]
    folder = tmp_path / "c"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()

    save_all(folder, [{"step": torch.tensor(i), "x": torch.tensor(row, dtype=dtype)} for i, row in enumerate(rows)])
    result = averaged(folder, tmp_path / "o.safetensors", integers="mean-round")["x"]

    assert result.tolist() == [round(Fraction(sum(column), n)) for column in zip(*rows, strict=True)]


def test_integers_that_differ_are_an_error_that_names_the_flag(tmp_path):
    folder = save_all(tmp_path / "c", [{"pad": torch.arange(9), "ids": torch.tensor([[1, 2 + i]])} for i in range(2)])

    with pytest.raises(
        MismatchError, match=r"tensor ids \(int64 \[1, 2\]\) .* at index \[0, 1\]: 2 in .*-0\.pt, 3 in .*`integers`"
    ):
        averaged(folder, tmp_path / "o.safetensors")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def tied_run(folder, container):
    folder.mkdir()
    models = [Tied() for _ in range(3)]
    for step, model in enumerate(models):
        with torch.no_grad():
            model.embed.weight.fill_(float(step))
        if container == "torch":
            torch.save(model.state_dict(), folder / f"{step}.pt")
        elif container == "legacy":
            torch.save(model.state_dict(), folder / f"{step}.pt", _use_new_zipfile_serialization=False)
        else:
            save_model(model, str(folder / f"{step}.safetensors"))
    return models


@pytest.mark.parametrize("container", ["torch", "legacy", "safetensors"])
def test_tied_weights_are_averaged_once_and_load_into_the_model_that_ties_them(tmp_path, container):
    models = tied_run(tmp_path / "c", container)

    stored = averaged(tmp_path / "c", tmp_path / "o.safetensors")

    by_safetensors, by_us = Tied(), Tied()
    load_model(by_safetensors, str(tmp_path / "o.safetensors"))
    load_checkpoint(by_us, open_checkpoint(tmp_path / "o.safetensors"))
    for model in (by_safetensors, by_us):
        assert model.head.weight is model.embed.weight
        assert torch.equal(model.embed.weight, torch.ones(5, 3))
        expected = torch.stack([m.body.weight.double() for m in models]).mean(0).float()
        assert torch.equal(model.body.weight, expected)
    assert len([name for name in stored if name in {"embed.weight", "head.weight"}]) == 1


def test_what_is_tied_in_some_files_only_is_averaged_twice(tmp_path):
    shared = torch.zeros(2)
    torch.save({"a": shared, "b": shared}, tmp_path / "0.pt")
    torch.save({"a": torch.ones(2), "b": torch.full((2,), 4.0)}, tmp_path / "1.pt")

    result = averaged(tmp_path, tmp_path / "o.safetensors")

    assert result["a"].tolist() == [0.5, 0.5]
    assert result["b"].tolist() == [2, 2]


def test_ties_are_said_and_kept_by_later_steps(tmp_path):
    tied_run(tmp_path / "c", "torch")
    plan = plan_average(find_checkpoints([tmp_path / "c"]).checkpoints)
    average(plan, tmp_path / "a.safetensors")

    again = plan_average([open_checkpoint(tmp_path / "a.safetensors")])

    assert any("tied tensors are averaged and written once: head.weight = embed.weight" in n for n in plan.notices)
    assert again.tied == plan.tied
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata()["head.weight"] == "embed.weight"


class WithExtra(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen = 0

    def get_extra_state(self):
        return {"seen": self.seen, "names": ["a"], "scale": None}

    def set_extra_state(self, state):
        assert state["names"] == ["a"]
        self.seen = state["seen"]


def test_extra_state_is_taken_from_the_newest_and_loaded(tmp_path):
    models = [WithExtra() for _ in range(3)]
    for step, model in enumerate(models):
        model.seen = 100 * step
    save_all(tmp_path / "c", [model.state_dict() for model in models])
    plan = plan_average(find_checkpoints([tmp_path / "c"]).checkpoints)

    average(plan, tmp_path / "o.safetensors")

    fresh = WithExtra()
    load_checkpoint(fresh, open_checkpoint(tmp_path / "o.safetensors"))
    assert fresh.seen == 200
    assert "that are not tensors are taken from the newest file: _extra_state." in plan.notices[0]
    with safe_open(tmp_path / "o.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["extra_state"]) == {
            "_extra_state": {"seen": 200, "names": ["a"], "scale": None}
        }


def test_entries_that_cannot_be_kept_are_left_out_and_said(tmp_path):
    torch.save({"w": torch.ones(1), "_extra_state": torch.Size([1]), "x": {1, 2}}, tmp_path / "1.pt")

    plan = plan_average([open_checkpoint(tmp_path / "1.pt")])

    assert [tensor.name for tensor in plan.tensors] == ["w"]
    assert any("neither tensors nor plain values are left out: _extra_state, x." in n for n in plan.notices)


def test_extra_state_that_is_a_tensor_is_the_newest_whatever_its_size(tmp_path):
    states = [{"w": torch.ones(2), "fp8._extra_state": torch.arange(3 + step, dtype=torch.uint8)} for step in range(3)]

    result = averaged(save_all(tmp_path / "c", states), tmp_path / "o.safetensors")

    assert result["fp8._extra_state"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_extra_state_keeps_its_own_dtype(tmp_path, dtype):
    for step in range(2):
        state = {"w": torch.ones(2), "fp8._extra_state": torch.tensor([2.5, 3.5 + step])}
        torch.save(state, tmp_path / f"{step}.pt")

    result = averaged(tmp_path, tmp_path / "o.safetensors", dtype=dtype)

    assert result["w"].dtype == getattr(torch, dtype)
    assert torch.equal(result["fp8._extra_state"], torch.tensor([2.5, 4.5]))


def test_a_name_that_metadata_merely_mention_is_no_tie(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "1.safetensors", metadata={"author": "someone", "best": "yes"})

    assert open_checkpoint(tmp_path / "1.safetensors").keys() == ("w",)


def test_metadata_that_happen_to_equal_a_tensors_name_are_no_tie(tmp_path):
    state = {"0": torch.ones(1), "1": torch.ones(2), "pt": torch.ones(3)}
    save_file(state, tmp_path / "1.safetensors", metadata={"epoch": "1", "format": "pt", "step": "0"})

    assert set(open_checkpoint(tmp_path / "1.safetensors").keys()) == set(state)


def test_tied_names_that_the_metadata_reserve_are_written_themselves(tmp_path):
    shared = torch.ones(2)
    torch.save({"a": shared, "format": shared, "swa_cli": shared, "step": shared}, tmp_path / "1.pt")

    assert set(averaged(tmp_path / "1.pt", tmp_path / "o.safetensors")) == {"a", "format", "swa_cli", "step"}


def test_a_tie_between_two_policies_is_undone(tmp_path):
    for step in (1, 3):
        both, counter = torch.full((4,), float(step)), torch.tensor(step)
        state = {"a._extra_state": both, "a.weight": both, "bn.num_batches_tracked": counter, "seen": counter}
        torch.save(state, tmp_path / f"{step}.pt")

    with pytest.raises(MismatchError, match="tensor seen"):
        averaged(tmp_path, tmp_path / "o.safetensors")
    result = averaged(tmp_path, tmp_path / "o.safetensors", integers="last")
    assert result["a.weight"].tolist() == [2] * 4
    assert result["a._extra_state"].tolist() == [3] * 4


def test_a_tied_name_that_is_no_unicode_is_refused(tmp_path):
    shared = torch.ones(2)
    torch.save({"a": shared, "b\ud800": shared}, tmp_path / "1.pt")

    with pytest.raises(MismatchError, match="cannot store tensors of these names"):
        average(plan_average([open_checkpoint(tmp_path / "1.pt")]), tmp_path / "out.safetensors")


def test_extra_state_too_long_for_the_format_is_refused(tmp_path):
    torch.save({"w": torch.ones(1), "_extra_state": "x" * 100_000_001}, tmp_path / "1.pt")

    with pytest.raises(OutputError, match=r"the header would take 100,\d{3},\d{3} bytes"):
        averaged(tmp_path / "1.pt", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()
