"""What the pickle machine makes: plain values, and records of everything else, each in time that its bytes bound.

A forged pickle can name one large thing any number of times with a few bytes each; so nothing here copies, hashes or
compares what it is given as a whole, unless that is small.
"""

from dataclasses import dataclass
from pickle import UnpicklingError
from types import FunctionType
from typing import Any, NoReturn, cast

from swa_cli.errors import kind_of

_MOST_ARGUMENTS = 16
_LONGEST_KEY = 8
_LARGEST_KEY = 1 << 60


@dataclass(slots=True, eq=False, repr=False)
class Inert:
    """What a pickle names, would call or would build: kept as it is written, never imported, called or built."""

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] | None = None
    """Entries set on it, if any: those of a subclass of dict."""

    def __repr__(self) -> str:
        return "(not read)"


def as_key(key: Any) -> Any:
    """``key`` if it is plain, or a short tuple of plain ones; else a record: hashing others could take for ever."""
    if type(key) is not tuple:
        return key if _is_plain(key) else Inert("builtins", kind_of(key))
    parts = cast("tuple[object, ...]", key)
    return parts if len(parts) <= _LONGEST_KEY and all(map(_is_plain, parts)) else Inert("builtins", "tuple")


def _is_plain(key: object) -> bool:
    # Beyond 2**61 any number of integers can be found that have the same hash.
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
    return Inert(function.module, function.name, arguments)


def few(args: Any) -> tuple[Any, ...]:
    """Arguments that cost little to copy."""
    if type(args) is not tuple or len(cast("tuple[Any, ...]", args)) > _MOST_ARGUMENTS:
        refuse("arguments that no function takes")
    return cast("tuple[Any, ...]", args)


def set_items(target: object, items: Any) -> None:
    """Set alternating keys and values on a dict, or on a record of what may be one."""
    if type(target) is Inert:
        if target.items is None:
            target.items = {}
        target = target.items
    if type(target) is not dict:
        refuse("an entry of what is no mapping")
    entries = cast("dict[Any, Any]", target)
    for key, value in zip(items[::2], items[1::2], strict=True):
        entries[key if type(key) is str else as_key(key)] = value


def extend(target: object, items: Any) -> None:
    """Add to a list; of what else may be one (a deque, say) the elements are not kept."""
    if type(target) is list:
        cast("list[Any]", target).extend(items)
    elif type(target) is not Inert:
        refuse("an element of what is no list")


def add_elements(target: object, items: list[Any]) -> None:
    """Keep the elements of a set as older protocols write them: a list, its only argument."""
    if type(target) is not Inert:
        refuse("an element of what is no set")
    if not target.args:
        target.args = (items,)
    elif type(target.args[0]) is list:
        cast("list[Any]", target.args[0]).extend(items)


def refuse(reason: str) -> NoReturn:
    """Say that the pickle is damaged, and how."""
    raise UnpicklingError(reason)
