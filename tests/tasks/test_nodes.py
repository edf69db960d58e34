"""Nodes of graphs, against a recomputation node by node."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.scoring import (
    example,
    log_softmax,
    mean_scores,
    nearness,
    predicted,
    records_of,
    score_of_units,
    scores,
    scores_together,
)
from swa_cli.errors import DataError
from swa_cli.tasks.nodes import Nodes

SIZES = [3, 9, 1, 7]
N = sum(SIZES)
GRAPHS = torch.arange(4).repeat_interleave(torch.tensor(SIZES))


@pytest.fixture
def logits():
    return 2 * torch.randn(N, 3)


@pytest.fixture
def labels():
    found = torch.randint(0, 3, (N,))
    found[[4, 13]] = -100
    return found


def slow(logits, labels, weights=(1.0, 1.0, 1.0)):
    log_probs = log_softmax(logits)
    hits, of_class = [0, 0, 0], [0, 0, 0]
    nll = total = brier = 0.0
    for row, label in zip(log_probs, labels.tolist(), strict=True):
        if label == -100:
            continue
        of_class[label] += 1
        hits[label] += int(np.argmax(row)) == label
        nll -= weights[label] * row[label]
        total += weights[label]
        brier += sum((np.exp(value) - (place == label)) ** 2 for place, value in enumerate(row))
    recalls = [h / n for h, n in zip(hits, of_class, strict=True) if n]
    n = sum(of_class)
    return {
        "balanced_recall": sum(recalls) / len(recalls),
        "accuracy": sum(hits) / n,
        "nll": nll / total,
        "brier": brier / n,
    }


def batches_of(logits, labels, parts):
    """The graphs of each part, numbered from 0 as a loader does."""
    for part in parts:
        here = torch.isin(GRAPHS, torch.tensor(part))
        yield example(labels[here], batch=GRAPHS[here] - min(part)), logits[here]


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]]])
def test_scores_equal_a_recomputation_in_any_batching(logits, labels, parts):
    task = Nodes()
    records = records_of(task, batches_of(logits, labels, parts))

    assert records.n_units == 4
    assert scores(task, batches_of(logits, labels, parts)) == pytest.approx(slow(logits, labels), rel=1e-12)


def test_class_weights_weight_the_nll_only(logits, labels):
    weights = (0.2, 1.5, 4.0)

    found = scores(Nodes(class_weights=weights), [(example(labels), logits)])

    assert found == pytest.approx(slow(logits, labels, weights), rel=1e-12)


def test_balanced_recall_is_the_mean_over_the_classes_that_occur():
    logits = torch.eye(3)[[0, 0, 0, 1, 2]]

    found = scores(Nodes(), [(example(torch.tensor([0, 0, 0, 0, 1])), logits)])

    assert found["balanced_recall"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["accuracy"] == pytest.approx(3 / 5)


def test_the_score_of_some_graphs_is_that_of_these_graphs_alone(logits, labels):
    task = Nodes()
    records = records_of(task, [(example(labels, batch=GRAPHS), logits)])
    here = torch.isin(GRAPHS, torch.tensor([1, 3]))

    for name, expected in slow(logits[here], labels[here]).items():
        assert score_of_units(task, records, name, [1, 3]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (lambda y, g: example(y, batch=g), {}),
        (lambda y, g: example(y, SimpleNamespace(x=torch.zeros(3), batch=g)), {}),
        (lambda y, g: example(y, torch.zeros(2), data=SimpleNamespace(batch=g)), {}),
        (lambda y, g: example(y, {"batch": g}), {}),
        (lambda y, g: example(y, SimpleNamespace(which=g, batch=None)), {"graph": "which"}),
        (lambda y, g: example(y, batch=5 * g + 2), {}),
        (lambda y, g: example(y, batch=g.to(torch.int32)), {}),
    ],
)
def test_the_graph_of_each_node_is_found(logits, labels, batch, options):
    records = records_of(Nodes(**options), [(batch(labels, GRAPHS), logits)])

    assert records.columns["count"].tolist() == [3, 8, 1, 6]


def test_nodes_of_a_graph_need_not_be_neighbours(logits, labels):
    order = torch.randperm(N)
    mixed = records_of(Nodes(), [(example(labels[order], batch=GRAPHS[order]), logits[order])])
    sorted_ = records_of(Nodes(), [(example(labels, batch=GRAPHS), logits)])

    for name, column in sorted_.columns.items():
        np.testing.assert_allclose(mixed.columns[name], column, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("data", [SimpleNamespace(batch=None), SimpleNamespace(), torch.zeros(3)])
def test_without_a_word_of_graphs_all_nodes_of_a_batch_are_of_one(logits, labels, data):
    assert records_of(Nodes(), [(example(labels, data), logits)]).n_units == 1


def test_padded_graphs_give_what_the_same_nodes_give_one_after_the_other(logits, labels):
    padded = torch.full((4, 9, 3), 7.0)
    targets = torch.full((4, 9), -100)
    for graph, (x, y) in enumerate(zip(logits.split(SIZES), labels.split(SIZES), strict=True)):
        padded[graph, : len(x)], targets[graph, : len(y)] = x, y

    dense = records_of(Nodes(), [(example(targets), padded)])
    flat = records_of(Nodes(), [(example(labels, batch=GRAPHS), logits)])

    for name, column in flat.columns.items():
        np.testing.assert_allclose(dense.columns[name], column, rtol=1e-12, atol=1e-12)


def test_a_graph_without_a_node_to_score_is_a_unit_that_changes_nothing(logits, labels):
    labels[GRAPHS == 1] = -100
    records = records_of(Nodes(), [(example(labels, batch=GRAPHS), logits)])

    assert records.columns["count"].tolist() == [3, 0, 1, 6]
    assert scores(Nodes(), [(example(labels, batch=GRAPHS), logits)]) == pytest.approx(slow(logits, labels))


def test_the_ensemble_is_the_mean_of_the_probabilities(logits, labels):
    raws = [logits, torch.randn(N, 3), torch.randn(N, 3)]
    mean = np.mean([np.exp(log_softmax(raw)) for raw in raws], axis=0)
    task, batch = Nodes(), example(labels, batch=GRAPHS)

    found = scores_together(task, batch, raws)
    one_by_one, at_once = nearness(task, batch, raws)
    members = mean_scores(task, batch, raws)

    assert found == pytest.approx(slow(torch.from_numpy(np.log(mean)), labels), rel=1e-10)
    assert at_once == pytest.approx(one_by_one, rel=1e-10)
    assert found["brier"] == pytest.approx(members["brier"] - at_once["ensemble_distance"], rel=1e-10)
    assert found["nll"] <= members["nll"]
    geometric = scores_together(task, batch, raws, "geometric")
    assert geometric == pytest.approx(slow(torch.stack(raws).double().mean(0), labels), rel=1e-10)


def test_torchmetrics_is_given_probabilities_and_labels_of_the_scored_nodes(logits, labels):
    preds, target = Nodes().for_torchmetrics(*predicted(Nodes(), example(labels), logits))

    assert target.tolist() == [label for label in labels.tolist() if label != -100]
    np.testing.assert_allclose(preds.numpy(), np.exp(log_softmax(logits))[labels != -100], rtol=1e-12)


def test_outputs_that_look_like_probabilities_are_doubted(logits):
    assert Nodes().sanity_warning(logits) is None
    assert "like probabilities" in str(Nodes().sanity_warning(logits.softmax(dim=-1)))
    assert "like probabilities" in str(Nodes().sanity_warning(logits[None].softmax(dim=-1)))


def test_one_label_and_one_graph_are_warned_of(logits):
    same = torch.full((N,), 2)
    warnings = Nodes().warnings(records_of(Nodes(), [(example(same), logits)]))
    several = Nodes().warnings(records_of(Nodes(), [(example(torch.arange(N) % 3, batch=GRAPHS), logits)]))

    assert [warning.split(":")[0].split(", so")[0] for warning in warnings] == [
        "all 20 nodes have the label 2",
        "all nodes belong to one graph, the unit that is resampled",
    ]
    assert several == ()


@pytest.mark.parametrize("shape", [(5,), (5, 0), (2, 3, 4, 5)])
def test_outputs_of_another_shape_are_refused(shape):
    with pytest.raises(
        DataError, match=r"expected \(nodes, classes\) or \(graphs, nodes, classes\) for the task nodes"
    ):
        Nodes().output(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "target", "kwargs", "message"),
    [
        (
            {},
            torch.zeros(19, dtype=torch.int64),
            {},
            r"int64 \[19\], expected class indices \(int64 \[20\]\).*20 nodes",
        ),
        ({}, torch.zeros(20), {}, r"float32 \[20\], expected class indices"),
        ({}, None, {}, "target is NoneType, expected"),
        ({}, torch.full((20,), 3), {}, "label 3 is out of range, expected 0 to 2"),
        ({"class_weights": (1, 2)}, torch.zeros(20, dtype=torch.int64), {}, "class_weights has 2 numbers"),
        ({}, None, {"batch": GRAPHS[:5]}, "target is NoneType"),
        (
            {},
            torch.zeros(20, dtype=torch.int64),
            {"batch": GRAPHS[:5]},
            r"graph of each node \(batch\) is int64 \[5\], expected int64 \[20\].*`graph`",
        ),
        ({}, torch.zeros(20, dtype=torch.int64), {"batch": GRAPHS.float()}, r"\(batch\) is float32 \[20\]"),
        ({"graph": "which"}, torch.zeros(20, dtype=torch.int64), {"batch": GRAPHS}, r"\(which\) is NoneType, expected"),
    ],
)
def test_targets_and_graphs_that_do_not_fit_are_refused(logits, options, target, kwargs, message):
    with pytest.raises(DataError, match=message):
        Nodes(**options).target(example(target, **kwargs), logits)
