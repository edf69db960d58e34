"""One logit for two classes, against a recomputation element by element; a softmax over one class is never scored."""

import math

import pytest
import torch

from support.scoring import example, mean_scores, records_of, scores, scores_together
from swa_cli.errors import DataError
from swa_cli.tasks import choose_task
from swa_cli.tasks.causal_lm import CausalLM
from swa_cli.tasks.classification import Classification
from swa_cli.tasks.multilabel import Multilabel
from swa_cli.tasks.nodes import Nodes
from swa_cli.tasks.regression import Regression
from swa_cli.tasks.segmentation import Segmentation
from swa_cli.user.batch import Batch

N = 40
NOTE = "the model gives one logit for each {}: it is scored as binary, with its sigmoid as the probability of label 1."


@pytest.fixture
def logits():
    return 3 * torch.randn(N)


@pytest.fixture
def labels():
    return torch.randint(0, 2, (N,))


def slow(logits, labels):
    hits = nll = brier = 0.0
    for logit, label in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        hits += (p > 0.5) == (label == 1)
        nll -= math.log(p if label == 1 else 1 - p)
        brier += 2 * (p - label) ** 2
    n = labels.numel()
    return {"accuracy": hits / n, "nll": nll / n, "brier": brier / n}


def assert_as_slow(found, expected):
    for name in expected.keys() & found.keys():
        assert found[name] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize("output_shape", [(N,), (N, 1)])
