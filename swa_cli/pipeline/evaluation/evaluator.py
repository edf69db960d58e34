"""Running members over splits, with this rank's batches and cached outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from swa_cli.config.schema import TargetConfig
from swa_cli.errors import MismatchError, UsageError, option
from swa_cli.evaluation import Member, OutputCache, Residents, SplitRecords, Stream, check_margins, observe
from swa_cli.pipeline.evaluation.prepare import EvalInputs
from swa_cli.system.process_group import ALONE, ProcessGroup
from swa_cli.system.progress import Track
from swa_cli.user.dataloader import Passes
from swa_cli.user.datamodule import Split, batches_of
from swa_cli.user.guard import user_code
from swa_cli.user.import_object import call_target


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Runs members over splits, on all ranks of ``group``."""

    job: EvalInputs
    residents: Residents
    loaders: Mapping[Split, Passes]
    kept: OutputCache | None
    group: ProcessGroup
    track: Track

    def stream(self, split: Split, members: Sequence[Member], *, reported: bool = False) -> Stream:
        """Return the stream of members over a split; ``reported`` adds ensembles and torchmetrics scores."""
        rank, size, reporting = self.group.rank, self.group.size, self.job.reporting
        return Stream(
            split=split,
            batches=self.loaders[split],
            members=members,
            ensemble=reported and reporting.ensemble,
            splitter=self.job.splitter,
            place=lambda index: rank + index * size,
            metrics=_maker(reporting.metrics, self.group) if reported else None,
            check=partial(check_margins, reporting.margin),
        )

    def observe(self, *streams: Stream) -> list[SplitRecords]:
        """Run the streams.

        Raises:
            MismatchError: the ranks iterated over different streams of batches.
            SwaError: as `swa_cli.evaluation.observe`.
        """
        observed = observe(
            self.residents,
            streams,
            task=self.job.task,
            forward=self.job.forward,
            kept=self.kept,
            group=self.group,
            track=self.track,
        )
        if not self.group.same(lambda: [loader.digest for loader in self.loaders.values()]):
            msg = (
                "the ranks' samplers draw different batches, so that some examples would count twice and others never. "
                "Let the evaluation loaders draw none at random, or by torch's, numpy's or Python's random numbers."
            )
            raise MismatchError(msg)
        return observed

    def observe_once(self, split: Split, member: Member) -> SplitRecords:
        """Run a member that is not needed again.

        Raises:
            SwaError: as `observe`.
        """
        (observed,) = self.observe(self.stream(split, [member]))
        self.residents.forget(member)
        return observed


def loader_of(job: EvalInputs, split: Split, group: ProcessGroup, *, again: bool) -> Passes:
    """Return this rank's batches of a split, the same in every pass; ``again`` announces several passes.

    Raises:
        UserCodeError: the data module's code fails.
        UsageError: the loader can be iterated once only, or shards its data by rank and so repeats examples.
    """
    passes = Passes(batches_of(job.data, split), rank=group.rank, ranks=group.size)
    if again and not passes.repeatable:
        msg = (
            f"{split}_dataloader() gives what can be passed over once only, and {option('curve')} and "
            f"{option('greedy', True)} need several passes over it. Let it return a DataLoader, or a list."
        )
        raise UsageError(msg)
    if passes.shared_by == "itself":
        msg = (
            f"{split}_dataloader() has a distributed sampler of its own, which repeats examples to make the ranks "
            "even: they would count twice. Let it return the loader of one process; the batches are shared out here."
        )
        raise UsageError(msg)
    return passes


def check_metrics(metrics: Mapping[str, TargetConfig], group: ProcessGroup = ALONE) -> None:
    """Check, before the work starts, that the torchmetrics objects can be built.

    Raises:
        UsageError, UserCodeError: one cannot.
    """
    make = _maker(metrics, group)
    if make:
        make()


def _maker(metrics: Mapping[str, TargetConfig], group: ProcessGroup) -> Callable[[], Mapping[str, Any]] | None:
    if not metrics:
        return None
    return lambda: {name: _built(name, target, group) for name, target in metrics.items()}


def _built(name: str, target: TargetConfig, group: ProcessGroup) -> Any:
    metric: Any = call_target(target.class_path, target.init_args, what=f"metric {name}")
    if not all(callable(getattr(metric, method, None)) for method in ("update", "compute", "merge_state")):
        msg = f"eval.metrics.{name}: {target.class_path} gives no torchmetrics.Metric (update, compute, merge_state)."
        raise UsageError(msg)
    if group.size > 1 and getattr(metric, "full_state_update", None) is not False:
        msg = (
            f"eval.metrics.{name}: what several ranks have of {target.class_path} cannot be put together (its "
            "full_state_update is not False). Run one process, or leave it out."
        )
        raise UsageError(msg)
    with user_code(f"setting the dtype of the metric {name}"):
        return metric.set_dtype(torch.float64) if hasattr(metric, "set_dtype") else metric
