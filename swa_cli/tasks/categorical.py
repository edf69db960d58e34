"""Predictions of one class out of several, for elements of any kind: examples, pixels, nodes, tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from swa_cli.errors import DataError, kind_of
from swa_cli.tasks.records import Array, Records

IGNORED = -100
"""The label that torch.nn.functional.cross_entropy leaves out by default."""


def _some(weights: tuple[float, ...]) -> tuple[float, ...]:
    if not any(weights):
        kind, expected = "weights", "some weight above 0"
        raise PydanticCustomError(kind, expected)
    return weights


Weights = Annotated[tuple[Annotated[float, Field(ge=0, le=1e12)], ...], AfterValidator(_some)]
"""Of the classes."""
Label = Annotated[int, Field(ge=-(2**63), lt=2**63)]

_CHUNK = 1 << 22
"""Numbers that are turned into float64 at once."""
_BYTE = 256
_SUMS_TO_ONE = 1e-4
_PROBABILITIES = (
    "the model's outputs are non-negative and sum to one, like probabilities; they were taken as logits, so that NLL, "
    "Brier and ECE are wrong. Let the model return logits."
)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The targets of the elements of a batch that have one.

    Attributes:
        chosen: places of these elements among all, int64 (m,); None where all have one.
        index: the class of each, int64 (m,); of soft labels the most probable.
        soft: probabilities of the classes, float64 (m, C), where these were given.
        unit: the unit that each belongs to, int64 (m,); None where each is a unit of its own.
        n_units: how many units there are.
        weight: of each in the NLL, float64 (m,); None: all the same.
        one_logit: whether the model gives one logit for two classes, of which class 1 has its sigmoid.
    """

    chosen: torch.Tensor | None
    index: torch.Tensor
    soft: torch.Tensor | None
    unit: torch.Tensor | None
    n_units: int
    weight: torch.Tensor | None
    one_logit: bool = False


