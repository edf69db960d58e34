"""One class for each example, against a recomputation example by example."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy, one_hot

from support.scoring import (
    example,
    log_softmax,
    mean_scores,
    nearness,
    predicted,
    records_of,
    score_of_units,
    scores,
    scores_of,
    scores_together,
    together,
)
from swa_cli.errors import DataError, UsageError
from swa_cli.tasks import choose_task
from swa_cli.tasks.choose import task_named
from swa_cli.tasks.classification import Classification

N, C, BINS = 40, 5, 15
WEIGHTS = (0.5, 2.0, 0.0, 3.0, 1.0)
RECOMPUTED = ("accuracy", "nll", "brier", "ece", "adaptive_ece", "classwise_ece")


@pytest.fixture
def logits():
    return 2 * torch.randn(N, C)


@pytest.fixture
def labels():
    return torch.randint(0, C, (N,))


@pytest.fixture
def soft():
    return torch.rand(N, C, dtype=torch.float64).softmax(dim=1)


def truth_of(labels):
    """Probabilities of the classes, None where the label is ignored."""
    if labels.ndim == 2:
        return labels.tolist()
    return [[float(label == c) for c in range(C)] if label >= 0 else None for label in labels.tolist()]


def gap_in(members):
    return abs(sum(right - p for p, right in members))


def in_bins(pairs):
    """Of (probability, outcome), those of each bin (lo, hi]."""
    return [
        [(p, right) for p, right in pairs if low / BINS < p <= (low + 1) / BINS or p == low == 0] for low in range(BINS)
    ]


def slow(logits, labels, weights=(1.0,) * C):
    """With weights, labels are hard."""
    top, every = [], [[] for _ in range(C)]
    nll = total = brier = 0.0
    for row, truth in zip(log_softmax(logits), truth_of(labels), strict=True):
        if truth is None:
            continue
        label = truth.index(max(truth))
        guess = max(range(C), key=lambda c: row[c])
        top.append((math.exp(row[guess]), guess == label))
        nll -= weights[label] * sum(q * log_p for q, log_p in zip(truth, row, strict=True))
        total += weights[label]
        for c in range(C):
            brier += (math.exp(row[c]) - truth[c]) ** 2
            every[c].append((math.exp(row[c]), c == label))
    n = len(top)
    return {
        "accuracy": sum(right for _, right in top) / n,
        "nll": nll / total,
        "brier": brier / n,
        "ece": sum(map(gap_in, in_bins(top))) / n,
        "adaptive_ece": sum(gap_in(part) for part in np.array_split(np.array(sorted(top), dtype=float), BINS)) / n,
        "classwise_ece": sum(gap_in(part) for pairs in every for part in in_bins(pairs)) / C / n,
    }


def recomputed(found):
    return {name: found[name] for name in RECOMPUTED}


@pytest.mark.parametrize("sizes", [[N], [7, 33], [1] * N])
@pytest.mark.parametrize("kind", ["hard", "ignored", "soft"])
def test_scores_equal_a_recomputation_in_any_batching(logits, labels, soft, kind, sizes):
    if kind == "ignored":
        labels[[0, 7, 8, 20]] = -100
    target = soft if kind == "soft" else labels
    batches = [(example(y), x) for x, y in zip(logits.split(sizes), target.split(sizes), strict=True)]
    found, whole = scores(Classification(), batches), scores(Classification(), [(example(target), logits)])

    assert recomputed(found) == pytest.approx(slow(logits, target), rel=1e-12)
    assert found == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_nll_is_the_cross_entropy_of_torch(logits, labels, weights):
    labels[[3, 9]] = -100
    wide = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    found = scores(Classification(class_weights=weights), [(example(labels), logits)])

    assert found["nll"] == pytest.approx(float(cross_entropy(logits.double(), labels, weight=wide)), rel=1e-12)


def test_nll_of_soft_labels_is_the_cross_entropy_of_torch(logits, soft):
    found = scores(Classification(), [(example(soft), logits)])

    assert found["nll"] == pytest.approx(float(cross_entropy(logits.double(), soft)), rel=1e-12)


def test_class_weights_weight_the_nll_only(logits, labels):
    plain = scores(Classification(), [(example(labels), logits)])
    found = scores(Classification(class_weights=WEIGHTS), [(example(labels), logits)])

    assert recomputed(found) == pytest.approx(slow(logits, labels, WEIGHTS), rel=1e-12)
    assert {name for name in found if found[name] != plain[name]} == {"nll", "calibrated_nll"}


def test_class_weights_times_a_factor_change_nothing(logits, labels):
    few, many = (
        scores(Classification(class_weights=tuple(factor * w for w in WEIGHTS)), [(example(labels), logits)])
        for factor in (1, 8)
    )

    assert many == pytest.approx(few, rel=1e-12)


def test_soft_labels_that_are_certain_score_as_class_indices_do(logits, labels):
    certain = scores(Classification(top_k=(2,)), [(example(one_hot(labels, C).float()), logits)])

    assert certain == pytest.approx(scores(Classification(top_k=(2,)), [(example(labels), logits)]), rel=1e-12)


def test_top_k_is_whether_fewer_than_k_classes_are_more_probable(logits, labels):
    found = scores(Classification(top_k=(1, 2, C)), [(example(labels), logits)])
    ranks = [sum(other > row[y] for other in row) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]

    assert found["top1"] == found["accuracy"]
    assert found["top2"] == sum(rank < 2 for rank in ranks) / N
    assert found["top5"] == 1.0
    assert 0 < found["top1"] < found["top2"] < 1


@pytest.mark.parametrize("ignored", [-100, 255, 2])
def test_ignored_examples_are_left_out_of_every_score(logits, labels, ignored):
    task = Classification(ignore_index=ignored, top_k=(2,))
    kept = [place for place in range(N) if place % 4]
    labels[labels == 2] = 1
    labels[::4] = ignored
    found = records_of(task, [(example(labels), logits)])

    assert scores_of(task, found) == scores(task, [(example(labels[kept]), logits[kept])])
    assert found.n_units == len(kept)


def test_kept_names_the_examples_that_are_scored(logits, labels):
    task = Classification()
    assert task.scored_indices(task.target(example(labels), logits)) is None

    labels[[0, 5]] = -100
    chosen = task.scored_indices(task.target(example(labels), logits))

    assert chosen is not None
    assert chosen.tolist() == [place for place in range(N) if place not in (0, 5)]


def test_scores_of_nothing_are_nan(logits):
    found = scores(Classification(top_k=(2,)), [(example(torch.full((N,), -100)), logits)])

    assert {*RECOMPUTED, "calibrated_nll", "ece_floor", "top2"} == set(found)
    assert all(math.isnan(value) for value in found.values())


def test_a_batch_without_an_example_to_score_changes_nothing(logits, labels):
    task, batch = Classification(), (example(labels), logits)

    assert scores(task, [(example(torch.full((3,), -100)), logits[:3]), batch]) == scores(task, [batch])


def test_the_score_of_some_examples_is_that_of_these_alone(logits, labels):
    task, some = Classification(class_weights=WEIGHTS), [0, 3, 4, 31]
    records = records_of(task, [(example(labels), logits)])
    expected = slow(logits[some], labels[some], WEIGHTS)

    for name in ("accuracy", "nll", "brier"):
        assert score_of_units(task, records, name, some) == pytest.approx(expected[name], rel=1e-12)


def test_without_full_there_is_what_is_compared_alone(logits, labels):
    task = Classification(top_k=(2,))
    records = task.finish(task.score_batch(*predicted(task, example(labels), logits), full=False), None)
    whole = scores(task, [(example(labels), logits)])
    names = ("accuracy", "top2", "nll", "brier", "ece", "ece_floor", "adaptive_ece")

    assert scores_of(task, records) == {name: whole[name] for name in names}


def test_the_floor_is_the_ece_of_labels_drawn_from_the_predictions():
    logits = 2 * torch.randn(500, C)
    probs = logits.double().softmax(dim=1)
    task = Classification()
    drawn = [scores(task, [(example(torch.multinomial(probs, 1)[:, 0]), logits)]) for _ in range(60)]

    assert drawn[0]["ece_floor"] == pytest.approx(np.mean([one["ece"] for one in drawn]), rel=0.1)


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_calibrated_nll_undoes_the_scale_of_the_logits(scale):
    logits = 2 * torch.randn(400, C)
    labels = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
    plain, scaled = (scores(Classification(), [(example(labels), factor * logits)]) for factor in (1, scale))

    assert scaled["calibrated_nll"] == pytest.approx(plain["calibrated_nll"], rel=2e-4)
    assert scaled["nll"] > plain["nll"] * 1.05


@pytest.mark.parametrize(("kind", "weights"), [("hard", None), ("hard", WEIGHTS), ("soft", None)])
def test_calibrated_nll_is_that_of_a_temperature_fitted_to_copies_of_the_data(kind, weights):
    """With both copies in groups of their own, each half is fitted to the other, which is the same."""
    logits = 3 * torch.randn(100, C)
    probs = (logits.double() / 3).softmax(dim=1)
    target = probs if kind == "soft" else torch.multinomial(probs, 1)[:, 0]
    wide = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    task = Classification(class_weights=weights)
    raw = task.score_batch(*predicted(task, example(torch.cat([target, target])), logits.repeat(2, 1)), full=True)
    best: Any = minimize_scalar(
        lambda log_t: float(cross_entropy(logits.double() / math.exp(log_t), target, weight=wide)),
        bounds=(-2, 2),
        method="bounded",
    )

    found = scores_of(task, task.finish(raw, np.repeat([0, 1], 100)))

    assert found["calibrated_nll"] == pytest.approx(best.fun, rel=1e-4)
    assert found["calibrated_nll"] < found["nll"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("index", [torch.uint8, torch.int32])
def test_dtypes_change_nothing_but_rounding_of_the_logits(logits, labels, dtype, index):
    found = scores(Classification(), [(example(labels.to(index)), logits.to(dtype))])

    assert recomputed(found) == pytest.approx(slow(logits.to(dtype), labels), rel=1e-12)


@pytest.mark.parametrize("wrap", [lambda x: {"logits": x}, lambda x: SimpleNamespace(logits=x), lambda x: (x, None)])
def test_outputs_are_taken_as_transformers_gives_them(logits, labels, wrap):
    task = Classification()

    assert scores(task, [(example(labels), wrap(logits))]) == scores(task, [(example(labels), logits)])


def test_far_apart_logits_give_finite_scores():
    found = scores(Classification(), [(example(torch.tensor([0, 1])), torch.tensor([[3e4, -3e4], [3e4, -3e4]]))])

    assert found["nll"] == 3e4
    assert found["brier"] == 1.0


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_ensemble_is_the_mean_of_the_probabilities(logits, labels, soft, kind):
    raws = [logits, torch.randn_like(logits), torch.randn_like(logits)]
    mean = np.mean([np.exp(log_softmax(raw)) for raw in raws], axis=0)
    task, target = Classification(), soft if kind == "soft" else labels

    arithmetic = scores_together(task, example(target), raws)
    geometric = scores_together(task, example(target), raws, "geometric")

    assert recomputed(arithmetic) == pytest.approx(slow(torch.from_numpy(np.log(mean)), target), rel=1e-10)
    assert recomputed(geometric) == pytest.approx(slow(torch.stack(raws).double().mean(0), target), rel=1e-10)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_ensemble_gains_in_brier_what_its_members_differ_by(logits, labels, soft, kind):
    """Brier of the ensemble = mean Brier − mean‖p_k − p̄‖², exactly; its NLL is at most the mean (Jensen)."""
    raws = [logits, torch.randn_like(logits), 3 * torch.randn_like(logits)]
    task, batch = Classification(), example(soft if kind == "soft" else labels)
    ensemble, members = scores_together(task, batch, raws), mean_scores(task, batch, raws)
    mixture, _, _ = together(task, batch, raws)
    spread = mixture.diversity().columns["squared_distance"].mean()

    assert ensemble["brier"] == pytest.approx(members["brier"] - spread, rel=1e-12)
    assert ensemble["nll"] < members["nll"]


def test_likeness_and_closeness_are_those_of_the_probabilities(logits, labels):
    raws = [logits, logits + torch.randn_like(logits), torch.randn_like(logits)]
    labels[4] = -100
    probs = np.array([np.exp(log_softmax(raw)) for raw in raws])[:, labels.numpy() >= 0]
    mean = probs.mean(axis=0)
    task = Classification()
    mixture, predictions, _ = together(task, example(labels), raws)
    agreeing, squared = [], []
    for prediction, p in zip(predictions, probs, strict=True):
        agreeing.append([int(np.argmax(a) == np.argmax(b)) for a, b in zip(p, mean, strict=True)])
        squared.append([sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for a, b in zip(p, mean, strict=True)])
        columns = mixture.agreement(prediction).columns
        assert columns["agreement"].tolist() == agreeing[-1]
        assert columns["squared_distance"] == pytest.approx(np.array(squared[-1]), rel=1e-10)

    near = mixture.diversity().columns

    assert near["agreement"] == pytest.approx(np.mean(agreeing, axis=0))
    assert near["squared_distance"] == pytest.approx(np.mean(squared, axis=0), rel=1e-10)
    one_by_one, at_once = nearness(task, example(labels), raws)
    assert at_once == pytest.approx(one_by_one, rel=1e-10)


def test_one_member_is_its_own_ensemble(logits, labels):
    task, batch = Classification(), example(labels)

    assert scores_together(task, batch, [logits]) == scores(task, [(batch, logits)])
    assert nearness(task, batch, [logits])[1] == {"ensemble_agreement": 1.0, "ensemble_distance": 0.0}


def test_torchmetrics_is_given_probabilities_and_labels_of_the_scored_examples(logits, labels):
    labels[7] = -100
    preds, target = Classification().for_torchmetrics(*predicted(Classification(), example(labels), logits))

    assert target.tolist() == [label for label in labels.tolist() if label != -100]
    assert preds.numpy() == pytest.approx(np.exp(log_softmax(logits[labels != -100])), rel=1e-12)


def test_torchmetrics_is_given_the_most_probable_of_soft_labels(logits, soft):
    _, target = Classification().for_torchmetrics(*predicted(Classification(), example(soft), logits))

    assert target.tolist() == [row.index(max(row)) for row in soft.tolist()]


def test_outputs_that_look_like_probabilities_are_doubted(logits):
    task = Classification()

    assert "like probabilities" in str(task.sanity_warning(logits.softmax(dim=1)))
    assert task.sanity_warning(logits) is None
    assert task.sanity_warning(logits.abs()) is None
    assert task.sanity_warning(logits.log_softmax(dim=1)) is None
    assert (
        task.sanity_warning(logits - logits.mean(dim=1, keepdim=True) + 1 / C) is None
    )  # sums of one, some below zero


def test_labels_that_are_all_the_same_are_warned_of(logits, labels):
    task = Classification()
    same = records_of(task, [(example(torch.full((N,), 3)), logits)])
    single = records_of(task, [(example(labels[:1]), logits[:1])])

    assert task.warnings(same) == (
        ("all 40 examples have the label 3: a constant predictor would score 100 %. Check the data module's labels."),
    )
    assert task.warnings(records_of(task, [(example(labels), logits)])) == ()
    assert task.warnings(single) == ()


def test_only_the_accuracy_is_right_or_wrong_and_it_and_the_nll_are_compared(logits, labels):
    task = Classification(top_k=(2,))
    metrics = task.metrics(records_of(task, [(example(labels), logits)]))

    assert {metric.name: metric.right_or_wrong for metric in metrics if metric.right_or_wrong} == {
        "accuracy": "correct"
    }
    assert {metric.name for metric in metrics if metric.compared} == {"accuracy", "nll"}
    assert {metric.name for metric in metrics if metric.higher_is_better} == {"accuracy", "top2"}


def test_class_indices_with_rows_of_logits_are_taken_as_classification(logits, labels):
    assert choose_task(example(labels), {"logits": logits}) == Classification()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(()), r"logits of shape \[\], expected \(examples, classes\) for the task classification\."),
        (torch.zeros(5, 4, 2), r"logits of shape \[5, 4, 2\], expected \(examples, classes\)"),
        (torch.zeros(5, 0), r"logits of shape \[5, 0\], expected \(examples, classes\)"),
        (
            {"probs": torch.zeros(5, 4)},
            "the model returned a dict, expected logits: a tensor, .* a mapping",
        ),
        ({"logits": [0.0, 1.0]}, "the model returned a dict, expected logits"),
        ((), "the model returned a tuple, expected logits"),
        (None, "the model returned a NoneType, expected logits"),
    ],
)
def test_outputs_of_another_kind_are_refused(output, message):
    with pytest.raises(DataError, match=message):
        Classification().output(output)


def test_more_classes_than_there_are_cannot_be_the_most_probable(logits):
    with pytest.raises(UsageError, match=r"top_k=6 of 5 classes"):
        Classification(top_k=(1, C + 1)).output(logits)


INDICES = torch.zeros(N, dtype=torch.int64)


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        ({}, None, r"the target is NoneType, expected a tensor of class indices \(int64 \[40\]\).*40 examples.*label"),
        ({}, [0] * N, "the target is list, expected a tensor of class indices"),
        ({}, torch.zeros(N), r"the target is float32 \[40\], expected class indices \(int64 \[40\]\).*split_batch"),
        ({}, INDICES.bool(), r"the target is bool \[40\], expected class indices"),
        ({}, INDICES[:-1], r"the target is int64 \[39\], expected class indices \(int64 \[40\]\)"),
        ({}, INDICES[:, None], r"the target is int64 \[40, 1\], expected class indices"),
        ({}, one_hot(INDICES, C), r"the target is int64 \[40, 5\], expected class indices"),
        ({}, torch.ones(N, C + 1) / (C + 1), r"the target is float32 \[40, 6\], expected class indices"),
        ({}, INDICES + C, r"label 5 is out of range, expected 0 to 4, .* 5 logits \(40 of 40 .*ignore_index=5"),
        ({}, INDICES - 1, "label -1 is out of range, expected 0 to 4.*ignore_index=-1"),
        ({"ignore_index": -1}, INDICES - 100, "label -100 is out of range"),
        ({"class_weights": (1, 2)}, INDICES, "class_weights has 2 numbers, and the model 5 logits: expected one"),
    ],
)
def test_targets_that_do_not_fit_are_refused(logits, options, target, message):
    with pytest.raises(DataError, match=message):
        Classification(**options).target(example(target), logits)


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ([0.5, 0.5, 0.5, 0.0, 0.0], r"\[0\.5, 0\.5, 0\.5, 0, …\]"),
        ([1.0, 1.0, 0.0, 0.0, -1.0], r"\[1, 1, 0, 0, …\]"),
        ([math.nan, 1.0, 0.0, 0.0, 0.0], r"\[nan, 1, 0, 0, …\]"),
        ([math.inf, 0.0, 0.0, 0.0, 0.0], r"\[inf, 0, 0, 0, …\]"),
    ],
)
def test_soft_labels_that_are_no_probabilities_are_refused(logits, soft, row, shown):
    soft[3] = soft[9] = torch.tensor(row, dtype=torch.float64)
    message = rf"the soft label of example 3 is {shown}, expected probabilities.*\(2 of 40 are not\).*multilabel"

    with pytest.raises(DataError, match=message):
        Classification().target(example(soft), logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": (0,)}, r"task classification: top_k\.0: expected a number above 0, found 0\."),
        ({"ignore_index": "none"}, "task classification: ignore_index: expected .*integer.*, found 'none'"),
        (
            {"topk": (5,)},
            r"unknown argument 'topk'\. Known here: ignore_index, class_weights, top_k",
        ),
    ],
)
def test_arguments_that_it_does_not_take_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        task_named("classification", arguments)
