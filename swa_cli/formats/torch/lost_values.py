"""Weights that a file holds and an average of it would lack."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, cast

from swa_cli.errors import CheckpointError
from swa_cli.formats.dtypes import is_averaged
from swa_cli.formats.tensor_layout import StoredTensor
from swa_cli.formats.torch.inert_objects import Inert, is_array
from swa_cli.formats.torch.rebuild import PickledTensor
from swa_cli.formats.torch.state_dict import strip_wrappers
from swa_cli.formats.torch.tensor_dicts import Mappings

_MOST = 100_000
_MOST_DIMENSIONS = 64
_LARGEST = 1 << 62
_EXTRA_STATE = "_extra_state"
_PASSENGERS = (
    *("optim", "sched", "scaler", "rng", "loss", "criterion", "normal", "metric", "hist", "log", "random"),
    *("teacher", "target", "prev", "old", "ema", "averag", "shadow", "swa", "best"),
)
"""In the names of what lies beside a model and is not part of it."""
_SMALL = 100
"""Other weights that are fewer than one in so many of the model's are no network (the mean and spread of a target)."""


def lost_tensors(others: Mapping[Any, Any], tensors: Iterable[str], *, at_top: bool) -> tuple[str, ...]:
    """Names of those entries of a state_dict that hold weights although they are no tensors of their own.

    They are numpy arrays, packed (quantised) weights, nested or unnamed tensors. What a module keeps for itself
    (``_extra_state``) is none of them.

    Args:
        others: the entries that are not named tensors.
        tensors: names of those that are.
        at_top: whether what a trainer saves may lie among them (an optimizer, a history of losses).
    """
    dotted = any("." in name for name in tensors)
    left = _MOST
    lost: list[str] = []
    for name, value in others.items():
        if str(name).rpartition(".")[2] == _EXTRA_STATE:
            continue
        if at_top and not isinstance(value, PickledTensor):
            known = any(passenger in str(name).lower() for passenger in _PASSENGERS)
            if known or isinstance(value, dict) or (dotted and "." not in str(name)):
                continue
        holds, looked_at = _look_for_tensors(value, left)
        left -= looked_at
        if holds:
            lost.append(str(name))
    return tuple(lost)


def networks_beside(
    top: Mapping[Any, Any], names: Iterable[str], weights: Mapping[str, StoredTensor], mappings: Mappings
) -> tuple[str, ...]:
    """Those of the state_dicts called ``names`` that are other networks: not the weights of this one once more.

    Args:
        top: what holds them.
        weights: the tensors of the model.
    """
    found: list[str] = []
    networks = [name for name in names if not any(passenger in name.lower() for passenger in _PASSENGERS)]
    if not networks:
        return ()
    shapes = {(name, stored.spec.shape) for name, stored in weights.items()}
    least = sum(stored.spec.numel for stored in weights.values()) / _SMALL
    for name in networks:
        mapping = mappings.of_tensors(top.get(name)) or {}
        others = {key: value for key, value in mapping.items() if type(key) is str and _is_weight(value)}
        sizes = {key: value.shape for key, value in others.items() if _is_shape(value.shape)}
        try:
            theirs = set(strip_wrappers(sizes).items())
        except CheckpointError:  # names that become one
            theirs = set(sizes.items())
        numel = sum(map(prod, sizes.values()))
        if numel >= least and 2 * len(theirs & shapes) < len(theirs):
            found.append(name)
    return tuple(found)


def _look_for_tensors(value: object, most: int) -> tuple[bool, int]:
    """Whether a weight is found in ``value`` before ``most`` parts were looked at; and how many were."""
    waiting, seen = [value], {id(value)}
    count = 0
    while waiting and count < most:
        part = waiting.pop()
        count += 1
        if _is_weight(part) or is_array(part):
            return True, count
        if type(part) is Inert:
            inner: list[object] = [*part.args, part.state, part.items]
        elif isinstance(part, dict):
            inner = [*cast("dict[object, object]", part).values()]
        elif isinstance(part, (list, tuple)):
            inner = [*cast("list[object]", part)]
        else:
            continue
        count += len(inner)
        for entry in inner[: max(0, most - count)]:
            if id(entry) not in seen:
                seen.add(id(entry))
                waiting.append(entry)
    return False, min(count, most)


def _is_shape(shape: object) -> bool:
    if type(shape) is not tuple or len(cast("tuple[object, ...]", shape)) > _MOST_DIMENSIONS:
        return False
    return all(type(size) is int and 0 <= size < _LARGEST for size in cast("tuple[object, ...]", shape))


def _is_weight(value: object) -> bool:
    return isinstance(value, PickledTensor) and (value.unsupported is not None or is_averaged(value.dtype))
