"""The records of all batches and ranks, put together in the order of the data."""

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
    """What one batch gave."""

    place: int
    records: Mapping[Key, Records]
    groups: list[Any] | None
    sanity_warning: str | None


@dataclass(frozen=True, kw_only=True)
class RankRecords:
    """What one rank has seen of a split; it can be sent to the others.

    ``task`` is what the data have shown it to be; None where it was given, as a user's may not be fit to be sent.
    """

    task: Task | None
    parts: list[BatchRecords]
    scorers: Mapping[Key, Mapping[str, Any]]


def part_of(run: MemberEvaluation, work: Work) -> BatchRecords:
    """What is kept of a batch that all have seen.

    Raises:
        NonFiniteError: a number is too large for sums and squares in float64.
    """
    for (kind, number), records in work.records.items():
        found = too_large(records, run.task.unit if run.task else "unit")
        if found:
            name = run.members[number].name if kind == "member" else f"the {kind}"
            msg = (
                f"{name}, batch {work.place}: {found}, expected numbers up to 1e+100: beyond these no sums and squares "
                "are to be had in float64. Check that checkpoint, or scale the targets and the outputs."
            )
            raise NonFiniteError(msg)
    return BatchRecords(
        place=work.place, records=work.records, groups=run.groups(work), sanity_warning=work.sanity_warning
    )


def joined(split: str, members: Sequence[Member], shares: Sequence[RankRecords], task: Task | None) -> SplitRecords:
    """All ranks' parts of a split.

    Args:
        task: None where the shares tell.

    Raises:
        DataError: no batches, or none with anything to be scored.
    """
    parts = sorted((part for share in shares for part in share.parts), key=lambda part: part.place)
    task = task or next((share.task for share in shares if share.task is not None), None)
    if not parts or task is None:
        raise no_batches()
    _check_alike(parts)
    groups = _numbered(parts)
    records = {key: join([part.records[key] for part in parts]) for key in parts[0].records}
    if not next(iter(records.values())).n_units:
        msg = f"the data loader gave batches without {task.unit}s to score. Check the data module's paths and labels."
        raise DataError(msg)
    counts = next(iter(records.values())).columns.get("count")
    if counts is not None and not counts.sum():
        msg = f"nothing in any {task.unit} of the {split} data is to be scored: all labels are those that are ignored."
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
    """Every batch has the same scores, of as many classes or outputs."""
    first, *others = parts
    for part in others:
        for key, records in part.records.items():
            sizes, expected = _sizes(records), _sizes(first.records[key])
            if sizes != expected:
                name = next(name for name in {**expected, **sizes} if sizes.get(name) != expected.get(name))
                msg = (
                    f"batch {part.place}: {name} of {list(sizes.get(name, ()))} numbers for each unit, and batch "
                    f"{first.place} has {list(expected.get(name, ()))}: the model must give as many outputs for every "
                    "batch."
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
    """The groups of all units as numbers."""
    if all(part.groups is None for part in parts):
        return None
    if any(part.groups is None for part in parts):
        msg = "split_batch gives groups for some batches and none for others: expected them for all or for none."
        raise DataError(msg)
    found = [group for part in parts for group in part.groups or ()]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(found))}
    return np.array([numbers[group] for group in found], dtype=np.int64)


def _doubts(parts: Sequence[BatchRecords]) -> tuple[str, ...]:
    """What the task says of all outputs of the average, or of the last member there is."""
    said = list(dict.fromkeys(part.sanity_warning for part in parts))
    return () if None in said else tuple(one for one in said if one)


def _computed(scorers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The values of torchmetrics' objects, those of several ranks as one."""
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
    """A number, or several: of a vector (one for each class, say) or a mapping."""
    if isinstance(value, Mapping):
        entries = [_numbers(f"{name}.{part}", entry) for part, entry in cast("Mapping[str, Any]", value).items()]
        return {key: number for entry in entries for key, number in entry.items()}
    flat = np.asarray(value.detach().cpu(), dtype=np.float64).reshape(-1)
    if len(flat) == 1:
        return {name: float(flat[0])}
    return {f"{name}.{index}": float(entry) for index, entry in enumerate(flat)}
