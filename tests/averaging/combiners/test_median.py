"""The median: its value against an oracle, what it hides, and what it takes no part in."""

import itertools
import math
import statistics
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from support.late_device import late_device
from support.references import nearest_of_all
from support.runs import same, save_as, states_of_all_kinds
from swa_cli.averaging import Engine, average, combine_arrays, combiner_of, plan_average, verify
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import NonFiniteError, UsageError, VerifyError


def median_rounded_once(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Element by element in Python floats, then the nearest value of the dtype."""
    dtype = tensors[0].dtype
    rows = [tensor.float().double() if dtype.itemsize < 4 else tensor.double() for tensor in tensors]
    columns = zip(*(row.flatten().tolist() for row in rows), strict=True)
    median = np.array([statistics.median(column) for column in columns]).reshape(tuple(tensors[0].shape))
    if dtype in {torch.float64, torch.float32}:
        return torch.from_numpy(median).to(dtype)
    return nearest_of_all(median, dtype)


def a_run(folder, values, dtype=torch.float32):
    """Checkpoints of one tensor, a value for each."""
    folder.mkdir()
    for step, value in enumerate(values):
        torch.save({"w": torch.tensor(value, dtype=dtype)}, folder / f"{step}.pt")
    return find_checkpoints([folder]).checkpoints


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_the_median_is_rounded_once(tmp_path, n):
    states = states_of_all_kinds(n)
    for step, state in enumerate(states):
        save_as("torch", state, tmp_path / f"epoch-{step}")

    average(plan_average(find_checkpoints([tmp_path]).checkpoints, combine="median"), tmp_path / "o.safetensors")

    result = load_file(tmp_path / "o.safetensors")
    for name, tensor in result.items():
        if tensor.is_floating_point():
            assert same(tensor, median_rounded_once([state[name].contiguous() for state in states])), name
        elif not tensor.is_complex():
            assert same(tensor, states[-1][name]), name
    parts = [torch.view_as_real(state["i.complex"]).contiguous() for state in states]
    assert same(torch.view_as_real(result["i.complex"]), median_rounded_once(parts))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=9))
def test_it_is_that_of_the_standard_library_in_any_order_and_on_a_device(values):
    combiner = combiner_of("median", [PurePath(f"{step}.pt") for step in range(len(values))])
    on_device = combiner.on_device(1, torch.device("cpu"), allow_nonfinite=False)
    for number, value in enumerate(values):
        on_device.add(number, torch.tensor([value]))
    on_device.total(1)
    ordered = sorted(values, key=lambda value: (value, math.copysign(1, value)))
    middle = [ordered[(len(values) - 1) // 2], ordered[len(values) // 2]]
    expected = middle[0] if len(values) % 2 else (middle[0] + middle[1]) / 2

    found = [
        *combine_arrays(combiner, (np.array([value]) for value in values)),
        *combine_arrays(combiner, (np.array([value], np.float32) for value in reversed(values))),
        on_device.result(1).item(),
    ]

    assert [(value, math.copysign(1, value)) for value in found] == [(expected, math.copysign(1, expected))] * 3


def test_one_checkpoint_of_another_run_moves_the_mean_and_not_the_median(tmp_path):
    checkpoints = a_run(tmp_path / "run", [[1.0], [1.1], [0.9], [1.0], [1e30]])

    for combine in ("mean", "median"):
        average(plan_average(checkpoints, combine=combine), tmp_path / f"{combine}.safetensors")

    assert load_file(tmp_path / "mean.safetensors")["w"].item() > 1e29
    assert load_file(tmp_path / "median.safetensors")["w"].item() == 1.0


@pytest.mark.parametrize("step", range(5))
def test_a_changed_bit_that_does_not_move_the_median_is_found_without_checksums_too(tmp_path, step):
    """That of the lowest and the highest values, for which the totals of a mean would be needed."""
    checkpoints = a_run(tmp_path / "run", [[float(value)] * 9 for value in range(5)])
    average(plan_average(checkpoints, combine="median"), tmp_path / "o.safetensors")
    source = checkpoints[step]
    offset = source.tensors["w"].offset + 4 * 6
    whole = bytearray(source.path.read_bytes())
    whole[offset] ^= 1
    source.path.write_bytes(whole)

    with pytest.raises(VerifyError, match="tensor w: a source holds other values than when it was averaged"):
        verify(open_single(tmp_path / "o.safetensors"))


def test_sources_that_were_swapped_are_found_too(tmp_path):
    checkpoints = a_run(tmp_path / "run", [[1.0], [2.0], [3.0]])
    average(plan_average(checkpoints, combine="median"), tmp_path / "o.safetensors")
    first, last = Path(checkpoints[0].path), Path(checkpoints[-1].path)
    contents = first.read_bytes(), last.read_bytes()
    first.write_bytes(contents[1])
    last.write_bytes(contents[0])

    with pytest.raises(VerifyError, match="tensor w: a source holds other values"):
        verify(open_single(tmp_path / "o.safetensors"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_infinity_that_is_allowed_is_a_value_like_any(tmp_path, monkeypatch, device):
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    inf = math.inf
    checkpoints = a_run(tmp_path / "run", [[inf, inf, -inf, -inf], [2, inf, 3, -inf], [1, 1, 1, inf], [0, 0, 0, 0.0]])
    plan = plan_average(checkpoints, combine="median", allow_nonfinite=True)

    average(plan, tmp_path / "o.safetensors", engine=Engine(device=device))

    assert load_file(tmp_path / "o.safetensors")["w"].tolist() == [1.5, inf, 0.5, -inf]


def test_copies_of_a_checkpoint_give_it_back_bit_for_bit(tmp_path):
    """Zeros of either sign, and the smallest and largest numbers."""
    values = [0.0, -0.0, 5e-324, -5e-324, 1e300, -1e-300]
    for n in (3, 4):
        checkpoints = a_run(tmp_path / f"{n}", [values] * n, torch.float64)
        plan = plan_average([*checkpoints, *checkpoints][:n], combine="median")
        average(plan, tmp_path / "o.safetensors", overwrite=True)

        assert same(load_file(tmp_path / "o.safetensors")["w"], torch.tensor(values, dtype=torch.float64))


def test_a_median_that_is_too_large_names_its_tensor_and_says_why(tmp_path):
    checkpoints = a_run(tmp_path / "narrow", [[1.0, 1e5], [2.0, 2e5], [3.0, 1e5]])
    wide = a_run(tmp_path / "wide", [[1.5e308], [1.6e308]], torch.float64)

    with pytest.raises(
        NonFiniteError, match=r"tensor w: the median is too large for float16, .* wider `dtype`, or let"
    ):
        average(plan_average(checkpoints, combine="median", dtype="float16"), tmp_path / "o.safetensors")
    with pytest.raises(NonFiniteError, match=r"the sum of the two middle values is too large for float64, .*no wider"):
        average(plan_average(wide, combine="median"), tmp_path / "o.safetensors")


def test_integers_have_their_own_policy(tmp_path):
    checkpoints = a_run(tmp_path / "run", [[1, 5], [1, 6], [1, 30]], torch.int64)

    average(plan_average(checkpoints, combine="median", integers="mean-round"), tmp_path / "o.safetensors")

    assert load_file(tmp_path / "o.safetensors")["w"].tolist() == [1, 14]


@pytest.mark.parametrize("given", [{"weights": [1, 2, 3]}, {"ema": 0.9}, {"weights": [1, 2, 3], "ema": 0.9}])
def test_weights_are_refused(tmp_path, given):
    names = " and ".join(f"`{name}`" for name in given)

    with pytest.raises(UsageError, match=rf"`combine='median'` counts every checkpoint once and takes no {names}\."):
        combiner_of("median", [tmp_path / f"{step}.pt" for step in range(3)], **given)


def test_flags_and_keys_choose_it(run_swa, tmp_path):
    a_run(tmp_path / "run", [[1.0], [2.0], [9.0]])
    (tmp_path / "run.yaml").write_text("average: {sources: run, output: yaml.safetensors, combine: median}\n")
    (tmp_path / "weighted.yaml").write_text("average: {sources: run, output: w.safetensors, weights: [1, 2, 3]}\n")

    refused = run_swa("average", "run", "-o", "no.safetensors", "--combine", "median", "--ema", "0.9")
    results = [
        run_swa("average", "--config", "run.yaml"),
        run_swa("average", "--config", "weighted.yaml", "--combine", "median"),
    ]

    assert (
        refused.exit_code,
        "--combine median counts every checkpoint once and takes no --ema" in refused.stderr,
    ) == (
        2,
        True,
    )
    assert [result.exit_code for result in results] == [0, 0]
    assert [load_file(tmp_path / f"{name}.safetensors")["w"].item() for name in ("yaml", "w")] == [2.0, 2.0]


def test_every_order_of_the_sources_gives_the_same(tmp_path):
    values = [np.array([value]) for value in (3.0, -0.0, 0.0, 1e-310)]
    combiner = combiner_of("median", [tmp_path / f"{step}.pt" for step in range(4)])

    found = {combine_arrays(combiner, order).tobytes() for order in itertools.permutations(values)}

    assert found == {np.array([5e-311]).tobytes()}
