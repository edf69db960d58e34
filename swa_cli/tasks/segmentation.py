"""Segmentation: one class per pixel."""

from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from functools import partial
from typing import Any

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch.nn.functional import interpolate

from swa_cli.errors import DataError, option
from swa_cli.tasks.binary import as_binary, doubt_of_one, note_of, of_both_classes, tally_of
from swa_cli.tasks.categorical import doubt_of, fitted, log_probs_of, per_class, per_unit, records_of
from swa_cli.tasks.defaults import all_units, as_recorded
from swa_cli.tasks.labels import IGNORED, Label, Labels, Weights, checked_index, in_range, one_label_only, weights_of
from swa_cli.tasks.metrics import Metric, available, from_parts, mean_ratio
from swa_cli.tasks.mixed_distributions import MixedDistributions
from swa_cli.tasks.records import Records
from swa_cli.tasks.scores import LIKENESS, NLL, share_right
from swa_cli.user.batch import Batch, logits_of

_N_DIMS = 4  # (n, C, H, W)


@plain_dataclass(frozen=True, kw_only=True)
class Pixels:
    """The labels of the pixels in the order of (image, row, column), and how many rows and columns there are."""

    labels: Labels
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Segmentation:
    """Logits (n, C, H, W), class indices (n, H, W); torchvision's mapping with ``out``, or what else holds logits.

    Of one channel with labels 0 and 1 of any dtype, (n, H, W) or (n, 1, H, W), the sigmoid is the probability of label
    1.

    Attributes:
        ignore_index: pixels with this label are left out of every score.
        class_weights: of the NLL, as torch's cross_entropy has them: Σ w_y nll / Σ w_y.
        resize: logits of another size (SegFormer gives a quarter) are upsampled bilinearly to the labels', with
            align_corners=False; without it they are an error.
    """

    ignore_index: Label = IGNORED
    class_weights: Weights | None = None
    resize: bool = False

    name: str = field(default="segmentation", init=False)
    unit: str = field(default="image", init=False)
    primary: str = field(default="miou", init=False)

    scored_indices = staticmethod(all_units)
    finish = staticmethod(as_recorded)

    def output(self, output: Any) -> torch.Tensor:
        """The logits."""
        logits = logits_of(output)
        if logits.ndim != _N_DIMS or logits.shape[1] == 0:
            msg = (
                f"logits of shape {list(logits.shape)}, expected (images, classes, height, width) for task {self.name}."
            )
            raise DataError(msg)
        return logits

    def sanity_warning(self, output: torch.Tensor) -> str | None:
        """Whether they look like probabilities."""
        return doubt_of_one(output, element="pixel") if output.shape[1] == 1 else doubt_of(output, dim=1)

    def target(self, example: Batch, output: torch.Tensor) -> Pixels:
        """Of the pixels that are not ignored."""
        n, n_classes, *size = output.shape
        given, one_logit = example.target, n_classes == 1
        if one_logit:
            n_classes = 2
            if isinstance(given, torch.Tensor) and given.ndim >= _N_DIMS - 1:
                given = as_binary(given, (len(given), *given.shape[-2:]))
        if isinstance(given, torch.Tensor) and given.ndim == _N_DIMS - 1 and len(given) == n:
            height, width = given.shape[1:]
            if [height, width] != size and not self.resize:
                msg = (
                    f"the model's output is {size[0]}×{size[1]} pixels and the target {height}×{width}. With "
                    f"{option('resize', True, of='task')} it is upsampled to the target's size, bilinearly and with "
                    "align_corners=False; else let the model do that, or let the data have the output's size."
                )
                raise DataError(msg)
        else:
            height, width = size
        index = checked_index(given, (n, height, width), elements=f"pixels of {n} images").to(output.device).flatten()
        kept = in_range(index, n_classes, ignore_index=self.ignore_index, one_logit=one_logit)
        places = kept.nonzero()[:, 0]
        index = index[places]
        labels = Labels(
            chosen=None if len(places) == len(kept) else places,
            index=index,
            soft=None,
            unit=places // max(height * width, 1),
            n_units=n,
            weight=weights_of(index, self.class_weights, n_classes),
            one_logit=one_logit,
        )
        return Pixels(labels=labels, size=(height, width))

    def predict(self, output: torch.Tensor, target: Pixels) -> torch.Tensor:
        """Log-probabilities (m, C)."""
        if tuple(output.shape[2:]) != target.size:
            wide = output.to(torch.float64, memory_format=torch.channels_last)
            output = interpolate(wide, target.size, mode="bilinear", align_corners=False)
        output = of_both_classes(output, dim=1)
        return log_probs_of(output.movedim(1, -1).flatten(end_dim=-2), target.labels)

    def ensemble_accumulator(self, target: Pixels) -> MixedDistributions:
        """Of probabilities."""
        return MixedDistributions(partial(records_of, labels=target.labels))

    def score_batch(self, prediction: torch.Tensor, target: Pixels, *, full: bool) -> Records:
        """Return correct pixels and NLL per image, and per class the labelled pixels, intersection and union."""
        del full
        labels, n_classes = target.labels, prediction.shape[1]
        predicted = prediction.argmax(dim=1)
        labelled = per_class(labels.index, labels, n_classes)
        intersection = per_class(predicted, labels, n_classes, where=predicted == labels.index)
        columns = {
            **per_unit(fitted(prediction, predicted, labels), labels),
            "labelled": labelled,
            "intersection": intersection,
            "union": labelled + per_class(predicted, labels, n_classes) - intersection,
        }
        return Records(columns=columns, tallies=tally_of(labels))

    def warnings(self, records: Records) -> tuple[str, ...]:
        """Return notes on a single logit, and on labels that are all the same, for which scores say little."""
        return (
            *note_of(records, element="pixel"),
            *one_label_only(records.columns["labelled"], elements="pixels"),
        )

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """Mean IoU first."""
        return available((_MIOU, share_right("pixel"), NLL, *LIKENESS), records)

    def for_torchmetrics(self, prediction: torch.Tensor, target: Pixels) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities (m, C), class indices (m,)."""
        return prediction.exp(), target.labels.index


_MIOU = from_parts(
    "miou", "mean IoU", mean_ratio("intersection", "union"), higher_is_better=True, percent=True, compared=True
)
"""Over the classes that are labelled or predicted anywhere; pixels are summed over all images first (Pascal VOC)."""
