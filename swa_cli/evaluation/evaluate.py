"""All of it for weights that are at hand: one pass, scores, comparisons, the decision."""

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


def evaluate(  # noqa: PLR0913  # what a caller may say of it
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
    """Score every checkpoint, their mean, SWA and the ensembles of the checkpoints on ``batches``, in one pass.

    Each batch is loaded and moved once and goes through every member. All sums are in float64.

    Args:
        model: as it was built; copied for each member and left as it is. All copies are on the device at once.
        checkpoints: at least one, in the order of training.
        split: name of the data, for the report.
        task: None: classification or segmentation, as the shapes of the first batch and its output say.
        others: to be scored too.
        compare_ensemble: add the ensemble of Garipov et al. 2018 (arXiv:1802.10026), the arithmetic mean of the
            checkpoints' probabilities, and the geometric one, the mean of their logits.
        margins: as `summarise` has them; without one nothing is non-inferior.

    Raises:
        DataError: an empty loader, a batch without target, labels out of range, outputs of another shape.
        NonFiniteError: a member gives NaN or infinity.
        UserCodeError: the loader or the model's forward raises, or the model cannot be copied.
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
