"""Scores, ensemble and comparisons against references and identities."""

import json
import math
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from support import references
from swa_cli.errors import DataError, MismatchError, NonFiniteError, SwaError, UserCodeError
from swa_cli.evaluation import Member, Residents, Stream, best_of, bytes_of, evaluate, observe, primary_scores
from swa_cli.report.json_report import to_json
from swa_cli.tasks import task_named
from swa_cli.user.batch import Batch
from swa_cli.user.forward import Forward


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
    names = members[0].read()
    state = {name: torch.stack([member.read()[name] for member in members]).mean(0) for name in names}
    return Member(name="swa.safetensors", kind="swa", state_dict=state)


def run(members, batches, **options):
    model = nn.Linear(3, 4)
    return evaluate(model, members, mean_of(members), batches, split="test", compare_ensemble=True, **options)


def reference_scores(members, inputs, labels):
    logits = [(inputs.double() @ m.read()["weight"].double().T + m.read()["bias"].double()) for m in members]
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
        "geometric",
    ]
    assert {candidate.name for candidate in result.candidates} - {"geometric ensemble"} == set(expected)
    for candidate in result.candidates[:-1]:
        for metric, value in expected[candidate.name].items():
            assert candidate.scores[metric] == pytest.approx(value, rel=1e-6, abs=1e-6), (
                candidate.name,
                metric,
            )
    assert result.n_examples == 200
    assert result.of_kind("ensemble")[0].forward_passes == 5
    assert [score.name for score in result.scores if score.right_or_wrong] == ["accuracy"]


def test_jensen_and_the_brier_decomposition_of_the_ensemble():
    members, inputs, labels = linear_members(4), torch.randn(300, 3), torch.randint(0, 4, (300,))

    result = run(members, [(inputs, labels)])

    (ensemble,), (mean,) = result.of_kind("ensemble"), result.of_kind("mean")
    assert ensemble.scores["nll"] <= mean.scores["nll"]
    probs = torch.stack(
        [torch.tensor(lp, dtype=torch.float64).exp() for lp in reference_scores(members, inputs, labels)[0]]
    )
    spread = (probs - probs.mean(0)).square().sum(-1).mean()
    assert ensemble.scores["brier"] == pytest.approx(mean.scores["brier"] - spread.item(), abs=1e-6)


