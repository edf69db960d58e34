"""Computing the result of an evaluation from the records of its candidates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from swa_cli.errors import UsageError, option
from swa_cli.evaluation.compare import Other, compare
from swa_cli.evaluation.decide import INCUMBENTS, decide
from swa_cli.evaluation.power import effects, units_to_decide
from swa_cli.evaluation.result import BnRecord, Candidate, Curve, EvaluationResult, Kind, Score
from swa_cli.evaluation.split_records import Row, RowKind, SplitRecords
from swa_cli.tasks import Metric, Records

_BESIDES: tuple[Kind, ...] = ("swa-averaged-bn", "control", "window", "greedy")
"""Kinds of members other than the checkpoints and the average."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Facts about an evaluation that are not in its records.

    ``best`` is the index of the checkpoint with the best score on the split ``chosen_on``; for the other fields see
    `EvaluationResult`.
    """

    best: int | None = None
    chosen_on: str | None = None
    curve: Curve | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    plan: str = ""
    bn_update: BnRecord | None = None


_NOTHING = Context()


def summarise(
    observed: SplitRecords, context: Context = _NOTHING, *, margins: Mapping[str, float] | None = None
) -> EvaluationResult:
    """Compute the scores, the comparisons and the decision.

    Args:
        observed: records of an average and at least one checkpoint, in the order of training.
        margins: the accepted loss per metric, in the unit it is shown in (points for percentages). The empty name
            stands for the primary metric.

    Raises:
        UsageError: a margin is for a metric that is not compared.
    """
    task = observed.task
    (swa,), checkpoints = observed.of_kind("swa"), observed.of_kind("checkpoint")
    metrics = task.metrics(swa.records)
    scores = {id(row): scores_of(row, metrics) for row in observed.rows}
    chosen = None if context.best is None else checkpoints[context.best]
    check_margins(margins or {}, metrics)
    own = _margins(margins or {}, metrics, task.primary)
    candidates = [_candidate(row, scores[id(row)]) for row in observed.of_kind("swa")]
    candidates += [_candidate(row, scores[id(row)]) for row in checkpoints]
    candidates.append(_summing_up(checkpoints[-1], "last", scores))
    if chosen:
        candidates.append(_summing_up(chosen, "best", scores, context.chosen_on))
    candidates.append(_mean(observed, checkpoints, scores, metrics))
    candidates += [_candidate(row, scores[id(row)]) for row in observed.rows if row.kind in _BESIDES]
    candidates += [_ensemble(row, scores[id(row)]) for row in observed.of_kind("ensemble", "geometric")]
    others = _others(checkpoints, chosen, observed)
    comparisons = compare(swa.records, others, metrics, groups=observed.groups, margins=own)
    described = [_score(metric) for metric in metrics]
    extra = dict.fromkeys(name for row in observed.rows for name in row.extra)
    described += [Score(name=name, label=name, higher_is_better=None, percent=False, shown=True) for name in extra]
    secondary = next((m.name for m in metrics if m.compared and m.name == "nll" and m.name != task.primary), None)
    decision = decide(comparisons, primary=task.primary, secondary=secondary)
    if decision.verdict == "inconclusive":
        incumbents: dict[Kind, Records] = {other.kind: other.records[0] for other in others if other.kind in INCUMBENTS}
        found = effects(comparisons, decision, metrics, swa.records, incumbents, observed.groups)
        decision = replace(decision, units_needed=units_to_decide(found))
    return EvaluationResult(
        split=observed.split,
        task=task.name,
        unit=task.unit,
        n_examples=observed.n_units,
        n_groups=None if observed.groups is None else int(observed.groups.max()) + 1,
        scores=tuple(described),
        candidates=tuple(candidates),
        comparisons=comparisons,
        decision=decision,
        prefixes=tuple(_ensemble(row, scores[id(row)]) for row in observed.of_kind("prefix")),
        curve=context.curve,
        warnings=(*context.warnings, *observed.warnings),
        notes=context.notes,
        plan=context.plan,
        bn_update=context.bn_update,
    )


def scores_of(row: Row, metrics: Sequence[Metric]) -> dict[str, float]:
    """Return the scores that can be computed from the row's records."""
    names = {*row.records.columns, *row.records.tallies}
    found = {metric.name: metric.of(row.records) for metric in metrics if names.issuperset(metric.needs)}
    return {**found, **row.extra}


