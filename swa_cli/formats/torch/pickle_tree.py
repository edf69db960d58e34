"""A pickle as a tree that can be changed in places and written again; nothing that it names is imported or called.

`swa_cli.formats.torch.pickle_vm` reads what a pickle means, as far as averaging needs it. Here everything is kept,
opcode by opcode, so that what is not changed comes out as it went in.
"""

import io
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from swa_cli.formats.torch.inert_objects import refuse

_ATOMS = frozenset({
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_SET", "GLOBAL", "PERSID",
})  # fmt: skip
_OPERANDS = {
    "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "BINPERSID": 1, "STACK_GLOBAL": 2,
}  # fmt: skip
_SINCE_MARK = frozenset({"TUPLE", "LIST", "DICT", "FROZENSET", "OBJ", "INST"})
_CHANGES = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_CHANGES_SINCE_MARK = frozenset({"APPENDS", "SETITEMS", "ADDITEMS"})
_LINES = {"GLOBAL": 2, "INST": 2, "PERSID": 1, "STRING": 1}
"""Opcodes that are followed by lines of text, in no encoding that could be relied on."""
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MARK = b"("
_STOP = b"."
_PROTOCOL = b"\x80"
_POP = b"0"
_POP_MARK = b"1"
_MOST_REPEATED = 1 << 20
_MOST_REPEATED_EACH = 64


@dataclass(slots=True, eq=False)
class Node:
    """A value: what makes it from its ``parts``, then what changes it afterwards.

    ``marked`` says that the parts follow a mark. ``value`` is that of a plain number, string or global
    (``"module name"``).
    """

    name: str
    code: bytes
    parts: "list[Node]" = field(default_factory=list["Node"])
    marked: bool = False
    changes: "list[Change]" = field(default_factory=list["Change"])
    value: Any = None
    shared: bool = False


@dataclass(slots=True, eq=False)
class Change:
    """Items that are set on a value, appended to it, or its state."""

    name: str
    code: bytes
    parts: list[Node]
    marked: bool


def read_tree(data: bytes, start: int = 0) -> Node:  # noqa: PLR0912  # one kind of opcode after the other
    """The tree of the pickle at ``start``.

    Raises:
        Exception: of any kind, when the pickle is damaged.
    """
    stack: list[Node] = []
    marks: list[int] = []
    memo: dict[int, Node] = {}
    for name, value, at, following in _opcodes(data, start):
        if name in _PUTS:
            memo[len(memo) if name == "MEMOIZE" else cast("int", value)] = stack[-1]
        elif name in _GETS:
            node = memo[cast("int", value)]
            node.shared = True
            stack.append(node)
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _ATOMS:
            stack.append(Node(name, data[at:following], value=value))
        elif name in _OPERANDS:
            parts = _take(stack, _OPERANDS[name])
            known = f"{parts[0].value} {parts[1].value}" if name == "STACK_GLOBAL" else None
            stack.append(Node(name, data[at:following], parts, value=known))
        elif name in _SINCE_MARK:
            stack.append(Node(name, data[at:following], _since_mark(stack, marks), marked=True))
        elif name in _CHANGES:
            parts = _take(stack, _CHANGES[name])
            stack[-1].changes.append(Change(name, data[at:following], parts, marked=False))
        elif name in _CHANGES_SINCE_MARK:
            parts = _since_mark(stack, marks)
            stack[-1].changes.append(Change(name, data[at:following], parts, marked=True))
        elif name == "STOP":
            return stack[-1]
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            _since_mark(stack, marks)
        elif name == "DUP":
            stack[-1].shared = True
            stack.append(stack[-1])
        elif name not in {"PROTO", "FRAME"}:
            refuse(f"opcode {name} means nothing in a file")
    return refuse("the pickle is cut short")


def write_tree(root: Node) -> bytes:
    """The pickle of a tree."""
    out = bytearray(_PROTOCOL + bytes([_protocol(root)]))
    memo: dict[int, int] = {}
    waiting: list[Node | bytes | tuple[Node]] = [root]  # bytes as they are; a tuple: make it of what is on the stack
    most = _MOST_REPEATED + sum(_MOST_REPEATED_EACH * (1 + len(node.parts)) for node in walk(root))
    while waiting:
        item = waiting.pop()
        if isinstance(item, bytes):
            out += item
        elif isinstance(item, tuple):
            out += _made(item[0], memo)
        elif id(item) in memo:
            out += _get(memo[id(item)])
        else:
            changes = [step for change in item.changes for step in _steps(change)]
            steps: list[Node | bytes | tuple[Node]] = [*item.parts, (item,), *changes]
            waiting += [*reversed(steps), *([_MARK] if item.marked else [])]
        most -= 1
        if most < 0:
            refuse("it holds itself too many times")
    return bytes(out + _STOP)


def walk(root: Node) -> Iterator[Node]:
    """Each node once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += node.parts
            for change in node.changes:
                waiting += change.parts


def _made(node: Node, memo: dict[int, int]) -> bytes:
    """The opcode that makes a value of its parts, which are written, if no part that holds it has made it already."""
    if id(node) in memo:
        return (_POP_MARK if node.marked else _POP * len(node.parts)) + _get(memo[id(node)])
    if not node.shared:
        return node.code
    return node.code + _put(memo.setdefault(id(node), len(memo)))


def _steps(part: Change) -> list[Node | bytes | tuple[Node]]:
    return [*([_MARK] if part.marked else []), *part.parts, part.code]


def _protocol(root: Node) -> int:
    """The newest that any opcode needs: torch itself writes 2, and its loaders for weights know no other."""
    needed = max(_PROTOCOL_OF.get(part.name, 0) for node in walk(root) for part in (node, *node.changes))
    return max(2, needed)


def _put(index: int) -> bytes:
    return b"q" + bytes([index]) if index < 1 << 8 else b"r" + index.to_bytes(4, "little")


def _get(index: int) -> bytes:
    return b"h" + bytes([index]) if index < 1 << 8 else b"j" + index.to_bytes(4, "little")


def _opcodes(data: bytes, start: int) -> Iterator[tuple[str, object, int, int]]:
    """Name, argument, first byte and the byte after of each opcode."""
    stream = io.BytesIO(data)
    stream.seek(start)
    name = ""
    while name != "STOP":
        at = stream.tell()
        opcode = _BY_CODE[stream.read(1).decode("latin-1")]
        name = opcode.name
        argument: object = None
        if name in _LINES:
            lines = [
                stream.readline().removesuffix(b"\n").decode(errors="surrogateescape") for _ in range(_LINES[name])
            ]
            argument = " ".join(lines)
        elif opcode.arg is not None:
            argument = opcode.arg.reader(stream)
        yield name, argument, at, stream.tell()


def _take(stack: list[Node], count: int) -> list[Node]:
    if len(stack) < count:
        refuse("an opcode has too few operands")
    parts = stack[-count:]
    del stack[-count:]
    return parts


def _since_mark(stack: list[Node], marks: list[int]) -> list[Node]:
    first = marks.pop()
    parts = stack[first:]
    del stack[first:]
    return parts


_BY_CODE = {opcode.code: opcode for opcode in pickletools.opcodes}
_PROTOCOL_OF = {opcode.name: opcode.proto for opcode in pickletools.opcodes}
