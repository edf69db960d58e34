"""Running the members on one batch, and scoring their outputs."""

from collections.abc import Callable, Container, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, final

import torch

from swa_cli.errors import DataError, MismatchError, NonFiniteError, SwaError, UsageError
from swa_cli.evaluation.members import Member, Residents
from swa_cli.tasks import TASKS, Metric, Mixture, Records, Task, choose_task
from swa_cli.user.batch import Batch, copied
from swa_cli.user.dataloader import tensors_in
from swa_cli.user.forward import Forward
from swa_cli.user.guard import user_code

Key = tuple[Literal["member", "prefix", "members", "ensemble", "geometric"], int]
"""Identifies a row's records: ``("member", index)``, ``("prefix", k)``, ``("members", 0)``, ``("ensemble", 0)`` or
``("geometric", 0)``."""


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class OutputCache(Protocol):
    """Outputs of earlier evaluations, by the digests of member and batch."""

    def digest(self, example: Batch) -> str | None:
        """Return a digest of the batch's contents, or None if its outputs must not be cached."""
        ...

    def get(self, member: str, batch: str) -> torch.Tensor | None:
        """Return the member's output for the batch, on the CPU, or None if it is not cached."""
        ...

    def put(self, member: str, batch: str, output: torch.Tensor) -> None:
        """Cache the member's output for the batch."""
        ...


@dataclass(kw_only=True)
class Work:
    """A batch, its target, and the records of the members that were run on it.

    ``sanity_warning`` is the task's warning about the outputs of the average, or of the last member without one.
    """

    place: int
    example: Batch
    digest: str | None
    target: Any = None
    shape: tuple[int, ...] | None = None
    mixture: Mixture | None = None
    predicted: bool = False
    records: dict[Key, Records] = field(default_factory=dict[Key, Records])
    sanity_warning: str | None = None


