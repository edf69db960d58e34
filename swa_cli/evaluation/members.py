"""One set of weights, run on one batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from swa_cli.errors import DataError, NonFiniteError, kind_of
from swa_cli.tasks import logits_of
from swa_cli.user_code import user_code

_N_DIMS = 2  # (n, C)


@dataclass(frozen=True, kw_only=True)
class Member:
    """Weights to be evaluated: a checkpoint, or the average. ``state_dict`` is complete for the model."""

    name: str
    kind: Literal["checkpoint", "swa"]
    state_dict: Mapping[str, torch.Tensor]
    step: int | None = None


def log_probs_of(
    model: nn.Module, member: Member, args: tuple[Any, ...], kwargs: dict[str, Any], *, batch: int
) -> torch.Tensor:
    """``log_softmax`` of the logits that ``model`` gives with the weights of ``member``; float64, shape (n, C).

    Raises:
        UserCodeError: the model's forward raises.
        DataError: the logits have another shape.
        NonFiniteError: a logit is NaN or infinite.
    """
    with user_code(f"running {member.name} on batch {batch}"):
        output = functional_call(model, dict(member.state_dict), args, kwargs, tie_weights=False)
    logits = logits_of(output)
    if logits.ndim != _N_DIMS or logits.shape[1] == 0:
        msg = (
            f"{member.name}, batch {batch}: logits of shape {list(logits.shape)}, expected (examples, classes). Only "
            "classification of whole examples is evaluated."
        )
        raise DataError(msg)
    log_probs = logits.to(torch.float64).log_softmax(dim=1)
    if not bool(torch.isfinite(logits).all()):
        msg = (
            f"{member.name}, batch {batch}: the model gives NaN or infinite logits. Check that checkpoint, and its "
            "BatchNorm statistics; leave it out if the run diverged there."
        )
        raise NonFiniteError(msg)
    return log_probs


def checked_target(target: Any, log_probs: torch.Tensor, *, batch: int) -> torch.Tensor:
    """``target`` as class indices, int64, shape (n,), on the device of ``log_probs``.

    Raises:
        DataError: there is no target, it is not a vector of integers, or a label is not a class.
    """
    n, n_classes = log_probs.shape
    if not isinstance(target, torch.Tensor):
        msg = (
            f"batch {batch}: the target is {kind_of(target)}, expected a tensor of class indices. Batches are "
            "(input, ..., target) or mappings with labels, label or target; else define split_batch in the data module."
        )
        raise DataError(msg)
    if target.shape != (n,) or target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        msg = (
            f"batch {batch}: the target is {str(target.dtype).removeprefix('torch.')} {list(target.shape)}, expected "
            f"{n} class indices (int64 [{n}]). Let the data module's split_batch turn it into class indices."
        )
        raise DataError(msg)
    target = target.to(log_probs.device, torch.int64)
    wrong = target[(target < 0) | (target >= n_classes)]
    if len(wrong):
        msg = (
            f"batch {batch}: label {int(wrong[0])} is out of range, expected 0 to {n_classes - 1}, since the model has "
            f"{n_classes} logits ({len(wrong)} of {n} labels are wrong). Check the data module's labels, or the "
            "model's number of classes (--model-arg)."
        )
        raise DataError(msg)
    return target