@pytest.mark.parametrize("label_shape", [(N,), (N, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool, torch.uint8])
def test_one_logit_is_scored_by_its_sigmoid(logits, labels, output_shape, label_shape, dtype):
    batch, raw = example(labels.view(label_shape).to(dtype)), logits.view(output_shape)
    task = Classification()
    assert_as_slow(scores(task, [(batch, raw)]), slow(logits, labels))
    assert task.warnings(records_of(task, [(batch, raw)])) == (NOTE.format("example"),)


@pytest.mark.parametrize("label_shape", [(5, 4, 2), (5, 1, 4, 2)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_one_channel_is_scored_by_its_sigmoid(logits, labels, label_shape, dtype):
    batch, raw = example(labels.view(label_shape).to(dtype)), {"out": logits.view(5, 1, 4, 2)}
    task = Segmentation()
    found = scores(task, [(batch, raw)])
    assert_as_slow(found, slow(logits, labels))
    guesses = logits > 0
    ious = [
        float(((guesses == c) & (labels == c)).sum() / ((guesses == c) | (labels == c)).sum()) for c in (False, True)
    ]
    assert found["miou"] == pytest.approx(sum(ious) / 2)
    assert NOTE.format("pixel") in task.warnings(records_of(task, [(batch, raw)]))


@pytest.mark.parametrize(("shape", "label_shape"), [((N, 1), (N,)), ((8, 5, 1), (8, 5)), ((N, 1), (N, 1))])
def test_one_logit_of_a_node_is_scored_by_its_sigmoid(logits, labels, shape, label_shape):
    batch, task = example(labels.view(label_shape).float()), Nodes()
    assert_as_slow(scores(task, [(batch, logits.view(shape))]), slow(logits, labels))
    assert NOTE.format("node") in task.warnings(records_of(task, [(batch, logits.view(shape))]))


def test_soft_labels_of_one_logit_count_as_those_of_two(logits):
    soft = torch.rand(N, dtype=torch.float64)
    two = torch.stack([torch.zeros(N), logits], dim=1)
    expected = scores(Classification(), [(example(torch.stack([1 - soft, soft], dim=1)), two)])
    for target in (soft, soft[:, None]):
        assert scores(Classification(), [(example(target), logits[:, None])]) == pytest.approx(expected)


def test_ensembles_and_options_of_one_logit_are_those_of_two(labels):
    raws = [torch.randn(N, 1, dtype=torch.float64) for _ in range(3)]
    twos = [torch.cat([torch.zeros_like(raw), raw], dim=1) for raw in raws]
    task = Classification(class_weights=(1, 3), top_k=(1, 2))
    for of in (scores_together, mean_scores):
        assert of(task, example(labels), raws) == pytest.approx(of(task, example(labels), twos))
    geometric = scores_together(task, example(labels), raws, "geometric")
    assert_as_slow(geometric | {"nll": geometric["nll"]}, {"accuracy": geometric["accuracy"]})
    assert geometric == pytest.approx(scores_together(task, example(labels), twos, "geometric"))
    assert scores(task, [(example(labels), raws[0])])["top2"] == 1


@pytest.mark.parametrize("value", [2, -1, 7])
@pytest.mark.parametrize(
    ("task", "shape", "output_shape"),
    [
        (Classification(), (N,), (N, 1)),
        (Classification(), (N,), (N,)),
        (Segmentation(), (5, 4, 2), (5, 1, 4, 2)),
        (Nodes(), (N,), (N, 1)),
    ],
)
def test_another_label_than_0_and_1_is_refused(labels, task, shape, output_shape, value):
    labels[3] = value
    with pytest.raises(
        DataError,
        match=rf"label {value} is out of range, expected 0 or 1.*`task='multilabel'`.*\(n, 1\)",
    ):
        task.target(example(labels.view(shape)), task.output(torch.randn(output_shape)))


def test_an_ignored_label_leaves_one_class_and_a_warning(logits, labels):
    task = Classification(ignore_index=1)
    records = records_of(task, [(example(labels), logits)])
    n = int((labels == 0).sum())
    assert scores(task, [(example(labels), logits)])["nll"] == pytest.approx(
        slow(logits[labels == 0], labels[labels == 0])["nll"]
    )
    assert task.warnings(records)[1] == (
        f"all {n} examples have the label 0: a constant predictor would score 100 %. Check the data module's labels."
    )


@pytest.mark.parametrize(
    ("task", "shape"), [(Classification(), (N,)), (Segmentation(), (5, 1, 4, 2)), (Nodes(), (8, 5, 1))]
)
def test_probabilities_in_the_place_of_one_logit_are_doubted(logits, task, shape):
    assert "like probabilities" in task.sanity_warning(task.output(logits.sigmoid().view(shape)))
    assert task.sanity_warning(task.output(logits.view(shape))) is None


@pytest.mark.parametrize(
    ("target", "shape", "name"),
    [
        (torch.zeros(N, dtype=torch.int64), (N,), "classification"),
        (torch.zeros(N, 1, dtype=torch.int64), (N, 1), "classification"),
        (torch.zeros(N, dtype=torch.bool), (N, 1), "classification"),
        (torch.zeros(5, 4, 2, dtype=torch.int64), (5, 1, 4, 2), "segmentation"),
        (torch.zeros(5, 1, 4, 2, dtype=torch.bool), (5, 1, 4, 2), "segmentation"),
    ],
)
def test_the_task_of_one_logit_is_seen_from_integers_and_bools(target, shape, name):
    assert choose_task(Batch((), {}, target), torch.zeros(shape)).name == name


@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_floats_may_be_numbers_or_labels_and_the_task_must_be_named(shape):
    with pytest.raises(DataError, match=r"is ambiguous.*`task='classification'`, for several `task='multilabel'`"):
        choose_task(Batch((), {}, torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize(("target", "output"), [((N,), (N, 1)), ((N, 1), (N,)), ((N,), (N, 1, 1))])
def test_floats_beside_one_logit_of_another_shape_may_be_either_too(target, output):
    with pytest.raises(
        DataError, match=r"labels 0 and 1 that is `task='classification'`, for a number `task='regression'`"
    ):
        choose_task(Batch((), {}, torch.zeros(target)), torch.zeros(output))


def test_a_vocabulary_of_one_token_is_refused():
    with pytest.raises(DataError, match="one token leaves nothing to predict"):
        CausalLM().output(torch.zeros(2, 3, 1))


@pytest.mark.parametrize(
    ("task", "target", "output", "warning"),
    [
        (Multilabel(), torch.zeros(4, 3), torch.randn(4, 3), "all 12 labels are 0: a constant predictor would score"),
        (Multilabel(), torch.ones(4, 3), torch.randn(4, 3), "all 12 labels are 1: a constant predictor would score"),
        (Regression(), torch.full((6,), 0.1), torch.randn(6), "all 6 targets are the same: a constant predictor would"),
        (Nodes(), torch.ones(6), torch.randn(6, 1), "all 6 nodes have the label 1: a constant predictor would score"),
    ],
)
def test_data_of_one_class_are_said(task, target, output, warning):
    assert any(found.startswith(warning) for found in task.warnings(records_of(task, [(example(target), output)])))


@pytest.mark.parametrize("n_classes", [2, 5, 12])
def test_top_1_breaks_ties_as_accuracy_does(n_classes):
    logits = torch.randint(0, 2, (300, n_classes)).double()
    labels = torch.randint(0, n_classes, (300,))
    found = scores(Classification(top_k=(1, 2, n_classes)), [(example(labels), logits)])
    ranked = [sorted(range(n_classes), key=lambda c, row=row: (-row[c], c)) for row in logits.tolist()]
    for k, name in ((1, "top1"), (2, "top2"), (1, "accuracy")):
        hits = [label in order[:k] for label, order in zip(labels.tolist(), ranked, strict=True)]
        assert found[name] == pytest.approx(sum(hits) / 300)
    assert found[f"top{n_classes}"] == 1
