"""Every kind of layer that keeps statistics, by name, and those that keep none."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from support.references import pooled
from swa_cli.batchnorm import Estimator, bn_layers, recalibrate, without_statistics
from swa_cli.errors import DataError, NonFiniteError, UserCodeError
from swa_cli.user.forward import Forward

SHAPES = {1: (4, 3, 6), 2: (4, 3, 5, 6), 3: (4, 3, 2, 5, 6)}


def by_instance(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over instances of their means and unbiased variances."""
    flat = values.double().flatten(2)
    return flat.mean(dim=2).mean(dim=0), flat.var(dim=2).mean(dim=0)


def assert_has(layer, expected: tuple[torch.Tensor, torch.Tensor], rtol: float = 1e-6) -> None:
    for found, wanted in zip((layer.running_mean, layer.running_var), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=1e-7)


def data(dimensions: int) -> list[torch.Tensor]:
    values = torch.randn(20, *SHAPES[dimensions][1:]) * 3 + torch.arange(20.0).view(-1, *[1] * (dimensions + 1))
    return list(values.split([7, 2, 11]))


ESTIMATORS = ["population", "sequential"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("kind", "dimensions"), [(nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3)])
def test_batchnorm_of_one_two_and_three_dimensions(kind, dimensions, affine, momentum, estimator):
    layer, batches = kind(3, affine=affine, momentum=momentum), data(dimensions)

    recalibrate(nn.Sequential(layer), batches, estimator=estimator)

    assert_has(layer, pooled(torch.cat(batches)))
    assert (layer.num_batches_tracked, layer.momentum) == (3, momentum)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sync_batchnorm_in_one_process(estimator):
    layer, batches = nn.SyncBatchNorm(3), data(2)

    recalibrate(nn.Sequential(layer), batches, estimator=estimator)

    assert_has(layer, pooled(torch.cat(batches)))
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_lazy_batchnorm_that_the_checkpoint_has_materialised(estimator):
    layer, batches = nn.LazyBatchNorm2d(), data(2)
    model = nn.Sequential(layer)
    model.load_state_dict({f"0.{name}": tensor for name, tensor in nn.BatchNorm2d(3).state_dict().items()})

    recalibrate(model, batches, estimator=estimator)

    assert_has(layer, pooled(torch.cat(batches)))


class BatchNormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: its own forward, in which an activation follows, in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        out = nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            1.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return out.relu_()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_subclass_with_a_forward_of_its_own(estimator):
    layer, batches = BatchNormAct(3), data(2)

    recalibrate(nn.Sequential(layer), batches, estimator=estimator)

    assert_has(layer, pooled(torch.cat(batches)))


class Masked(nn.BatchNorm1d):
    """Normalises what is not padding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept = x.abs().sum(dim=1) > 0
        out = x.clone()
        out[kept] = super().forward(x[kept])
        return out


@pytest.mark.parametrize("estimator", ["population", "torch"])
def test_a_subclass_that_normalises_a_part_of_its_input_has_the_statistics_of_that_part(estimator):
    values = torch.randn(40, 3) + 5
    values[::2] = 0
    layer, reference = Masked(3), Masked(3)

    recalibrate(nn.Sequential(layer), list(values.split(10)), estimator=estimator)
    torch.optim.swa_utils.update_bn(values.split(10), nn.Sequential(reference))

    if estimator == "torch":
        assert_has(layer, (reference.running_mean.double(), reference.running_var.double()))  # pyright: ignore
    torch.testing.assert_close(layer.running_mean, values[1::2].mean(dim=0), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.running_var, values[1::2].var(dim=0), rtol=0.3, atol=0)


class Stubborn(nn.BatchNorm2d):
    """A subclass that averages in its own way, whatever its momentum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, 0.1)


