"""Labels of which several may hold, against a recomputation label by label."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, f1_score
from torch.nn.functional import binary_cross_entropy_with_logits

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
from swa_cli.tasks.multilabel import Multilabel


@pytest.fixture
def logits():
    return 2 * torch.randn(30, 5)


@pytest.fixture
def truth():
    return torch.randint(0, 2, (30, 5))


def slow(probs, truth, weights=(1.0,) * 5, n_bins=15):
    right = hits = misses = false = n = exact = examples = 0
    nll = total = brier = 0.0
    bins = [0.0] * n_bins
    for row, labels in zip(np.asarray(probs), truth.tolist(), strict=True):
        every, some = True, False
        for place, (p, y) in enumerate(zip(row, labels, strict=True)):
            if y == -100:
                continue
            some = True
            said, holds = p > 0.5, y > 0.5
            n += 1
            right += said == holds
            every &= said == holds
            hits += said and holds
            misses += holds and not said
            false += said and not holds
            nll -= weights[place] * (y * math.log(p) + (1 - y) * math.log(1 - p))
            total += weights[place]
            brier += (p - y) ** 2
            bins[max(math.ceil(p * n_bins) - 1, 0)] += y - p
        examples += some
        exact += some and every
    return {
        "f1": 2 * hits / (2 * hits + misses + false),
        "exact_match": exact / examples,
        "accuracy": right / n,
        "nll": nll / total,
        "brier": brier / n,
        "ece": sum(abs(gap) for gap in bins) / n,
    }


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits.double())))


@pytest.mark.parametrize("sizes", [[30], [7, 23], [1] * 30])
def test_scores_equal_a_recomputation_in_any_batching(logits, truth, sizes):
    truth[3, 2] = truth[5] = -100
    batches = [(example(y), x) for x, y in zip(logits.split(sizes), truth.split(sizes), strict=True)]

    assert scores(Multilabel(), batches) == pytest.approx(slow(sigmoid(logits), truth), rel=1e-12)


def test_scores_are_those_of_scikit_learn_and_torch(logits, truth):
    found, probs = scores(Multilabel(), [(example(truth), logits)]), sigmoid(logits)

    assert found["f1"] == pytest.approx(f1_score(truth, probs > 0.5, average="micro"))
    assert found["nll"] == pytest.approx(float(binary_cross_entropy_with_logits(logits.double(), truth.double())))
    assert found["brier"] == pytest.approx(brier_score_loss(truth.flatten(), probs.flatten()))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float16])
def test_targets_may_be_of_any_dtype(logits, truth, dtype):
    expected = scores(Multilabel(), [(example(truth), logits)])

    assert scores(Multilabel(), [(example(truth.to(dtype)), logits)]) == expected


def test_soft_labels_are_scored_by_cross_entropy(logits):
    soft = torch.rand(30, 5, dtype=torch.float64)
    soft[0], soft[1], soft[2, 2] = 0.0, 1.0, -100.0

    found = scores(Multilabel(), [(example(soft), logits)])

    assert found == pytest.approx(slow(sigmoid(logits), soft), rel=1e-12)


def test_class_weights_weight_the_nll_of_each_label(logits, truth):
    weights = (0.5, 2.0, 0.0, 3.0, 1.0)
    truth[3, 1] = -100

    found = scores(Multilabel(class_weights=weights), [(example(truth), logits)])

    assert found == pytest.approx(slow(sigmoid(logits), truth, weights), rel=1e-12)


def test_a_probability_of_one_half_is_no_prediction():
    records = records_of(Multilabel(), [(example(torch.tensor([[1, 0]])), torch.zeros(1, 2))])

    assert records.columns["correct"].tolist() == [1]
    assert records.columns["true_positive"].tolist() == [0]


def test_the_score_of_some_examples_is_that_of_these_alone(logits, truth):
    records, some = records_of(Multilabel(), [(example(truth), logits)]), [2, 3, 11]

    for name, expected in slow(sigmoid(logits[some]), truth[some]).items():
        assert score_of_units(Multilabel(), records, name, some) == pytest.approx(expected, rel=1e-12)


def test_an_example_is_right_or_wrong_in_the_exact_match_only(logits, truth):
    metrics = Multilabel().metrics(records_of(Multilabel(), [(example(truth), logits)]))

    assert {m.name: m.right_or_wrong for m in metrics if m.right_or_wrong} == {"exact_match": "exact"}


def test_examples_without_a_label_to_score_are_left_out(logits, truth):
    truth[[0, 4]] = -100

    kept = Multilabel().scored_indices(Multilabel().target(example(truth), logits))
    assert kept is not None
    assert kept.tolist() == [1, 2, 3, *range(5, 30)]
    assert records_of(Multilabel(), [(example(truth), logits)]).n_units == 28
    assert Multilabel().scored_indices(Multilabel().target(example(truth.abs().clamp(max=1)), logits)) is None


def test_f1_without_a_label_that_holds_or_is_predicted_is_nan():
    found = scores(Multilabel(), [(example(torch.zeros(2, 3)), torch.full((2, 3), -1.0))])

    assert math.isnan(found["f1"])
    assert found["exact_match"] == 1.0


def test_extreme_logits_give_finite_losses():
    found = scores(Multilabel(), [(example(torch.tensor([[0, 1]])), torch.tensor([[1000.0, -1000.0]]))])

    assert found["nll"] == 1000.0
    assert found["ece"] == 1.0


def test_the_ensemble_is_the_mean_of_the_probabilities(logits, truth):
    truth[3, 2] = -100
    raws = [logits, torch.randn(30, 5), torch.randn(30, 5)]
    mean = np.mean([sigmoid(raw) for raw in raws], axis=0)
    task, batch = Multilabel(), example(truth)

    found = scores_together(task, batch, raws)
    one_by_one, at_once = nearness(task, batch, raws)
    members = mean_scores(task, batch, raws)

    assert found == pytest.approx(slow(mean, truth), rel=1e-10)
    assert at_once == pytest.approx(one_by_one, rel=1e-10)
    assert found["brier"] == pytest.approx(members["brier"] - at_once["ensemble_distance"], rel=1e-10)
    assert found["nll"] <= members["nll"]
    geometric = scores_together(task, batch, raws, "geometric")
    assert geometric == pytest.approx(slow(sigmoid(torch.stack(raws).double().mean(0)), truth), rel=1e-10)


def test_prefixes_of_an_ensemble_have_no_calibration_error(logits, truth):
    prediction, target = predicted(Multilabel(), example(truth), logits)

    assert "gaps" not in Multilabel().score_batch(prediction, target, full=False).columns


def test_torchmetrics_is_given_probabilities_with_ignored_labels_marked(logits, truth):
    truth[3, 2] = -100
    preds, target = Multilabel().for_torchmetrics(*predicted(Multilabel(), example(truth), logits))

    assert target.tolist() == truth.tolist()
    kept = (truth != -100).numpy()
    np.testing.assert_allclose(preds.numpy()[kept], sigmoid(logits)[kept], rtol=1e-12)


def test_outputs_that_look_like_probabilities_are_doubted(logits):
    assert Multilabel().sanity_warning(logits) is None
    assert "all between 0 and 1, like probabilities" in str(Multilabel().sanity_warning(logits.sigmoid()))


def test_nothing_is_warned_of(logits, truth):
    assert Multilabel().warnings(records_of(Multilabel(), [(example(truth), logits)])) == ()


@pytest.mark.parametrize("shape", [(4,), (4, 0), (4, 2, 2)])
def test_outputs_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match=r"expected \(examples, labels\) for the task multilabel"):
        Multilabel().output(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        ({}, torch.zeros(30), r"target is float32 \[30\], expected 0 or 1 .*\[30, 5\]"),
        ({}, [[0, 1]], "target is list, expected 0 or 1"),
        ({}, torch.zeros(30, 5, dtype=torch.complex64), "target is complex64"),
        ({}, torch.full((30, 5), 2), r"a label of 2, expected 0 or 1.*\(150 of 150 are wrong\).*`ignore_index`"),
        ({}, torch.full((30, 5), -1), "a label of -1, expected"),
        ({}, torch.full((30, 5), math.nan), "a label of nan, expected"),
        ({"class_weights": (1, 2)}, torch.zeros(30, 5), "class_weights has 2 numbers, and the model 5 logits"),
    ],
)
def test_targets_that_do_not_fit_are_refused(logits, options, target, message):
    with pytest.raises(DataError, match=message):
        Multilabel(**options).target(example(target), logits)
