"""Tokens of texts, against a recomputation token by token."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

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
from swa_cli.tasks.causal_lm import CausalLM
from swa_cli.user.batch import split_batch


@pytest.fixture
def logits():
    return 2 * torch.randn(4, 6, 11)


@pytest.fixture
def labels():
    found = torch.randint(0, 11, (4, 6))
    found[1, 3:] = -100
    found[2] = -100
    return found


def slow(logits, labels, shift=1):
    log_probs, nll, hits, n = log_softmax(logits), 0.0, 0, 0
    for sequence, row in zip(log_probs, labels.tolist(), strict=True):
        for t, label in enumerate(row):
            if t >= shift and label != -100:
                nll -= sequence[t - shift][label]
                hits += int(np.argmax(sequence[t - shift])) == label
                n += 1
    return {"nll": nll / n, "perplexity": math.exp(nll / n), "accuracy": hits / n}


@pytest.mark.parametrize("sizes", [[4], [1, 3], [1, 1, 1, 1]])
def test_scores_equal_a_recomputation_in_any_batching(logits, labels, sizes):
    batches = [(example(y), x) for x, y in zip(logits.split(sizes), labels.split(sizes), strict=True)]

    assert scores(CausalLM(), batches) == pytest.approx(slow(logits, labels), rel=1e-12)


def test_the_nll_is_the_loss_of_transformers(logits, labels):
    loss = cross_entropy(logits[:, :-1].double().flatten(0, 1), labels[:, 1:].flatten())

    assert scores(CausalLM(), [(example(labels), logits)])["nll"] == pytest.approx(float(loss), rel=1e-12)


def test_without_shift_logits_are_of_the_label_at_their_place(logits, labels):
    found = scores(CausalLM(shift=False), [(example(labels), logits)])

    assert found == pytest.approx(slow(logits, labels, shift=0), rel=1e-12)


def test_a_sequence_without_a_token_to_score_is_a_unit_that_changes_nothing(logits, labels):
    records = records_of(CausalLM(), [(example(labels), logits)])

    assert records.columns["count"].tolist() == [5, 2, 0, 5]


def test_sequences_of_one_token_have_nothing_to_predict():
    records = records_of(CausalLM(), [(example(torch.tensor([[3], [4]])), torch.zeros(2, 1, 11))])

    assert records.columns["count"].tolist() == [0, 0]


def test_the_score_of_some_sequences_is_that_of_these_alone(logits, labels):
    records = records_of(CausalLM(), [(example(labels), logits)])

    for name, expected in slow(logits[[1, 3]], labels[[1, 3]]).items():
        assert score_of_units(CausalLM(), records, name, [1, 3]) == pytest.approx(expected, rel=1e-12)


def test_input_ids_are_the_labels_where_there_are_none(logits):
    ids = torch.randint(0, 11, (4, 6))
    expected = pytest.approx(slow(logits, ids), rel=1e-12)

    assert scores(CausalLM(), [(split_batch({"input_ids": ids}), SimpleNamespace(logits=logits))]) == expected
    assert scores(CausalLM(), [(split_batch(ids), logits)]) == expected


@pytest.mark.parametrize("left", [False, True])
def test_padding_at_either_end_is_neither_predicted_nor_predicted_from(left):
    lengths, ids, logits = [6, 3, 1], torch.randint(0, 11, (3, 6)), torch.randn(3, 6, 11)
    mask = torch.zeros(3, 6, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, 6 - length if left else 0 : 6 if left else length] = 1
    alone = [
        (example(None, input_ids=i[m][None]), x[m][None]) for i, x, m in zip(ids, logits, mask.bool(), strict=True)
    ]
    batch = split_batch({"input_ids": ids, "attention_mask": mask})

    padded = records_of(CausalLM(), [(batch, logits)])

    for name, column in records_of(CausalLM(), alone).columns.items():
        np.testing.assert_allclose(padded.columns[name], column, rtol=1e-12, atol=1e-12)
    assert mask.sum().item() == sum(lengths)


def test_labels_are_taken_as_they_are_whatever_the_mask_says(logits, labels):
    mask = torch.zeros(4, 6)

    found = scores(CausalLM(), [(split_batch({"input_ids": labels, "attention_mask": mask, "labels": labels}), logits)])

    assert found == pytest.approx(slow(logits, labels), rel=1e-12)


def test_a_hopeless_model_has_an_infinite_perplexity():
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 0] = 2000.0

    found = scores(CausalLM(), [(example(torch.tensor([[0, 1]])), logits)])

    assert found == {"nll": 2000.0, "perplexity": math.inf, "accuracy": 0.0}


def test_many_tokens_go_through_in_pieces():
    logits, labels = torch.randn(2, 40, 60_000, dtype=torch.float16), torch.randint(0, 60_000, (2, 40))
    before = logits.clone()

    assert scores(CausalLM(), [(example(labels), logits)]) == pytest.approx(slow(logits, labels), rel=1e-10)
    assert torch.equal(logits, before)


def test_the_ensemble_is_the_mean_of_the_probabilities(logits, labels):
    raws = [logits, torch.randn_like(logits), torch.randn_like(logits)]
    mean = np.mean([np.exp(log_softmax(raw)) for raw in raws], axis=0)
    task, batch = CausalLM(), example(labels)

    found = scores_together(task, batch, raws)
    one_by_one, at_once = nearness(task, batch, raws)

    assert found == pytest.approx(slow(torch.from_numpy(np.log(mean)), labels), rel=1e-10)
    assert found["nll"] <= mean_scores(task, batch, raws)["nll"]
    assert at_once == pytest.approx(one_by_one, rel=1e-10)
    geometric = scores_together(task, batch, raws, "geometric")
    assert geometric == pytest.approx(slow(torch.stack(raws).double().mean(0), labels), rel=1e-10)


def test_torchmetrics_is_given_what_its_perplexity_takes(logits, labels):
    preds, target = CausalLM().for_torchmetrics(*predicted(CausalLM(), example(labels), logits))

    assert (tuple(preds.shape), tuple(target.shape)) == ((1, 12, 11), (1, 12))
    perplexity = torch.exp(cross_entropy(preds[0], target[0]))
    assert float(perplexity) == pytest.approx(slow(logits, labels)["perplexity"])


def test_outputs_that_look_like_probabilities_are_doubted(logits):
    assert CausalLM().sanity_warning(logits) is None
    assert "like probabilities" in str(CausalLM().sanity_warning(logits.softmax(dim=-1)))


def test_nothing_is_warned_of(logits, labels):
    assert CausalLM().warnings(records_of(CausalLM(), [(example(labels), logits)])) == ()


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 0), (1, 4, 6, 11)])
def test_outputs_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match=r"expected \(sequences, tokens, classes\) for the task causal_lm"):
        CausalLM().output(torch.zeros(shape))


IDS = torch.zeros(4, 6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({}, example(IDS[:, 1:]), r"target is int64 \[4, 5\], expected class indices \(int64 \[4, 6\]\).*tokens"),
        ({}, example(IDS.float()), r"target is float32 \[4, 6\], expected"),
        ({}, example(IDS + 11), "label 11 is out of range, expected 0 to 10"),
        ({}, example(None, torch.zeros(4, 6)), r"no labels, and its input_ids are float32 \[4, 6\]: expected labels"),
        ({}, example(None, input_ids=IDS[:2]), r"input_ids are int64 \[2, 6\]: .* or input_ids of that shape"),
        ({}, example(None, inputs_embeds=IDS), "input_ids are NoneType: expected labels, int64"),
        ({"shift": False}, example(None, input_ids=IDS), r"expected labels, int64 \[4, 6\]\. Let"),
        (
            {},
            example(None, input_ids=IDS, attention_mask=IDS[:, 0]),
            r"attention_mask is int64 \[4\], expected \[4, 6\]",
        ),
        ({}, example(None, input_ids=IDS, attention_mask={}), "attention_mask is dict, expected"),
    ],
)
def test_labels_that_do_not_fit_are_refused(logits, options, batch, message):
    with pytest.raises(DataError, match=message):
        CausalLM(**options).target(batch, logits)