class Untaught(nn.BatchNorm2d):
    """A subclass that is never in train mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, None, None, training=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_subclasses_that_have_their_own_way(dtype):
    model, batches = nn.Sequential(Stubborn(3), Untaught(3), BatchNormAct(3)).to(dtype), data(2)

    result = recalibrate(model, [batch.to(dtype) for batch in batches])

    assert result.kept == {"1": "a Untaught does not update its statistics in training"}
    expected = pooled(torch.cat([batch.to(dtype) for batch in batches]))
    torch.testing.assert_close(result.layers[0].running_var, expected[1], rtol=1e-6, atol=0)
    assert model[1].running_var.tolist() == [1, 1, 1]  # pyright: ignore
    assert [layer.name for layer in result.layers] == ["0", "2"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("kind", "dimensions"), [(nn.InstanceNorm1d, 1), (nn.InstanceNorm2d, 2), (nn.InstanceNorm3d, 3)]
)
def test_instance_norm_with_running_statistics(kind, dimensions, estimator):
    layer, batches = kind(3, track_running_stats=True), data(dimensions)

    result = recalibrate(nn.Sequential(layer), batches, estimator=estimator)

    assert_has(layer, by_instance(torch.cat(batches)))
    assert result.layers[0].n_elements == 20


def test_instance_norm_with_one_instance_at_a_time_and_no_batch_dimension():
    layer, (batch,) = nn.InstanceNorm2d(3, track_running_stats=True), torch.randn(1, 4, 3, 5, 6)

    recalibrate(nn.Sequential(layer), list(batch))

    assert_has(layer, by_instance(batch))


def test_instance_norm_as_torch_and_the_official_code_weight_batches():
    batches = data(2)
    kinds: list[tuple[Estimator, list[int]]] = [("torch", [1, 1, 1]), ("official", [7, 2, 11])]
    for estimator, weights in kinds:
        layer = nn.InstanceNorm2d(3, track_running_stats=True)
        recalibrate(nn.Sequential(layer), batches, estimator=estimator)
        parts = [by_instance(batch) for batch in batches]
        expected = [
            torch.stack([part[i] * weight for part, weight in zip(parts, weights, strict=True)]).sum(0) / sum(weights)
            for i in (0, 1)
        ]
        assert_has(layer, (expected[0], expected[1]))


class OwnNorm(nn.Module):
    """A batch norm as people write it themselves: new tensors in the place of the buffers."""

    def __init__(self, channels: int, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(shape or channels))
        self.register_buffer("running_var", torch.ones(shape or channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean = x.mean(dim=(0, 2, 3)).view_as(self.running_mean)  # pyright: ignore
            variance = x.var(dim=(0, 2, 3), correction=0).view_as(self.running_var)  # pyright: ignore
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean
            self.running_var = 0.9 * self.running_var + 0.1 * variance
        return (x - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()  # pyright: ignore


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_norm_of_the_users_own(estimator):
    model, batches = nn.Sequential(OwnNorm(3), nn.BatchNorm2d(3)), data(2)
    kept = model[0].running_mean

    result = recalibrate(model, batches, estimator=estimator)

    assert_has(model[0], pooled(torch.cat(batches)))
    assert model[0].running_mean is kept
    assert result.layers[0].mean_shift == pytest.approx(float(pooled(torch.cat(batches))[0].abs().max()), rel=1e-4)
    assert [layer.name for layer in result.layers] == ["0", "1"]
    assert result.kept == {}


def test_a_norm_of_the_users_own_is_as_it_was_after_an_error():
    model, batches = nn.Sequential(OwnNorm(3)), data(2)
    batches[1][0] = torch.nan

    with pytest.raises(NonFiniteError):
        recalibrate(model, batches)

    assert model[0].running_mean.tolist() == [0, 0, 0]  # pyright: ignore


def test_statistics_with_one_entry_a_channel_in_more_dimensions():
    model, batches = nn.Sequential(OwnNorm(3, (1, 3, 1, 1))), data(2)

    recalibrate(model, batches)

    assert model[0].running_mean.shape == (1, 3, 1, 1)
    torch.testing.assert_close(model[0].running_mean.double().flatten(), pooled(torch.cat(batches))[0])  # pyright: ignore


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_statistics_that_are_no_vector_and_torchscript_are_named():
    model = nn.Sequential(nn.BatchNorm2d(3), OwnNorm(3, (2, 3)), torch.jit.script(nn.BatchNorm2d(3)))
    model[1].forward = lambda x: x

    result = recalibrate(model, data(2))

    assert result.kept == {
        "1": "its statistics are not a floating-point vector",
        "2": "TorchScript cannot be put in train mode layer by layer",
    }


def test_an_input_that_cannot_be_told_from_other_arguments_is_named():
    class Weighted(OwnNorm):
        def forward(self, *, weight, x):  # pyright: ignore
            return super().forward(x) * weight

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.norm = nn.BatchNorm2d(3), Weighted(3)

        def forward(self, x):
            return self.norm(weight=torch.ones(1), x=self.bn(x))

    assert recalibrate(Model(), data(2)).kept == {"norm": "it is unknown which of its arguments is the input"}


def test_a_forward_that_the_user_put_on_a_layer_stays_there():
    layer, calls = nn.SyncBatchNorm(3), []
    layer.forward = lambda x: (calls.append(len(x)), nn.BatchNorm2d.forward(layer, x))[1]  # pyright: ignore
    own = layer.forward

    recalibrate(nn.Sequential(layer), data(2))

    assert layer.forward is own
    assert calls[-3:] == [7, 2, 11]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_torchvisions_frozen_batchnorm_is_left_alone_and_said(estimator):
    frozen, batches = FrozenBatchNorm2d(3), data(2)
    frozen.running_mean += 5  # pyright: ignore
    model = nn.Sequential(frozen, nn.BatchNorm2d(3))

    result = recalibrate(model, batches, estimator=estimator)

    assert result.kept == {"0": "a FrozenBatchNorm2d does not update its statistics in training"}
    assert frozen.running_mean.tolist() == [5, 5, 5]  # pyright: ignore
    assert_has(model[1], pooled((torch.cat(batches) - 5) / (1 + 1e-5) ** 0.5))


def test_a_norm_over_other_dimensions_than_the_second_is_left_alone_and_said():
    class LastDimension(OwnNorm):
        def forward(self, x):
            return x

    result = recalibrate(nn.Sequential(nn.BatchNorm2d(3), LastDimension(6)), data(2))

    assert list(result.kept.values()) == ["its statistics have 6 channels, its input has the shape [7, 3, 5, 6]"]


def test_track_running_stats_false_has_nothing_to_store():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))

    result = recalibrate(model, data(2))

    assert without_statistics(model) == ("0",)
    assert [layer.name for layer in result.layers] == ["1"]
    assert model[0].running_mean is None


class Reused(nn.Module):
    """One layer used twice, another between."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.between = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.shared(self.between(self.shared(x)) * 2 + 1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_layer_used_twice_in_a_forward_is_pooled_over_both(estimator):
    model, batches = Reused(), [torch.cat(data(2))]

    result = recalibrate(model, batches, estimator=estimator)

    second = Reused().train()
    inputs = [batches[0], second.between(second.shared(batches[0])) * 2 + 1]
    assert_has(model.shared, pooled(torch.cat(inputs)), rtol=1e-5)
    assert {layer.name: layer.n_calls for layer in result.layers} == {"shared": 2, "between": 1}


