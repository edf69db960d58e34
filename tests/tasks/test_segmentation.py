"""Pixels, against a recomputation pixel by pixel."""

import math

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
from swa_cli.tasks import choose_task
from swa_cli.tasks.segmentation import Segmentation

VOID = 255


@pytest.fixture
def logits():
    return 2 * torch.randn(5, 4, 6, 7)


@pytest.fixture
def labels():
    found = torch.randint(0, 4, (5, 6, 7))
    found[torch.rand(5, 6, 7) < 0.2] = VOID
    return found


def slow(logits, labels, weights=(1.0, 1.0, 1.0, 1.0)):
    log_probs = log_softmax(logits.movedim(1, -1))
    inside, either = [0] * 4, [0] * 4
    hits = n = 0
    nll = total = 0.0
    for place, label in np.ndenumerate(labels.numpy()):
        if label == VOID:
            continue
        guess = int(np.argmax(log_probs[place]))
        n += 1
        hits += guess == label
        nll -= weights[label] * log_probs[place][label]
        total += weights[label]
        if guess == label:
            inside[label] += 1
            either[label] += 1
        else:
            either[label] += 1
            either[guess] += 1
    ratios = [i / u for i, u in zip(inside, either, strict=True) if u]
    return {"miou": sum(ratios) / len(ratios), "accuracy": hits / n, "nll": nll / total}


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 1, 1, 1, 1]])
def test_scores_equal_a_recomputation_in_any_batching(logits, labels, sizes):
    task = Segmentation(ignore_index=VOID)
    batches = [(example(y), x) for x, y in zip(logits.split(sizes), labels.split(sizes), strict=True)]

    assert scores(task, batches) == pytest.approx(slow(logits, labels), rel=1e-12)


def test_class_weights_weight_the_nll_only(logits, labels):
    weights = (0.5, 2.0, 0.0, 3.0)
    found = scores(Segmentation(ignore_index=VOID, class_weights=weights), [(example(labels), logits)])

    assert found == pytest.approx(slow(logits, labels, weights), rel=1e-12)


def test_the_score_of_some_images_is_that_of_these_images_alone(logits, labels):
    task = Segmentation(ignore_index=VOID)
    records = records_of(task, [(example(labels), logits)])

    for name, expected in slow(logits[[0, 3]], labels[[0, 3]]).items():
        assert score_of_units(task, records, name, [0, 3]) == pytest.approx(expected, rel=1e-12)


def test_an_image_is_not_right_or_wrong_as_a_whole(logits, labels):
    task = Segmentation(ignore_index=VOID)

    assert all(m.right_or_wrong is None for m in task.metrics(records_of(task, [(example(labels), logits)])))


def test_only_classes_that_are_labelled_or_predicted_count_in_the_mean_iou():
    logits = torch.zeros(1, 4, 1, 4)
    for column, guess in enumerate([0, 0, 1, 2]):
        logits[0, guess, 0, column] = 1.0
    found = scores(Segmentation(), [(example(torch.tensor([[[0, 0, 0, 0]]])), logits)])

    assert found["miou"] == pytest.approx((2 / 4 + 0 + 0) / 3)


