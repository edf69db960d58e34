"""Binary problems with one logit, whose sigmoid is the probability of label 1."""

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
    "logits, so all scores are wrong. Let the model return logits, without the sigmoid."
)


def of_both_classes(logits: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Expand one logit to those of two classes, 0 and the logit, whose softmax equals the sigmoid."""
    return logits if logits.shape[dim] != 1 else torch.cat([torch.zeros_like(logits), logits], dim=dim)


def doubt_of_one(logits: torch.Tensor, *, element: str) -> str | None:
    """Return a warning if all outputs are between 0 and 1, which logits hardly ever are, else None."""
    inside = bool(((logits >= 0) & (logits <= 1)).all()) if logits.numel() else False
    return _PROBABILITIES.format(element=element) if inside else None


def as_binary(target: object, shape: tuple[int, ...]) -> object:
    """Convert labels of one logit each to class indices of ``shape``, if they are whole numbers of any dtype.

    Floats (as for binary_cross_entropy_with_logits) and bools become integers, and dimensions of size one are added or
    removed. Any other target is returned unchanged.
    """
    if not isinstance(target, torch.Tensor) or target.is_complex() or target.layout != torch.strided:
        return target
    if _without_ones(target.shape) == _without_ones(shape):
        target = target.reshape(shape)
    whole = target.to(torch.int64)
    return whole if target.dtype == torch.bool or bool((whole == target).all()) else target


def note_of(records: Records, *, element: str) -> tuple[str, ...]:
    """Return a note if the scores are of one logit."""
    return (_NOTE.format(element=element),) if _COLUMN in records.tallies else ()


def tally_of(labels: Labels) -> dict[str, Array]:
    """Return a tally that counts the batches with one logit."""
    return {_COLUMN: torch.ones(1, dtype=torch.float64, device="cpu").numpy()} if labels.one_logit else {}


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    """Drop dimensions of size one, except for the first: (n, 1, H, W) becomes (n, H, W)."""
    return [*shape[:1], *(size for size in shape[1:] if size != 1)]