def test_identical_members_are_all_equal():
    (member,) = linear_members(1)
    copies = [Member(name=f"{i}", kind="checkpoint", state_dict=member.state_dict) for i in range(3)]

    same = Member(name="swa", kind="swa", state_dict=member.state_dict)
    batches = [(torch.randn(50, 3), torch.randint(0, 4, (50,)))]
    result = evaluate(nn.Linear(3, 4), copies, same, batches, split="test", compare_ensemble=True)

    nlls = [candidate.scores["nll"] for candidate in result.candidates]
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
    # The first of all gets a copy of the first batch, to see whether it changes it.
    assert all(seen[5 * batch + member] is seen[5 * batch + 1] for batch in range(3) for member in range(1, 5))
    assert all(torch.equal(seen[5 * batch], seen[5 * batch + 1]) for batch in range(3))


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
        (torch.randn(2, 3), "the target is NoneType, expected a tensor of class indices"),
        ((torch.randn(2, 3), torch.randn(2)), r"the target is float32 \[2\], expected class indices \(int64 \[2\]\)"),
        ((torch.randn(2, 3), torch.zeros(2, 4).long()), r"the target is int64 \[2, 4\]"),
        (
            (torch.randn(2, 3), torch.zeros(3).long()),
            r"the target is int64 \[3\], expected class indices \(int64 \[2\]",
        ),
        ((torch.randn(2, 5, 3), torch.zeros(2).long()), r"logits of shape \[2, 5, 4\], expected \(examples, classes\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(batch, message):
    with pytest.raises(DataError, match=f"batch 0: {message}"):
        run(linear_members(2), [batch], task=task_named("classification", {}))


def test_a_task_that_cannot_be_told_is_asked_for():
    with pytest.raises(DataError, match=r"is ambiguous: the target is float32 \[2\] .* \[2, 4\]. Name it with `task`"):
        run(linear_members(2), [(torch.randn(2, 3), torch.randn(2))])


def test_nan_logits_name_the_member():
    members = linear_members(2)
    members[1].read()["bias"][2] = math.nan

    with pytest.raises(NonFiniteError, match=r"epoch-1\.pt, batch 0: the model's output holds NaN"):
        run(members, [(torch.randn(2, 3), torch.tensor([0, 1]))])


def test_an_empty_loader_and_one_that_raises():
    def raises():
        yield torch.randn(2, 3), torch.tensor([0, 1])
        raise ValueError("corrupt image")

    with pytest.raises(DataError, match="loader is empty"):
        run(linear_members(2), [])
    with pytest.raises(UserCodeError, match=r"loading batch 1 failed: ValueError: corrupt image \(at .*test_evaluate"):
        run(linear_members(2), raises())


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
        assert candidate.scores["nll"] == pytest.approx(expected.item(), rel=1e-6)


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
    with pytest.raises(DataError, match="the batches contain no examples"):
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
        model.load_state_dict(dict(state.read()))
        expected = nn.functional.cross_entropy(model(x), labels)
        assert candidate.scores["nll"] == pytest.approx(expected.item(), rel=1e-6)


def test_the_average_of_softmax_linear_models_is_their_geometric_ensemble():
    members, inputs, labels = linear_members(5), torch.randn(80, 3), torch.randint(0, 4, (80,))
    members = [in_float64(member) for member in members]

    result = evaluate(
        nn.Linear(3, 4).double(),
        members,
        mean_of(members),
        [(inputs.double(), labels)],
        split="test",
        compare_ensemble=True,
    )

    (swa,), (geometric,) = result.of_kind("swa"), result.of_kind("geometric")
    shared = {*geometric.scores}
    assert {name: swa.scores[name] for name in shared} == pytest.approx(dict(geometric.scores), abs=1e-12)
    assert shared >= {"accuracy", "nll", "calibrated_nll", "brier", "ece", "adaptive_ece", "classwise_ece"}


def test_prefixes_are_ensembles_of_the_first_members():
    members, inputs, labels = linear_members(4), torch.randn(60, 3), torch.randint(0, 4, (60,))

    result = run(members, [(inputs, labels)])

    log_probs, targets = reference_scores(members, inputs, labels)
    assert [prefix.members for prefix in result.prefixes] == [1, 2, 3, 4]
    for prefix in result.prefixes:
        expected = references.scores(references.ensemble(log_probs[: prefix.members]), targets)
        assert prefix.scores["nll"] == pytest.approx(expected["nll"], rel=1e-6)
        assert prefix.forward_passes == prefix.members


def in_float64(member: Member) -> Member:
    return replace(member, state_dict={name: tensor.double() for name, tensor in member.read().items()})


def numbers(result) -> dict:
    return {(c.kind, c.name, metric): value for c in result.candidates for metric, value in c.scores.items()}


@pytest.mark.parametrize("sizes", [[90], [30, 60], [1] * 90, [89, 1]])
def test_batches_change_nothing(sizes):
    """In float64, so that nothing of the model's own rounding is seen."""
    members = [
        replace(member, state_dict={n: t.double() for n, t in member.read().items()}) for member in linear_members(3)
    ]
    inputs, labels = torch.randn(90, 3).double(), torch.randint(0, 4, (90,))

    def result(of):
        batches = list(zip(inputs.split(of), labels.split(of), strict=True))
        model = nn.Linear(3, 4).double()
        return evaluate(model, members, mean_of(members), batches, split="test", compare_ensemble=True)

    assert numbers(result(sizes)) == pytest.approx(numbers(result([45, 45])), abs=1e-12)


def test_the_order_of_the_members_changes_neither_mean_nor_ensembles():
    members, batches = linear_members(4), [(torch.randn(50, 3), torch.randint(0, 4, (50,)))]
    swa = mean_of(members)

    def result(order):
        return evaluate(nn.Linear(3, 4), order, swa, batches, split="test", compare_ensemble=True)

    found, other = result(members), result([members[2], members[0], members[3], members[1]])
    for kind in ("mean", "ensemble", "geometric", "swa"):
        (one,), (two,) = found.of_kind(kind), other.of_kind(kind)
        assert dict(one.scores) == pytest.approx(dict(two.scores), abs=1e-12), kind


def counted(members: list[Member]) -> tuple[list[Member], list[str]]:
    """The same members, and the names of those whose weights were read."""
    read: list[str] = []

    def reading(member):
        def state_dict():
            read.append(member.name)
            return member.read()

        return replace(member, state_dict=state_dict)

    return [reading(member) for member in members], read


@pytest.mark.parametrize("at_once", [1, 2, 4, 5, 6])
def test_groups_of_members_give_what_all_at_once_give(at_once):
    plain = linear_members(5)
    members, read = counted([*plain, mean_of(plain)])
    loaded = []

    def loader(n):
        for index in range(n):
            loaded.append(index)
            generator = torch.Generator().manual_seed(index)
            yield torch.randn(7, 3, generator=generator), torch.randint(0, 4, (7,), generator=generator)

    def streams(of):
        checkpoints = [member for member in of if member.kind == "checkpoint"]
        return [
            Stream(split="val", batches=loader(2), members=checkpoints),
            Stream(split="test", batches=loader(3), members=of, ensemble=True),
        ]

    together = observe(Residents(nn.Linear(3, 4), Forward()), streams([*plain, mean_of(plain)]))
    loaded.clear()
    grouped = observe(Residents(nn.Linear(3, 4), Forward(), at_once=at_once), streams(members))

    assert loaded == [0, 1, 0, 1, 2]
    assert sorted(read) == sorted(member.name for member in members)
    for one, other in zip(together, grouped, strict=True):
        assert [row.kind for row in one.rows] == [row.kind for row in other.rows]
        for row, same in zip(one.rows, other.rows, strict=True):
            assert row.records.columns.keys() == same.records.columns.keys()
            for name, column in row.records.columns.items():
                assert np.array_equal(column, same.records.columns[name]), (row.name, name)


def test_a_batch_that_cannot_be_put_aside_is_an_error():
    members = linear_members(3)
    stream = Stream(
        split="test",
        batches=[{"input": torch.randn(2, 3), "labels": torch.tensor([0, 1]), "hook": lambda: 0}],
        members=members,
        splitter=lambda batch: Batch((batch["input"],), {"hook": batch["hook"]}, batch["labels"]),
    )

    class Hooked(nn.Linear):
        def forward(self, input, hook=None):  # noqa: A002
            return super().forward(input)

    with pytest.raises(UserCodeError, match="buffering a batch for the next group of models"):
        observe(Residents(Hooked(3, 4), Forward(), at_once=2), [stream])


def test_one_compilation_serves_all_members(monkeypatch):
    graphs = []
    compile_ = torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model: compile_(model, backend=backend))
    torch._dynamo.reset()
    members, batches = linear_members(6), [(torch.randn(20, 3), torch.randint(0, 4, (20,)))]

    compiled = evaluate(
        nn.Sequential(nn.Linear(3, 4)),
        [named_in_a_sequence(member) for member in members],
        named_in_a_sequence(mean_of(members)),
        batches * 2,
        split="test",
        forward=Forward(compile=True),
    )

    assert len(graphs) == 1
    assert numbers(compiled) == pytest.approx(numbers(without_compilation(members, batches * 2)), abs=1e-6)


