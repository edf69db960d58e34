"""One pass over the data for all members."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from swa_cli.batches import Splitter, move, split_batch
from swa_cli.data import iterate, length_of
from swa_cli.errors import DataError
from swa_cli.evaluation.compare import compare
from swa_cli.evaluation.members import Member, checked_target, logits_for, look_like_probabilities, settle
from swa_cli.evaluation.records import Records, Scores, join, records_of, scores_of
from swa_cli.evaluation.result import Candidate, EvaluationResult
from swa_cli.progress import Track, silent

_CPU = torch.device("cpu")
_PROBABILITIES = (
    "the model's outputs are non-negative and sum to one, like probabilities; they were taken as logits, so that NLL, "
    "Brier and ECE are wrong. Let the model return logits."
)


def evaluate(
    model: nn.Module,
    checkpoints: Sequence[Member],
    swa: Member,
    batches: Iterable[Any],
    *,
    split: str,
    splitter: Splitter = split_batch,
    compare_ensemble: bool = False,
    device: torch.device = _CPU,
    track: Track = silent,
) -> EvaluationResult:
    """Score every checkpoint, their mean, SWA and the ensemble of the checkpoints on ``batches``, in one pass.

    Each batch is loaded and moved once and goes through every member. The model's outputs are taken as logits of
    shape (n, C); log_softmax, the ensemble and all sums are in float64.

    Args:
        model: as it was built; copied for each member and left as it is. All copies are on ``device`` at once.
        checkpoints: at least one, in the order of training.
        split: name of the data, for the report.
        compare_ensemble: add the ensemble of Garipov et al. 2018 (arXiv:1802.10026), the arithmetic mean of the
            checkpoints' softmax outputs, computed as logsumexp − log K.

    Raises:
        DataError: an empty loader, a batch without target, labels out of range, logits of another shape.
        NonFiniteError: a member gives NaN or infinite logits.
        UserCodeError: the loader or the model's forward raises, or the model cannot be copied.
    """
    residents = [settle(model, member, device) for member in (*checkpoints, swa)]
    parts: list[list[Records]] = []
    probabilities = True
    with torch.no_grad(), track(f"evaluating on {split}", total=length_of(batches), unit="batches") as advance:
        for index, batch in enumerate(iterate(batches)):
            example = move(splitter(batch), device, batch=index)
            logits = [logits_for(resident, example, batch=index) for resident in residents]
            probabilities = probabilities and look_like_probabilities(logits[-1])
            parts.append(
                _records(logits, checked_target(example.target, logits[0], batch=index), ensemble=compare_ensemble)
            )
            advance(1)
    records = [join(of_one_candidate) for of_one_candidate in zip(*parts, strict=True)]
    if not len(records[0].nll):
        msg = "the data loader gave batches without examples. Check the data module's paths."
        raise DataError(msg)
    n = len(checkpoints)
    result = _summarise(checkpoints, swa, records[:n], records[n], records[n + 1 :], split)
    return replace(result, warnings=(_PROBABILITIES,)) if probabilities else result


def _records(logits: Sequence[torch.Tensor], target: torch.Tensor, *, ensemble: bool) -> list[Records]:
    """Records of one batch: of each member in turn, SWA last, then of the ensemble of those before it."""
    log_probs = [values.to(torch.float64).log_softmax(dim=1) for values in logits]
    records = [records_of(values, target) for values in log_probs]
    if ensemble:
        members = log_probs[:-1]
        summed = members[0]
        for values in members[1:]:
            summed = torch.logaddexp(summed, values)
        records.append(records_of(summed - math.log(len(members)), target))
    return records


def _summarise(
    checkpoints: Sequence[Member],
    swa: Member,
    of_checkpoints: Sequence[Records],
    of_swa: Records,
    of_ensemble: Sequence[Records],
    split: str,
) -> EvaluationResult:
    n = len(checkpoints)
    scores = [scores_of(records) for records in of_checkpoints]
    last = checkpoints[-1]
    candidates = [
        Candidate(name=swa.name, kind="swa", scores=scores_of(of_swa)),
        *(
            Candidate(name=member.name, kind="checkpoint", scores=score, step=member.step)
            for member, score in zip(checkpoints, scores, strict=True)
        ),
        Candidate(name=f"last ({last.name})", kind="last", scores=scores[-1], step=last.step),
        Candidate(name="mean over checkpoints", kind="mean", scores=_mean(scores), members=n),
    ]
    comparisons = [*compare(of_swa, of_checkpoints[-1:], name="the last checkpoint")]
    if n > 1:
        comparisons += compare(of_swa, of_checkpoints, name="the mean over checkpoints")
    for records in of_ensemble:
        ensemble = Candidate(name="ensemble", kind="ensemble", scores=scores_of(records), members=n, forward_passes=n)
        candidates.append(ensemble)
        comparisons += compare(of_swa, [records], name="the ensemble")
    return EvaluationResult(
        split=split,
        n_examples=len(of_swa.nll),
        candidates=tuple(candidates),
        comparisons=tuple(comparisons),
    )


def _mean(scores: Sequence[Scores]) -> Scores:
    """The mean of each score: what one checkpoint, picked at random, would give."""
    names = [field.name for field in fields(Scores)]
    return Scores(**{name: sum(getattr(score, name) for score in scores) / len(scores) for name in names})
