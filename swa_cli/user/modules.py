"""Checked calls of methods that the user's module may override: named_modules(), state_dict()."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from torch import nn

from swa_cli.errors import UserCodeError, kind_of
from swa_cli.user.guard import user_code


def modules_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return ``named_modules()``: the model and its submodules with their names, each once.

    Raises:
        UserCodeError: the method raises, or returns something else.
    """
    method = f"{kind_of(model)}.named_modules()"
    with user_code(method):
        found: list[Any] = list(cast("Iterable[Any]", model.named_modules()))
        pairs = all(isinstance(name, str) and isinstance(module, nn.Module) for name, module in found)
    if not pairs:
        msg = f"{method} returned something other than pairs of a name and a module."
        raise UserCodeError(msg)
    return found


def state_dict_of(model: nn.Module, *, keep_vars: bool = False) -> dict[str, Any]:
    """Return ``state_dict()`` as a dict.

    Args:
        keep_vars: return the parameters themselves, so that tied tensors are one object.

    Raises:
        UserCodeError: the method raises, or returns something else.
    """
    method = f"{kind_of(model)}.state_dict()"
    with user_code(method):
        found = cast("object", model.state_dict(keep_vars=True) if keep_vars else model.state_dict())
        kind = kind_of(found)
        entries = dict(cast("Mapping[Any, Any]", found)) if isinstance(found, Mapping) else None
    odd = None if entries is None else next((name for name in entries if not isinstance(name, str)), None)
    if entries is None or odd is not None:
        given = f"a {kind}" if entries is None else f"a name of type {kind_of(odd)}"
        msg = f"{method} returned {given}, expected a mapping from names to tensors, as torch.nn.Module's does."
        raise UserCodeError(msg)
    return entries
