"""Scores, ensemble and comparisons against references and identities."""

import json
import math
from dataclasses import replace

import pytest
import references
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from swa_cli.errors import DataError, NonFiniteError, UserCodeError
from swa_cli.evaluation import (
    BnRecord,
    Member,
    compare,
    evaluate,
    expected_calibration_error,
    records_of,
    scores_of,
)
from swa_cli.report.json_report import to_json
from swa_cli.report.table import sentences


def linear_members(n: int, classes: int = 4, features: int = 3) -> list[Member]:
    return [
        Member(
            name=f"epoch-{step}.pt",
            kind="checkpoint",
            step=step,
            state_dict={"weight": 2 * torch.randn(classes, features), "bias": torch.randn(classes)},
        )
        for step in range(n)
    ]


def mean_of(members: list[Member]) -> Member:
    names = members[0].state_dict
    state = {name: torch.stack([member.state_dict[name] for member in members]).mean(0) for name in names}
    return Member(name="swa.safetensors", kind="swa", state_dict=state)


def run(members, batches, **options):
    model = nn.Linear(3, 4)
    return evaluate(model, members, mean_of(members), batches, split="test", compare_ensemble=True, **options)


def reference_scores(members, inputs, labels):
    logits = [(inputs.double() @ m.state_dict["weight"].double().T + m.state_dict["bias"].double()) for m in members]
    return [references.log_probs(values.tolist()) for values in logits], labels.tolist()


@pytest.mark.parametrize("sizes", [[200], [64, 64, 64, 8], [1] * 20 + [180]])
def test_every_row_equals_an_independent_recomputation_in_any_batching(sizes):
    members, inputs, labels = linear_members(5), torch.randn(200, 3), torch.randint(0, 4, (200,))

    result = run(members, list(zip(inputs.split(sizes), labels.split(sizes), strict=True)))

    log_probs, targets = reference_scores([*members, mean_of(members)], inputs, labels)
    expected = {
        m.name: references.scores(lp, targets) for m, lp in zip([*members, mean_of(members)], log_probs, strict=True)
    }
    expected["ensemble"] = references.scores(references.ensemble(log_probs[:5]), targets)
    names = [member.name for member in members]
    expected["mean over checkpoints"] = {
        metric: sum(expected[name][metric] for name in names) / 5 for metric in expected["ensemble"]
    }
    expected["last (epoch-4.pt)"] = expected["epoch-4.pt"]
    assert [candidate.kind for candidate in result.candidates] == [
        "swa",
        *["checkpoint"] * 5,
        "last",
        "mean",
        "ensemble",
    ]
    assert {candidate.name for candidate in result.candidates} == set(expected)
    for candidate in result.candidates:
        for metric, value in expected[candidate.name].items():
            assert getattr(candidate.scores, metric) == pytest.approx(value, rel=1e-6, abs=1e-6), (
                candidate.name,
                metric,
            )
    assert result.n_examples == 200
    assert result.of_kind("ensemble")[0].forward_passes == 5


def test_jensen_and_the_brier_decomposition_of_the_ensemble():
    members, inputs, labels = linear_members(4), torch.randn(300, 3), torch.randint(0, 4, (300,))

    result = run(members, [(inputs, labels)])

    (ensemble,), (mean,) = result.of_kind("ensemble"), result.of_kind("mean")
    assert ensemble.scores.nll <= mean.scores.nll
    probs = torch.stack(
        [torch.tensor(lp, dtype=torch.float64).exp() for lp in reference_scores(members, inputs, labels)[0]]
    )
    spread = (probs - probs.mean(0)).square().sum(-1).mean()
    assert ensemble.scores.brier == pytest.approx(mean.scores.brier - spread.item(), abs=1e-6)


def test_identical_members_are_all_equal():
    (member,) = linear_members(1)
    copies = [Member(name=f"{i}", kind="checkpoint", state_dict=member.state_dict) for i in range(3)]

    same = Member(name="swa", kind="swa", state_dict=member.state_dict)
    batches = [(torch.randn(50, 3), torch.randint(0, 4, (50,)))]
    result = evaluate(nn.Linear(3, 4), copies, same, batches, split="test", compare_ensemble=True)

    nlls = [candidate.scores.nll for candidate in result.candidates]
    assert nlls == pytest.approx([nlls[0]] * len(nlls), abs=1e-7)
    assert {comparison.verdict for comparison in result.comparisons} == {"inconclusive"}
    assert {comparison.difference for comparison in result.comparisons} == {0}


