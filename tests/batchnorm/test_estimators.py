"""The estimators against their closed forms, with the figures of each trap."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.utils.data import DataLoader

from swa_cli.batchnorm import Estimator, recalibrate
from swa_cli.errors import DataError
from swa_cli.report.bn_update import recalibration_report
from swa_cli.report.bn_update_json import recalibration_json
from swa_cli.user.batch import Batch, split_batch
from swa_cli.user.dataloader import Passes


def spread(n: int, mean: float, variance: float) -> torch.Tensor:
    """``n`` values with exactly this mean and unbiased variance, float64."""
    values = torch.linspace(-1, 1, n, dtype=torch.float64)
    return values / values.std() * variance**0.5 + mean


def column(*parts: torch.Tensor) -> list[torch.Tensor]:
    """Batches of one feature."""
    return [part.reshape(-1, 1).float() for part in parts]


def measured(batches: list[torch.Tensor], estimator) -> tuple[float, float]:
    """Mean and variance that the first layer gets."""
    model = nn.Sequential({2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[batches[0].ndim](1))
    recalibrate(model, batches, estimator=estimator)
    return float(model[0].running_mean), float(model[0].running_var)  # pyright: ignore


def by_update_bn(batches: list[torch.Tensor]) -> tuple[float, float]:
    model = nn.Sequential({2: nn.BatchNorm1d, 4: nn.BatchNorm2d}[batches[0].ndim](1))
    torch.optim.swa_utils.update_bn(batches, model)
    return float(model[0].running_mean), float(model[0].running_var)  # pyright: ignore


def exactly(batches: list[torch.Tensor]) -> tuple[float, float]:
    values = torch.cat([batch.flatten() for batch in batches]).double()
    return float(values.mean()), float(values.var())


def approx(*values: float):
    return pytest.approx(values, rel=1e-6, abs=1e-6)


def test_ten_batches_of_a_hundred():
    """0.9418, of which the batches' own variances show 0.9335."""
    means = spread(10, 0.0, (0.9418 - 0.9335 * 0.99) * 10 / 9)
    batches = column(*(spread(100, float(mean), 0.9335) for mean in means))

    assert exactly(batches)[1] * 999 / 1000 == pytest.approx(0.9418, rel=1e-6)
    assert measured(batches, "population") == approx(*exactly(batches))
    assert measured(batches, "torch") == approx(0, 0.9335) == by_update_bn(batches)
    assert measured(batches, "official") == approx(0, 0.9335)


def test_batches_of_998_and_2_that_lie_twenty_apart():
    batches = column(spread(998, -0.0154, 0.942), spread(2, 19.6554, 0.002))

    mean, variance = exactly(batches)
    assert (round(mean, 3), round(variance, 2)) == (0.024, 1.71)
    assert measured(batches, "population") == approx(mean, variance)
    mean, variance = measured(batches, "torch")
    assert (round(mean, 2), round(variance, 2)) == (9.82, 0.47)
    assert (mean, variance) == approx(*by_update_bn(batches))
    mean, variance = measured(batches, "official")
    assert (round(mean, 3), round(variance, 2)) == (0.024, 0.94)


def test_a_loader_that_is_sorted():
    """0.942, of which the batches' own variances show 0.05."""
    quantiles = torch.tensor(norm.ppf([(i + 0.5) / 1000 for i in range(1000)]))
    batches = column(*(quantiles / quantiles.std(correction=0) * 0.942**0.5).chunk(8))

    assert measured(batches, "population") == approx(0, 0.942 * 1000 / 999)
    assert measured(batches, "torch") == approx(*by_update_bn(batches))
    assert measured(batches, "torch")[1] == pytest.approx(0.05, abs=0.003)
    assert measured(batches, "official") == approx(*measured(batches, "torch"))


def test_images_that_are_nearly_constant_in_batches_of_two():
    """1.161 of which two images of a batch show 0.667."""
    images, pairs, size = 40, 20, 25
    levels = spread(images, 0.0, 1.0)
    batches = []
    for pair in range(pairs):
        both = torch.stack([spread(size, float(levels[2 * pair + side]), 0.66) for side in (0, 1)])
        batches.append(both.reshape(2, 1, 5, 5).float())

    exact = exactly(batches)
    assert measured(batches, "population") == approx(*exact)
    assert measured(batches, "torch") == approx(*by_update_bn(batches))
    assert measured(batches, "torch")[1] < 0.58 * exact[1]


