"""A task that the user defines, and the choice of a task by its name."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.scoring import example, predicted, records_of, score_of_units, scores, together
from swa_cli.errors import NonFiniteError, UsageError, UserCodeError
from swa_cli.tasks import TASKS, task_named, wrapped


class Detection:
    """Boxes, of any number."""

    higher_is_better = {"found": True, "off": False}  # noqa: RUF012

    def scores(self, output, target):
        off = torch.stack([boxes.mean() for boxes in output["boxes"]]) - target
        return {"found": off.abs() < 0.5, "off": off.abs()}


class Named(Detection):
    name, unit, percent = "boxes", "image", frozenset({"found"})

    def combine(self, outputs):
        return {"boxes": [torch.cat(boxes) for boxes in zip(*(one["boxes"] for one in outputs), strict=True)]}


@pytest.fixture
def target():
    return torch.randn(6)


def output_of(*sizes):
    return {"boxes": [torch.randn(size) for size in sizes]}


def test_scores_are_means_over_units_in_any_batching(target):
    output = output_of(1, 2, 3, 4, 5, 6)
    task = wrapped(Detection())
    off = [abs(float(boxes.mean()) - y) for boxes, y in zip(output["boxes"], target.tolist(), strict=True)]
    expected = {"found": np.mean([one < 0.5 for one in off]), "off": np.mean(off)}
    parts = [
        (example(y), {"boxes": output["boxes"][start : start + len(y)]})
        for start, y in zip((0, 2), target.split([2, 4]), strict=True)
    ]

    assert scores(task, [(example(target), output)]) == pytest.approx(expected, rel=1e-6)
    assert scores(task, parts) == pytest.approx(scores(task, [(example(target), output)]), rel=1e-12)
    some = score_of_units(task, records_of(task, parts), "off", [1, 3])
    assert some == pytest.approx((off[1] + off[3]) / 2, rel=1e-6)


def test_names_and_units_have_defaults(target):
    task, named = wrapped(Detection()), wrapped(Named())
    records = records_of(named, [(example(target), output_of(*[2] * 6))])

    assert (task.name, task.unit, task.primary) == ("Detection", "example", "found")
    assert (named.name, named.unit) == ("boxes", "image")
    described = [(m.name, m.higher_is_better, m.percent, m.compared) for m in named.metrics(records)]
    assert described == [("found", True, True, True), ("off", False, False, True)]
    assert named.warnings(records) == ()
    assert named.sanity_warning({}) is None


def test_an_ensemble_is_what_combine_makes_of_all_outputs(target):
    task, raws = wrapped(Named()), [output_of(*[3] * 6) for _ in range(3)]
    mixture, predictions, judged = together(task, example(target), raws)

    found = task.score_batch(mixture.arithmetic(), judged, full=True)

    whole = {"boxes": [torch.cat([raw["boxes"][i] for raw in raws]) for i in range(6)]}
    assert found.columns["score.off"].tolist() == Named().scores(whole, target)["off"].double().tolist()
    assert mixture.geometric() is None
    assert mixture.agreement(predictions[0]) is None
    assert mixture.diversity() is None


def test_prefixes_of_an_ensemble_are_combined_too(target):
    task, raws = wrapped(Named()), [output_of(*[3] * 6) for _ in range(2)]
    mixture = task.ensemble_accumulator(task.target(example(None), raws[0]))
    assert mixture is not None
    mixture.add(raws[0])
    first = mixture.arithmetic()
    mixture.add(raws[1])

    assert [len(boxes) for boxes in first["boxes"]] == [3] * 6
    assert [len(boxes) for boxes in mixture.arithmetic()["boxes"]] == [6] * 6


def test_without_combine_there_is_no_mixture():
    assert wrapped(Detection()).ensemble_accumulator(None) is None


def test_a_score_may_have_any_name():
    task = wrapped(SimpleNamespace(higher_is_better={"count": True}, scores=lambda output, target: {"count": output}))

    assert scores(task, [(example(None), torch.tensor([3.0, 5.0]))]) == {"count": 4.0}


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, device="meta"),
        {"a": "text", "b": [torch.zeros(2, device="meta")]},
        (1, torch.zeros(2, device="meta")),
        SimpleNamespace(pred=torch.zeros(2, device="meta")),
    ],
)
def test_the_target_goes_where_the_output_is(output):
    judged = wrapped(Detection()).target(example({"boxes": [torch.zeros(2)]}), output)

    assert judged.target["boxes"][0].device.type == "meta"


def test_a_target_stays_where_it_is_for_an_output_without_tensors():
    target = object()

    assert wrapped(Detection()).target(example(target), "text").target is target


def given(**changes):
    return SimpleNamespace(**{"higher_is_better": {"a": True}, "scores": dict, "name": "mine", **changes})


class Broken:
    scores = dict

    @property
    def higher_is_better(self):
        raise RuntimeError("no idea")


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, r"the task is a int, expected an object with scores\(output, target\)"),
        (SimpleNamespace(higher_is_better={"a": True}), "the task is a SimpleNamespace, expected"),
        (given(scores=3), "the task is a SimpleNamespace, expected"),
        (Broken(), "looking at the task failed: RuntimeError: no idea"),
        (given(higher_is_better={}), r"task mine: higher_is_better is \{\}, expected a mapping"),
        (given(higher_is_better=True), "task mine: higher_is_better is True, expected a mapping"),
        (given(higher_is_better={"a": "yes"}), "expected a mapping from the name of each score to true or false"),
        (given(name=3), "name is 3 and its unit 'example', expected strings"),
        (given(unit=None), "name is 'mine' and its unit None"),
        (given(percent="a"), "percent is 'a', expected a set of names out of a"),
        (given(percent={"b"}), r"percent is \{'b'\}, expected"),
        (given(percent=3), "percent is 3, expected"),
        (given(combine=3), "combine is a int, expected a method"),
    ],
)
def test_what_is_no_task_is_refused(thing, message):
    with pytest.raises(UserCodeError, match=message):
        wrapped(thing)


def test_errors_in_the_users_methods_name_the_task_and_the_line(target):
    task = wrapped(given(scores=lambda output, target: output["gone"], combine=lambda outputs: outputs[5]))

    with pytest.raises(
        UserCodeError, match=r"scores\(output, target\) of the task mine failed: KeyError.*test_user_task"
    ):
        scores(task, [(example(target), {})])
    with pytest.raises(UserCodeError, match=r"combine\(outputs\) of the task mine failed: IndexError"):
        together(task, example(target), [{}])[0].arithmetic()


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, UserCodeError, "returned a NoneType, expected a mapping with the names in higher_is_better: a"),
        ({}, UserCodeError, "returned a dict, expected"),
        ({"b": torch.zeros(2)}, UserCodeError, "returned b, expected a mapping"),
        ({"a": torch.zeros(2), "b": torch.zeros(2)}, UserCodeError, "returned a, b, expected"),
        ({"a": [1.0]}, UserCodeError, r"a is list, expected a number for each example, a tensor \(n,\)"),
        ({"a": torch.tensor(1.0)}, UserCodeError, r"a is float32 \[\], expected"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, UserCodeError, "a is complex64"),
        (
            {"a": torch.tensor([1.0, math.nan, math.inf])},
            NonFiniteError,
            r"a is nan for example 1 of the batch \(2 of 3 are NaN or infinite\)",
        ),
    ],
)
def test_scores_that_are_none_are_refused(result, error, message):
    task = wrapped(given(scores=lambda output, target: result))

    with pytest.raises(error, match=message):
        scores(task, [(example(None), None)])


def test_all_scores_of_all_candidates_are_of_the_same_units():
    both = wrapped(given(higher_is_better={"a": True, "b": True}, scores=lambda output, target: output))
    judged = both.target(example(None), None)
    both.score_batch({"a": torch.zeros(3), "b": torch.zeros(3)}, judged, full=True)

    with pytest.raises(UserCodeError, match="returned 2 numbers for a, expected 3, as before"):
        both.score_batch({"a": torch.zeros(2), "b": torch.zeros(2)}, judged, full=True)
    with pytest.raises(UserCodeError, match="returned 4 numbers for b, expected 3, as before"):
        scores(both, [(example(None), {"a": torch.zeros(3), "b": torch.zeros(4)})])


def test_torchmetrics_cannot_be_fed(target):
    task = wrapped(Named())
    prediction, judged = predicted(task, example(target), output_of(*[1] * 6))

    with pytest.raises(UsageError, match="the task boxes cannot be used with torchmetrics"):
        task.for_torchmetrics(prediction, judged)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_found_by_its_name_and_says_it(name):
    task = task_named(name, {})

    assert task is not None
    assert task.name == name
    assert task.unit
    with pytest.raises(UsageError, match=f"task {name}: unknown argument 'classes'. Known here: "):
        task_named(name, {"classes": 3})
    with pytest.raises(UsageError, match="unknown argument 'name'"):
        task_named(name, {"name": "x"})


def test_unknown_names_are_answered_with_all_that_are_known():
    with pytest.raises(UsageError) as caught:
        task_named("segmentations", {})

    assert str(caught.value) == (
        "unknown task 'segmentations': expected auto, classification, segmentation, multilabel, regression, nodes, "
        "causal_lm, or file.py:Name. Did you mean segmentation?"
    )


def test_arguments_of_another_kind_are_refused():
    with pytest.raises(
        UsageError, match="task regression: variance: expected 'none', 'variance' or 'log_variance', found"
    ):
        task_named("regression", {"variance": "std"})
    with pytest.raises(UsageError, match="task segmentation: resize: expected true or false"):
        task_named("segmentation", {"resize": "perhaps"})
