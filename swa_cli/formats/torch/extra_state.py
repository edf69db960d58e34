"""Entries of a state_dict that are no tensors but plain values, such as the ``_extra_state`` of a module."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, cast

_MOST = 100_000
_DEEPEST = 50


def plain_values(state: Mapping[Any, Any]) -> dict[str, object]:
    """Those entries with a name that JSON can hold, and give back equal.

    >>> plain_values({"_extra_state": {"scale": [1.0, None]}, "set": {1}, 3: "no name", "nan": float("nan")})
    {'_extra_state': {'scale': [1.0, None]}}
    """
    left = _MOST
    plain: dict[str, object] = {}
    for name, value in state.items():
        if isinstance(name, str):
            is_plain, looked_at = _look_through(value, left)
            left -= looked_at
            if is_plain:
                plain[name] = value
    return plain


def _look_through(value: object, most: int) -> tuple[bool, int]:
    """Whether ``value`` is plain, not too deep and of ``most`` parts at most; and how many parts were looked at."""
    waiting: list[tuple[object, int]] = [(value, 0)]
    count = 1
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, (dict, list)):
            parts = cast("dict[object, object] | list[object]", part)
            count += len(parts)
            has_names = isinstance(parts, list) or count > most or all(isinstance(key, str) for key in parts)
            if count > most or depth > _DEEPEST or not has_names:
                return False, min(count, most)
            waiting += [(inner, depth + 1) for inner in (parts.values() if isinstance(parts, dict) else parts)]
        elif not (part is None or isinstance(part, (bool, int, str)) or (isinstance(part, float) and isfinite(part))):
            return False, min(count, most)
    return count <= most, min(count, most)
