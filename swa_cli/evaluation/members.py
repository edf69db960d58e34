"""One set of weights: made into a model, run on one batch."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from swa_cli.batches import Example, call_model, logits_of
from swa_cli.errors import DataError, NonFiniteError, kind_of
from swa_cli.user_code import user_code

_N_DIMS = 2  # (n, C)
_SUMS_TO_ONE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Member:
    """Weights to be evaluated: a checkpoint, or the average. ``state_dict`` is complete for the model."""

    name: str
    kind: Literal["checkpoint", "swa"]
    state_dict: Mapping[str, Any]
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A member as a module of its own, in eval mode, on the device."""

    member: Member
    module: nn.Module


def settle(model: nn.Module, member: Member, device: torch.device) -> Resident:
    """A copy of ``model`` with the weights of ``member``, made as a user would: load_state_dict, then eval.

    A copy each, rather than the weights swapped on one module, so that whatever a model does when it is loaded or
    put in eval mode (merging adapters, filling caches) is done with that member's weights.

    Raises:
        UserCodeError: the model cannot be copied or loaded.
    """
    with user_code(f"loading {member.name} into a copy of the model"):
        module = copy.deepcopy(model)
        # Names and shapes are checked where the state_dict is read; what the file lacks that is no tensor is kept.
        module.load_state_dict(dict(member.state_dict), strict=False)
        module.to(device)
        module.eval()
        return Resident(member=member, module=module)


def logits_for(resident: Resident, example: Example, *, batch: int) -> torch.Tensor:
    """What the member's model gives; any floating dtype, shape (n, C).

    Raises:
        UserCodeError: the model's forward raises.
        DataError: the logits have another shape.
        NonFiniteError: a logit is NaN or infinite.
    """
    name = resident.member.name
    output = call_model(resident.module, example, doing=f"running {name} on batch {batch}")
    with user_code(f"taking the logits that {name} gave for batch {batch}"):
        logits = logits_of(output)
    if not logits.is_floating_point() or logits.layout != torch.strided or logits.device.type == "meta":
        kind = f"{str(logits.dtype).removeprefix('torch.')}, {str(logits.layout).removeprefix('torch.')}"
        msg = f"{name}, batch {batch}: logits that are {kind}, on {logits.device}; expected dense floating numbers."
        raise DataError(msg)
    if logits.ndim != _N_DIMS or logits.shape[1] == 0:
        msg = (
            f"{name}, batch {batch}: logits of shape {list(logits.shape)}, expected (examples, classes). Only "
            "classification of whole examples is evaluated."
        )
        raise DataError(msg)
    if not bool(torch.isfinite(logits).all()):
        msg = (
            f"{name}, batch {batch}: the model gives NaN or infinite logits. Check that checkpoint, and its "
            "BatchNorm statistics; leave it out if the run diverged there."
        )
        raise NonFiniteError(msg)
    return logits


def look_like_probabilities(logits: torch.Tensor) -> bool:
    """Whether every row is non-negative and sums to one, as logits hardly ever do."""
    sums = logits.to(torch.float64).sum(dim=1)
    return bool((logits >= 0).all()) and bool(((sums - 1).abs() < _SUMS_TO_ONE).all())


def checked_target(target: Any, logits: torch.Tensor, *, batch: int) -> torch.Tensor:
    """``target`` as class indices, int64, shape (n,), on the device of ``logits``.

    Raises:
        DataError: there is no target, it is not a vector of integers, or a label is not a class.
    """
    n, n_classes = logits.shape
    if not isinstance(target, torch.Tensor):
        msg = (
            f"batch {batch}: the target is {kind_of(target)}, expected a tensor of class indices. Batches are "
            "(input, ..., target) or mappings with labels, label or target; else define split_batch in the data module."
        )
        raise DataError(msg)
    if (
        target.shape != (n,)
        or target.is_floating_point()
        or target.is_complex()
        or target.dtype == torch.bool
        or target.layout != torch.strided
    ):
        msg = (
            f"batch {batch}: the target is {str(target.dtype).removeprefix('torch.')} {list(target.shape)}, expected "
            f"{n} class indices (int64 [{n}]). Let the data module's split_batch turn it into class indices."
        )
        raise DataError(msg)
    target = target.to(logits.device, torch.int64)
    wrong = target[(target < 0) | (target >= n_classes)]
    if len(wrong):
        msg = (
            f"batch {batch}: label {int(wrong[0])} is out of range, expected 0 to {n_classes - 1}, since the model has "
            f"{n_classes} logits ({len(wrong)} of {n} labels are wrong). Check the data module's labels, or the "
            "model's number of classes (--model-arg)."
        )
        raise DataError(msg)
    return target
