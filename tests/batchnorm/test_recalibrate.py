"""BatchNorm statistics against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from support.references import pooled
from swa_cli.batchnorm import bn_buffers, bn_layers, recalibrate, recalibration_warnings
from swa_cli.batchnorm.inputs import observed
from swa_cli.batchnorm.moments import Batch, Moments, estimate, of_batch
from swa_cli.errors import DataError, NonFiniteError, UserCodeError


def first_layer(batches: list[torch.Tensor], layer: nn.Module | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    layer = layer or nn.BatchNorm1d(batches[0].shape[1])
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2))
    model(batches[0][:2])
    recalibrate(model, batches)
    return layer.running_mean, layer.running_var  # pyright: ignore


def assert_statistics(found, values: torch.Tensor, rtol: float = 1e-6) -> None:
    for actual, expected in zip(found, pooled(values), strict=True):
        torch.testing.assert_close(actual.to(torch.float64), expected, rtol=rtol, atol=1e-9)


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(2, 40), min_size=1, max_size=8), offset=st.sampled_from([0.0, 1e4, -3.0]))
def test_splitting_the_data_differently_changes_nothing(sizes, offset):
    values = torch.randn(sum(sizes), 2, generator=torch.Generator().manual_seed(1)) + offset

    whole, parts = first_layer([values]), first_layer(list(values.split(sizes)))

    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6), pooled_too=st.booleans())
def test_moments_of_parts_add_up_in_any_order(sizes, pooled_too):
    values = torch.randn(sum(sizes), 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 5 + 100
    shift, pooled_flags = torch.full((3,), 99.0, dtype=torch.float64), torch.full((3,), pooled_too)

    def moments(part: torch.Tensor) -> Moments:
        seen = observed(part)
        weight = torch.full((3,), float(seen.n), dtype=torch.float64)
        return of_batch(
            Batch(weight, seen.mean, seen.variance * (seen.n - 1) / seen.n), shift=shift, pooled=pooled_flags
        )

    parts = [moments(part) for part in values.split(sizes)]
    forwards, backwards = sum(parts[1:], parts[0]), sum(parts[-2::-1], parts[-1])

    mean, variance = pooled(values)
    one, other = (estimate(merged, shift=shift, pooled=pooled_flags) for merged in (forwards, backwards))
    torch.testing.assert_close(one.mean, mean, rtol=1e-13, atol=0)
    if pooled_too:
        torch.testing.assert_close(one.variance, variance, rtol=1e-12, atol=0)
    for name, found in vars(one).items():
        torch.testing.assert_close(found, vars(other)[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pooled_too", [True, False])
def test_standard_errors_are_those_of_a_ratio_over_clusters(pooled_too):
    """The formula, with one loop over batches: residuals about the final mean, weighted, squared, summed."""
    sizes = [5, 9, 2, 30, 11]
    batches = [(torch.randn(n, 1, dtype=torch.float64) * 3 + n, n) for n in sizes]
    shift, flag = torch.tensor([4.0], dtype=torch.float64), torch.tensor([pooled_too])
    total, parts = sum(sizes), []
    for values, n in batches:
        weight = torch.tensor([float(n)], dtype=torch.float64)
        parts.append(of_batch(Batch(weight, values.mean(0), values.var(0, correction=0)), shift=shift, pooled=flag))
    found = estimate(sum(parts[1:], parts[0]), shift=shift, pooled=flag)

    mean = sum(n * float(values.mean()) for values, n in batches) / total
    shares = [
        float(values.var(correction=0)) + (pooled_too * (float(values.mean()) - mean) ** 2) for values, _ in batches
    ]
    variance = sum(n * share for share, n in zip(shares, sizes, strict=True)) / total
    of_mean = sum((n * (float(values.mean()) - mean)) ** 2 for values, n in batches)
    of_variance = sum((n * (share - variance)) ** 2 for share, n in zip(shares, sizes, strict=True))
    assert float(found.mean_error) == pytest.approx((of_mean * 5 / 4) ** 0.5 / total)
    assert float(found.variance_error) == pytest.approx((of_variance * 5 / 4) ** 0.5 / total)


@pytest.mark.slow
def test_standard_errors_are_what_another_choice_of_batches_would_change():
    """Over 200 choices of 40 batches the estimates spread as their standard errors say."""
    model, found = nn.Sequential(nn.BatchNorm1d(2)), []
    for _ in range(200):
        centres = torch.randn(40, 1, 2)  # batches that differ, as those of correlated data do
        (layer,) = recalibrate(model, list(torch.randn(40, 8, 2) + centres)).layers
        assert layer.mean_error is not None
        assert layer.variance_error is not None
        found.append((layer.running_mean[0], layer.running_var[0], layer.mean_error, layer.variance_error))
    means, variances, mean_errors, variance_errors = (torch.tensor(column) for column in zip(*found, strict=True))

    assert float(means.std() / 2**0.5) == pytest.approx(float(mean_errors.mean()), rel=0.15)
    assert float(variances.std() / 2) == pytest.approx(float(variance_errors.mean()), rel=0.15)


@pytest.mark.slow
def test_a_pass_stops_when_it_has_converged():
    batches = [torch.randn(64, 4) for _ in range(2000)]
    model = Net()

    result = recalibrate(model, batches, until_converged=0.01)

    assert result.converged
    assert result.standard_error is not None
    assert 0.005 < result.standard_error <= 0.01
    # The error of a mean of n values is 1/√n, that of their variance √(2/n).
    assert result.n_samples == pytest.approx(2 / 0.01**2, rel=0.5)
    assert result.n_batches < len(batches) / 2


def test_data_that_end_too_soon_have_not_converged():
    result = recalibrate(Net(), list(torch.randn(10, 64, 4)), until_converged=0.01)

    assert (result.converged, result.n_batches) == (False, 10)


def test_constant_data_converge_after_eight_batches():
    batch = torch.randn(16, 4)

    result = recalibrate(Net(), [batch] * 100, until_converged=1e-6)

    assert (result.converged, result.n_batches) == (True, 8)


def test_large_inputs_are_taken_in_pieces():
    values = torch.randn(11, 3, 4)

    mean, variance = pooled(values)
    found = observed(values, piece=20)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.variance, variance)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm1d(4, momentum=0.3)
        self.dropout = nn.Dropout(0.5)
        self.bn2 = nn.BatchNorm1d(4, momentum=None)
        self.frozen = nn.BatchNorm1d(4)
        self.unused = nn.BatchNorm1d(4)
        self.none = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.frozen(self.none(self.bn2(self.dropout(self.bn1(x)))))


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "training": [module.training for module in model.modules()],
        "momentum": [getattr(module, "momentum", None) for module in model.modules()],
        "tracking": [getattr(module, "track_running_stats", None) for module in model.modules()],
        "hooks": [len(module._forward_pre_hooks) for module in model.modules()],
        "affine": [parameter.clone() for parameter in model.parameters()],
    }


def same(first: dict[str, object], second: dict[str, object]) -> bool:
    parameters = zip(first.pop("affine"), second.pop("affine"), strict=True)  # pyright: ignore
    return all(torch.equal(a, b) for a, b in parameters) and first == second


def test_dropout_is_off_and_every_mode_is_put_back():
    model = Net()
    model.frozen.eval()
    before = snapshot(model)
    values = torch.randn(64, 4)

    result = recalibrate(model, [values])

    assert same(before, snapshot(model))
    # With dropout on, the second layer's variance would be about 2.
    torch.testing.assert_close(model.bn2.running_var, torch.ones(4), rtol=0.05, atol=0)
    assert [layer.name for layer in result.layers] == ["bn1", "bn2", "frozen"]
    assert result.kept == {"unused": "no batch reached it"}
    assert model.unused.running_mean.tolist() == [0] * 4  # pyright: ignore
    assert (result.n_samples, result.n_batches) == (64, 1)
    assert model.bn1.num_batches_tracked == 1


def broken(batches):
    yield from batches
    raise OSError("the disk went away")


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], DataError, "the data loader is empty"),
        ([torch.randn(8, 4), torch.full((8, 4), torch.nan)], NonFiniteError, "batch 1: the batch itself holds NaN"),
        ([torch.randn(1, 4)], UserCodeError, "running the model on batch 0 failed: ValueError: Expected more than 1"),
        ([torch.randn(8, 4), torch.randn(0, 4)], DataError, "batch 1: layer bn1 gets no values"),
        ([torch.randn(8, 4), torch.randn(8, 5)], UserCodeError, "running the model on batch 1 failed: RuntimeError"),
        (broken([torch.randn(8, 4)]), UserCodeError, "loading batch 1 failed: OSError: the disk went away"),
        ([object()], DataError, "cannot split a batch of type object"),
    ],
    ids=["empty", "nan", "one sample", "no sample", "forward raises", "loader raises", "odd batch"],
)
def test_a_failure_leaves_the_model_as_it_was(batches, error, message):
    model = Net()
    before, buffers = snapshot(model), {name: buffer.clone() for name, buffer in model.named_buffers()}

    with pytest.raises(error, match=message):
        recalibrate(model, batches)

    assert same(before, snapshot(model))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_an_overflow_inside_the_model_names_the_layer():
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.bn(x / 0)

    with pytest.raises(NonFiniteError, match="the input of layer bn holds NaN or infinity"):
        recalibrate(Explodes(), [torch.ones(4, 2)])


def test_statistics_too_large_for_the_buffer_are_an_error():
    layer = nn.BatchNorm1d(2).half()

    with pytest.raises(NonFiniteError, match=r"0\.running_var reaches .*e\+0\d, which is too large for float16"):
        recalibrate(nn.Sequential(layer), [1000 * torch.randn(50, 2).half()])
    assert layer.running_var is not None
    assert layer.running_var.tolist() == [1, 1]


def test_layers_that_no_batch_reaches_are_not_called_recomputed():
    class Bypass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x):
            return x

    with pytest.raises(DataError, match=r"no batch reached any layer that keeps running statistics \(bn\)"):
        recalibrate(Bypass(), [torch.randn(4, 2)])


def test_a_layer_used_twice_is_pooled_and_a_shared_one_has_all_its_names():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.BatchNorm1d(2, affine=False)
            self.b = self.a

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    model, x, y = Shared(), torch.randn(50, 2), torch.randn(50, 2) + 3
    recalibrate(model, [(x, y, torch.zeros(50))])

    mean, variance = pooled(torch.cat([x, y]))
    torch.testing.assert_close(model.a.running_mean.double(), mean, rtol=1e-6, atol=1e-9)  # pyright: ignore
    torch.testing.assert_close(model.a.running_var.double(), variance, rtol=1e-6, atol=1e-9)  # pyright: ignore
    assert list(bn_buffers(model, bn_layers(model))) == [
        f"{name}.{buffer}" for name in "ab" for buffer in ("running_mean", "running_var", "num_batches_tracked")
    ]


def test_keyword_inputs_and_mappings_work():
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, *, values):
            return self.bn(input=values)

    model, values = Keyword(), torch.randn(20, 2)
    recalibrate(model, [{"values": values, "labels": torch.zeros(20)}])

    assert_statistics((model.bn.running_mean, model.bn.running_var), values)


def test_how_far_a_layer_moved_is_told_in_old_standard_deviations():
    layer = nn.BatchNorm1d(1, eps=1e-12)
    layer.running_var.fill_(4)  # pyright: ignore
    values = torch.tensor([[5.0], [7.0]])

    (moved,) = recalibrate(nn.Sequential(layer), [values]).layers

    assert moved.mean_shift == moved.mean_shift_rms == pytest.approx(3)
    assert moved.var_ratio == pytest.approx(0.5)
    assert moved.std_shift == pytest.approx(0.5**0.5 - 1)
    assert moved.n_elements == 2


def gaining(factor: float) -> nn.Sequential:
    """Two layers, of which the second gets what the first has normalised, times a factor."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    model[1].weight.data = torch.eye(2) * factor
    return model


@pytest.mark.parametrize(
    ("factor", "scale", "expected"),
    [
        (1.0, 1.0, ()),
        (
            0.3,
            1.0,
            ("the variances of layer 2 collapsed, to 0.09 times the old at worst: either the averaged weights",),
        ),
        (
            4.0,
            1.0,
            ("the variances of layer 2 exploded, to 16 times the old at worst: the preceding layers amplify more",),
        ),
        (1.0, 255.0, ("layer 0, the first, seems to get other inputs than in training: its means moved by",)),
    ],
    ids=["as before", "collapsed", "exploded", "other inputs"],
)
def test_what_is_remarkable_is_said_with_its_likely_cause(factor, scale, expected):
    result = recalibrate(gaining(factor), list(torch.randn(10, 500, 2) * scale))

    found = recalibration_warnings(result, n_averaged=2)

    assert len(found) == len(expected)
    assert all(remark.startswith(beginning) for remark, beginning in zip(found, expected, strict=True))