def log_probs_of(logits: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Of the elements that have a label: float64 (m, C), from logits (all elements, C); nothing else of that size."""
    n_classes = logits.shape[1]
    found = torch.empty(len(labels.index), n_classes, dtype=torch.float64, device=logits.device)
    rows = max(1, _CHUNK // n_classes)
    for start in range(0, len(found), rows):
        part = slice(start, start + rows)
        some = logits[part] if labels.chosen is None else logits[labels.chosen[part]]
        found[part] = some.to(torch.float64).log_softmax(dim=1)
    return found


def doubt_of(logits: torch.Tensor, *, dim: int) -> str | None:
    """What to say where all are non-negative and sum to one over ``dim``, as logits hardly ever do."""
    if not logits.numel() or logits.shape[dim] == 1 or bool(logits.amin() < 0):
        return None
    sums = logits.sum(dim=dim, dtype=torch.float64)
    return _PROBABILITIES if bool(((sums - 1).abs() < sums_to_one(logits)).all()) else None


def sums_to_one(probabilities: torch.Tensor) -> float:
    """How far from 1 their sum may be, as they are rounded."""
    return max(_SUMS_TO_ONE, 4 * torch.finfo(probabilities.dtype).eps)


class MixedDistributions:
    """Log-probabilities of several members, (m, C) each, as sums over the members."""

    def __init__(self) -> None:
        self._n = 0
        self._log_of_sum: torch.Tensor | None = None
        self._sum_of_logs: torch.Tensor | None = None
        self._squares: torch.Tensor | None = None
        self._votes: list[torch.Tensor] = []

    def add(self, prediction: torch.Tensor) -> None:
        """One more member."""
        squares = _squared_norm(prediction)
        if self._log_of_sum is None or self._sum_of_logs is None or self._squares is None:
            self._log_of_sum, self._sum_of_logs, self._squares = prediction.clone(), prediction.clone(), squares
        else:
            torch.logaddexp(self._log_of_sum, prediction, out=self._log_of_sum)
            self._sum_of_logs += prediction
            self._squares += squares
        narrow = torch.uint8 if prediction.shape[1] <= _BYTE else torch.int32
        self._votes.append(prediction.argmax(dim=1).to(narrow))
        self._n += 1

    def arithmetic(self) -> torch.Tensor:
        """Log of the mean of the probabilities: logsumexp − log K."""
        assert self._log_of_sum is not None
        return self._log_of_sum - math.log(self._n)

    def geometric(self) -> torch.Tensor:
        """What the mean of the logits gives."""
        assert self._sum_of_logs is not None
        return (self._sum_of_logs / self._n).log_softmax(dim=1)

    def closeness(self) -> dict[str, torch.Tensor]:
        """As `likeness`, the mean over the members: mean‖p_k − p̄‖² = mean‖p_k‖² − ‖p̄‖²."""
        ensemble = self.arithmetic()
        winner = ensemble.argmax(dim=1)
        agreeing = torch.zeros(len(winner), dtype=torch.float64, device=winner.device)
        for vote in self._votes:
            agreeing += vote == winner
        agreeing /= self._n
        assert self._squares is not None
        squared = (self._squares / self._n - _squared_norm(ensemble)).clamp(min=0)
        return {"count": torch.ones_like(squared), "agreement": agreeing, "squared_distance": squared}


def likeness(prediction: torch.Tensor, ensemble: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of each element whether both name the same class, and ‖p − p̄‖²; float64 (m,)."""
    agreeing = prediction.argmax(dim=1) == ensemble.argmax(dim=1)
    squared = prediction.exp().sub_(ensemble.exp()).square_().sum(dim=1)
    return {"count": torch.ones_like(squared), "agreement": agreeing.to(torch.float64), "squared_distance": squared}


def scored(log_probs: torch.Tensor, labels: Labels) -> dict[str, torch.Tensor]:
    """As `fitted`, and Σ_c (p_c − y_c)² and the probability of the top class; with soft labels q, Σ (p − q)²."""
    top, predicted = log_probs.max(dim=1)
    if labels.soft is None:
        of_label = log_probs.gather(1, labels.index[:, None])[:, 0].exp()
        brier = _squared_norm(log_probs) - 2 * of_label + 1
    else:
        brier = log_probs.exp().sub_(labels.soft).square_().sum(dim=1)
    return {**fitted(log_probs, predicted, labels), "brier": brier, "confidence": top.exp()}


def fitted(log_probs: torch.Tensor, predicted: torch.Tensor, labels: Labels) -> dict[str, torch.Tensor]:
    """Of each element: whether the predicted class is the label, NLL in nats, its weight; float64 (m,).

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
    """How many classes come before that of the label, int64 (m,): the more probable, and of equals the first.

    As argmax and max take the first of equals, rank 0 is what accuracy counts.
    """
    of_label = log_probs.gather(1, index[:, None])
    before = torch.arange(log_probs.shape[1], device=log_probs.device) < index[:, None]
    return ((log_probs > of_label) | ((log_probs == of_label) & before)).sum(dim=1)


def per_unit(values: Mapping[str, torch.Tensor], labels: Labels) -> dict[str, Array]:
    """Sums over the elements of each unit, (units,) or (units, d)."""
    return {name: _summed(value, labels).cpu().numpy() for name, value in values.items()}


def per_class(classes: torch.Tensor, labels: Labels, n_classes: int, *, where: torch.Tensor | None = None) -> Array:
    """How many elements of each unit have each class, float64 (units, C)."""
    unit = torch.arange(len(classes), device=classes.device) if labels.unit is None else labels.unit
    cells = unit * n_classes + classes
    cells = cells if where is None else cells[where]
    counts = torch.bincount(cells, minlength=labels.n_units * n_classes)
    return counts.view(labels.n_units, n_classes).to(torch.float64).cpu().numpy()


def one_label_only(counts: Array, *, elements: str) -> tuple[str, ...]:
    """What to say where all labels are the same; ``counts``: of each class in each unit, (units, C)."""
    of_class = counts.sum(axis=0)
    n = of_class.sum()
    if np.count_nonzero(of_class) != 1 or n == 1:
        return ()
    warning = (
        f"all {n:,.0f} {elements} have the label {of_class.argmax()}: a constant predictor would score 100 %. Check "
        "the data module's labels."
    )
    return (warning,)


def records_of(values: Mapping[str, torch.Tensor], labels: Labels) -> Records:
    """Records with nothing but sums over the elements of each unit."""
    return Records(columns=per_unit(values, labels), tallies={})


def checked_index(target: object, shape: tuple[int, ...], *, elements: str) -> torch.Tensor:
    """``target`` as class indices.

    Raises:
        DataError: it is no tensor of integers of that shape.
    """
    expected = f"class indices (int64 {list(shape)}), one for each of the {elements}"
    if not isinstance(target, torch.Tensor):
        msg = (
            f"the target is {described(target)}, expected a tensor of {expected}. Batches are (input, ..., target) or "
            "mappings with labels, label or target; else define split_batch in the data module."
        )
        raise DataError(msg)
    if tuple(target.shape) != shape or not is_integer(target):
        msg = (
            f"the target is {described(target)}, expected {expected}. Let the data module's split_batch turn it into "
            "class indices."
        )
        raise DataError(msg)
    return target.to(torch.int64)


def in_range(index: torch.Tensor, n_classes: int, *, ignore_index: int, one_logit: bool = False) -> torch.Tensor:
    """Which entries of ``index`` are not to be ignored, bool.

    Args:
        one_logit: the model gives one logit for two classes.

    Raises:
        DataError: another one is no class.
    """
    kept = index != ignore_index
    wrong = index[kept & ((index < 0) | (index >= n_classes))]
    if len(wrong) and one_logit:
        msg = (
            f"label {int(wrong[0])} is out of range, expected 0 or 1, since the model gives one logit, whose sigmoid "
            f"is the probability of label 1 ({len(wrong)} of {index.numel()} labels are wrong). A softmax over one "
            "class would always be right. Check the model's number of classes (--model-arg). For a label that holds "
            "or not, give --task multilabel with labels (n, 1) of 0 and 1; for numbers, --task regression."
        )
        raise DataError(msg)
    if len(wrong):
        msg = (
            f"label {int(wrong[0])} is out of range, expected 0 to {n_classes - 1}, since the model has {n_classes} "
            f"logits ({len(wrong)} of {index.numel()} labels are wrong). Check the data module's labels, or the "
            "model's number of classes (--model-arg); a label that marks what is not to be scored is named with "
            f"--task-arg ignore_index={int(wrong[0])}."
        )
        raise DataError(msg)
    return kept


def weights_of(index: torch.Tensor, class_weights: tuple[float, ...] | None, n_classes: int) -> torch.Tensor | None:
    """The weight of each element's class, float64.

    Raises:
        DataError: there is not one for each class.
    """
    if class_weights is None:
        return None
    if len(class_weights) != n_classes:
        msg = (
            f"class_weights has {len(class_weights)} numbers, and the model {n_classes} logits: expected one for each."
        )
        raise DataError(msg)
    return torch.tensor(class_weights, dtype=torch.float64, device=index.device)[index]


def is_integer(tensor: torch.Tensor) -> bool:
    """Whether it is a dense tensor of whole numbers."""
    other = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
    return not other and tensor.layout == torch.strided


def described(value: object) -> str:
    """Dtype and shape of a tensor, the type of anything else, for a message."""
    if not isinstance(value, torch.Tensor):
        return kind_of(value)
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _squared_norm(log_probs: torch.Tensor) -> torch.Tensor:
    """Σ_c p_c² of each element."""
    return (2 * log_probs).exp_().sum(dim=1)


def _summed(value: torch.Tensor, labels: Labels) -> torch.Tensor:
    if labels.unit is None:
        return value
    return torch.zeros(labels.n_units, *value.shape[1:], dtype=value.dtype, device=value.device).index_add_(
        0, labels.unit, value
    )
