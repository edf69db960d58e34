"""One pass over the data for all members."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from swa_cli.data import iterate, length_of
from swa_cli.evaluation.compare import compare
from swa_cli.evaluation.members import Member, checked_target, log_probs_of
from swa_cli.evaluation.records import Records, Scores, join, records_of, scores_of
from swa_cli.evaluation.result import Candidate, EvaluationResult
from swa_cli.progress import Track, silent
from swa_cli.tasks import Splitter, split_batch, to_device

_CPU = torch.device("cpu")


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
        model: its own weights are not used. Moved to ``device``, as the members' are.
        checkpoints: at least one, in the order of training.
        split: name of the data, for the report.
        compare_ensemble: add the ensemble of Garipov et al. 2018 (arXiv:1802.10026), the arithmetic mean of the
            checkpoints' softmax outputs, computed as logsumexp − log K.

    Raises:
        DataError: an empty loader, a batch without target, labels out of range, logits of another shape.
        NonFiniteError: a member gives NaN or infinite logits.
        UserCodeError: the loader or the model's forward raises.
    """
    model.to(device)
    members = [_on(device, member) for member in (*checkpoints, swa)]
    parts: list[list[Records]] = []
    with (
        _eval_mode(model),
        torch.no_grad(),
        track(f"evaluating on {split}", total=length_of(batches), unit="batches") as advance,
    ):
        for index, batch in enumerate(iterate(batches)):
            example = splitter(batch)
            args, kwargs = to_device(example.args, device), to_device(example.kwargs, device)
            parts.append(_one_batch(model, members, args, kwargs, example.target, index, ensemble=compare_ensemble))
            advance(1)
    records = [join(of_one_candidate) for of_one_candidate in zip(*parts, strict=True)]
    n = len(checkpoints)
    return _summarise(checkpoints, swa, records[:n], records[n], records[n + 1 :], split)


def _one_batch(
    model: nn.Module,
    members: Sequence[Member],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    raw_target: Any,
    index: int,
    *,
    ensemble: bool,
) -> list[Records]:
    """Records of each member in turn, then of the ensemble."""
    records: list[Records] = []
    target: torch.Tensor | None = None
    summed: torch.Tensor | None = None
    for member in members:
        log_probs = log_probs_of(model, member, args, kwargs, batch=index)
        if target is None:
            target = checked_target(raw_target, log_probs, batch=index)
        records.append(records_of(log_probs, target))
        if ensemble and member.kind == "checkpoint":
            summed = log_probs if summed is None else torch.logaddexp(summed, log_probs)
    if summed is not None and target is not None:
        count = torch.tensor(sum(member.kind == "checkpoint" for member in members), dtype=torch.float64)
        records.append(records_of(summed - count.log().item(), target))
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


def _on(device: torch.device, member: Member) -> Member:
    state = {name: tensor.to(device) for name, tensor in member.state_dict.items()}
    return Member(name=member.name, kind=member.kind, state_dict=state, step=member.step)


@contextmanager
def _eval_mode(model: nn.Module) -> Generator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
