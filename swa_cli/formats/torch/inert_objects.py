"""What the pickle machine makes: plain values, and records of everything else, each in time that its bytes bound.

A forged pickle can name one large thing any number of times with a few bytes each; so nothing here copies, hashes or
compares what it is given as a whole, unless that is small.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pickle import UnpicklingError
from types import FunctionType
from typing import Any, NoReturn, cast

from swa_cli.errors import kind_of

_MOST_ARGUMENTS = 16
_LARGEST_KEY = 1 << 60
_MOST_IN_A_KEY = 1000
_MOST_IN_CALL = 2_000_000
"""Parts of keys that are counted in a list at most: more than a pickle of 16 MB may hold."""
_SHOWN = 100
_ARRAYS = ("_reconstruct", "_frombuffer", "ndarray")


@dataclass(slots=True, eq=False, repr=False)
class Inert:
    """What a pickle names, would call or would build: kept as it is written, never imported, called or built."""

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] | None = None
    """Entries set on it, if any: those of a subclass of dict."""
    is_made: bool = False
    """Whether a call made it; else it is what the pickle named."""

    def __repr__(self) -> str:
        return "(not read)"


class MadeDict(dict[Any, Any]):
    """An OrderedDict, Counter or defaultdict: unlike a plain dict it can have attributes, which are not kept."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the OrderedDict that most of them are, which torch loads as weights."""
        return OrderedDict, (), None, None, iter(self.items())


def as_key(key: Any) -> Any:
    """Return ``key`` if it is plain, else a record: hashing others could take for ever.

    Raises:
        UnpicklingError: no dict takes such a key.
    """
    if _is_plain(key):
        return key
    left, waiting = _MOST_IN_A_KEY, [key]
    while waiting:
        part = waiting.pop()
        left -= 1
        if type(part) is tuple:
            parts = cast("tuple[object, ...]", part)
            if len(parts) > left:
                refuse("a key that is too large")
            waiting += parts
        elif isinstance(part, (dict, list)) or (type(part) is Inert and _is_unhashable(part)):
            refuse(f"a {kind_of(cast('object', part))} as a key")
        if left < 0:
            refuse("a key that is too large")
    return Inert("builtins", kind_of(key), is_made=True)


_UNHASHABLE = {
    *(("builtins", "set"), ("builtins", "bytearray"), ("collections", "deque")),
    *(("argparse", "Namespace"), ("types", "SimpleNamespace")),
}
_NO_STATE = {
    *(("builtins", name) for name in ("set", "frozenset", "bytearray", "bytes", "complex", "int", "range", "slice")),
    *(("_codecs", "encode"), ("torch", "device"), ("torch.serialization", "_get_layout")),
}
"""Values of types whose instances take no state."""
_NO_CONTAINERS = {"builtins", "_codecs", "argparse", "numpy", "torch"}
"""Packages none of whose classes is pickled by entries or elements; of a class of any other it is not known."""
_STATE_IS_A_DICT = ("argparse.", "torch.nn.")


def _is_unhashable(record: Inert) -> bool:
    return record.is_made and ((record.module, record.name) in _UNHASHABLE or is_array(record))


def _is_plain(key: object) -> bool:
    # Beyond 2**61 any number of integers can be found that have the same hash, and of tuples beyond any size.
    return type(key) in {str, bytes, float, bool, type(None)} or (type(key) is int and abs(key) < _LARGEST_KEY)


def call(function: object, args: Any) -> object:
    """What calling ``function`` gives: a record, unless it is one of our own functions."""
    if type(args) is not tuple:
        refuse("arguments that no function takes")
    arguments = cast("tuple[Any, ...]", args)
    if type(function) is FunctionType and len(arguments) <= _MOST_ARGUMENTS:
        return function(*arguments)
    if type(function) is not Inert:
        refuse("a call of what is no function, or not with so many arguments")
    return Inert(function.module, function.name, arguments, is_made=True)


def new(function: object, args: Any) -> object:
    """What ``function.__new__`` gives; our own functions stand for classes that are made so without arguments only."""
    if type(function) is FunctionType and args != ():
        refuse("a value that is made in a way that torch does not know")
    return call(function, args)


_SIZED = frozenset({dict, MadeDict, list, tuple, str, bytes})
_DEEPEST = 3
"""Tuples within each other that a function of ours looks at: the arguments for another, and a state among them."""


def cost_of_call(function: object, args: Any) -> int:
    """How much a function of ours may copy or look at."""
    if type(function) is not FunctionType or type(args) is not tuple:
        return 2
    return 2 + _amount(cast("tuple[Any, ...]", args), _DEEPEST)


