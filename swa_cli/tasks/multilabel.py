"""Multilabel classification: several labels per example, each true or false."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch.nn.functional import logsigmoid

from swa_cli.errors import DataError, option
from swa_cli.tasks.calibration import N_BINS, bin_gaps
from swa_cli.tasks.categorical import per_unit, records_of, scored
from swa_cli.tasks.defaults import as_recorded
from swa_cli.tasks.labels import IGNORED, Label, Labels, Weights, weights_of
from swa_cli.tasks.metrics import Metric, Parts, available, divided, from_parts, ratio
from swa_cli.tasks.mixed_distributions import MixedDistributions
from swa_cli.tasks.records import Array, Records
from swa_cli.tasks.scores import BRIER, LIKENESS, NLL, share_right
from swa_cli.user.batch import Batch, described, logits_of

_N_DIMS = 2  # (n, L)
_HOLDS = 0.5
_PROBABILITIES = (
    "the model's outputs are all between 0 and 1, like probabilities; they were taken as logits, so all scores are "
    "wrong. Let the model return logits."
)


@plain_dataclass(frozen=True, kw_only=True)
class Entries:
    """The labels of a batch, flattened example by example, each of class 1 (true) or 0.

    Attributes:
        shape: shape of the logits.
        examples: indices of the examples with a label that is not ignored, int64; None for all.
    """

    labels: Labels
    shape: tuple[int, int]
    examples: torch.Tensor | None


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Multilabel:
    """Logits (n, L) with labels (n, L): 0 or 1 of any dtype, or floats between them as soft labels.

    A label is predicted if its probability is above 0.5; a soft label counts as 1 above 0.5.

    Attributes:
        ignore_index: labels with this value are left out of every score.
        class_weights: weight of each label in the NLL: Σ w_l nll / Σ w_l.
    """

    ignore_index: Label = IGNORED
    class_weights: Weights | None = None

    name: str = field(default="multilabel", init=False)
    unit: str = field(default="example", init=False)
    primary: str = field(default="f1", init=False)
    """Where few labels hold, accuracy is that of saying no always, and an exact match is rare."""

    finish = staticmethod(as_recorded)

    def output(self, output: Any) -> torch.Tensor:
        """The logits."""
        logits = logits_of(output)
        if logits.ndim != _N_DIMS or logits.shape[1] == 0:
            msg = f"logits of shape {list(logits.shape)}, expected (examples, labels) for the task {self.name}."
            raise DataError(msg)
        return logits

    def sanity_warning(self, output: torch.Tensor) -> str | None:
        """Whether all are between 0 and 1, as logits hardly ever are."""
        return _PROBABILITIES if bool(((output >= 0) & (output <= 1)).all()) else None

    def target(self, example: Batch, output: torch.Tensor) -> Entries:
        """Of the labels that are not ignored."""
        n, n_labels = output.shape
        truth = _checked(example.target, (n, n_labels)).to(output.device)
        kept = truth != self.ignore_index
        _check_range(truth, kept)
        chosen, examples = kept.flatten().nonzero()[:, 0], kept.any(dim=1)
        truth = truth.flatten()[chosen]
        soft = torch.stack([1 - truth, truth], dim=1) if bool(((truth > 0) & (truth < 1)).any()) else None
        labels = Labels(
            chosen=chosen,
            index=(truth > _HOLDS).to(torch.int64),
            soft=soft,
            unit=(examples.cumsum(0) - 1)[chosen // n_labels],
            n_units=int(examples.sum()),
            weight=weights_of(chosen % n_labels, self.class_weights, n_labels),
        )
        places = None if labels.n_units == n else examples.nonzero()[:, 0]
        return Entries(labels=labels, shape=(n, n_labels), examples=places)

    def scored_indices(self, target: Entries) -> torch.Tensor | None:
        """Examples with a label to score."""
        return target.examples

    def predict(self, output: torch.Tensor, target: Entries) -> torch.Tensor:
        """Log-probabilities (m, 2) that a label does not hold, and that it does."""
        logits = output.flatten()[target.labels.chosen].to(torch.float64)
        return torch.stack([logsigmoid(-logits), logsigmoid(logits)], dim=1)

    def ensemble_accumulator(self, target: Entries) -> MixedDistributions:
        """Of probabilities."""
        return MixedDistributions(partial(_of_distances, labels=target.labels))

    def score_batch(self, prediction: torch.Tensor, target: Entries, *, full: bool) -> Records:
        """Of each example, over its labels: right ones, true positives, NLL, Brier score (p − y)², gaps in bins."""
        labels = target.labels
        values = _of_one_side(scored(prediction, labels), "brier")
        del values["confidence"]
        values["true_positive"] = values["correct"] * labels.index
        values["positive"] = labels.index.to(torch.float64)
        if full:
            truth = labels.index if labels.soft is None else labels.soft[:, 1]
            values["gaps"] = bin_gaps(prediction[:, 1].exp(), truth)
        columns = per_unit(values, labels)
        exact = (columns["correct"] == columns["count"]).astype(np.float64)
        columns |= {"exact": exact, "examples": np.ones_like(exact)}
        return Records(columns=columns, tallies={})

    def warnings(self, records: Records) -> tuple[str, ...]:
        """Where no label holds, or all do, scores say little."""
        if "positive" not in records.columns:  # saved by an earlier release
            return ()
        positive, count = (int(records.columns[name].sum()) for name in ("positive", "count"))
        if count == 1 or 0 < positive < count:
            return ()
        warning = (
            f"all {count:,} labels are {min(positive, 1)}: a constant predictor would score 100 %. Check the data "
            "module's labels."
        )
        return (warning,)

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """F1 over all labels of all examples first."""
        return available((*_METRICS, *LIKENESS), records)

    def for_torchmetrics(self, prediction: torch.Tensor, target: Entries) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities (n, L), 0 or 1 (n, L); ignored labels are `ignore_index`, which torchmetrics must be told."""
        n, n_labels = target.shape
        preds = prediction.new_zeros(n * n_labels)
        truth = torch.full_like(preds, self.ignore_index, dtype=torch.int64)
        preds[target.labels.chosen] = prediction[:, 1].exp()
        truth[target.labels.chosen] = target.labels.index
        return preds.view(n, n_labels), truth.view(n, n_labels)