class Sometimes(nn.Module):
    """A layer that the first batch does not reach, and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.late, self.never = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.always(x)
        return self.late(x) if len(x) == 11 else x


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_layers_that_some_batches_or_none_reach(estimator):
    model, batches = Sometimes(), data(2)

    result = recalibrate(model, batches, estimator=estimator)

    assert {layer.name: layer.n_calls for layer in result.layers} == {"always": 3, "late": 1}
    assert result.kept == {"never": "no batch reached it"}
    assert model.never.running_var.tolist() == [1, 1, 1]  # pyright: ignore
    assert result.layers[0].mean_error is not None
    assert result.layers[1].mean_error is None  # of a single batch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_half_precision_models_have_statistics_of_float64_rounded_once(dtype, estimator):
    layer = nn.BatchNorm2d(3).to(dtype)
    batches = [batch.to(dtype) for batch in data(2)]

    result = recalibrate(nn.Sequential(layer), batches, estimator=estimator)

    mean, variance = pooled(torch.cat(batches))
    assert torch.equal(layer.running_mean, mean.to(dtype))  # pyright: ignore
    assert torch.equal(layer.running_var, variance.to(dtype))  # pyright: ignore
    torch.testing.assert_close(result.layers[0].running_var, variance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_autocast_keeps_the_statistics_of_what_the_layer_was_given(amp):
    model, batches = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), data(2)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]
    given: list[torch.Tensor] = []
    model[1].register_forward_pre_hook(lambda _, args: given.append(args[0]))

    recalibrate(model, batches, forward=Forward(amp=amp))

    assert {values.dtype for values in given} == {dtype}
    assert model[1].running_var.dtype == torch.float32  # pyright: ignore
    assert_has(model[1], pooled(torch.cat(given)), rtol=1e-5)


def test_channels_last_gives_the_same():
    torch.manual_seed(5)
    one, other = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    formats = []
    other[1].register_forward_pre_hook(
        lambda _, args: formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    batches = [batch.contiguous() for batch in data(2)]

    recalibrate(one, batches)
    recalibrate(other, batches, forward=Forward(channels_last=True))

    assert formats == [True] * 3
    assert_has(other[1], (one[1].running_mean.double(), one[1].running_var.double()), rtol=1e-5)  # pyright: ignore


@pytest.fixture
def eager(monkeypatch):
    """torch.compile without the code generator, which needs a compiler; tracing is the same."""
    compile_, compiled = torch.compile, []

    def traced(model):
        compiled.append(model)
        return compile_(model, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", traced)
    return compiled


@pytest.mark.slow
@pytest.mark.parametrize("layers", [Reused, lambda: nn.Sequential(BatchNormAct(3), nn.BatchNorm2d(3, momentum=None))])
def test_a_compiled_model_is_traced_in_one_piece_and_gives_the_same(eager, layers):
    one, other = layers(), layers()
    batches = [*data(2), torch.randn(7, 3, 5, 6)]

    recalibrate(one, batches)
    result = recalibrate(other, batches, forward=Forward(compile=True))

    assert eager == [other]
    for buffer, expected in zip(other.buffers(), one.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-6, atol=1e-6)
    assert result.n_batches == 4


def test_a_last_batch_of_one_sample_is_counted_and_normalised_by_all_before_it():
    values = torch.randn(33, 3) * 2 + 1
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))

    result = recalibrate(model, list(values.split([16, 16, 1])))

    assert_has(model[0], pooled(values))
    first, second, last = values.split([16, 16, 1])
    mean, variance = pooled(torch.cat([first, second]))
    normalised = [(part - part.mean(dim=0)) / (part.var(dim=0, correction=0) + 1e-5).sqrt() for part in (first, second)]
    normalised.append((last.double() - mean) / (variance + 1e-5).sqrt())
    assert_has(model[1], pooled(torch.cat([part.double() for part in normalised])), rtol=1e-5)
    assert (result.n_samples, result.layers[0].n_elements) == (33, 33)
    assert model[0].training


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_sample_at_a_time_is_normalised_by_what_came_before_or_was_there(estimator):
    values = torch.randn(50, 2)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))

    recalibrate(model, list(values.split(1)), estimator=estimator)

    assert_has(model[0], pooled(values))
    assert 0.5 < float(model[1].running_var.min()) <= float(model[1].running_var.max()) < 2  # pyright: ignore


class Routed(nn.Module):
    """Every other batch goes another way, and every third goes twice through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.a = (nn.BatchNorm1d(4) for _ in range(3))
        self.linear, self.twice, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.c(self.linear((self.a if x[0, 0] > 0 else self.b)(x)))
        x = self.twice(x)
        return self.head(self.twice(x * 2) if x.shape[0] % 3 == 0 else x)