def test_an_offset_of_ten_thousand_in_float32():
    """E[x²] − E[x]² in float32 knows the variance here to the nearest 8."""
    batches = column(*(spread(1000, 1e4, 0.9978 * 1000 / 999)).chunk(10))

    mean, variance = measured(batches, "population")
    squares = torch.stack([batch.square().mean() for batch in batches]).mean() - torch.cat(batches).mean() ** 2

    assert variance == pytest.approx(exactly(batches)[1], rel=1e-6)
    assert round(variance * 999 / 1000, 3) == 0.998
    assert mean == pytest.approx(1e4, rel=1e-7)
    assert float(squares) % 8 == 0


@pytest.mark.parametrize("sizes", [[8], [4, 4], [2, 6], [3, 5], [2, 2, 2, 2]])
def test_rows_one_to_four_have_the_mean_2_5_and_the_variance_1_25_in_every_batching(sizes):
    rows = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(2)

    mean, variance = measured(column(*rows.split(sizes)), "population")

    assert (mean, variance * 7 / 8) == approx(2.5, 1.25)


def test_of_one_two_and_three_four_update_bn_gives_half():
    batches = column(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))

    assert by_update_bn(batches) == approx(2.5, 0.5) == measured(batches, "torch")
    assert measured(batches, "population") == approx(2.5, 5 / 3)


class Convnet(nn.Module):
    """Three layers with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        layers = [(nn.Conv2d(1 if i == 0 else 6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()) for i in range(3)]
        self.features = nn.Sequential(*(module for group in layers for module in group))

    def forward(self, x):
        return self.features(x)


def convnet() -> Convnet:
    torch.manual_seed(3)
    return Convnet()


def statistics_of(model: nn.Module) -> list[torch.Tensor]:
    found = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [buffer for layer in found for buffer in (layer.running_mean, layer.running_var)]  # pyright: ignore


UNEQUAL = [5, 16, 16, 2, 9]


@pytest.fixture
def batches():
    return list(torch.randn(sum(UNEQUAL), 1, 8, 8).mul(3).add(1).split(UNEQUAL))


def test_torch_is_update_bn_at_every_depth(batches):
    ours, theirs = convnet(), convnet()
    recalibrate(ours, batches, estimator="torch")
    torch.optim.swa_utils.update_bn(batches, theirs)

    for one, other in zip(statistics_of(ours), statistics_of(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    assert ours.features[1].num_batches_tracked == theirs.features[1].num_batches_tracked == 5


def test_official_is_the_mean_over_batches_weighted_by_samples_at_every_depth(batches):
    ours, inputs = convnet(), {}
    recalibrate(ours, batches, estimator="official")
    theirs = convnet().train()
    for index, layer in enumerate(theirs.features):
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, args, i=index: inputs.setdefault(i, []).append(args[0].double()))
    with torch.no_grad():
        for batch in batches:
            theirs(batch)

    found = iter(statistics_of(ours))
    for values in inputs.values():
        means = [x.mean(dim=(0, 2, 3)) for x in values]
        variances = [x.var(dim=(0, 2, 3)) for x in values]
        for expected in (means, variances):
            mean = sum(n * entry for n, entry in zip(UNEQUAL, expected, strict=True)) / sum(UNEQUAL)
            torch.testing.assert_close(next(found).double(), mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("estimator", ["torch", "official"])
def test_a_variance_of_one_value_cannot_be_taken(estimator):
    with pytest.raises(
        DataError,
        match=r"batch 1: layer 0 gets one value per channel \(shape \[1, 2\]\), whose variance this estimator cannot",
    ):
        recalibrate(nn.Sequential(nn.BatchNorm1d(2)), [torch.randn(4, 2), torch.randn(1, 2)], estimator=estimator)


@pytest.fixture(scope="module")
def digits():
    """A 3-BN network trained on the digits, and its training images."""
    from swa_cli.demo.digits import DigitsData

    torch.manual_seed(0)
    data = DigitsData()
    data.setup("fit")
    images, labels = data.images[:1256].flatten(1), data.labels[:1256]
    model = nn.Sequential()
    for width in (64, 32, 32):
        model.extend([nn.Linear(width, 32), nn.BatchNorm1d(32), nn.ReLU()])
    model.append(nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(10):
        for part in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    return model.requires_grad_(requires_grad=False).eval(), images[torch.randperm(len(images))]


def layers_of(model: nn.Module) -> list[nn.BatchNorm1d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]


def by_hand(model: nn.Module, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The definition: layer by layer in float64, each normalised by what was found for it, all data at once."""
    values, found = images.double(), []
    for module in model:  # pyright: ignore
        if isinstance(module, nn.BatchNorm1d):
            mean, variance = values.mean(dim=0), values.var(dim=0)
            found.append((mean, variance))
            scaled = (values - mean) / (variance + module.eps).sqrt()
            values = scaled * module.weight.double() + module.bias.double()
        elif isinstance(module, nn.Linear):
            values = values @ module.weight.double().T + module.bias.double()
        else:
            values = values.clamp(min=0)
    return found


