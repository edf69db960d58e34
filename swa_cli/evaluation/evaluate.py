"""Evaluating weights in memory: one pass over the data, scores, comparisons, decision."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from swa_cli.evaluation.members import Member, Residents
from swa_cli.evaluation.observe import Stream, observe
from swa_cli.evaluation.result import EvaluationResult
from swa_cli.evaluation.summarise import summarise
from swa_cli.system.progress import Track, silent
from swa_cli.tasks import Task
from swa_cli.user.batch import Splitter, split_batch
from swa_cli.user.forward import Forward

_FORWARD = Forward()


def evaluate(  # noqa: PLR0913  # the options of an evaluation
    model: nn.Module,
    checkpoints: Sequence[Member],
    swa: Member,
    batches: Iterable[Any],
    *,
    split: str,
    task: Task | None = None,
    others: Sequence[Member] = (),
    splitter: Splitter = split_batch,
    compare_ensemble: bool = False,
    margins: Mapping[str, float] | None = None,
    forward: Forward = _FORWARD,
    track: Track = silent,
) -> EvaluationResult:
    """Score every checkpoint, their mean, SWA and the checkpoints' ensembles on ``batches``, in one pass.

    Each batch is loaded and moved to the device once, then every member is run on it. All sums are in float64.

    Args:
        model: is copied for each member and not changed. All copies are on the device at once.
        checkpoints: at least one, in the order of training.
        split: name of the data, for the report.
        task: None chooses classification or segmentation by the shapes of the first batch and its output.
        others: further members to score.
        compare_ensemble: add the ensemble of Garipov et al. 2018 (arXiv:1802.10026), the arithmetic mean of the
            checkpoints' probabilities, and the geometric one, the mean of their logits.
        margins: the accepted losses, see `summarise`; without one, nothing is called non-inferior.

    Raises:
        DataError: the loader is empty, a batch has no target, labels are out of range, or output shapes differ.
        NonFiniteError: the output of a member holds NaN or infinity.
        UserCodeError: the loader or the model's forward pass raises, or the model cannot be copied.
    """
    stream = Stream(
        split=split,
        batches=batches,
        members=[*checkpoints, swa, *others],
        ensemble=compare_ensemble,
        splitter=splitter,
    )
    (observed,) = observe(Residents(model, forward), [stream], task=task, forward=forward, track=track)
    return summarise(observed, margins=margins)