def named_in_a_sequence(member: Member) -> Member:
    return replace(member, state_dict={f"0.{name}": tensor for name, tensor in member.read().items()})


def without_compilation(members, batches):
    return evaluate(nn.Linear(3, 4), members, mean_of(members), batches, split="test")


def compared(result, kind):
    (found,) = [one for one in result.comparisons if (one.metric, one.kind) == ("nll", kind)]
    return found


def test_groups_are_resampled_whole():
    """Twelve copies of each example in a group of their own say no more than one."""
    members, inputs, labels = linear_members(3), torch.randn(40, 3), torch.randint(0, 4, (40,))
    twelve = [
        ({"x": inputs.repeat_interleave(12, 0)}, labels.repeat_interleave(12), torch.arange(40).repeat_interleave(12))
    ]

    def split(batch):
        return Batch((batch[0]["x"],), {}, batch[1], batch[2])

    once = run(members, [(inputs, labels)])
    grouped = run(members, twelve, splitter=split)
    as_if_independent = run(members, twelve, splitter=lambda batch: split(batch)._replace(groups=None))

    assert (grouped.n_examples, grouped.n_groups, once.n_groups) == (480, 40, None)
    for kind in ("last", "mean", "ensemble"):
        whole, single, naive = (compared(result, kind) for result in (grouped, once, as_if_independent))
        assert (whole.ci_low, whole.ci_high) == pytest.approx((single.ci_low, single.ci_high), abs=1e-6)
        assert naive.standard_error == pytest.approx(whole.standard_error / 12**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            ["a", "b"],
            "batch 0: 2 groups for 9 examples. Let split_batch return one group per unit as its fourth element",
        ),
        (3, "reading the groups of batch 0"),
        ([None] * 9, "batch 0: found None as a group"),
    ],
)
def test_groups_that_do_not_fit_are_named(groups, message):
    with pytest.raises(SwaError, match=message):
        run(
            linear_members(2),
            [(torch.randn(9, 3), torch.arange(9) % 4)],
            splitter=lambda batch: Batch((batch[0],), {}, batch[1], groups),
        )


