"""Classification: one class per example."""

from dataclasses import field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from swa_cli.errors import DataError, UsageError, option
from swa_cli.tasks.binary import as_binary, doubt_of_one, note_of, of_both_classes, tally_of
from swa_cli.tasks.calibration import (
    adaptive_ece,
    classwise_ece,
    classwise_gaps,
    ece_floor,
    expected_calibration_error,
)
from swa_cli.tasks.categorical import doubt_of, log_probs_of, per_unit, ranks_of, records_of, scored, sums_to_one
from swa_cli.tasks.defaults import probabilities_and_classes
from swa_cli.tasks.labels import IGNORED, Label, Labels, Weights, checked_index, in_range, weights_of
from swa_cli.tasks.metrics import Metric, available, from_parts, ratio
from swa_cli.tasks.mixed_distributions import MixedDistributions
from swa_cli.tasks.records import Records
from swa_cli.tasks.scores import ACCURACY, BRIER, LIKENESS, NLL
from swa_cli.tasks.temperature import calibrated_nll, nll_at
from swa_cli.user.batch import Batch, logits_of

_N_DIMS = 2  # (n, C)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Classification:
    """Logits (n, C) with class indices (n,) or soft labels (n, C) of any floating-point dtype.

    One logit, (n,) or (n, 1), with labels 0 and 1 of any dtype counts as the two logits 0 and itself: its sigmoid is
    the probability of label 1.

    Attributes:
        ignore_index: examples with this label are left out of every score.
        class_weights: weights of the NLL as in torch's cross_entropy: Σ w_y nll / Σ w_y.
        top_k: also score whether the label is among the k most probable classes, for each of these k.
    """

    ignore_index: Label = IGNORED
    class_weights: Weights | None = None
    top_k: tuple[PositiveInt, ...] = ()

    name: str = field(default="classification", init=False)
    unit: str = field(default="example", init=False)
    primary: str = field(default="accuracy", init=False)

    for_torchmetrics = staticmethod(probabilities_and_classes)

    def output(self, output: Any) -> torch.Tensor:
        """Return the logits, (n, C); one logit per example as (n, 1)."""
        logits = logits_of(output)
        if logits.ndim == 1:
            logits = logits[:, None]
        if logits.ndim != _N_DIMS or logits.shape[1] == 0:
            msg = f"logits of shape {list(logits.shape)}, expected (examples, classes) for the task {self.name}."
            raise DataError(msg)
        n_classes = max(2, logits.shape[1])
        if self.top_k and max(self.top_k) > n_classes:
            msg = f"top_k={max(self.top_k)} of {n_classes} classes: expected {n_classes} at most."
            raise UsageError(msg)
        return logits

    def sanity_warning(self, output: torch.Tensor) -> str | None:
        """Return a warning if the outputs look like probabilities."""
        return doubt_of_one(output, element=self.unit) if output.shape[1] == 1 else doubt_of(output, dim=1)

    def target(self, example: Batch, output: torch.Tensor) -> Labels:
        """Return the labels of the examples that are not ignored."""
        n, n_classes = output.shape
        given, one_logit = example.target, n_classes == 1
        if one_logit:
            n_classes, given = 2, as_binary(given, (n,))
            if isinstance(given, torch.Tensor) and given.is_floating_point() and given.shape == (n,):
                given = torch.stack([1 - given, given], dim=1)
        if isinstance(given, torch.Tensor) and given.is_floating_point() and given.shape == (n, n_classes):
            soft = _distributions(given.to(output.device))
            index = soft.argmax(dim=1)
            if self.class_weights is not None:
                msg = f"soft labels cannot be weighted by class. Leave out class_weights ({option('task.init_args')})."
                raise DataError(msg)
            return Labels(chosen=None, index=index, soft=soft, unit=None, n_units=n, weight=None, one_logit=one_logit)
        index = checked_index(given, (n,), elements=f"{n} examples").to(output.device)
        kept = in_range(index, n_classes, ignore_index=self.ignore_index, one_logit=one_logit)
        chosen = None if bool(kept.all()) else kept.nonzero()[:, 0]
        index = index if chosen is None else index[chosen]
        weight = weights_of(index, self.class_weights, n_classes)
        return Labels(
            chosen=chosen, index=index, soft=None, unit=None, n_units=len(index), weight=weight, one_logit=one_logit
        )

    def scored_indices(self, target: Labels) -> torch.Tensor | None:
        """Return the indices of the examples that are not ignored."""
        return target.chosen

    def predict(self, output: torch.Tensor, target: Labels) -> torch.Tensor:
        """Log-probabilities (m, C)."""
        return log_probs_of(of_both_classes(output, dim=1), target)

    def ensemble_accumulator(self, target: Labels) -> MixedDistributions:
        """Of probabilities."""
        return MixedDistributions(partial(records_of, labels=target))

    def score_batch(self, prediction: torch.Tensor, target: Labels, *, full: bool) -> Records:
        """Return correctness, NLL, Brier score, confidence and label of each example."""
        values = scored(prediction, target)
        for k in self.top_k:
            values[f"top{k}"] = (ranks_of(prediction, target.index) < k).to(torch.float64)
        values["label"] = target.index.to(torch.float64)
        if not full:
            return records_of(values, target)
        labels = target.index if target.soft is None else target.soft
        weight = 1.0 if target.weight is None else target.weight[:, None]
        values["nll_at"] = nll_at(prediction, labels) * weight
        tallies = {"classwise": classwise_gaps(prediction.exp(), target.index).cpu().numpy()}
        return Records(columns=per_unit(values, target), tallies={**tallies, **tally_of(target)})

    def finish(self, records: Records, groups: NDArray[np.int64] | None) -> Records:
        """Replace each example's NLLs at all temperatures by its calibrated NLL."""
        columns = dict(records.columns)
        if "nll_at" in columns:
            grid, weight = columns.pop("nll_at"), columns["weight"]
            per_weight = np.divide(grid, weight[:, None], out=np.zeros_like(grid), where=weight[:, None] > 0)
            columns["calibrated_nll"] = calibrated_nll(per_weight, weight, groups) * weight
        return Records(columns=columns, tallies=records.tallies)

    def warnings(self, records: Records) -> tuple[str, ...]:
        """Return notes on a single logit, and on labels that are all the same, for which accuracy says little."""
        note, labels = note_of(records, element=self.unit), np.unique(records.columns["label"])
        if len(labels) > 1 or records.n_units == 1:
            return note
        warning = (
            f"all {records.n_units:,} examples have the label {labels[0]:.0f}: a constant predictor would score 100 %. "
            "Check the data module's labels."
        )
        return (*note, warning)

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """Those that the columns allow."""
        return available((ACCURACY, *(_top(k) for k in self.top_k), *_METRICS), records)


