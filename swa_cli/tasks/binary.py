"""One logit where there are two classes: its sigmoid is the probability of label 1."""

import torch

from swa_cli.tasks.labels import Labels
from swa_cli.tasks.records import Array, Records

_COLUMN = "one_logit"
_NOTE = (
    "the model gives one logit for each {element}: it is scored as binary, with its sigmoid as the probability of "
    "label 1."
)
_PROBABILITIES = (
    "the model's outputs, one for each {element}, are all between 0 and 1, like probabilities; they were taken as "
    "logits, so that all scores are wrong. Let the model return logits, without the sigmoid."
)


def of_both_classes(logits: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Logits of two classes where there is one: 0 and the logit, whose softmax is the logit's sigmoid."""
    return logits if logits.shape[dim] != 1 else torch.cat([torch.zeros_like(logits), logits], dim=dim)


def doubt_of_one(logits: torch.Tensor, *, element: str) -> str | None:
    """What to say where all are between 0 and 1, as logits hardly ever are."""
    inside = bool(((logits >= 0) & (logits <= 1)).all()) if logits.numel() else False
    return _PROBABILITIES.format(element=element) if inside else None


def as_binary(target: object, shape: tuple[int, ...]) -> object:
    """Labels of one logit each, as class indices of ``shape`` if they are whole numbers of any dtype.

    Floats, as binary_cross_entropy_with_logits takes them, and bools are turned into integers, and a dimension of one
    is taken away or added. Anything else stays as it is.
    """
    if not isinstance(target, torch.Tensor) or target.is_complex() or target.layout != torch.strided:
        return target
    if _without_ones(target.shape) == _without_ones(shape):
        target = target.reshape(shape)
    whole = target.to(torch.int64)
    return whole if target.dtype == torch.bool or bool((whole == target).all()) else target


def note_of(records: Records, *, element: str) -> tuple[str, ...]:
    """That the scores are of one logit, if they are."""
    return (_NOTE.format(element=element),) if _COLUMN in records.tallies else ()


def tally_of(labels: Labels) -> dict[str, Array]:
    """What the records say of it: how many batches were of one logit."""
    return {_COLUMN: torch.ones(1, dtype=torch.float64, device="cpu").numpy()} if labels.one_logit else {}


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    """A shape of (n, 1, H, W) is that of (n, H, W); the first dimension stays."""
    return [*shape[:1], *(size for size in shape[1:] if size != 1)]