def test_groups_for_some_batches_only_are_an_error():
    batch = (torch.randn(4, 3), torch.arange(4))
    groups = iter([torch.arange(4), None])

    with pytest.raises(DataError, match="groups for some batches only"):
        run(linear_members(2), [batch] * 2, splitter=lambda b: Batch((b[0],), {}, b[1], next(groups)))


def test_members_with_other_outputs_are_named():
    class Grows(nn.Linear):
        """Gives as many logits as its bias says."""

        def forward(self, input):  # noqa: A002
            return super().forward(input)[:, : 4 if self.bias[0] < 100 else 3]

    members = linear_members(3)
    members[1].read()["bias"][0] = 1000

    with pytest.raises(
        MismatchError, match=r"epoch-1\.pt, batch 0: the output has shape \[5, 3\], that of epoch-0\.pt"
    ):
        evaluate(Grows(3, 4), members, mean_of(members), [(torch.randn(5, 3), torch.zeros(5).long())], split="test")


def test_labels_that_are_all_the_same_are_called_out():
    result = run(linear_members(2), [(torch.randn(9, 3), torch.full((9,), 2))])

    (warning,) = result.warnings
    assert warning == (
        "all 9 examples have the label 2: a constant predictor would score 100 %. Check the data module's labels."
    )


def test_a_model_that_changes_its_input_in_place_does_so_to_a_copy():
    class Shifts(nn.Linear):
        def forward(self, input):  # noqa: A002
            return super().forward(input.sub_(1.0))

    (member,) = linear_members(1)
    copies = [replace(member, name=str(place)) for place in range(3)]
    inputs, labels = torch.randn(30, 3), torch.arange(30) % 4
    expected = nn.functional.cross_entropy((inputs - 1) @ member.read()["weight"].T + member.read()["bias"], labels)

    batches = [(inputs[:10], labels[:10]), {"input": inputs[10:], "labels": labels[10:]}]
    result = evaluate(Shifts(3, 4), copies, replace(member, kind="swa"), batches, split="test")

    for candidate in result.candidates:
        assert candidate.scores["nll"] == pytest.approx(expected.item(), rel=1e-6)