@pytest.mark.parametrize("wrap", [lambda x: {"out": x, "aux": x + 1}, lambda x: {"logits": x}, lambda x: (x,)])
def test_outputs_are_taken_as_torchvision_and_transformers_give_them(logits, labels, wrap):
    task = Segmentation(ignore_index=VOID)

    assert scores(task, [(example(labels), wrap(logits))]) == scores(task, [(example(labels), logits)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtype_and_memory_format_change_nothing_but_rounding_of_the_logits(logits, labels, dtype, layout):
    narrow = logits.to(dtype).contiguous(memory_format=layout)

    found = scores(Segmentation(ignore_index=VOID), [(example(labels.to(torch.uint8)), narrow)])

    assert found == pytest.approx(slow(narrow, labels), rel=1e-12)


def bilinear(image, height, width):
    """align_corners=False: pixel centres at (i + ½) / n, the edge beyond the first and last of them."""
    rows, columns = image.shape

    def between(i, n_out, n_in):
        at = min(max((i + 0.5) * n_in / n_out - 0.5, 0), n_in - 1)
        low = min(math.floor(at), n_in - 1)
        return low, min(low + 1, n_in - 1), at - low

    found = np.zeros((height, width))
    for y in range(height):
        top, bottom, down = between(y, height, rows)
        for x in range(width):
            left, right, across = between(x, width, columns)
            upper = image[top, left] * (1 - across) + image[top, right] * across
            lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
            found[y, x] = upper * (1 - down) + lower * down
    return found


@pytest.mark.parametrize("sizes", [[5], [2, 3]])
def test_logits_of_another_size_are_upsampled_if_asked_for(labels, sizes):
    small = torch.randn(5, 4, 2, 3)
    wide = np.array([[bilinear(channel, 6, 7) for channel in image] for image in small.double().numpy()])
    task = Segmentation(ignore_index=VOID, resize=True)
    batches = [(example(y), x) for x, y in zip(small.split(sizes), labels.split(sizes), strict=True)]

    assert scores(task, batches) == pytest.approx(slow(torch.from_numpy(wide), labels), rel=1e-12)


def test_resize_leaves_logits_of_the_right_size_as_they_are(logits, labels):
    batch = [(example(labels), logits)]

    assert scores(Segmentation(ignore_index=VOID, resize=True), batch) == scores(Segmentation(ignore_index=VOID), batch)


def test_an_image_without_a_pixel_to_score_is_a_unit_that_changes_nothing(logits, labels):
    task = Segmentation(ignore_index=VOID)
    labels[2] = VOID
    records = records_of(task, [(example(labels), logits)])

    assert records.n_units == 5
    assert records.columns["count"][2] == 0
    rest = [0, 1, 3, 4]
    assert scores(task, [(example(labels), logits)]) == pytest.approx(
        scores(task, [(example(labels[rest]), logits[rest])]), rel=1e-12
    )


def test_scores_of_nothing_are_nan(logits):
    found = scores(Segmentation(), [(example(torch.full((5, 6, 7), -100)), logits)])

    assert all(math.isnan(value) for value in found.values())


def test_the_ensemble_is_the_mean_of_the_probabilities(logits, labels):
    raws = [logits, torch.randn_like(logits), torch.randn_like(logits)]
    mean = np.mean([np.exp(log_softmax(raw.movedim(1, -1))) for raw in raws], axis=0)
    task, batch = Segmentation(ignore_index=VOID), example(labels)

    found = scores_together(task, batch, raws)

    assert found == pytest.approx(slow(torch.from_numpy(np.log(mean)).movedim(-1, 1), labels), rel=1e-10)
    assert found["nll"] <= mean_scores(task, batch, raws)["nll"]
    assert scores_together(task, batch, raws, "geometric") == pytest.approx(
        slow(torch.stack(raws).double().mean(0), labels), rel=1e-10
    )
    one_by_one, at_once = nearness(task, batch, raws)
    assert at_once == pytest.approx(one_by_one, rel=1e-10)


def test_more_classes_than_a_byte_holds_can_be_mixed():
    raws = [torch.randn(1, 300, 2, 2) for _ in range(2)]
    for raw in raws:
        raw[:, 299] += 20

    one_by_one, at_once = nearness(Segmentation(), example(torch.full((1, 2, 2), 299)), raws)

    assert at_once == pytest.approx(one_by_one, rel=1e-10)
    assert at_once["ensemble_agreement"] == 1.0


def test_torchmetrics_is_given_probabilities_and_labels_of_the_scored_pixels(logits, labels):
    task = Segmentation(ignore_index=VOID)
    preds, target = task.for_torchmetrics(*predicted(task, example(labels), logits))

    assert target.tolist() == labels[labels != VOID].tolist()
    assert preds.sum(dim=1).numpy() == pytest.approx(np.ones(len(target)))


def test_outputs_that_look_like_probabilities_are_doubted(logits):
    task = Segmentation()

    assert task.sanity_warning(logits) is None
    assert task.sanity_warning(logits.abs()) is None
    assert "like probabilities" in str(task.sanity_warning(logits.softmax(dim=1)))


def test_labels_that_are_all_the_same_are_warned_of(logits):
    task = Segmentation()
    same = records_of(task, [(example(torch.ones(5, 6, 7, dtype=torch.int64)), logits)])
    others = records_of(task, [(example(torch.randint(0, 4, (5, 6, 7))), logits)])

    assert task.warnings(same) == (
        ("all 210 pixels have the label 1: a constant predictor would score 100 %. Check the data module's labels."),
    )
    assert task.warnings(others) == ()


def test_maps_of_labels_are_taken_as_segmentation(logits, labels):
    assert choose_task(example(labels), {"out": logits}) == Segmentation()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4), r"logits of shape \[5, 4\], expected \(images, classes, height, width\) for task segmentation"),
        ((5, 0, 2, 2), r"logits of shape \[5, 0, 2, 2\], expected"),
    ],
)
def test_outputs_of_another_shape_are_refused(shape, message):
    with pytest.raises(DataError, match=message):
        Segmentation().output(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        ({}, torch.zeros(5, 12, 14, dtype=torch.int64), r"output is 6×7 pixels and the target 12×14.*`resize=True`"),
        (
            {},
            torch.zeros(5, 1, 6, 7, dtype=torch.int64),
            r"target is int64 \[5, 1, 6, 7\], expected .*int64 \[5, 6, 7\]",
        ),
        ({"resize": True}, torch.zeros(4, 6, 7, dtype=torch.int64), r"int64 \[4, 6, 7\], expected"),
        ({}, torch.zeros(5, 6, 7), r"target is float32 \[5, 6, 7\], expected class indices"),
        ({}, None, "target is NoneType, expected a tensor of class indices .*pixels of 5 images"),
        ({}, torch.full((5, 6, 7), VOID), "label 255 is out of range, expected 0 to 3.*ignore_index=255"),
        ({"class_weights": (1, 2)}, torch.zeros(5, 6, 7, dtype=torch.int64), "class_weights has 2 numbers.* 4 logits"),
    ],
)
def test_targets_that_do_not_fit_are_refused(logits, options, target, message):
    with pytest.raises(DataError, match=message):
        Segmentation(**options).target(example(target), logits)