def test_each_batch_is_loaded_once_and_seen_by_every_member():
    loaded = []

    class Loader:
        def __iter__(self):
            for index in range(3):
                loaded.append(index)
                yield torch.randn(2, 3), torch.tensor([0, 1])

    seen = []
    model = nn.Linear(3, 4)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    members = linear_members(4)
    evaluate(model, members, mean_of(members), Loader(), split="val")

    assert loaded == [0, 1, 2]
    assert len(seen) == 15
    assert all(seen[5 * batch + member] is seen[5 * batch] for batch in range(3) for member in range(5))


def test_the_model_and_its_modes_are_left_alone():
    linear, dropout = nn.Linear(3, 4), nn.Dropout(0.5)
    model = nn.Sequential(linear, dropout)
    dropout.eval()
    weights = linear.weight.clone()
    members = [Member(name="1", kind="checkpoint", state_dict={n: t.clone() for n, t in model.state_dict().items()})]

    evaluate(
        model,
        members,
        Member(name="swa", kind="swa", state_dict=members[0].state_dict),
        [(torch.randn(4, 3), torch.zeros(4).long())],
        split="val",
    )

    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.equal(linear.weight, weights)


@pytest.mark.parametrize("target", [torch.tensor([0, 4]), torch.tensor([-1, 0])], ids=["too large", "negative"])
def test_labels_out_of_range_say_which_and_what_is_allowed(target):
    bad = {4: "label 4", 0: "label -1"}[int(target.max())]

    with pytest.raises(DataError, match=rf"batch 1: {bad} is out of range, expected 0 to 3"):
        run(linear_members(2), [(torch.randn(2, 3), torch.tensor([0, 3])), (torch.randn(2, 3), target)])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.randn(2, 3), "the target is NoneType"),
        ((torch.randn(2, 3), torch.randn(2)), r"the target is float32 \[2\], expected 2 class indices"),
        ((torch.randn(2, 3), torch.zeros(2, 4).long()), r"the target is int64 \[2, 4\]"),
        ((torch.randn(2, 3), torch.zeros(3).long()), r"the target is int64 \[3\], expected 2"),
        ((torch.randn(2, 5, 3), torch.zeros(2).long()), r"logits of shape \[2, 5, 4\], expected \(examples, classes\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(batch, message):
    with pytest.raises(DataError, match=message):
        run(linear_members(2), [batch])


def test_nan_logits_name_the_member():
    members = linear_members(2)
    members[1].state_dict["bias"][2] = math.nan

    with pytest.raises(NonFiniteError, match=r"epoch-1\.pt, batch 0: the model gives NaN"):
        run(members, [(torch.randn(2, 3), torch.tensor([0, 1]))])


def test_an_empty_loader_and_one_that_raises():
    def raises():
        yield torch.randn(2, 3), torch.tensor([0, 1])
        raise ValueError("corrupt image")

    with pytest.raises(DataError, match="loader is empty"):
        run(linear_members(2), [])
    with pytest.raises(
        UserCodeError, match=r"loading batch 1 failed: ValueError: corrupt image \(at .*test_evaluation"
    ):
        run(linear_members(2), raises())


def test_calibration_error_by_hand():
    confidence = torch.tensor([0.8] * 5 + [0.79] * 5, dtype=torch.float64)
    correct = torch.tensor([True] * 5 + [False] * 5)

    assert expected_calibration_error(confidence, correct, n_bins=10) == pytest.approx(0.295)


def test_certainty_falls_into_the_last_bin():
    confidence = torch.tensor([1.0, 0.95], dtype=torch.float64)

    both_wrong = expected_calibration_error(confidence, torch.tensor([False, False]))
    one_each = expected_calibration_error(confidence, torch.tensor([False, True]))

    assert both_wrong == pytest.approx(0.975)
    assert one_each == pytest.approx(0.475)  # |1 − 1.95| / 2; with a bin of its own for 1.0 it would be 0.525


@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), classes=st.integers(2, 6))
def test_scores_equal_the_slow_reference(seed, n, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(n, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)

    found = scores_of(records_of(logits.log_softmax(1), labels))

    expected = references.scores(references.log_probs(logits.tolist()), labels.tolist())
    assert vars(found) == pytest.approx(expected, abs=1e-10)


def test_a_hopeless_prediction_has_its_full_loss():
    records = records_of(torch.tensor([[0.0, -1000.0]], dtype=torch.float64), torch.tensor([1]))

    assert scores_of(records).nll == 1000


def test_the_interval_is_that_of_the_paired_differences():
    torch.manual_seed(3)
    n = 400
    swa = records_of(torch.randn(n, 3, dtype=torch.float64).log_softmax(1), torch.zeros(n).long())
    other = records_of(torch.randn(n, 3, dtype=torch.float64).log_softmax(1), torch.zeros(n).long())

    _, nll = compare(swa, [other], name="other")

    differences = [a - b for a, b in zip(swa.nll.tolist(), other.nll.tolist(), strict=True)]
    mean = sum(differences) / n
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    assert nll.difference == pytest.approx(mean)
    assert (nll.ci_low, nll.ci_high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), rel=1e-4)


