"""Members of an evaluation: sets of weights, and copies of the model that hold them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from swa_cli.user.forward import Forward
from swa_cli.user.guard import user_code

Weights = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
MemberKind = Literal["checkpoint", "swa", "swa-averaged-bn", "control", "window", "greedy"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """Weights to be evaluated: a checkpoint, the average, or another candidate.

    Attributes:
        state_dict: a complete state_dict of the model, or a function that reads it, called when it is needed.
        digest: digest of the contents, the key of cached outputs; None: outputs are not cached.
        members: number of checkpoints that were averaged; None if it is no average.
        chosen_on: the split on which it was selected among others.
    """

    name: str
    kind: MemberKind
    state_dict: Weights
    step: int | None = None
    digest: str | None = None
    members: int | None = None
    chosen_on: str | None = None

    def read(self) -> Mapping[str, Any]:
        """Return the state_dict.

        Raises:
            SwaError: it cannot be read.
        """
        return self.state_dict() if callable(self.state_dict) else self.state_dict


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A member loaded into a module of its own, in eval mode, on the device."""

    member: Member
    call: Callable[..., Any]
    """The module, or its compiled form."""


@final
class Residents:
    """Copies of a model, one per member, made on first use.

    Each member has its own copy, so that anything the model does when it is loaded or put in eval mode (merging
    adapters, filling caches) uses that member's weights. torch.compile compiles the code once, as the copies differ
    only in their weights.
    """

    def __init__(self, model: nn.Module, forward: Forward, *, at_once: int | None = None) -> None:
        """Prepare the copies; none is made yet.

        Args:
            at_once: largest number of copies to keep; None: no limit.
        """
        self._model, self._forward, self.at_once = model, forward, at_once
        self._settled: dict[Member, Resident] = {}

    def groups(self, members: Sequence[Member]) -> list[list[Member]]:
        """Split ``members`` into groups that fit in memory together."""
        size = self.at_once or max(len(members), 1)
        return [list(members[start : start + size]) for start in range(0, len(members), size)]

    def of(self, member: Member) -> Resident:
        """Return the copy with the weights of ``member``; drops the least recently used copies if there is no room.

        Raises:
            UserCodeError: the model cannot be copied or loaded.
            SwaError: the weights cannot be read.
        """
        resident = self._settled.pop(member, None)
        if resident is None:
            self._make_room()
            resident = load_member(self._model, member, self._forward)
        self._settled[member] = resident  # the most recently used is last
        return resident

    def forget(self, member: Member) -> None:
        """Drop the member's copy, which will not be needed again."""
        self._settled.pop(member, None)

    def _make_room(self) -> None:
        """Drop the least recently used copies until there is room for one more."""
        while self.at_once is not None and len(self._settled) >= self.at_once:
            del self._settled[next(iter(self._settled))]


def load_member(model: nn.Module, member: Member, forward: Forward) -> Resident:
    """Return a copy of ``model`` with the weights of ``member``, after load_state_dict() and eval().

    Raises:
        UserCodeError: the model cannot be copied or loaded.
        SwaError: the weights cannot be read.
    """
    state = dict(member.read())
    with user_code(f"loading {member.name} into a copy of the model"):
        module = copy.deepcopy(model)
        # Names and shapes were checked when the state_dict was read; non-tensor entries may be missing.
        module.load_state_dict(state, strict=False)
        module.eval()
    forward.move_model(module)
    return Resident(member=member, call=forward.compiled(module))


def bytes_of(model: nn.Module) -> int:
    """Return the size in bytes of the model's parameters and buffers; tied ones count once."""
    with user_code("looking at the model's parameters"):
        tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    known = {id(one): one for one in tensors if not is_lazy(cast("Any", one))}
    return sum(tensor.numel() * tensor.element_size() for tensor in known.values())
