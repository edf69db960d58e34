"""Whether the optimizer had done anything yet when a file was saved."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

from swa_cli.checkpoints.inert import Inert
from swa_cli.checkpoints.numbers import entries_of

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


def _states(value: object) -> list[Mapping[Any, Any]]:
    """The ``state`` of each optimizer in ``value``: a state_dict of one, or a list or mapping of them."""
    if type(value) in {list, tuple}:
        below = [*cast("list[Any]", value)[:_MOST]]
    else:
        entries = entries_of(value)
        if "state" in entries:
            state = entries["state"]
            return [entries_of(state)] if type(state) in {dict, Inert} else []
        below = [*islice(entries.values(), _MOST)]
    dicts = [entries for item in below if (entries := entries_of(item))]
    return [entries_of(item["state"]) for item in dicts if "state" in item]
