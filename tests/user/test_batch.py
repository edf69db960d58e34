"""What a batch and an output mean."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from swa_cli.errors import DataError, UserCodeError
from swa_cli.user.batch import Batch, logits_of, make_splitter, n_samples_of, split_batch, to_device

X, Y, Z = torch.zeros(2, 3), torch.ones(2), torch.tensor([0, 1])


class Pair(NamedTuple):
    image: torch.Tensor
    label: object


@pytest.mark.parametrize(
    ("batch", "args", "kwargs", "target"),
    [
        ((X, Z), (X,), {}, Z),
        ([X, Y, Z], (X, Y), {}, Z),
        (Pair(X, Z), (X,), {}, Z),
        ({"x": X, "labels": Z}, (), {"x": X}, Z),
        ({"x": X, "y": Y, "label": Z}, (), {"x": X, "y": Y}, Z),
        ({"x": X, "target": Z}, (), {"x": X}, Z),
        ({"x": X}, (), {"x": X}, None),
        ((X,), (X,), {}, None),
        (X, (X,), {}, None),
    ],
)
def test_batches_are_taken_apart(batch, args, kwargs, target):
    example = split_batch(batch)

    assert all(a is b for a, b in zip(example.args, args, strict=True))
    assert example.kwargs.keys() == kwargs.keys()
    assert all(example.kwargs[name] is value for name, value in kwargs.items())
    assert example.target is target


@pytest.mark.parametrize("batch", [None, 3, (), {}, {"labels": Z}])
def test_other_batches_are_refused_with_advice(batch):
    with pytest.raises(DataError, match="Define split_batch"):
        split_batch(batch)


def test_a_data_module_may_take_batches_apart_itself():
    split = make_splitter(lambda batch: ((batch["a"],), {"mask": batch["b"]}, batch["c"]))

    assert split({"a": X, "b": Y, "c": Z}) == Batch((X,), {"mask": Y}, Z)


@pytest.mark.parametrize(
    ("custom", "error", "message"),
    [
        (
            lambda batch: batch["gone"],
            UserCodeError,
            r"split_batch\(batch\) failed: KeyError: 'gone' \(at .*test_batch\.",
        ),
        (lambda batch: (X, Z), DataError, r"returned a tuple of 2, expected a tuple \(args, kwargs, target\)"),
        (lambda batch: (X, {}, Z), DataError, "args of type Tensor"),
        (lambda batch: ((X,), None, Z), DataError, "kwargs of type NoneType"),
    ],
)
def test_a_wrong_split_batch_says_what_it_gave(custom, error, message):
    with pytest.raises(error, match=message):
        make_splitter(custom)({})


@pytest.mark.parametrize("output", [X, SimpleNamespace(logits=X), {"logits": X}, (X, Y), [X]])
def test_logits_are_found(output):
    assert logits_of(output) is X


@pytest.mark.parametrize("output", [None, {"scores": X}, (), SimpleNamespace(logits=None), "text"])
def test_other_outputs_are_refused(output):
    with pytest.raises(DataError, match="expected logits"):
        logits_of(output)


def test_everything_in_a_batch_is_moved():
    meta = torch.device("meta")
    moved = to_device({"a": [X, (Y, "text")], "b": Pair(X, 3)}, meta)

    assert moved["a"][0].device == meta
    assert moved["a"][1][0].device == meta
    assert moved["a"][1][1] == "text"
    assert isinstance(moved["b"], Pair)
    assert moved["b"].image.device == meta


X3, IMAGES = torch.zeros(3, 2), [torch.zeros(3, 5, 5)] * 8
BOXES = [{"boxes": torch.zeros(2, 4), "labels": torch.zeros(2)}] * 8
NODES, EDGES = torch.zeros(50, 4), torch.zeros(2, 90)


@pytest.mark.parametrize(
    ("example", "seen", "n"),
    [
        (Batch((X,), {}, Z), [2], 2),
        (Batch((X,), {}, None), [2, 2], 2),
        (Batch((X,), {}, Z), [2 * 16], 2),  # the frames of videos
        (Batch((), {"x": torch.zeros(7, 1), "mask": torch.zeros(7)}, torch.zeros(7, 9)), [7], 7),
        (Batch((IMAGES,), {}, BOXES), [8], 8),
        (Batch((IMAGES,), {}, BOXES), [8, 800], 8),
        (Batch((IMAGES,), {}, None), [8], 8),
        (Batch((BOXES,), {}, None), [8], 8),
        (Batch((IMAGES, BOXES), {}, None), [8], 8),
        (Batch((SimpleNamespace(x=NODES),), {}, torch.zeros(6)), [50, 6], 6),
        (Batch((torch.zeros(9, 4, 3),), {}, torch.zeros(4)), [4], None),  # time first
        (Batch((NODES, EDGES), {}, torch.zeros(6)), [50], None),
        (Batch((SimpleNamespace(x=NODES),), {}, torch.zeros(6)), [50], None),
        (Batch((X3, torch.zeros(5)), {}, None), [3, 5], None),
        (Batch(("text",), {}, None), [], None),
    ],
)
def test_samples_are_what_inputs_target_and_layers_agree_on(example, seen, n):
    assert n_samples_of(example, indices=None, seen=seen) == n


@pytest.mark.parametrize(
    ("example", "seen", "indices", "n"),
    [
        (Batch((NODES, EDGES), {}, torch.zeros(6)), [50], 6, 6),
        (Batch((SimpleNamespace(x=NODES),), {}, torch.zeros(50)), [50], 6, 6),
        (Batch((torch.zeros(9, 4, 3),), {}, torch.zeros(4)), [4], 4, 4),
        (Batch((torch.zeros(32, 3),), {}, torch.zeros(32)), [32], 1, 32),  # one entry of the dataset is a batch
        (Batch((torch.zeros(32, 3),), {}, None), [32], 1, 32),
        (Batch((torch.zeros(1, 3),), {}, torch.zeros(1)), [1], 1, 1),
        (Batch((NODES, EDGES), {}, torch.zeros(1)), [50], 1, 1),
    ],
)
def test_samples_are_the_entries_of_the_dataset_where_the_sampler_asks_for_several(example, seen, indices, n):
    assert n_samples_of(example, indices=indices, seen=seen) == n