def best_of(observed: SplitRecords) -> int | None:
    """Return the index of the best checkpoint by the primary metric (the newest of equal ones), or None."""
    values = np.array(primary_scores(observed, "checkpoint"))
    return int(np.flatnonzero(values == values.max())[-1]) if np.isfinite(values).any() else None


def primary_scores(observed: SplitRecords, kind: RowKind) -> list[float]:
    """Return the primary metric of the rows of a kind, with the sign that makes higher better; −∞ if undefined."""
    metric = primary_of(observed)
    values = [metric.of(row.records) for row in observed.of_kind(kind)]
    return [-math.inf if math.isnan(value) else value if metric.higher_is_better else -value for value in values]


def primary_of(observed: SplitRecords) -> Metric:
    """Return the metric that decides."""
    metrics = observed.task.metrics(observed.rows[0].records)
    return next(metric for metric in metrics if metric.name == observed.task.primary)


def check_margins(given: Mapping[str, float], metrics: Sequence[Metric]) -> None:
    """Check that margins are for metrics that are compared; an empty name stands for the primary metric.

    Raises:
        UsageError: one is not.
    """
    compared = [metric.name for metric in metrics if metric.compared]
    strange = [name for name in given if name and name not in compared]
    if strange:
        msg = f"{option('margin', strange[0])}: there is no such comparison. Name one of {', '.join(compared)}."
        raise UsageError(msg)


def _margins(given: Mapping[str, float], metrics: Sequence[Metric], primary: str) -> dict[str, float]:
    """Convert margins to the metrics' own units."""
    percent = {metric.name for metric in metrics if metric.percent}
    named = {name or primary: margin for name, margin in given.items()}
    return {name: margin / 100 if name in percent else margin for name, margin in named.items()}


def _others(checkpoints: Sequence[Row], best: Row | None, observed: SplitRecords) -> list[Other]:
    last = checkpoints[-1]
    others = [Other(name="the last checkpoint", kind="last", records=[last.records])]
    if best is not None and best is not last:
        others.append(Other(name="the best by validation", kind="best", records=[best.records]))
    if len(checkpoints) > 1:
        every = [row.records for row in checkpoints]
        others.append(Other(name="the mean over checkpoints", kind="mean", records=every))
    others += [
        Other(name="the last checkpoint with BatchNorm recomputed", kind="control", records=[row.records])
        for row in observed.of_kind("control")
    ]
    others += [
        Other(name="the ensemble", kind="ensemble", records=[row.records]) for row in observed.of_kind("ensemble")
    ]
    return others


def _candidate(row: Row, scores: Mapping[str, float]) -> Candidate:
    kind: Any = row.kind
    return Candidate(
        name=row.name, kind=kind, scores=scores, step=row.step, members=row.members, chosen_on=row.chosen_on
    )


def _summing_up(
    row: Row, kind: Kind, scores: Mapping[int, Mapping[str, float]], chosen_on: str | None = None
) -> Candidate:
    label = {"last": "last", "best": "best by validation"}[kind]
    return Candidate(
        name=f"{label} ({row.name})", kind=kind, scores=scores[id(row)], step=row.step, chosen_on=chosen_on
    )


def _mean(
    observed: SplitRecords,
    checkpoints: Sequence[Row],
    scores: Mapping[int, Mapping[str, float]],
    metrics: Sequence[Metric],
) -> Candidate:
    """Return the row of mean scores, the expectation for a random checkpoint, and the closeness to the ensemble."""
    every = [scores[id(row)] for row in checkpoints]
    shared = [name for name in every[0] if all(name in one for one in every)]
    with np.errstate(over="ignore", invalid="ignore"):  # values of torchmetrics may be of any size
        mean = {name: float(np.mean([one[name] for one in every])) for name in shared}
    for row in observed.of_kind("members"):
        mean |= scores_of(row, metrics)
    return Candidate(name="mean over checkpoints", kind="mean", scores=mean, members=len(checkpoints))


def _ensemble(row: Row, scores: Mapping[str, float]) -> Candidate:
    geometric = row.kind == "geometric"
    name = "geometric ensemble" if geometric else "ensemble"
    return Candidate(
        name=name,
        kind="geometric" if geometric else "ensemble",
        scores=scores,
        members=row.members,
        forward_passes=row.members or 1,
    )


def _score(metric: Metric) -> Score:
    return Score(
        name=metric.name,
        label=metric.label,
        higher_is_better=metric.higher_is_better,
        percent=metric.percent,
        shown=metric.shown,
        right_or_wrong=metric.right_or_wrong is not None,
    )