def routed_by_hand(model: Routed, batches: list[torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer by layer up to `twice`, whose inputs depend on itself."""
    found = {}
    for name, goes in (("a", lambda x: x[0, 0] > 0), ("b", lambda x: x[0, 0] <= 0)):
        found[name] = pooled(torch.cat([batch for batch in batches if goes(batch)]))
    after = []
    for batch in batches:
        mean, variance = found["a" if batch[0, 0] > 0 else "b"]
        values = (batch.double() - mean) / (variance + 1e-5).sqrt()
        after.append(values @ model.linear.weight.double().T + model.linear.bias.double())
    found["c"] = pooled(torch.cat(after))
    return found


@pytest.mark.parametrize("size", [4, 7, 9])
def test_sequential_is_exact_where_batches_go_different_ways(size):
    values = torch.randn(90, 4)
    model = Routed().requires_grad_(requires_grad=False)
    chunks = [chunk for part in (values[values[:, 0] > 0], values[values[:, 0] <= 0]) for chunk in part.split(size)]
    batches = [*chunks[::2], *chunks[1::2], values[:1]]  # a last batch of one sample too

    result = recalibrate(model, batches, estimator="sequential")

    for name, expected in routed_by_hand(model, batches).items():
        assert_has(getattr(model, name), expected, rtol=1e-5)
    counted = {layer.name: layer.n_calls for layer in result.layers}
    assert counted["twice"] == len(batches) + sum(len(batch) % 3 == 0 for batch in batches)
    assert counted["head"] == len(batches)


def test_inputs_of_a_layer_that_is_called_more_often_later_are_all_counted():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.bn(x) if len(x) == 4 else self.bn(self.bn(x) + 100)

    batches = [torch.randn(4, 2), torch.randn(8, 2)]
    one, other = Growing(), Growing()

    first, second = (
        recalibrate(model, batches, estimator=estimator).layers[0]  # pyright: ignore
        for model, estimator in ((one, "population"), (other, "sequential"))
    )

    assert (first.n_elements, first.n_calls) == (second.n_elements, second.n_calls) == (20, 3)
    torch.testing.assert_close(second.running_mean, first.running_mean, rtol=1e-6, atol=0)


def test_the_calls_of_one_batch_are_one_draw():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.bn(x) + self.bn(x + 10)

    (layer,) = recalibrate(Twice(), [torch.randn(16, 2)] * 40).layers

    assert layer.mean_error is not None
    assert layer.mean_error < 1e-6


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor


class Nested(nn.Module):
    """Several arguments, nested, complex numbers among them; what it returns differs."""

    def __init__(self, give) -> None:
        super().__init__()
        self.bn, self.give = nn.BatchNorm2d(3), give

    def forward(self, images, extra, *, scale):
        x = self.bn(images * scale["factor"] + extra[0].abs())
        return self.give(x)


@pytest.mark.parametrize(
    "give",
    [lambda x: (x, x), lambda x: Output(x, x), lambda x: {"logits": x, "aux": [x]}, lambda x: None],
    ids=["tuple", "dataclass", "dict", "nothing"],
)
def test_nested_and_complex_inputs_several_arguments_and_any_output(give):
    images, phase = torch.randn(8, 3, 5, 6), torch.randn(8, 3, 5, 6, dtype=torch.complex64)
    batch = {"images": images, "extra": [phase, ("a", 1)], "scale": {"factor": torch.tensor(2.0)}, "labels": None}
    model = Nested(give)

    recalibrate(model, [batch])

    assert_has(model.bn, pooled(images * 2 + phase.abs()), rtol=1e-5)


def test_layers_are_found_in_the_order_of_the_model_and_shared_ones_once():
    model = nn.ModuleDict({"a": nn.BatchNorm1d(2), "b": nn.LayerNorm(2), "c": nn.InstanceNorm1d(2), "d": OwnNorm(2)})
    model["e"] = model["a"]

    assert {name: layer.kind for name, layer in bn_layers(model).items()} == {"a": "batch", "d": "custom"}


def test_a_layer_that_is_left_alone_normalises_by_what_it_has():
    model, batches = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), data(2)
    model[0].running_mean += 2  # pyright: ignore

    result = recalibrate(model, batches, leave={"0": "frozen in training"})

    assert result.kept == {"0": "frozen in training"}
    assert model[0].running_mean.tolist() == [2, 2, 2]  # pyright: ignore
    assert_has(model[1], pooled((torch.cat(batches) - 2) / (1 + 1e-5) ** 0.5))


def test_a_layer_that_normalises_by_the_batch_for_ever_cannot_take_one_sample():
    with pytest.raises(UserCodeError, match="running the model on batch 1 failed: ValueError: Expected more than 1"):
        recalibrate(
            nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)),
            [torch.randn(4, 2), torch.randn(1, 2)],
        )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_model_that_changes_its_input_in_place_gets_it_as_it_was_in_every_pass(estimator):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.two(self.one(x.mul_(2)) + 1)

    batches = data(2)
    expected = pooled(torch.cat(batches) * 2)

    model = InPlace()
    recalibrate(model, batches, estimator=estimator)

    assert_has(model.one, expected)


def test_two_layers_with_the_same_statistics_are_named():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[1].running_mean, model[1].running_var = model[0].running_mean, model[0].running_var

    result = recalibrate(model, data(2))

    assert result.kept == {"1": "it shares its statistics with another layer, whose inputs alone they describe"}


def test_a_layer_that_the_forward_puts_in_eval_mode_is_named():
    class Evaluates(nn.Sequential):
        def forward(self, x):  # pyright: ignore
            self[0].eval()
            return super().forward(x)

    model, batches = Evaluates(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), data(2)

    result = recalibrate(model, batches)

    assert result.kept == {"0": "the model's forward puts it in eval mode"}
    assert_has(model[1], pooled(torch.cat(batches) / (1 + 1e-5) ** 0.5), rtol=1e-5)


def test_dropout_is_off_though_eval_is_overridden():
    class Noisy(nn.Sequential):
        def eval(self):
            return self

    model = Noisy(nn.Dropout(0.5), nn.BatchNorm2d(3)).train()
    batches = data(2)

    recalibrate(model, batches)

    assert_has(model[1], pooled(torch.cat(batches)))
    assert model[0].training


def test_a_loader_that_shrinks_is_refused_for_sequential():
    class Shrinks:
        left = 5

        def __iter__(self):
            self.left -= 1
            return iter([torch.randn(4, 2)] * self.left)

    with pytest.raises(DataError, match=r"yields a different number of samples in every pass \(8 to 12\)"):
        recalibrate(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)), Shrinks(), estimator="sequential")


def test_only_layers_that_are_left_alone_are_no_error():
    result = recalibrate(nn.Sequential(FrozenBatchNorm2d(3)), data(2))

    assert (result.layers, list(result.kept)) == ((), ["0"])
