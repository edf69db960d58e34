"""Weighted means: the formula, the moving average, and what is refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.optim.swa_utils import get_ema_avg_fn

from support.late_device import late_device
from support.references import weighted_mean_rounded_once
from support.runs import digest, same, save_as, states_of_all_kinds
from swa_cli.averaging import Engine, average, ema_weights, plan_average
from swa_cli.averaging.combiners.weights import checked_weights
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import NonFiniteError, UsageError

WEIGHTS = [0.3, 1, 2, 1 / 3, 1, 7.7, 1e-3]


@pytest.fixture
def run_of_seven(tmp_path):
    """The states of a run of every kind of tensor, and its checkpoints."""
    states = states_of_all_kinds(7)
    for step, state in enumerate(states):
        save_as("torch", state, tmp_path / f"epoch-{step}")
    return states, find_checkpoints([tmp_path]).checkpoints


def test_the_weighted_mean_is_rounded_once_whatever_the_threads_and_pieces(tmp_path, run_of_seven):
    states, checkpoints = run_of_seven
    plan = plan_average(checkpoints, weights=WEIGHTS)
    digests = set()
    for threads, chunk in [(None, None), (1, 8), (2, 97), (3, 50)]:
        average(plan, tmp_path / "o.safetensors", engine=Engine(threads=threads, chunk=chunk), overwrite=True)
        digests.add(digest(tmp_path / "o.safetensors"))

    assert len(digests) == 1
    result = load_file(tmp_path / "o.safetensors")
    for name, tensor in result.items():
        if tensor.is_floating_point():
            expected = weighted_mean_rounded_once([state[name].contiguous() for state in states], WEIGHTS)
            assert same(tensor, expected), name
        elif not tensor.is_complex():
            assert same(tensor, states[-1][name]), name
    parts = [torch.view_as_real(state["i.complex"]).contiguous() for state in states]
    assert same(torch.view_as_real(result["i.complex"]), weighted_mean_rounded_once(parts, WEIGHTS))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threads", [1, 2])
def test_the_device_gives_the_same_bytes_with_weights(tmp_path, run_of_seven, monkeypatch, seed, threads):
    plan = plan_average(run_of_seven[1], weights=WEIGHTS)
    average(plan, tmp_path / "cpu.safetensors")
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(seed))

    average(plan, tmp_path / "device.safetensors", engine=Engine(device="cuda", threads=threads, chunk=40))

    assert digest(tmp_path / "device.safetensors") == digest(tmp_path / "cpu.safetensors")


@pytest.mark.parametrize("weights", [[1] * 7, [3] * 7, [0.1] * 7])
def test_equal_weights_are_the_equal_weight_mean(tmp_path, run_of_seven, weights):
    _, checkpoints = run_of_seven
    average(plan_average(checkpoints), tmp_path / "default.safetensors")

    average(plan_average(checkpoints, weights=weights), tmp_path / "equal.safetensors")

    assert digest(tmp_path / "equal.safetensors") == digest(tmp_path / "default.safetensors")


@given(n=st.integers(1, 60), decay=st.floats(0.01, 0.999))
def test_the_weights_of_an_ema_are_its_recurrence_written_out(n, decay):
    expected = [Fraction(1)]
    for _ in range(n - 1):
        expected = [Fraction(decay) * weight for weight in expected] + [1 - Fraction(decay)]

    assert ema_weights(n, decay) == pytest.approx([float(weight) for weight in expected], rel=1e-12, abs=0)


def test_an_ema_is_that_of_torch(tmp_path):
    values = [torch.randn(50, dtype=torch.float64) for _ in range(9)]
    for step, value in enumerate(values):
        torch.save({"w": value}, tmp_path / f"{step}.pt")
    expected = values[0]
    for step, value in enumerate(values[1:]):
        expected = get_ema_avg_fn(0.7)(expected, value, torch.tensor(step + 1))

    average(
        plan_average(find_checkpoints([tmp_path]).checkpoints, weights=ema_weights(9, 0.7)), tmp_path / "o.safetensors"
    )

    torch.testing.assert_close(load_file(tmp_path / "o.safetensors")["w"], expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("decay", [0, 1, -0.5, 1.5, math.nan])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(UsageError, match="must lie between 0 and 1, found"):
        ema_weights(3, decay)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1, 2], r"expected 3 weights, .* found 2\. .*oldest first:\n  .*0\.pt\n  .*1\.pt\n  .*2\.pt$"),
        ([], "expected 3 weights"),
        ([1, 0, 1], r"1\.pt has the weight 0 and would count for nothing\. Leave that checkpoint out"),
        ([1, 1, -2], r"2\.pt has the weight -2, expected a positive number"),
        ([math.nan, 1, 1], r"0\.pt has the weight nan"),
        ([math.inf, 1, 1], r"0\.pt has the weight inf"),
        ([1e308, 1e308, 1], r"the sum of the weights is too large"),
    ],
)
def test_weights_that_make_no_sense_are_refused(tmp_path, weights, said):
    for step in range(3):
        torch.save({"w": torch.ones(1)}, tmp_path / f"{step}.pt")

    with pytest.raises(UsageError, match=said):
        plan_average(find_checkpoints([tmp_path]).checkpoints, weights=weights)


def test_an_ema_so_short_that_it_forgets_a_checkpoint_names_it(tmp_path):
    paths = [tmp_path / f"{step}.pt" for step in range(400)]

    with pytest.raises(UsageError, match=r"/0\.pt has the weight 0 .*Leave that checkpoint out"):
        checked_weights(ema_weights(400, 0.1), paths)


LIMITS = {torch.int64: (-(2**63), 2**63 - 1), torch.uint64: (0, 2**64 - 1), torch.int8: (-128, 127)}


@pytest.mark.parametrize("dtype", LIMITS, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("weights", [[1, 2, 4], [2**31 - 2, 1, 1], [5, 1, 2**31 - 6]])
def test_means_of_integers_are_exact_with_whole_weights(tmp_path, dtype, weights):
    low, high = LIMITS[dtype]
    rows = [[low, high, high, low + 1, 7], [low, high, low, high - 1, 8], [low, high, high - 1, low, 3]]
    for step, row in enumerate(rows):
        torch.save({"x": torch.tensor(row, dtype=dtype)}, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints, integers="mean-round", weights=weights)

    average(plan, tmp_path / "o.safetensors")

    expected = [
        round(Fraction(sum(w * x for w, x in zip(weights, column, strict=True)), sum(weights)))
        for column in zip(*rows, strict=True)
    ]
    assert load_file(tmp_path / "o.safetensors")["x"].tolist() == expected


@pytest.mark.parametrize("weights", [[0.5, 1], [2**31, 1]])
def test_means_of_integers_take_no_other_weights(tmp_path, weights):
    for step in range(2):
        torch.save({"x": torch.tensor([step])}, tmp_path / f"{step}.pt")
    checkpoints = find_checkpoints([tmp_path]).checkpoints

    with pytest.raises(UsageError, match=r"takes whole weights only, of a sum up to 2,147,483,648"):
        plan_average(checkpoints, integers="mean-round", weights=weights)
    assert plan_average(checkpoints, integers="last", weights=weights).combiner.weights == tuple(weights)


def test_a_weighted_mean_that_is_too_large_names_its_tensor(tmp_path):
    """The equal-weight mean of ``w`` would fit float16, the weighted one does not."""
    for step, high in enumerate([100.0, 1e5]):
        torch.save({"a": torch.ones(3), "w": torch.tensor([1.0, high])}, tmp_path / f"{step}.pt")
    checkpoints = find_checkpoints([tmp_path]).checkpoints
    average(plan_average(checkpoints, dtype="float16"), tmp_path / "o.safetensors")

    with pytest.raises(NonFiniteError, match=r"tensor w: the mean is too large for float16, .* or smaller weights"):
        average(plan_average(checkpoints, dtype="float16", weights=[1, 9]), tmp_path / "p.safetensors")
    assert not (tmp_path / "p.safetensors").exists()


def test_a_nonfinite_source_is_named_with_weights_too(tmp_path):
    for step in range(3):
        torch.save({"w": torch.tensor([1.0, np.nan if step == 1 else 2.0])}, tmp_path / f"{step}.pt")

    with pytest.raises(NonFiniteError, match=r"1\.pt: tensor w holds nan at index \[1\]"):
        average(plan_average(find_checkpoints([tmp_path]).checkpoints, weights=[1, 2, 3]), tmp_path / "o.safetensors")


def three_files(folder):
    for step, value in enumerate([1.0, 2.0, 6.0]):
        torch.save({"w": torch.tensor([value])}, folder / f"epoch-{step}.pt")


@pytest.mark.parametrize(
    ("flags", "expected"), [(("--weights", "1,1,2"), 3.75), (("--ema", "0.5"), 3.75), (("--weights", "5,5,5"), 3.0)]
)
def test_the_flags_weigh_the_checkpoints(run_swa, tmp_path, flags, expected):
    three_files(tmp_path)

    result = run_swa("average", "epoch-*.pt", "-o", "o.safetensors", *flags)

    assert (result.exit_code, result.stderr) == (0, "")
    assert load_file(tmp_path / "o.safetensors")["w"].tolist() == [expected]


def test_the_configuration_weighs_them_too_and_the_plan_says_how(run_swa, tmp_path):
    three_files(tmp_path)
    (tmp_path / "run.yaml").write_text("average: {sources: [epoch-*.pt], weights: [1, 0.25, 2]}\n")

    plan = run_swa("average", "--config", "run.yaml", "--dry-run")
    equal = run_swa("average", "epoch-*.pt", "--dry-run")

    rows = [line.split()[-2:] for line in plan.stdout.splitlines() if "epoch-" in line]
    assert [row[0] for row in rows] == ["1", "0.25", "2"]
    assert "weight in the mean" in plan.stdout
    assert "weight in the mean" not in equal.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--weights", "1,1,2", "--ema", "0.9"), "exclude each other"),
        (("--weights", "1,2"), "expected 3 weights"),
        (("--weights", "1,two,3"), "average.weights.1: expected a number"),
        (("--ema", "1"), "must lie between 0 and 1, found 1"),
    ],
)
def test_flags_that_make_no_sense_are_usage_errors(run_swa, tmp_path, flags, said):
    three_files(tmp_path)

    result = run_swa("average", "epoch-*.pt", "-o", "o.safetensors", *flags)

    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize(
    ("dtype", "weights", "remedy"),
    [
        (torch.float64, None, "there is no wider dtype. Leave out the checkpoint"),
        (torch.complex128, None, "there is no wider dtype. Leave out the checkpoint"),
        (torch.float64, (1, 2, 3), "there is no wider dtype. Choose smaller weights, leave out the checkpoint"),
    ],
)
def test_a_sum_too_large_for_float64_is_no_matter_of_the_dtype(tmp_path, dtype, weights, remedy):
    for index in range(3):
        torch.save({"w": torch.full((3,), 1.5e308, dtype=dtype)}, tmp_path / f"epoch-{index}.pt")
    sources = find_checkpoints([tmp_path]).checkpoints

    with pytest.raises(NonFiniteError, match=f"tensor w: the sum of the sources is too large for float64, .*{remedy}"):
        average(plan_average(sources, weights=weights), tmp_path / "swa.pt")