def _of_distances(values: Mapping[str, torch.Tensor], labels: Labels) -> Records:
    return records_of(_of_one_side(values, "squared_distance"), labels)


def _of_one_side(values: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """``values`` with half of ``name``, a sum of squares over two probabilities that differ from others alike."""
    return {**values, name: values[name] / 2}


def _f1(sums: Array) -> Array:
    """2 TP / (2 TP + FP + FN)."""
    hits, right, count = np.moveaxis(sums, -1, 0)
    return divided(2 * hits, 2 * hits + count - right)


def _ece(sums: Array) -> Array:
    """Σ_b |Σ gap_b| / n."""
    return divided(np.abs(sums[..., :N_BINS]).sum(axis=-1), sums[..., N_BINS])


def _parts(value: Callable[[Array], Array], *names: str) -> Parts:
    """A function of the sums of these columns, one beside the other."""
    return Parts(
        needs=names,
        sums=lambda records: np.column_stack([records.columns[name] for name in names]),
        value=value,
    )


_METRICS = (
    from_parts(
        "f1",
        "F1 (micro)",
        _parts(_f1, "true_positive", "correct", "count"),
        higher_is_better=True,
        percent=True,
        compared=True,
    ),
    from_parts(
        "exact_match",
        "exact match",
        ratio("exact", "examples"),
        higher_is_better=True,
        percent=True,
        compared=True,
        right_or_wrong="exact",
    ),
    share_right("label"),
    NLL,
    BRIER,
    from_parts("ece", "ECE", _parts(_ece, "gaps", "count"), higher_is_better=False, percent=True),
)


def _checked(target: object, shape: tuple[int, int]) -> torch.Tensor:
    """Return ``target`` in float64."""
    if not isinstance(target, torch.Tensor) or tuple(target.shape) != shape or target.is_complex():
        msg = (
            f"the target is {described(target)}, expected 0 or 1 of each label of each example (int64, bool or float "
            f"{list(shape)}). Let the data module's split_batch make it so."
        )
        raise DataError(msg)
    return target.to(torch.float64)


def _check_range(truth: torch.Tensor, kept: torch.Tensor) -> None:
    wrong = truth[kept & ~((truth >= 0) & (truth <= 1))]
    if len(wrong):
        msg = (
            f"a label of {float(wrong[0]):g}, expected 0 or 1, or a number between as a soft label ({len(wrong)} of "
            f"{truth.numel()} are wrong). A label that marks what is not to be scored is named with "
            f"{option('ignore_index', of='task')}"
        )
        raise DataError(msg)