def _top(k: int) -> Metric:
    return from_parts(f"top{k}", f"top-{k}", ratio(f"top{k}", "count"), higher_is_better=True, percent=True)


_METRICS = (
    NLL,
    from_parts("calibrated_nll", "cal. NLL", ratio("calibrated_nll", "weight"), higher_is_better=False),
    BRIER,
    Metric(
        name="ece",
        label="ECE",
        higher_is_better=False,
        percent=True,
        of=lambda records: expected_calibration_error(records.columns["confidence"], records.columns["correct"]),
        needs=("confidence", "correct"),
    ),
    Metric(
        name="ece_floor",
        label="ECE if calibrated",
        higher_is_better=False,
        percent=True,
        shown=False,
        of=lambda records: ece_floor(records.columns["confidence"]),
        needs=("confidence",),
    ),
    Metric(
        name="adaptive_ece",
        label="adaptive ECE",
        higher_is_better=False,
        percent=True,
        shown=False,
        of=lambda records: adaptive_ece(records.columns["confidence"], records.columns["correct"]),
        needs=("confidence", "correct"),
    ),
    Metric(
        name="classwise_ece",
        label="classwise ECE",
        higher_is_better=False,
        percent=True,
        shown=False,
        of=lambda records: classwise_ece(torch.from_numpy(records.tallies["classwise"]), records.n_units),
        needs=("classwise",),
    ),
    *LIKENESS,
)


def _distributions(target: torch.Tensor) -> torch.Tensor:
    """Check and normalise soft labels."""
    tolerance, target = sums_to_one(target), target.to(torch.float64)
    off = (target.sum(dim=1) - 1).abs() > tolerance
    wrong = off | (target < 0).any(dim=1) | ~torch.isfinite(target).all(dim=1)
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0, 0])
        row = ", ".join(f"{float(value):.3g}" for value in target[place, :4])
        more = ", …" if target.shape[1] > len(target[place, :4]) else ""
        msg = (
            f"the soft label of example {place} is [{row}{more}], expected probabilities: non-negative, with the sum 1 "
            f"({int(wrong.sum())} of {len(target)} are not). For several labels at once give "
            f"{option('task', 'multilabel')}."
        )
        raise DataError(msg)
    return target / target.sum(dim=1, keepdim=True)
