import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support.measuring import cost
from support.references import mean_rounded_once
from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import CheckpointError, MismatchError, NonFiniteError
from swa_cli.formats import open_checkpoint


def random_states(n: int, dtype: torch.dtype, scale: float = 1.0) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "conv.weight": (torch.randn(8, 3, 3, 3) * scale).to(dtype),
            "head.weight": (torch.randn(5, 40) * scale).to(dtype).t(),
            "head.bias": torch.randn(5).to(dtype),
            "scalar": torch.randn(()).to(dtype),
            "empty": torch.empty(0, 3, dtype=dtype),
            "bn.num_batches_tracked": torch.tensor(10 * step),
            "mask": torch.tensor([True, False]),
        }
        for step in range(n)
    ]


def averaged(sources: list[Path], output: Path, **options) -> dict[str, torch.Tensor]:
    run = find_checkpoints(sources)
    average(plan_average(run.checkpoints, steps=run.steps, **options), output)
    return load_file(output)


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    raw = (first.contiguous().view(-1).view(torch.uint8), second.contiguous().view(-1).view(torch.uint8))
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(*raw)


def save_bare(state, path):
    torch.save(state, path)


def save_nested(state, path):
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    torch.save({"model_state_dict": wrapped, "optimizer": {"state": {0: torch.zeros(9)}}}, path)


def save_safetensors(state, path):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("save", "suffix"), [(save_bare, "pt"), (save_nested, "pth.tar"), (save_safetensors, "safetensors")]
)
def test_is_the_float64_mean_rounded_once_in_any_order_of_arguments(tmp_path, dtype, save, suffix):
    states = random_states(7, dtype)
    paths = [tmp_path / f"epoch-{step + 5}.{suffix}" for step in range(7)]
    for state, path in zip(states, paths, strict=True):
        save(state, path)

    forwards = averaged(paths, tmp_path / "a.safetensors")
    shuffled = [paths[i] for i in (3, 0, 6, 2, 5, 1, 4)]
    averaged(shuffled, tmp_path / "b.safetensors")

    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert set(forwards) == set(states[0])
    for name, tensor in forwards.items():
        if tensor.is_floating_point():
            assert same_bits(tensor, mean_rounded_once([state[name].contiguous() for state in states])), name
    assert forwards["bn.num_batches_tracked"] == 60
    assert torch.equal(forwards["mask"], torch.tensor([True, False]))


@pytest.mark.slow
def test_a_hundred_bfloat16_checkpoints_lose_nothing(tmp_path):
    states = [{"w": (1 + 0.02 * torch.randn(200)).to(torch.bfloat16)} for _ in range(100)]
    for step, state in enumerate(states):
        save_file(state, tmp_path / f"{step}.safetensors")

    result = averaged([tmp_path], tmp_path / "out.safetensors")

    assert same_bits(result["w"], mean_rounded_once([state["w"] for state in states]))


