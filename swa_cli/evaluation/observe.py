"""Running all members, and the checkpoints' ensembles, on batches that are loaded once."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import torch

from swa_cli.evaluation.batch_evaluation import MemberEvaluation, OutputCache, Work, named
from swa_cli.evaluation.batch_spill import batch_spill
from swa_cli.evaluation.members import Member, Residents
from swa_cli.evaluation.merge_ranks import BatchRecords, RankRecords, joined, part_of
from swa_cli.evaluation.split_records import SplitRecords
from swa_cli.system.process_group import ALONE, ProcessGroup
from swa_cli.system.progress import Track, silent
from swa_cli.tasks import Metric, Task
from swa_cli.user.batch import Splitter, split_batch
from swa_cli.user.datamodule import iterate, length_of
from swa_cli.user.forward import Forward

_FORWARD = Forward()


@dataclass(frozen=True, kw_only=True)
class Stream:
    """This rank's batches of a split, and the members to run on them.

    Attributes:
        members: the checkpoints first.
        ensemble: whether to score the checkpoints' ensembles too.
        place: maps the index of this rank's batch to its position among those of all ranks.
        metrics: creates the torchmetrics objects of one row, by name.
        check: called with the task's metrics as soon as they are known; may raise.
    """

    split: str
    batches: Iterable[Any]
    members: Sequence[Member]
    ensemble: bool = False
    splitter: Splitter = split_batch
    place: Callable[[int], int] = int
    metrics: Callable[[], Mapping[str, Any]] | None = None
    check: Callable[[Sequence[Metric]], None] | None = None


def observe(
    residents: Residents,
    streams: Sequence[Stream],
    *,
    task: Task | None = None,
    forward: Forward = _FORWARD,
    kept: OutputCache | None = None,
    group: ProcessGroup = ALONE,
    track: Track = silent,
) -> list[SplitRecords]:
    """Run the members of each stream over its batches.

    Each batch is loaded once. If not all members fit in memory together, groups of them take turns while the batches
    are buffered, so that each member is loaded once too.

    Args:
        task: None chooses it by the first batch of each stream (`swa_cli.tasks.choose_task`).
        kept: cached outputs of earlier runs, which are used in place of the model and extended.
        group: the ranks that share the work, each with its own batches.

    Raises:
        DataError: a loader is empty, or a batch or an output does not fit the task; the message names the split.
        NonFiniteError: the output of a member holds NaN or infinity.
        UserCodeError: a loader or a model raises, or the model cannot be copied.
    """
    gathered = group.gather(lambda: _shares(residents, streams, task, forward, kept, track), own_data=True)
    observed: list[SplitRecords] = []
    for stream, *parts in zip(streams, *gathered, strict=True):
        with named(f"{stream.split} split"):
            observed.append(joined(stream.split, stream.members, parts, task))
    return observed


def _shares(
    residents: Residents,
    streams: Sequence[Stream],
    task: Task | None,
    forward: Forward,
    kept: OutputCache | None,
    track: Track,
) -> list[RankRecords]:
    """Return this rank's records of each stream."""
    everybody = list(dict.fromkeys(member for stream in streams for member in stream.members))
    runs = [
        MemberEvaluation(
            stream.members,
            split=stream.split,
            task=task,
            ensemble=stream.ensemble,
            forward=forward,
            kept=kept,
            metrics=stream.metrics,
            check=stream.check,
        )
        for stream in streams
    ]
    parts: list[list[BatchRecords]] = [[] for _ in streams]
    waiting: list[Iterable[Work]] = [_loaded(stream, run) for stream, run in zip(streams, runs, strict=True)]
    groups = residents.groups(everybody)
    with torch.no_grad(), ExitStack() as buffers:
        buffered = [buffers.enter_context(ExitStack()) for _ in streams]
        for number, group in enumerate(groups):
            last = number == len(groups) - 1
            which = f", group {number + 1} of {len(groups)}" if len(groups) > 1 else ""
            for index, (stream, run) in enumerate(zip(streams, runs, strict=True)):
                if not last and not {*group} & {*stream.members}:
                    continue
                before = buffered[index].pop_all()
                later = None if last else buffered[index].enter_context(batch_spill())
                description = f"evaluating on {stream.split}{which}"
                bar = track(description, total=length_of(stream.batches), unit="batches")
                with before, bar as progress:
                    for work in waiting[index]:
                        run.advance(work, group, residents)
                        with named(f"{stream.split} split"):
                            if later is None:
                                run.end(work)
                                parts[index].append(part_of(run, work))
                            else:
                                later.put(work)
                        progress(1)
                waiting[index] = later or ()
    for scorers in (entry for run in runs for entry in run.scorers.values()):
        for metric in scorers.values():
            metric.to("cpu")  # before it is sent to ranks with other devices
    return [
        RankRecords(task=run.task if task is None else None, parts=own, scorers=run.scorers)
        for run, own in zip(runs, parts, strict=True)
    ]


def _loaded(stream: Stream, run: MemberEvaluation) -> Generator[Work]:
    with named(f"{stream.split} split"), closing(iterate(stream.batches, may_be_empty=True)) as batches:
        for index, batch in enumerate(batches):
            yield run.start(stream.splitter(batch), stream.place(index))
