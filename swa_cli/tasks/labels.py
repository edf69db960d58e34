"""Checking the labels of a batch: class indices of examples, pixels, nodes or tokens."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from swa_cli.errors import DataError, option
from swa_cli.tasks.records import Array
from swa_cli.user.batch import described

IGNORED = -100
"""The label that torch.nn.functional.cross_entropy ignores by default."""


def _some(weights: tuple[float, ...]) -> tuple[float, ...]:
    if not any(weights):
        kind, expected = "weights", "some weight above 0"
        raise PydanticCustomError(kind, expected)
    return weights


Weights = Annotated[tuple[Annotated[float, Field(ge=0, le=1e12)], ...], AfterValidator(_some)]
"""Weights of the classes."""
Label = Annotated[int, Field(ge=-(2**63), lt=2**63)]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of the elements of a batch that have one.

    Attributes:
        chosen: indices of these elements among all, int64 (m,); None if all have a label.
        index: the class of each, int64 (m,); for soft labels the most probable.
        soft: probabilities of the classes, float64 (m, C); None for class indices.
        unit: index of each element's unit, int64 (m,); None if each element is a unit.
        n_units: number of units.
        weight: weight of each element in the NLL, float64 (m,); None for equal weights.
        one_logit: whether the model returns one logit for two classes, whose sigmoid is the probability of class 1.
    """

    chosen: torch.Tensor | None
    index: torch.Tensor
    soft: torch.Tensor | None
    unit: torch.Tensor | None
    n_units: int
    weight: torch.Tensor | None
    one_logit: bool = False


def one_label_only(counts: Array, *, elements: str) -> tuple[str, ...]:
    """Return a warning if all labels are the same; ``counts`` holds the number per unit and class, (units, C)."""
    of_class = counts.sum(axis=0)
    n = of_class.sum()
    if np.count_nonzero(of_class) != 1 or n == 1:
        return ()
    warning = (
        f"all {n:,.0f} {elements} have the label {of_class.argmax()}: a constant predictor would score 100 %. Check "
        "the data module's labels."
    )
    return (warning,)


def checked_index(target: object, shape: tuple[int, ...], *, elements: str) -> torch.Tensor:
    """Return ``target`` as class indices.

    Raises:
        DataError: ``target`` is not a tensor of integers of that shape.
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
    """Return a bool mask of the entries of ``index`` that are not ignored.

    Args:
        one_logit: the model returns one logit for two classes.

    Raises:
        DataError: one of them is not a class.
    """
    kept = index != ignore_index
    wrong = index[kept & ((index < 0) | (index >= n_classes))]
    if len(wrong) and one_logit:
        msg = (
            f"label {int(wrong[0])} is out of range, expected 0 or 1, since the model gives one logit, whose sigmoid "
            f"is the probability of label 1 ({len(wrong)} of {index.numel()} labels are wrong). A softmax over one "
            f"class would always be right. Check the model's number of classes ({option('model.init_args')}). For a "
            f"label that holds or not, give {option('task', 'multilabel')} with labels (n, 1) of 0 and 1; for numbers, "
            f"{option('task', 'regression')}."
        )
        raise DataError(msg)
    if len(wrong):
        msg = (
            f"label {int(wrong[0])} is out of range, expected 0 to {n_classes - 1}, since the model has {n_classes} "
            f"logits ({len(wrong)} of {index.numel()} labels are wrong). Check the data module's labels, or the "
            f"model's number of classes ({option('model.init_args')}); a label that marks what is not to be scored is "
            f"named with {option('ignore_index', int(wrong[0]), of='task')}."
        )
        raise DataError(msg)
    return kept


def weights_of(index: torch.Tensor, class_weights: tuple[float, ...] | None, n_classes: int) -> torch.Tensor | None:
    """Return the weight of each element's class, float64.

    Raises:
        DataError: the number of weights is not the number of classes.
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
    """Return whether ``tensor`` is a dense tensor of integers."""
    other = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
    return not other and tensor.layout == torch.strided