@pytest.mark.parametrize("size", [8, 32, 128, 1000])
def test_sequential_is_the_definition_whatever_the_batch_size(digits, size):
    model, images = digits

    result = recalibrate(model, images.split(size), estimator="sequential")

    assert result.passes == 4
    for layer, (mean, variance) in zip(layers_of(model), by_hand(model, images), strict=True):
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-6, atol=1e-6)  # pyright: ignore
        torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-6, atol=1e-6)  # pyright: ignore


@pytest.mark.parametrize(
    ("size", "of_population", "of_torch"),
    [(8, 0.25, 0.16), (32, 0.07, 0.07), (128, 0.03, 0.03), (1256, 0.0009, 0.0009)],
)
def test_one_pass_depends_on_the_batch_size_a_little_below_the_first_layer(digits, size, of_population, of_torch):
    """The worst relative error of a variance, over all channels; of 1,256 at once the 1/n of Bessel's correction."""
    model, images = digits
    exact = by_hand(model, images)

    bounds: list[tuple[Estimator, float]] = [("population", of_population), ("torch", of_torch)]
    for estimator, bound in bounds:
        recalibrate(model, images.split(size), estimator=estimator)
        worst = [
            float(((layer.running_var.double() - variance) / variance).abs().max())  # pyright: ignore
            for layer, (_, variance) in zip(layers_of(model), exact, strict=True)
        ]
        assert estimator == "torch" or worst[0] < 1e-6
        assert bound / 3 < max(worst) < bound


class Stacking(nn.Module):
    """As detectors do: an image for each entry of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, images, *_: object):
        return self.bn(torch.stack([image["image"] if isinstance(image, dict) else image for image in images]))


def listed(values: torch.Tensor, kind: str):
    """A batch of single images (3, 1, 2) of that many."""
    images = list(values.view(-1, 3, 1, 2).float())
    if kind == "dicts":
        return [{"image": image, "boxes": torch.zeros(1, 4)} for image in images]
    return images, [{"boxes": torch.zeros(1, 4)}] * len(images) if kind == "boxes" else torch.zeros(len(images))


def split_dicts(batch):
    return Batch((batch,), {}, None)


@pytest.mark.parametrize("kind", ["boxes", "dicts", "labels"])
def test_official_weighs_by_the_samples_that_went_through(kind):
    """Not by the channels of the first image, 3 whatever the batch."""
    values = [spread(6 * n, mean, 1.0) for n, mean in ((20, -1.0), (5, 4.0))]
    batches = [listed(part, kind) for part in values]
    model = Stacking()
    result = recalibrate(model, batches, estimator="official", split=split_dicts if kind == "dicts" else split_batch)

    means = torch.stack([part.view(-1, 3, 2).mean(dim=(0, 2)) for part in values])
    expected = (means * torch.tensor([[20.0], [5.0]])).sum(dim=0) / 25
    assert result.n_samples == 25
    torch.testing.assert_close(model.bn.running_mean, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("estimator", ["population", "torch", "official", "sequential"])
def test_where_samples_cannot_be_counted_official_is_refused(estimator):
    """Nodes of graphs, of which only the target knows how many there are."""
    model = nn.Sequential(nn.BatchNorm1d(4))
    batches = [(torch.randn(50, 4), torch.zeros(6)), (torch.randn(40, 4), torch.zeros(6))]
    if estimator == "official":
        with pytest.raises(
            DataError, match=r"batch 0: the number of samples.*ambiguous.*`estimator='official'` weights"
        ):
            recalibrate(model, batches, estimator=estimator)
        return
    result = recalibrate(model, batches, estimator=estimator)

    assert (result.n_samples, result.n_batches) == (None, 2)
    assert next(iter(recalibration_report(result))).startswith(
        "Recomputed the statistics of 1 BatchNorm layer from 2 batches of an unknown number of samples"
    )
    assert json.loads(recalibration_json(Path("x"), result, None, ()))["layers"][0]["n_elements"] == 90


def test_the_sampler_counts_graphs_whose_nodes_the_layers_see():
    sizes = [5, 9, 2, 7, 4]

    def collate(graphs):
        return torch.cat(graphs), torch.zeros(2, 30), torch.zeros(len(graphs))

    def split(batch):
        return Batch(batch[:1], {}, batch[2])

    graphs: Any = [torch.randn(n, 4) for n in sizes]
    loader = Passes(DataLoader(graphs, batch_size=2, collate_fn=collate))

    assert recalibrate(nn.Sequential(nn.BatchNorm1d(4)), loader, estimator="official", split=split).n_samples == 5
