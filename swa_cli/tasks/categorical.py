"""Scoring predictions of one class out of several, for examples, pixels, nodes and tokens alike."""

from collections.abc import Mapping

import torch

from swa_cli.tasks.labels import Labels
from swa_cli.tasks.mixed_distributions import squared_norm
from swa_cli.tasks.records import Array, Records

_CHUNK = 1 << 22
"""Number of elements converted to float64 at a time."""
_SUMS_TO_ONE = 1e-4
_PROBABILITIES = (
    "the model's outputs are non-negative and sum to one, like probabilities; they were taken as logits, so NLL, Brier "
    "and ECE are wrong. Let the model return logits."
)


def log_probs_of(logits: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Return the log-probabilities of the labelled elements, float64 (m, C), without another tensor of that size."""
    n_classes = logits.shape[1]
    found = torch.empty(len(labels.index), n_classes, dtype=torch.float64, device=logits.device)
    rows = max(1, _CHUNK // n_classes)
    for start in range(0, len(found), rows):
        part = slice(start, start + rows)
        some = logits[part] if labels.chosen is None else logits[labels.chosen[part]]
        found[part] = some.to(torch.float64).log_softmax(dim=1)
    return found


def doubt_of(logits: torch.Tensor, *, dim: int) -> str | None:
    """Return a warning if all outputs are non-negative and sum to one over ``dim``, unlike logits, else None."""
    if not logits.numel() or logits.shape[dim] == 1 or bool(logits.amin() < 0):
        return None
    sums = logits.sum(dim=dim, dtype=torch.float64)
    return _PROBABILITIES if bool(((sums - 1).abs() < sums_to_one(logits)).all()) else None


def sums_to_one(probabilities: torch.Tensor) -> float:
    """Return the tolerance for a sum of rounded probabilities."""
    return max(_SUMS_TO_ONE, 4 * torch.finfo(probabilities.dtype).eps)


def scored(log_probs: torch.Tensor, labels: Labels) -> dict[str, torch.Tensor]:
    """Return the values of `fitted`, the Brier score Σ_c (p_c − y_c)² and the probability of the top class.

    With soft labels q the Brier score is Σ (p − q)².
    """
    top, predicted = log_probs.max(dim=1)
    if labels.soft is None:
        of_label = log_probs.gather(1, labels.index[:, None])[:, 0].exp()
        brier = squared_norm(log_probs) - 2 * of_label + 1
    else:
        brier = log_probs.exp().sub_(labels.soft).square_().sum(dim=1)
    return {**fitted(log_probs, predicted, labels), "brier": brier, "confidence": top.exp()}


def fitted(log_probs: torch.Tensor, predicted: torch.Tensor, labels: Labels) -> dict[str, torch.Tensor]:
    """Return for each element whether it is predicted correctly, its NLL in nats and its weight; float64 (m,).

    With soft labels q the NLL is the cross-entropy −Σ q log p.
    """
    if labels.soft is None:
        nll = -log_probs.gather(1, labels.index[:, None])[:, 0]
    else:
        nll = -(labels.soft * log_probs).sum(dim=1)
    weight = torch.ones_like(nll) if labels.weight is None else labels.weight
    return {
        "count": torch.ones_like(nll),
        "correct": (predicted == labels.index).to(torch.float64),
        "nll": nll * weight,
        "weight": weight,
    }


def ranks_of(log_probs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rank of the label's class, int64 (m,): by probability, ties by class index.

    argmax and max take the first of equals too, so rank 0 is what accuracy counts.
    """
    of_label = log_probs.gather(1, index[:, None])
    before = torch.arange(log_probs.shape[1], device=log_probs.device) < index[:, None]
    return ((log_probs > of_label) | ((log_probs == of_label) & before)).sum(dim=1)


def per_unit(values: Mapping[str, torch.Tensor], labels: Labels) -> dict[str, Array]:
    """Return the sums over the elements of each unit, (units,) or (units, d)."""
    return {name: _summed(value, labels).cpu().numpy() for name, value in values.items()}


def per_class(classes: torch.Tensor, labels: Labels, n_classes: int, *, where: torch.Tensor | None = None) -> Array:
    """Count the elements of each unit per class, float64 (units, C)."""
    unit = torch.arange(len(classes), device=classes.device) if labels.unit is None else labels.unit
    cells = unit * n_classes + classes
    cells = cells if where is None else cells[where]
    counts = torch.bincount(cells, minlength=labels.n_units * n_classes)
    return counts.view(labels.n_units, n_classes).to(torch.float64).cpu().numpy()


def records_of(values: Mapping[str, torch.Tensor], labels: Labels) -> Records:
    """Records with nothing but sums over the elements of each unit."""
    return Records(columns=per_unit(values, labels), tallies={})


def _summed(value: torch.Tensor, labels: Labels) -> torch.Tensor:
    if labels.unit is None:
        return value
    return torch.zeros(labels.n_units, *value.shape[1:], dtype=value.dtype, device=value.device).index_add_(
        0, labels.unit, value
    )
