"""A language model of transformers from training to the report, its scores against plain loops."""

import math

import pytest

from support.task_runs import Small, log_softmax, ran, shown

pytestmark = pytest.mark.slow


def small_gpt2(*, n_test: int) -> Small:
    return Small(
        recipe="causal_lm",
        model=("causal_lm.py:small_gpt2", {"width": 16, "layers": 1}),
        data=("causal_lm.py:GrammarData", {"n_train": 96, "n_val": 30, "n_test": n_test}),
        task={"class_path": "causal_lm"},
    )


def test_a_small_gpt2_on_sentences(run_swa, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    small = small_gpt2(n_test=75)

    ended = ran(small, run_swa, tmp_path, monkeypatch)

    for kind in ("swa", "checkpoint"):
        nll, right, n = 0.0, 0, 0
        for logits, batch in ended.outputs(kind, lambda model, batch: model(**batch).logits):
            for text, labels in zip(log_softmax(logits), batch["labels"].tolist(), strict=True):
                for row, label in zip(text[:-1], labels[1:], strict=True):
                    if label != -100:
                        nll -= row[label]
                        right += int(row.argmax()) == label
                        n += 1
        expected = {"nll": nll / n, "perplexity": math.exp(nll / n), "accuracy": right / n}
        assert {name: ended.row(kind)[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert (ended.result["n_examples"], ended.result["unit"]) == (75, "sequence")
    assert "75 sequences of the test split" in ended.stdout
    assert "token accuracy %" in ended.stdout
    assert shown(ended.result) == {"nll": False, "perplexity": False, "accuracy": True}
    decision = ended.result["decision"]
    assert (decision["primary"], decision["secondary"]) == ("nll", None)


def test_the_loss_of_the_model_is_the_nll_of_a_batch(run_swa, tmp_path, monkeypatch):
    """GPT-2's own loss is the mean over the tokens of a batch, as the score is over those of all."""
    pytest.importorskip("transformers")
    small = small_gpt2(n_test=32)

    ended = ran(small, run_swa, tmp_path, monkeypatch)

    ((loss, _),) = ended.outputs("swa", lambda model, batch: model(**batch).loss)
    assert ended.row("swa")["nll"] == pytest.approx(float(loss), rel=1e-5)