@final
class MemberEvaluation:
    """Runs the members of one stream on its batches, in order.

    Attributes:
        task: set at the first batch, unless it was given.
        scorers: the torchmetrics objects of each row.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        split: str,
        task: Task | None,
        ensemble: bool,
        forward: Forward,
        kept: OutputCache | None,
        metrics: Callable[[], Mapping[str, Any]] | None = None,
        check: Callable[[Sequence[Metric]], None] | None = None,
    ) -> None:
        """Prepare the evaluation; nothing is run yet.

        Args:
            metrics: creates the torchmetrics objects of one row.
            check: called with the task's metrics as soon as they are known.
            split: name of the split, for error messages.
        """
        self.members, self._split, self.task = members, split, task
        self.scorers: dict[Key, Mapping[str, Any]] = {}
        self._ensemble, self._forward, self._kept, self._metrics = ensemble, forward, kept, metrics
        self._check, self._checked = check, False
        self._changes_input: bool | None = None
        self._doubted = next((n for n, member in enumerate(members) if member.kind == "swa"), len(members) - 1)

    def start(self, example: Batch, place: int) -> Work:
        """Return the work for a batch that no member was run on."""
        digest = self._kept.digest(example) if self._kept else None
        return Work(place=place, example=example, digest=digest)

    def advance(self, work: Work, group: Container[Member], residents: Residents) -> None:
        """Run the members of ``group`` on the batch.

        Raises:
            SwaError: as `swa_cli.evaluation.observe`.
        """
        with named(f"{self._split} split"):
            example = self._forward.prepare(work.example, batch=work.place)
        for index, member in enumerate(self.members):
            if member in group:
                output = self._output(work, example, member, residents)
                self._look_at(work, example, output, index)

    def _output(self, work: Work, example: Batch, member: Member, residents: Residents) -> Any:
        if self._kept and work.digest and member.digest:
            known = self._kept.get(member.digest, work.digest)
            if known is not None:
                return known.to(self._forward.device)
        raw = self._run(work, example, member, residents)
        if self.task is None:
            with named(f"{self._split} split: batch {work.place}"):
                self.task = choose_task(example, raw)
        with named(f"{self._split} split: {member.name}, batch {work.place}"):
            with user_code("taking what is evaluated from the model's output"):
                output = self.task.output(raw)
            if isinstance(output, torch.Tensor):
                output = output.detach()
                _check(output)
        if self._kept and work.digest and member.digest and isinstance(output, torch.Tensor):
            self._kept.put(member.digest, work.digest, output)
        return output

    def _run(self, work: Work, example: Batch, member: Member, residents: Residents) -> Any:
        """Return the model's output for the batch as it was loaded.

        A model that changed the first batch in place gets a copy of every batch.
        """
        given = example
        if self._changes_input is not False:
            given = example._replace(args=copied(example.args), kwargs=copied(example.kwargs))
        tensors = list(tensors_in([given.args, given.kwargs]))
        before = [tensor._version for tensor in tensors]  # noqa: SLF001  # torch has no other name for it
        resident = residents.of(member)
        with named(f"{self._split} split"):
            raw = self._forward.call(resident.call, given, batch=work.place, name=member.name)
        if self._changes_input is None:
            self._changes_input = before != [tensor._version for tensor in tensors]  # noqa: SLF001
        return raw

    def _look_at(self, work: Work, example: Batch, output: Any, index: int) -> None:
        member = self.members[index]
        if self.task is None:
            with named(f"{self._split} split: batch {work.place}"):
                self.task = choose_task(example, output)
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
        if work.shape is None:
            work.shape = shape
            with named(f"{self._split} split: batch {work.place}"):
                _check_dense(example.target)
                work.target = self.task.target(example, output)
        elif shape != work.shape and self.task.name in TASKS:
            msg = (
                f"{self._split} split: {member.name}, batch {work.place}: the output has shape {list(shape)}, that of "
                f"{self.members[0].name} {list(work.shape)}, so they cannot be compared. Evaluate models of one task "
                "with the same classes."
            )
            raise MismatchError(msg)
        if index == self._doubted:
            work.sanity_warning = self.task.sanity_warning(output)
        with named(f"{self._split} split: {member.name}, batch {work.place}"):
            prediction = self.task.predict(output, work.target)
            self._keep(work, ("member", index), prediction, full=True)
        if self._ensemble:
            self._mix(work, index, prediction)

    def _mix(self, work: Work, index: int, prediction: Any) -> None:
        """Add a checkpoint's prediction to the ensemble, or compare another member's prediction with it."""
        assert self.task is not None
        if not work.predicted:
            work.mixture = self.task.ensemble_accumulator(work.target)
            work.predicted = True
        if work.mixture is None:
            return
        if self.members[index].kind == "checkpoint":
            work.mixture.add(prediction)
            self._keep(work, ("prefix", index + 1), work.mixture.arithmetic(), full=False)
            return
        near = work.mixture.agreement(prediction)
        if near:
            mine = work.records["member", index]
            work.records["member", index] = replace(mine, columns={**mine.columns, **near.columns})

    def _keep(self, work: Work, key: Key, prediction: Any, *, full: bool) -> None:
        assert self.task is not None
        work.records[key] = self.task.score_batch(prediction, work.target, full=full)
        if self._check and not self._checked:
            self._check(self.task.metrics(work.records[key]))
            self._checked = True
        if self._metrics and full:
            if key not in self.scorers:
                self.scorers[key] = self._scorers(work.records[key])
            preds, target = self.task.for_torchmetrics(prediction, work.target)
            for name, metric in self.scorers[key].items():
                with user_code(f"the metric {name} on batch {work.place}"):
                    metric.to(preds.device)
                    metric.update(preds, target)

    def _scorers(self, records: Records) -> Mapping[str, Any]:
        assert self.task is not None
        assert self._metrics is not None
        made = self._metrics()
        taken = [metric.name for metric in self.task.metrics(records) if metric.name in made]
        if taken:
            msg = f"eval.metrics.{taken[0]}: the task {self.task.name} has a score of that name. Rename yours."
            raise UsageError(msg)
        return made

    def end(self, work: Work) -> None:
        """Score the ensembles, after all members were run on the batch.

        Raises:
            DataError: the groups of the batch do not fit its units.
        """
        if work.mixture is not None and self.task is not None:
            self._keep(work, ("ensemble", 0), work.mixture.arithmetic(), full=True)
            geometric = work.mixture.geometric()
            if geometric is not None:
                self._keep(work, ("geometric", 0), geometric, full=True)
            close = work.mixture.diversity()
            if close:
                work.records["members", 0] = close

    def groups(self, work: Work) -> list[Any] | None:
        """Return the group of each scored unit, or None if the batch has no groups.

        Raises:
            DataError: their number is wrong, or one is neither an integer nor a string.
        """
        given = work.example.groups
        if given is None or self.task is None:
            return None
        with user_code(f"reading the groups of batch {work.place}"):
            listed: list[Any] = given.tolist() if hasattr(given, "tolist") else [*given]
            groups: list[Any] = [entry.item() if hasattr(entry, "item") else entry for entry in listed]
        odd = [group for group in groups if type(group) not in {int, str}]
        if odd:
            msg = f"batch {work.place}: found {odd[0]!r} as a group, expected an integer or a string for each unit."
            raise DataError(msg)
        places = self.task.scored_indices(work.target)
        n_units = next(iter(work.records.values())).n_units
        if places is not None and len(groups) > n_units:
            groups = [groups[int(place)] for place in places]
        if len(groups) != n_units:
            msg = (
                f"batch {work.place}: {len(groups)} groups for {n_units} {self.task.unit}s. Let split_batch return one "
                "group per unit as its fourth element."
            )
            raise DataError(msg)
        return groups


def _check_dense(target: object) -> None:
    if isinstance(target, torch.Tensor) and not _is_dense(target):
        kind = f"{str(target.dtype).removeprefix('torch.')}, {str(target.layout).removeprefix('torch.')}"
        msg = f"the target is {kind}, on {target.device}; expected a dense tensor. Convert it in split_batch."
        raise DataError(msg)


def _is_dense(tensor: torch.Tensor) -> bool:
    other = tensor.is_quantized or tensor.is_nested or tensor.device.type == "meta"
    return tensor.layout == torch.strided and not other


def _check(output: torch.Tensor) -> None:
    if output.dtype not in _FLOATS or not _is_dense(output):
        kind = f"{str(output.dtype).removeprefix('torch.')}, {str(output.layout).removeprefix('torch.')}"
        msg = f"outputs that are {kind}, on {output.device}; expected dense floating numbers."
        raise DataError(msg)
    if not bool(torch.isfinite(output).all()):
        msg = (
            "the model's output holds NaN or infinity. Check this checkpoint and its BatchNorm statistics; leave it "
            "out if the run diverged there."
        )
        raise NonFiniteError(msg)


@contextmanager
def named(what: str) -> Generator[None]:
    """Prefix errors of the body with ``what``, except for usage errors, which concern all members."""
    try:
        yield
    except UsageError:
        raise
    except SwaError as error:
        error.add_subject(what)
        raise
