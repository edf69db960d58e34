"""Changing the tree of a pickle: entries of its dicts, and new values."""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from swa_cli.formats.torch.pickle_tree import Change, Node, read_tree

_SMALL = 1 << 16


def become(node: Node, other: Node) -> None:
    """Let a value be another wherever it stands."""
    node.name, node.code, node.parts, node.marked = other.name, other.code, other.parts, other.marked
    node.changes, node.value = other.changes, other.value


def items(node: Node) -> Iterator[tuple[Node, Node]]:
    """Keys and values of a dict, or of an object that is one."""
    for parts in (node.parts if node.name == "DICT" else [], *_set(node)):
        yield from zip(parts[::2], parts[1::2], strict=True)


def drop_items(node: Node, keys: Sequence[str]) -> None:
    """Take entries out of a dict."""
    for parts in (node.parts if node.name == "DICT" else [], *_set(node)):
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts[:] = [part for key, value in list(pairs) if not _is_one_of(key, keys) for part in (key, value)]
    node.changes = [change for change in node.changes if change.parts or change.name != "SETITEM"]


def _is_one_of(key: Node, keys: Sequence[str]) -> bool:
    return isinstance(key.value, str) and key.value in keys


def set_items(node: Node, entries: Mapping[str, Node]) -> None:
    """Put values in place of entries that a dict has, and add those that it has not."""
    new = dict(entries)
    for parts in (node.parts if node.name == "DICT" else [], *_set(node)):
        for index in range(0, len(parts), 2):
            if isinstance(parts[index].value, str) and parts[index].value in entries:
                parts[index + 1] = entries[parts[index].value]
                new.pop(parts[index].value, None)
    if new:
        added = [part for key, value in new.items() for part in (plain(key), value)]
        node.changes.append(Change("SETITEMS", b"u", added, marked=True))


def dict_(entries: Mapping[str, Node]) -> Node:
    """A dict."""
    parts = [part for key, value in entries.items() for part in (plain(key), value)]
    return Node("EMPTY_DICT", b"}", changes=[Change("SETITEMS", b"u", parts, marked=True)])


def plain(value: object) -> Node:
    """The tree of a plain value: numbers, strings, lists, dicts, tuples."""
    if type(value) is tuple:
        return tuple_(*(plain(part) for part in cast("tuple[object, ...]", value)))
    if type(value) is int and 0 <= value < _SMALL:
        return Node("BININT2", b"M" + value.to_bytes(2, "little"), value=value)
    return read_tree(pickle.dumps(value, protocol=2))


def global_(module: str, name: str) -> Node:
    """What a module and a name stand for."""
    return Node("GLOBAL", f"c{module}\n{name}\n".encode(), value=f"{module} {name}", shared=True)


def call(function: Node, *args: Node) -> Node:
    """A call of a function."""
    return Node("REDUCE", b"R", [function, tuple_(*args)])


def tuple_(*parts: Node) -> Node:
    """A tuple."""
    return Node("TUPLE", b"t", list(parts), marked=True)


def persistent(pid: Node) -> Node:
    """What a persistent id stands for: in torch's files a storage."""
    return Node("BINPERSID", b"Q", [pid])


def _set(node: Node) -> Iterator[list[Node]]:
    return (change.parts for change in node.changes if change.name in {"SETITEM", "SETITEMS"})
