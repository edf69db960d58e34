"""Merging the records of all batches and ranks in the order of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from swa_cli.errors import DataError, NonFiniteError
from swa_cli.evaluation.batch_evaluation import Key, MemberEvaluation, Work
from swa_cli.evaluation.members import Member
from swa_cli.evaluation.split_records import Row, SplitRecords
from swa_cli.tasks import Records, Task, join, too_large
from swa_cli.user.datamodule import no_batches
from swa_cli.user.guard import user_code


@dataclass(frozen=True, kw_only=True)
class BatchRecords:
    """The records of one batch."""

    place: int
    records: Mapping[Key, Records]
    groups: list[Any] | None
    sanity_warning: str | None


@dataclass(frozen=True, kw_only=True)
class RankRecords:
    """The records of one rank for a split, in a form that can be sent to the other ranks.

    ``task`` is the task chosen by the data; None if it was given, since a user's task may not be picklable.
    """

    task: Task | None
    parts: list[BatchRecords]
    scorers: Mapping[Key, Mapping[str, Any]]


def part_of(run: MemberEvaluation, work: Work) -> BatchRecords:
    """Return the records of a batch that all members were run on.

    Raises:
        NonFiniteError: a number is too large for sums of squares in float64.
    """
    for (kind, number), records in work.records.items():
        found = too_large(records, run.task.unit if run.task else "unit")
        if found:
            name = run.members[number].name if kind == "member" else f"the {kind}"
            msg = (
                f"{name}, batch {work.place}: {found}, expected numbers up to 1e+100, above which sums of squares "
                "overflow float64. Check this checkpoint, or scale the targets and the outputs."
            )
            raise NonFiniteError(msg)
    return BatchRecords(
        place=work.place, records=work.records, groups=run.groups(work), sanity_warning=work.sanity_warning
    )


def joined(split: str, members: Sequence[Member], shares: Sequence[RankRecords], task: Task | None) -> SplitRecords:
    """Merge all ranks' records of a split.

    Args:
        task: None takes the task that the ranks chose.

    Raises:
        DataError: there are no batches, or nothing in them is to be scored.
    """
    parts = sorted((part for share in shares for part in share.parts), key=lambda part: part.place)
    task = task or next((share.task for share in shares if share.task is not None), None)
    if not parts or task is None:
        raise no_batches()
    _check_alike(parts)
    groups = _numbered(parts)
    records = {key: join([part.records[key] for part in parts]) for key in parts[0].records}
    if not next(iter(records.values())).n_units:
        msg = f"the batches contain no {task.unit}s to score. Check the data module's paths and labels."
        raise DataError(msg)
    counts = next(iter(records.values())).columns.get("count")
    if counts is not None and not counts.sum():
        msg = f"there is nothing to score in the {split} data: all labels have the value that is ignored."
        raise DataError(msg)
    finished = {key: task.finish(found, groups) for key, found in records.items()}
    extra = {key: _computed([share.scorers[key] for share in shares if key in share.scorers]) for key in finished}
    first = finished["member", 0]
    return SplitRecords(
        split=split,
        task=task,
        rows=tuple(_row(key, found, members, extra[key]) for key, found in finished.items()),
        groups=groups,
        warnings=(*_doubts(parts), *task.warnings(first)),
    )


def _check_alike(parts: Sequence[BatchRecords]) -> None:
    """Check that all batches have the same scores with the same number of classes or outputs."""
    first, *others = parts
    for part in others:
        for key, records in part.records.items():
            sizes, expected = _sizes(records), _sizes(first.records[key])
            if sizes != expected:
                name = next(name for name in {**expected, **sizes} if sizes.get(name) != expected.get(name))
                msg = (
                    f"batch {part.place}: {name} has {list(sizes.get(name, ()))} numbers per unit, that of batch "
                    f"{first.place} {list(expected.get(name, ()))}. Make the model return the same number of outputs "
                    "for every batch."
                )
                raise DataError(msg)


def _sizes(records: Records) -> dict[str, tuple[int, ...]]:
    columns = {name: values.shape[1:] for name, values in records.columns.items()}
    return columns | {name: values.shape for name, values in records.tallies.items()}


def _row(key: Key, records: Records, members: Sequence[Member], extra: Mapping[str, float]) -> Row:
    kind, number = key
    if kind == "member":
        member = members[number]
        return Row(
            name=member.name,
            kind=member.kind,
            records=records,
            step=member.step,
            members=member.members,
            chosen_on=member.chosen_on,
            extra=extra,
        )
    n_checkpoints = number if kind == "prefix" else sum(member.kind == "checkpoint" for member in members)
    name = f"ensemble of the first {number}" if kind == "prefix" else kind
    return Row(name=name, kind=kind, records=records, members=n_checkpoints, extra=extra)


def _numbered(parts: Sequence[BatchRecords]) -> NDArray[np.int64] | None:
    """Return the groups of all units, numbered in order of appearance, or None without groups."""
    if all(part.groups is None for part in parts):
        return None
    if any(part.groups is None for part in parts):
        msg = "split_batch returns groups for some batches only. Return groups for all batches, or for none."
        raise DataError(msg)
    found = [group for part in parts for group in part.groups or ()]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(found))}
    return np.array([numbers[group] for group in found], dtype=np.int64)


def _doubts(parts: Sequence[BatchRecords]) -> tuple[str, ...]:
    """Return the task's warnings if they concern all batches of the average (or of the last member without one)."""
    said = list(dict.fromkeys(part.sanity_warning for part in parts))
    return () if None in said else tuple(one for one in said if one)


def _computed(scorers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the values of torchmetrics objects, merged over the ranks."""
    if not scorers:
        return {}
    first, *others = scorers
    values: dict[str, float] = {}
    for name, metric in first.items():
        with user_code(f"computing the metric {name}"):
            for other in others:
                metric.merge_state(other[name])
            values |= _numbers(name, metric.compute())
    return values


def _numbers(name: str, value: Any) -> dict[str, float]:
    """Flatten a metric's value, which may be a vector (one entry per class, say) or a mapping, into named numbers."""
    if isinstance(value, Mapping):
        entries = [_numbers(f"{name}.{part}", entry) for part, entry in cast("Mapping[str, Any]", value).items()]
        return {key: number for entry in entries for key, number in entry.items()}
    flat = np.asarray(value.detach().cpu(), dtype=np.float64).reshape(-1)
    if len(flat) == 1:
        return {name: float(flat[0])}
    return {f"{name}.{index}": float(entry) for index, entry in enumerate(flat)}