def _amount(values: tuple[Any, ...], depth: int) -> int:
    amount = 0
    for value in values[:_MOST_ARGUMENTS]:
        if type(value) in _SIZED:
            amount += len(value)
            if type(value) is list:  # a set or an OrderedDict may be made of it
                amount += cost_of_keys(cast("list[Any]", value), _MOST_IN_CALL)
            elif depth and type(value) is tuple:
                parts = cast("tuple[Any, ...]", value)
                if {*map(type, parts)} != {int}:  # no shape, which are many
                    amount += _amount(parts, depth - 1) + cost_of_keys(parts, _MOST_IN_CALL)
    return amount


def cost_of_keys(keys: Sequence[object], most: int) -> int:
    """How many parts `as_key` would look at, counted until there are more than ``most``."""
    cost = 0
    if _COSTLY.isdisjoint(map(type, keys)):
        return cost
    for key in keys:
        if type(key) is tuple:
            cost += 2
            waiting = [cast("tuple[object, ...]", key)]
            while waiting and cost <= most:
                parts = waiting.pop()
                cost += len(parts)
                waiting += [part for part in parts[:_MOST_IN_A_KEY] if type(part) is tuple]
        elif type(key) is Inert:
            cost += 2
        if cost > most:
            break
    return cost


_COSTLY = frozenset({tuple, Inert})


def few(args: Any) -> tuple[Any, ...]:
    """Arguments that cost little to copy."""
    if type(args) is not tuple or len(cast("tuple[Any, ...]", args)) > _MOST_ARGUMENTS:
        refuse("arguments that no function takes")
    return cast("tuple[Any, ...]", args)


def build(target: object, state: Any) -> None:
    """Keep the state of a record; attributes of a dict are nothing that is read.

    Torch gives a tensor other values by its state, and a plain dict, a list or a class takes none.
    """
    if type(target) is Inert and target.is_made and target.state is None and _takes(target, state):
        target.state = state
    elif type(target) is not MadeDict or not isinstance(state, dict):
        refuse(f"a state for a {_named(target)}")


def set_items(target: object, items: Any) -> None:
    """Set alternating keys and values on a dict, or on a record of what may be one."""
    if type(target) is Inert and _may_hold(target):
        if target.items is None:
            target.items = {}
        target = target.items
    if not isinstance(target, dict):
        refuse(f"an entry of a {_named(target)}")
    entries, keys = cast("dict[Any, Any]", target), items[::2]
    if {*map(type, keys)} != {str}:
        keys = [as_key(key) for key in keys]
    entries.update(zip(keys, items[1::2], strict=True))


def extend(target: object, items: Any) -> None:
    """Add to a list; of what else may be one (a deque, say) the elements are not kept."""
    if type(target) is list:
        cast("list[Any]", target).extend(items)
    elif type(target) is not Inert or not _may_hold(target):
        refuse(f"an element of a {_named(target)}")


def add_elements(target: object, items: list[Any]) -> None:
    """Add to a set; of what else may be one the elements are not kept."""
    is_set = type(target) is Inert and target.is_made and (target.module, target.name) == ("builtins", "set")
    if type(target) is not Inert or not (is_set or _may_hold(target)):
        refuse(f"an element of a {_named(target)}")
    for item in items:
        as_key(item)
    if is_set:
        cast("list[Any]", target.args[0]).extend(items)


def new_set(elements: list[Any]) -> Inert:
    """A set as older protocols write it: with a list, here one of its own, as the only argument."""
    for element in elements:
        as_key(element)
    return Inert("builtins", "set", (elements,), is_made=True)


def _may_hold(record: Inert) -> bool:
    """Whether it may be of a class that has entries or elements."""
    return record.is_made and record.module.partition(".")[0] not in _NO_CONTAINERS


def _takes(record: Inert, state: object) -> bool:
    """Whether it may be of a class that takes this state."""
    if f"{record.module}.".startswith(_STATE_IS_A_DICT):
        return isinstance(state, dict)
    return (record.module, record.name) not in _NO_STATE


def _named(value: object) -> str:
    return value.name[:_SHOWN] if type(value) is Inert else kind_of(value)


def is_array(value: object) -> bool:
    """Whether it is a numpy array."""
    return type(value) is Inert and value.module.partition(".")[0] == "numpy" and value.name in _ARRAYS


def refuse(reason: str) -> NoReturn:
    """Say that the pickle is damaged, and how."""
    raise UnpicklingError(reason)