def test_a_verdict_needs_an_interval_that_excludes_zero():
    n = 100
    labels = torch.zeros(n).long()
    good = records_of(torch.tensor([[3.0, 0.0]], dtype=torch.float64).repeat(n, 1).log_softmax(1), labels)
    bad = records_of(torch.tensor([[0.0, 3.0]], dtype=torch.float64).repeat(n, 1).log_softmax(1), labels)

    assert [c.verdict for c in compare(good, [bad], name="x")] == ["better", "better"]
    assert [c.verdict for c in compare(bad, [good], name="x")] == ["worse", "worse"]
    assert [c.verdict for c in compare(good, [good], name="x")] == ["inconclusive", "inconclusive"]


class MergesInEval(nn.Module):
    """An adapter that adds itself to the weight when the model leaves train mode, as LoRA layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.adapter = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 3))
        self.merged = False

    def train(self, mode: bool = True):  # noqa: FBT001, FBT002
        if not mode and not self.merged:
            self.weight.data += self.adapter.data
            self.merged = True
        return super().train(mode)

    def forward(self, x):
        return x @ self.weight.T


class KeepsExtraState(nn.Linear):
    scale = 1.0

    def get_extra_state(self):
        return torch.tensor(self.scale)

    def set_extra_state(self, state):
        self.scale = float(state)

    def forward(self, input):  # noqa: A002
        return super().forward(input) * self.scale


@pytest.mark.parametrize("kind", [MergesInEval, lambda: KeepsExtraState(3, 4)], ids=["merges", "extra state"])
def test_what_a_model_does_when_it_is_loaded_is_done_for_each_member(kind):
    states = []
    for scale in (0.5, 2.0, 3.0):
        source = kind()
        source.scale = scale
        states.append({name: tensor.clone() for name, tensor in source.state_dict().items()})
    members = [Member(name=str(i), kind="checkpoint", state_dict=state) for i, state in enumerate(states[:2])]
    x, labels = torch.randn(30, 3), torch.randint(0, 4, (30,))

    result = evaluate(kind(), members, Member(name="swa", kind="swa", state_dict=states[2]), [(x, labels)], split="val")

    for candidate, state in zip(result.candidates[:3], (states[2], *states[:2]), strict=True):
        model = kind()
        model.load_state_dict(state)
        expected = nn.functional.cross_entropy(model.eval()(x), labels)
        assert candidate.scores.nll == pytest.approx(expected.item(), rel=1e-6)


def test_outputs_that_look_like_probabilities_are_called_out():
    class Softmax(nn.Linear):
        def forward(self, input):  # noqa: A002
            return super().forward(input).softmax(-1)

    def warnings_of(model):
        members, batches = linear_members(2), [(torch.randn(9, 3), torch.arange(9) % 4)]
        return evaluate(model, members, mean_of(members), batches, split="val").warnings

    assert any("like probabilities; they were taken as logits" in warning for warning in warnings_of(Softmax(3, 4)))
    assert warnings_of(nn.Linear(3, 4)) == ()


def test_one_example_tells_nothing_and_is_valid_json():
    result = run(linear_members(2), [(torch.randn(1, 3), torch.tensor([1]))])

    assert {comparison.verdict for comparison in result.comparisons} == {"inconclusive"}
    assert json.loads(to_json(result))["comparisons"][0]["ci_low"] is None


def test_batches_without_examples_are_an_error():
    with pytest.raises(DataError, match="batches without examples"):
        run(linear_members(2), [(torch.randn(0, 3), torch.zeros(0).long())])


def test_a_recurrent_model_uses_each_member_s_weights():
    """An LSTM keeps its weights in a list of its own; functional_call must reach them."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    def member(name, kind):
        return Member(name=name, kind=kind, state_dict=Recurrent().state_dict())

    members, swa, x = (
        [member("1", "checkpoint"), member("2", "checkpoint")],
        member("swa", "swa"),
        torch.randn(20, 5, 3),
    )
    labels = torch.randint(0, 4, (20,))
    result = evaluate(Recurrent(), members, swa, [(x, labels)], split="val")

    for candidate, state in zip(result.candidates[:3], [swa, *members], strict=True):
        model = Recurrent()
        model.load_state_dict(dict(state.state_dict))
        expected = nn.functional.cross_entropy(model(x), labels)
        assert candidate.scores.nll == pytest.approx(expected.item(), rel=1e-6)