def test_what_is_put_aside_is_given_back_group_by_group(monkeypatch):
    """With ten groups no more than two are open: the one that is read, and the one that is written."""
    open_now, most = [], []
    file = tempfile.SpooledTemporaryFile

    class Counted(file):
        def __enter__(self):
            open_now.append(self)
            most.append(len(open_now))
            return super().__enter__()

        def __exit__(self, *exception):
            open_now.remove(self)
            return super().__exit__(*exception)

    monkeypatch.setattr("swa_cli.evaluation.batch_spill.SpooledTemporaryFile", Counted)
    stream = Stream(split="test", batches=[(torch.randn(4, 3), torch.arange(4))] * 2, members=linear_members(10))

    observe(Residents(nn.Linear(3, 4), Forward(), at_once=1), [stream])

    assert (max(most), len(most), open_now) == (2, 9, [])


def test_scores_are_told_as_soon_as_they_are_known():
    told = []
    members = linear_members(3)
    stream = Stream(
        split="test",
        batches=[(torch.randn(4, 3), torch.arange(4))] * 3,
        members=members,
        check=lambda metrics: told.append([metric.name for metric in metrics]),
    )

    observe(Residents(nn.Linear(3, 4), Forward()), [stream])

    (names,) = told
    assert names[:2] == ["accuracy", "nll"]


def test_a_score_that_no_checkpoint_has_chooses_none():
    """Where no label holds and none is predicted, there is no F1."""
    members = [replace(member, state_dict=below_zero(member)) for member in linear_members(2)]
    stream = Stream(split="val", batches=[(torch.zeros(5, 3), torch.zeros(5, 4))], members=members)

    (observed,) = observe(Residents(nn.Linear(3, 4), Forward()), [stream], task=task_named("multilabel", {}))

    assert best_of(observed) is None
    assert primary_scores(observed, "checkpoint") == [-math.inf] * 2


def below_zero(member: Member) -> dict[str, torch.Tensor]:
    return {"weight": member.read()["weight"], "bias": torch.full((4,), -5.0)}


def test_data_with_nothing_to_score_are_an_error():
    task = task_named("segmentation", {"ignore_index": 255})
    state = {name: tensor.clone() for name, tensor in nn.Conv2d(1, 2, 1).state_dict().items()}
    members = [Member(name=str(place), kind="checkpoint", state_dict=state) for place in range(2)]
    stream = Stream(split="test", batches=[(torch.randn(1, 1, 2, 2), torch.full((1, 2, 2), 255))], members=members)

    with pytest.raises(DataError, match="there is nothing to score in the test data"):
        observe(Residents(nn.Conv2d(1, 2, 1), Forward()), [stream], task=task)


def test_a_model_that_gives_more_outputs_for_some_batches_is_named():
    class Grows(nn.Linear):
        def forward(self, input):  # noqa: A002
            return super().forward(input)[:, : 4 if len(input) == 5 else 3]

    batches = [(torch.randn(n, 3), torch.zeros(n).long()) for n in (5, 4)]
    with pytest.raises(
        DataError, match=r"batch 1: classwise has \[3, 15\] numbers per unit, that of batch 0 \[4, 15\]"
    ):
        evaluate(Grows(3, 4), linear_members(2), mean_of(linear_members(2)), batches, split="test")


@pytest.mark.parametrize("target", [torch.arange(4).to_sparse(), torch.arange(4, device="meta")])
def test_a_target_that_is_not_dense_is_an_error(target):
    with pytest.raises(DataError, match=r"batch 0: the target is int64, .*expected a dense tensor"):
        run(linear_members(2), [(torch.randn(4, 3), target)], task=task_named("classification", {}))


def test_the_size_of_a_model_counts_tied_weights_once_and_lazy_ones_not_yet():
    tied = nn.Linear(4, 4, bias=False)

    assert bytes_of(nn.Sequential(tied, tied, nn.LazyLinear(3), nn.BatchNorm1d(2))) == 4 * 16 + 4 * 8 + 8
