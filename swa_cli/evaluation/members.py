"""One set of weights: made into a model, run on one batch."""

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
    """Weights to be evaluated: a checkpoint, the average, or what else there is to compare.

    Attributes:
        state_dict: complete for the model; or a function that reads it, called when it is needed and not kept.
        digest: of its contents, by which outputs that were kept are found again; None: they are not kept.
        members: how many checkpoints are behind it, where it is an average.
        chosen_on: the split by which it was chosen among others.
    """

    name: str
    kind: MemberKind
    state_dict: Weights
    step: int | None = None
    digest: str | None = None
    members: int | None = None
    chosen_on: str | None = None

    def read(self) -> Mapping[str, Any]:
        """The state_dict itself.

        Raises:
            SwaError: as the function that reads it.
        """
        return self.state_dict() if callable(self.state_dict) else self.state_dict


@dataclass(frozen=True, kw_only=True)
class Resident:
    """A member as a module of its own, in eval mode, on the device."""

    member: Member
    call: Callable[..., Any]
    """The module, or what torch.compile makes of it."""


@final
class Residents:
    """Copies of a model, one for each member, made when they are first asked for.

    A copy each, rather than the weights swapped on one module, so that anything a model does when it is loaded or
    put in eval mode (merging adapters, filling caches) is done with that member's weights. torch.compile compiles
    their code once, since they differ in their weights only.
    """

    def __init__(self, model: nn.Module, forward: Forward, *, at_once: int | None = None) -> None:
        """No copy is made yet.

        Args:
            at_once: as many are kept; None: all.
        """
        self._model, self._forward, self.at_once = model, forward, at_once
        self._settled: dict[Member, Resident] = {}

    def groups(self, members: Sequence[Member]) -> list[list[Member]]:
        """As many as can be there at once, one group after the other."""
        size = self.at_once or max(len(members), 1)
        return [list(members[start : start + size]) for start in range(0, len(members), size)]

    def of(self, member: Member) -> Resident:
        """The copy with the weights of ``member``; those of others make room for it if need be.

        Raises:
            UserCodeError: the model cannot be copied or loaded.
            SwaError: the weights cannot be read.
        """
        resident = self._settled.pop(member, None)
        if resident is None:
            self._make_room()
            resident = load_member(self._model, member, self._forward)
        self._settled[member] = resident  # the last to be forgotten
        return resident

    def forget(self, member: Member) -> None:
        """Make room: its copy will not be asked for again."""
        self._settled.pop(member, None)

    def _make_room(self) -> None:
        """Forget the copy that was not asked for longest, if there can be no other beside those that are there."""
        while self.at_once is not None and len(self._settled) >= self.at_once:
            del self._settled[next(iter(self._settled))]


def load_member(model: nn.Module, member: Member, forward: Forward) -> Resident:
    """A copy of ``model`` with the weights of ``member``, made as a user would: load_state_dict, then eval.

    Raises:
        UserCodeError: the model cannot be copied or loaded.
        SwaError: the weights cannot be read.
    """
    state = dict(member.read())
    with user_code(f"loading {member.name} into a copy of the model"):
        module = copy.deepcopy(model)
        # Names and shapes are checked where the state_dict is read; what the file lacks that is no tensor is kept.
        module.load_state_dict(state, strict=False)
        module.eval()
    forward.move_model(module)
    return Resident(member=member, call=forward.compiled(module))


def bytes_of(model: nn.Module) -> int:
    """Of its parameters and buffers; tied ones count once."""
    with user_code("looking at the model's parameters"):
        tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    known = {id(one): one for one in tensors if not is_lazy(cast("Any", one))}
    return sum(tensor.numel() * tensor.element_size() for tensor in known.values())
