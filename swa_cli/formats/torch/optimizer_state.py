"""What a file says of optimizers: whether it is one's alone, and whether that had done anything yet."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, cast

from swa_cli.formats.torch.inert_objects import Inert
from swa_cli.formats.torch.pickled_scalars import entries_of

_KEYS = (
    *("optimizer", "optimizer_state_dict", "optimizer_state", "optimizer_states", "optimizers"),
    *("optim", "opt", "last_optimizer_state"),
)
_MOST = 100


def optimizer_is_empty(contents: Mapping[Any, Any]) -> bool | None:
    """Whether the optimizers in a file have no state; None where there are none.

    Plain SGD never has any, so this means something only beside files of the same run where it is otherwise.
    """
    states = [state for key in _KEYS for state in _states(contents.get(key))]
    return all(not state for state in states) if states else None


def is_of_optimizer(contents: Mapping[Any, Any], weights: Sequence[str]) -> bool:
    """Whether a file is an optimizer's alone.

    Args:
        weights: dotted keys of all mappings of tensors in it.
    """
    if "param_groups" in contents and "state" in contents:
        return True
    return any(key in contents for key in _KEYS) and all(name.partition(".")[0] in _KEYS for name in weights)


def _states(value: object) -> list[Mapping[Any, Any]]:
    """The ``state`` of each optimizer in ``value``: a state_dict of one, or a list or mapping of them."""
    if type(value) in {list, tuple}:
        below = [*cast("list[Any]", value)[:_MOST]]
    else:
        entries = entries_of(value)
        if "state" in entries:
            state = entries["state"]
            return [entries_of(cast("object", state))] if isinstance(state, dict) or type(state) is Inert else []
        below = [*islice(entries.values(), _MOST)]
    dicts = [entries for item in below if (entries := entries_of(item))]
    return [entries_of(item["state"]) for item in dicts if "state" in item]