def recomputed(**fields) -> BnRecord:
    record = BnRecord(
        file="swa.safetensors",
        estimator="population",
        model="net.py:Net",
        model_args={"width": 6},
        data="fashion_mnist.py:FashionData",
        data_args={"root": "data"},
        n_samples=55_000,
        n_batches=215,
        batch_size=None,
        seed=0,
        eval_transforms=False,
        amp=None,
        standard_error=0.004,
        partial=False,
        kept={},
        unreached=(),
    )
    return replace(record, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {},
            "population estimator, 55,000 samples in 215 batches of fashion_mnist.py:FashionData (root='data'), "
            "seed 0, standard errors up to 0.4 %.",
            id="as usual",
        ),
        pytest.param(
            {"data_args": {}, "n_samples": 1, "n_batches": 1, "seed": None, "standard_error": None},
            "population estimator, 1 sample in 1 batch of fashion_mnist.py:FashionData.",
            id="as little as a file of an older version says",
        ),
        pytest.param(
            {
                "estimator": "sequential",
                "batch_size": 1000,
                "eval_transforms": True,
                "amp": "bf16",
                "data_args": {"a": 1, "b": [None]},
            },
            "sequential estimator, 55,000 samples in 215 batches of fashion_mnist.py:FashionData (a=1, b=[None]), "
            "transformed as for evaluation, batch size 1,000, bf16, seed 0, standard errors up to 0.4 %.",
            id="all that can be said",
        ),
        pytest.param(
            {
                "data_args": {},
                "seed": None,
                "standard_error": 0.0004,
                "kept": {"a": "frozen in training", "b": "frozen in training", "c": "no batch reached it"},
            },
            "population estimator, 55,000 samples in 215 batches of fashion_mnist.py:FashionData, standard errors "
            "below 0.1 %, 2 layers left alone (frozen in training), 1 layer left alone (no batch reached it).",
            id="layers left alone",
        ),
    ],
)
def test_a_line_says_where_the_statistics_come_from(fields, expected):
    result = run(linear_members(2), [(torch.randn(9, 3), torch.arange(9) % 4)])

    *before, line = sentences(replace(result, bn_update=recomputed(**fields)))

    assert line == f"BatchNorm statistics of swa.safetensors: {expected}"
    assert before == list(sentences(result))


def test_the_json_says_where_the_statistics_come_from():
    result = run(linear_members(2), [(torch.randn(9, 3), torch.arange(9) % 4)])
    record = recomputed(kept={"a": "frozen in training"}, unreached=("b",), data_args={"sizes": [1, 2]})

    assert json.loads(to_json(result))["bn_update"] is None
    assert json.loads(to_json(replace(result, bn_update=record)))["bn_update"] == {
        "file": "swa.safetensors",
        "estimator": "population",
        "model": "net.py:Net",
        "model_args": {"width": 6},
        "data": "fashion_mnist.py:FashionData",
        "data_args": {"sizes": [1, 2]},
        "n_samples": 55_000,
        "n_batches": 215,
        "batch_size": None,
        "seed": 0,
        "eval_transforms": False,
        "amp": None,
        "standard_error": 0.004,
        "partial": False,
        "kept": {"a": "frozen in training"},
        "unreached": ["b"],
    }
