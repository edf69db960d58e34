"""Numbers, against a recomputation number by number."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch.distributions import Categorical, Normal

from support.scoring import (
    example,
    mean_scores,
    nearness,
    predicted,
    records_of,
    score_of_units,
    scores,
    scores_together,
)
from swa_cli.errors import DataError
from swa_cli.tasks.regression import Regression

PLAIN, SURE = Regression(), Regression(variance="variance")


@pytest.fixture
def values():
    return torch.randn(20, 3)


@pytest.fixture
def target():
    return torch.randn(20, 3) * torch.tensor([1.0, 5.0, 0.2])


@pytest.fixture
def variance():
    return torch.rand(20, 3) + 0.1


def slow(values, target):
    mse = mean_squared_error(target, values)
    return {
        "rmse": math.sqrt(mse),
        "mae": mean_absolute_error(target, values),
        "mse": mse,
        "r2": r2_score(target, values),
    }


def slow_nll(values, variance, target):
    terms = [
        0.5 * math.log(2 * math.pi * v) + (y - f) ** 2 / (2 * v)
        for f, v, y in zip(
            *(np.asarray(one, dtype=np.float64).ravel().tolist() for one in (values, variance, target)), strict=True
        )
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("sizes", [[20], [7, 13], [1] * 20])
def test_scores_are_those_of_scikit_learn_in_any_batching(values, target, sizes):
    batches = [(example(y), x) for x, y in zip(values.split(sizes), target.split(sizes), strict=True)]

    assert scores(PLAIN, batches) == pytest.approx(slow(values.double(), target.double()), rel=1e-12)


@pytest.mark.parametrize(("out", "given"), [((20, 1), (20,)), ((20,), (20, 1)), ((20,), (20,)), ((20, 1), (20, 1))])
def test_one_number_for_each_example_may_have_a_dimension_of_its_own(values, target, out, given):
    found = scores(PLAIN, [(example(target[:, 0].reshape(given)), values[:, 0].reshape(out))])

    assert found == pytest.approx(slow(values[:, 0].double(), target[:, 0].double()), rel=1e-12)


def test_targets_may_be_counts(values):
    counts = torch.randint(0, 9, (20, 3))

    assert scores(PLAIN, [(example(counts), values)]) == pytest.approx(slow(values.double(), counts), rel=1e-12)


def test_maps_have_no_r2_and_their_errors_are_means_over_all_numbers():
    values, target = torch.randn(4, 2, 5, 5), torch.randn(4, 2, 5, 5)
    expected = slow(values.double().flatten(), target.double().flatten())
    del expected["r2"]

    assert scores(PLAIN, [(example(target), values)]) == pytest.approx(expected, rel=1e-12)
    assert "r2" not in scores(PLAIN, [(example(torch.randn(4, 65)), torch.randn(4, 65))])


def test_r2_holds_far_from_zero(values, target):
    far = target.double() + 1e9
    found = scores(PLAIN, [(example(far), values.double() + 1e9)])

    assert found["r2"] == pytest.approx(r2_score(target.double(), values.double()), rel=1e-5)


def test_r2_is_over_the_outputs_that_vary(values, target):
    target[:, 1] = 0.1
    found = scores(PLAIN, [(example(target), values)])
    constant = scores(PLAIN, [(example(torch.full((20,), 0.1)), values[:, 0])])

    assert found["r2"] == pytest.approx(r2_score(target[:, [0, 2]].double(), values[:, [0, 2]].double()))
    assert math.isnan(constant["r2"])


def test_the_score_of_some_examples_is_that_of_these_alone(values, target):
    records, some = records_of(PLAIN, [(example(target), values)]), [1, 4, 5, 17]

    for name, expected in slow(values[some].double(), target[some].double()).items():
        assert score_of_units(PLAIN, records, name, some) == pytest.approx(expected, rel=1e-10)


class Pair(NamedTuple):
    mean: torch.Tensor
    log_var: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: SimpleNamespace(logits=x),
        lambda x: SimpleNamespace(predictions=x),
        lambda x: (x, "more"),
        lambda x: [x],
        lambda x: {"prediction": x},
        lambda x: {"logits": x},
        lambda x: Normal(x, 1.0),
    ],
)
def test_predictions_are_found(values, target, wrap):
    assert scores(PLAIN, [(example(target), wrap(values))]) == scores(PLAIN, [(example(target), values)])


def test_a_distribution_predicts_its_mean_whatever_else_it_has():
    output = Categorical(logits=torch.zeros(2, 3))

    assert torch.isnan(PLAIN.output(output)).all()  # which the evaluation refuses


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        ("variance", lambda m, v: (m, v)),
        ("variance", lambda m, v: [m, v, "more"]),
        ("variance", lambda m, v: {"mean": m, "variance": v}),
        ("variance", lambda m, v: {"mean": m, "var": v}),
        ("variance", lambda m, v: SimpleNamespace(mean=m, variance=v)),
        ("variance", lambda m, v: Normal(m, v.sqrt())),
        ("log_variance", lambda m, v: (m, v.log())),
        ("log_variance", lambda m, v: {"mean": m, "log_variance": v.log()}),
        ("log_variance", lambda m, v: Pair(mean=m, log_var=v.log())),
        ("log_variance", lambda m, v: Normal(m, v.sqrt())),
    ],
)
def test_variances_are_found_and_give_the_gaussian_nll(values, target, variance, kind, wrap):
    variance = variance.double()
    found = scores(Regression(variance=kind), [(example(target), wrap(values.double(), variance))])

    expected = {**slow(values.double(), target.double()), "nll": slow_nll(values, variance, target)}
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_ensemble_is_the_mean_and_its_error_that_of_the_members_less_their_spread(values, target, offset):
    target, values = target.double() + offset, values.double() + offset
    raws = [values, values + torch.randn(20, 3), values + torch.randn(20, 3)]
    batch = example(target)

    found = scores_together(PLAIN, batch, raws)
    one_by_one, at_once = nearness(PLAIN, batch, raws)

    rel = 1e-12 if not offset else 1e-6
    assert found == pytest.approx(slow(torch.stack(raws).mean(0), target), rel=rel)
    assert at_once == pytest.approx(one_by_one, rel=rel)
    members = mean_scores(PLAIN, batch, raws)
    assert found["mse"] == pytest.approx(members["mse"] - at_once["ensemble_distance"], rel=rel)
    assert PLAIN.ensemble_accumulator(target).geometric() is None


def test_the_ensemble_of_distributions_has_the_moments_of_their_mixture(values, target, variance):
    means = torch.stack([values, torch.randn(20, 3), torch.randn(20, 3)]).double()
    variances = torch.stack([variance, torch.rand(20, 3) + 0.1, torch.rand(20, 3) + 0.1]).double()
    raws = list(zip(means, variances, strict=True))
    mean = means.mean(0)
    mixed = (variances + means**2).mean(0) - mean**2

    found = scores_together(SURE, example(target), raws)
    one_by_one, at_once = nearness(SURE, example(target), raws)

    expected = {**slow(mean, target.double()), "nll": slow_nll(mean, mixed, target)}
    assert found == pytest.approx(expected, rel=1e-10)
    assert at_once == pytest.approx(one_by_one, rel=1e-10)


def test_members_that_agree_are_their_ensemble(values, target, variance):
    raw = (values, variance)

    assert scores_together(SURE, example(target), [raw] * 3) == pytest.approx(
        scores(SURE, [(example(target), raw)]), rel=1e-12
    )


def test_the_decisive_score_comes_first_and_errors_are_the_better_the_lower(values, target, variance):
    records = records_of(SURE, [(example(target), (values, variance))])

    assert [(metric.name, metric.higher_is_better) for metric in SURE.metrics(records)] == [
        ("rmse", False),
        ("mae", False),
        ("mse", False),
        ("r2", True),
        ("nll", False),
    ]
    assert SURE.warnings(records) == ()
    assert SURE.sanity_warning(SURE.output((values, variance))) is None


def test_torchmetrics_is_given_predictions_and_targets_of_one_shape(values, target, variance):
    preds, truth = SURE.for_torchmetrics(*predicted(SURE, example(target[:, :1]), (values[:, 0], variance[:, 0])))

    assert preds.tolist() == values[:, 0].tolist()
    assert truth.tolist() == target[:, 0].tolist()


@pytest.mark.parametrize(
    ("options", "output", "message"),
    [
        ({}, {"scores": torch.zeros(3)}, "returned a dict, expected a prediction for each example: a tensor"),
        ({}, torch.tensor(3.0), r"returned a float32 \[\], expected"),
        ({}, None, "returned a NoneType"),
        ({"variance": "variance"}, torch.zeros(4, 2), r"Tensor with float32 \[4, 2\] as mean and nothing as variance"),
        (
            {"variance": "variance"},
            (torch.zeros(4), torch.ones(4, 1)),
            r"tuple with float32 \[4\] as mean and float32 \[4, 1\] as variance, expected two tensors of one shape",
        ),
        (
            {"variance": "log_variance"},
            {"mean": torch.zeros(4)},
            r"nothing as log_variance, .* mean and log_variance or log_var, or a torch.distributions.Distribution",
        ),
        (
            {"variance": "variance"},
            (torch.zeros(4), torch.tensor([1.0, -2.0, 0.0, 3.0])),
            r"a variance of -2, expected a positive one \(2 of 4 are not\).*`variance='log_variance'`",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_refused(options, output, message):
    with pytest.raises(DataError, match=message):
        Regression(**options).output(output)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"target is NoneType, expected numbers \[20, 3\]"),
        (torch.ones(20, 3, dtype=torch.bool), r"target is bool \[20, 3\], expected numbers"),
        (torch.ones(20, 3, dtype=torch.complex64), r"target is complex64"),
        (torch.ones(20), r"target is float32 \[20\] and the prediction \[20, 3\]: expected the same shape"),
        (torch.ones(3, 20), r"target is float32 \[3, 20\] and the prediction"),
        (torch.full((20, 3), math.nan), "target has 60 NaN or infinite values of 60"),
    ],
)
def test_targets_that_do_not_fit_are_refused(values, target, message):
    with pytest.raises(DataError, match=message):
        PLAIN.target(example(target), values)
