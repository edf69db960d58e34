"""The state_dict of a pickled ``nn.Module``, from its recorded attributes; its class need not be installed."""

from collections.abc import Mapping
from typing import Any, cast

from swa_cli.errors import CheckpointError
from swa_cli.formats.torch.inert_objects import Inert

_PARTS = ("_parameters", "_buffers", "_modules")
_DEEPEST = 200
_PER_MODULE, _PER_ENTRY = 300, 400
"""Bytes that a module takes, and that each entry takes from here on, beside its name."""


def most_work(size: int) -> int:
    """Bytes that the modules of a pickle of ``size`` bytes may grow to.

    Where modules share modules, a small file could ask for any number of names.
    """
    return (16 << 20) + 6 * size


def is_module(value: object) -> bool:
    """Whether ``value`` is the record of a module."""
    return _attributes(value) is not None


def module_state_dict(module: Inert, work: int) -> tuple[dict[str, Any], int]:
    """What ``module.state_dict()`` would give, in its order; a shared module or tensor has all of its names.

    A submodule that was pickled in a way of its own stands among the tensors as the record that it is.

    Args:
        module: its record.
        work: bytes that it may take (`most_work`); what is left of them is given back beside the state_dict.

    Raises:
        CheckpointError: a module holds itself, or there is more to do than that.
    """
    state: dict[str, Any] = {}
    waiting: list[tuple[object, str, int]] = [(module, "", 0)]
    while waiting:
        here, prefix, depth = waiting.pop()
        attributes = _attributes(here)
        if attributes is None:
            state[prefix.removesuffix(".")] = here
            continue
        passing = _strings(attributes.get("_non_persistent_buffers_set"))
        tensors = _named(attributes["_parameters"]) | {
            name: buffer for name, buffer in _named(attributes["_buffers"]).items() if name not in passing
        }
        children = _named(attributes["_modules"])
        work -= _PER_MODULE + _PER_ENTRY * sum(len(attributes[part]) for part in _PARTS) + len(passing)
        work -= sum(len(prefix) + len(name) for name in (*tensors, *children))
        if work < 0 or depth > _DEEPEST:
            msg = "holds a module within itself, or too many to read. Save model.state_dict() instead of the model."
            raise CheckpointError(msg)
        state |= {prefix + name: tensor for name, tensor in tensors.items()}
        waiting += [(child, f"{prefix}{name}.", depth + 1) for name, child in reversed(children.items())]
    return state, work


def _attributes(value: object) -> dict[str, Any] | None:
    """The ``__dict__`` of a module; that of a ``torch.fx.GraphModule`` is the first argument of what rebuilds it.

    A compiled module is a call of its class with the module that was compiled.
    """
    if type(value) is not Inert:
        return None
    if value.name == "OptimizedModule" and value.args:
        return {"_parameters": {}, "_buffers": {}, "_modules": {"_orig_mod": value.args[0]}}
    state = cast("tuple[Any, ...]", value.state)[:1] if type(value.state) is tuple else (value.state,)
    for candidate in (*state, *value.args[:1]):
        attributes = cast("dict[str, Any]", candidate if isinstance(candidate, dict) else {})
        if all(isinstance(attributes.get(part), dict) for part in _PARTS):
            return attributes
    return None


def _named(entries: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if type(name) is str and entry is not None}


def _strings(record: object) -> frozenset[str]:
    """The strings in the record of a set."""
    if type(record) is not Inert or len(record.args) != 1 or type(record.args[0]) is not list:
        return frozenset()
    return frozenset(name for name in cast("list[object]", record.args[0]) if type(name) is str)