def test_one_checkpoint_is_its_own_average_bit_for_bit(tmp_path):
    state = {"w": torch.tensor([-0.0, 1e-40, 3.0]), "h": torch.tensor([-0.0, 6e-8], dtype=torch.float16)}
    torch.save(state, tmp_path / "only.pt")

    result = averaged([tmp_path / "only.pt"], tmp_path / "out.safetensors")

    assert all(same_bits(result[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2], ids=lambda dtype: str(dtype)[6:]
)
def test_complex_and_float8_are_averaged_too(tmp_path, dtype):
    values = [torch.randn(50, dtype=torch.complex64 if dtype.is_complex else torch.float32).to(dtype) for _ in range(5)]
    for step, value in enumerate(values):
        torch.save({"w": value}, tmp_path / f"{step}.pt")

    result = averaged([tmp_path], tmp_path / "out.safetensors")["w"]

    wide = torch.complex128 if dtype.is_complex else torch.float64
    exact = [value.to(torch.complex64 if dtype.is_complex else torch.float32).to(wide) for value in values]
    expected = torch.stack(exact).sum(0) / 5
    assert same_bits(result, expected.to(dtype))


def test_views_into_one_storage_are_read_where_they_lie(tmp_path):
    states = []
    for step in range(3):
        base = torch.randn(4, 6)
        states.append({"t": base.t(), "row": base[2], "column": base[:, 1], "wide": base[0, :1].expand(5)})
        torch.save(states[-1], tmp_path / f"{step}.pt")

    result = averaged([tmp_path], tmp_path / "out.safetensors")

    for name in states[0]:
        assert same_bits(result[name], mean_rounded_once([state[name].contiguous() for state in states])), name


def test_dtype_converts_floating_tensors_and_lets_sources_differ(tmp_path):
    torch.save({"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}, tmp_path / "1.pt")
    torch.save({"w": torch.tensor([2.0, 4.0], dtype=torch.float16), "n": torch.tensor(3)}, tmp_path / "2.pt")

    result = averaged([tmp_path], tmp_path / "out.safetensors", dtype="bfloat16")

    assert same_bits(result["w"], torch.tensor([1.5, 3.0], dtype=torch.bfloat16))
    assert result["n"].dtype == torch.int64


@pytest.mark.parametrize(
    ("dtypes", "named"),
    [
        (("float32", "float16"), "float32"),
        (("bfloat16", "float32", "float16"), "float32"),
        (("float16", "bfloat16"), "float32"),
        (("float64", "bfloat16"), "float64"),
    ],
)
def test_sources_of_different_dtypes_are_told_of_the_option(run_swa, tmp_path, dtypes, named):
    for step, dtype in enumerate(dtypes):
        state = {"w": torch.ones(2, dtype=getattr(torch, dtype)), "kept": torch.ones(1, dtype=torch.float64)}
        torch.save(state, tmp_path / f"epoch-{step}.pt")

    refused = run_swa("average", tmp_path, "-o", "o.safetensors")
    advised = run_swa("average", tmp_path, "-o", "o.safetensors", "--dtype", named)

    assert (refused.exit_code, advised.exit_code) == (1, 0)
    assert "the same tensors in different dtypes" in refused.stderr
    assert f"w: expected {dtypes[0]} [2] as in epoch-0.pt, found {dtypes[1]} [2]" in refused.stderr
    assert f"Choose the dtype of the average (--dtype {named})" in refused.stderr


@pytest.mark.parametrize(
    "other", [{"w": torch.ones(3)}, {"v": torch.ones(2)}, {"w": torch.ones(2), "v": torch.ones(2)}]
)
def test_files_of_one_step_with_different_tensors_are_named(tmp_path, other):
    for epoch in (1, 2):
        torch.save({"model": {"w": torch.ones(2)}, "epoch": epoch}, tmp_path / f"a{epoch}.pt")
        torch.save({"model": other, "epoch": epoch}, tmp_path / f"b{epoch}.pt")

    run = find_checkpoints([tmp_path])
    with pytest.raises(
        MismatchError, match=r"a1\.pt and .*b1\.pt differ although both are of step 1: they seem to be pa"
    ):
        plan_average(run.checkpoints, steps=run.steps)


def test_a_mean_too_large_for_the_dtype_is_an_error(tmp_path):
    torch.save({"w": torch.tensor([1e6])}, tmp_path / "1.pt")
    plan = plan_average([open_checkpoint(tmp_path / "1.pt")], dtype="float16")

    with pytest.raises(NonFiniteError, match="too large for float16"):
        average(plan, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_metadata_says_what_went_in(tmp_path, save_run):
    states = [{"bn.running_mean": torch.randn(2), "bn.running_var": torch.ones(2)} for _ in range(2)]
    averaged([save_run(states)], tmp_path / "out.safetensors")

    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        metadata = file.metadata()

    assert metadata["format"] == "pt"  # transformers refuses files without it
    record = json.loads(metadata["swa_cli"])
    assert record["n_averaged"] == 2
    names = [(source["name"], source["step"], source["size"]) for source in record["sources"]]
    sizes = [(tmp_path / "ckpts" / f"epoch-{n}.pt").stat().st_size for n in (0, 1)]
    assert names == [("epoch-0.pt", 0, sizes[0]), ("epoch-1.pt", 1, sizes[1])]
    assert record["bn_statistics"] == "averaged"
    assert record["tool_version"]


def test_every_difference_is_listed(tmp_path):
    torch.save({"a": torch.zeros(2, 3), "b": torch.zeros(1), "c": torch.zeros(1)}, tmp_path / "1.pt")
    torch.save({"a": torch.zeros(3, 2), "c": torch.zeros(1).double(), "d": torch.zeros(4)}, tmp_path / "2.pt")

    with pytest.raises(MismatchError) as caught:
        plan_average(find_checkpoints([tmp_path]).checkpoints)

    second = tmp_path / "2.pt"
    assert str(caught.value).splitlines()[1:-1] == [
        f"  {second}: b: expected float32 [1] as in 1.pt, found no such tensor",
        f"  {second}: d: found float32 [4], 1.pt has no such tensor",
        f"  {second}: a: expected float32 [2, 3] as in 1.pt, found float32 [3, 2]",
        f"  {second}: c: expected float32 [1] as in 1.pt, found float64 [1]",
    ]


def test_a_dtype_that_safetensors_lacks_is_refused_by_name(tmp_path):
    torch.save({"z": torch.zeros(2, dtype=torch.complex128)}, tmp_path / "1.pt")

    with pytest.raises(MismatchError, match=r"cannot store:\n  z is complex128 \[2\]"):
        averaged([tmp_path / "1.pt"], tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()


def test_a_name_that_the_format_reserves_is_refused(tmp_path):
    torch.save({"__metadata__": torch.ones(1)}, tmp_path / "1.pt")

    with pytest.raises(MismatchError, match="cannot store tensors of these names"):
        averaged([tmp_path / "1.pt"], tmp_path / "out.safetensors")


def test_a_huge_expanded_tensor_is_refused_at_once(tmp_path):
    torch.save({"w": torch.zeros(1).expand(10**18)}, tmp_path / "1.pt")

    with pytest.raises(CheckpointError, match="repeats the 4 bytes that are stored to 4,000,000,000,000,000,000"):
        averaged([tmp_path / "1.pt"], tmp_path / "out.safetensors")


def test_integers_that_differ_name_both_values(tmp_path):
    torch.save({"ids": torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.uint16)}, tmp_path / "1.pt")
    torch.save({"ids": torch.tensor([[0, 1, 2], [3, 9, 5]], dtype=torch.uint16)}, tmp_path / "2.pt")

    with pytest.raises(MismatchError, match=r"ids .*differs at index \[1, 1\]: 4 in .*1\.pt, 9 in .*2\.pt"):
        averaged([tmp_path], tmp_path / "out.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_name_file_tensor_and_index(tmp_path, value):
    torch.save({"w": torch.zeros(3, 4)}, tmp_path / "1.pt")
    bad = torch.zeros(3, 4)
    bad[2, 1] = value
    torch.save({"w": bad}, tmp_path / "2.pt")

    with pytest.raises(NonFiniteError, match=rf"2\.pt: tensor w holds {value} at index \[2, 1\]"):
        averaged([tmp_path], tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.pt", "2.pt"]


def test_non_finite_values_are_let_through_on_request(tmp_path):
    torch.save({"w": torch.tensor([float("inf"), 1.0])}, tmp_path / "1.pt")
    torch.save({"w": torch.tensor([1.0, 1.0])}, tmp_path / "2.pt")

    average(plan_average(find_checkpoints([tmp_path]).checkpoints, allow_nonfinite=True), tmp_path / "o.safetensors")

    assert load_file(tmp_path / "o.safetensors")["w"].tolist() == [float("inf"), 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_memory_stays_below_one_checkpoint_however_many_there_are(tmp_path, suffix):
    sizes = {"small": 1_000, "large": 8_000_000}
    for folder, size in sizes.items():
        (tmp_path / folder).mkdir()
        for step in range(6):
            state = {"w": torch.full((size,), float(step))}
            path = tmp_path / folder / f"{step}.{suffix}"
            torch.save(state, path) if suffix == "pt" else save_file(state, path)

    grown = cost("resident", tmp_path / "small", tmp_path / "large")

    assert grown < 4 * sizes["large"]
    assert load_file(tmp_path / "large" / "out.safetensors")["w"][-1] == 2.5
