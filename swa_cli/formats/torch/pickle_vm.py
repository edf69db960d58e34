"""A stack machine for pickles that imports nothing and calls nothing.

It follows the opcodes of protocols 0 to 5 (`pickletools` describes each). Plain values, lists, dicts and tuples are
built; anything else becomes an `Inert` record. Where Python's own unpickler raises, so does this.

Opcodes and the containers that they make are counted, so that no file takes more time or memory than its size is
worth: about a second and 250 MB for one of 16 MB.

A subclass of `pickle.Unpickler` with `find_class` and `persistent_load` would be shorter and cannot keep that bound. It
was tried on CPython 3.11. Its hooks see neither the numbers of the memo, nor keys, nor lists:

- nine bytes with a large memo number make it fill 8 GB,
- a tuple of itself as a key, in 61 bytes, takes a second to hash, and twice that for each two bytes more,
- integers of one hash as keys, in 390 kB, take more than a minute,
- empty lists, in 16 MB, take 1.3 GB.

Only another pass over all opcodes, with a stack of its own, could find these before.
"""

import codecs
import re
from collections.abc import Callable
from pickle import UnpicklingError
from struct import Struct
from typing import Any, NoReturn

from swa_cli.errors import CheckpointError
from swa_cli.formats.torch.inert_objects import (
    Inert,
    add_elements,
    as_key,
    build,
    call,
    cost_of_call,
    cost_of_keys,
    extend,
    few,
    new,
    new_set,
    refuse,
    set_items,
)
from swa_cli.formats.torch.tensor_runs import NOT_KEPT

_LONGEST_NUMBER = 255
_LONGEST_OPERAND = 8
_CUT_SHORT = "the pickle is cut short"
_NEWEST_PROTOCOL = 5
_TOO_MUCH = "holds too many values beside the weights to be read. Save model.state_dict() alone."
_LEAST_OPCODES, _BYTES_OF_OPCODE = 2_500_000, 5
_LEAST_CONTAINERS, _BYTES_OF_CONTAINER = 1_000_000, 8
_CONTAINERS_OF_TENSOR = 4
_WIDEST_GAP = 1000
"""Numbers that the memo may leave out: Python 2 began at 1."""
_INTEGER = re.compile(rb"-?(0|[1-9][0-9]*)")
_REAL = re.compile(rb"[-+0-9.einfa]+")

_u16 = Struct("<H").unpack_from
_u32 = Struct("<I").unpack_from
_i32 = Struct("<i").unpack_from
_u64 = Struct("<Q").unpack_from
_f64 = Struct(">d").unpack_from


TakeTensors = Callable[[bytes, int, list[Any], list[Any]], int]
"""Takes the pickle, a byte of it, the stack and the memo."""


class NotKeptError(UnpicklingError):
    """The pickle refers to a value that is not in the memo."""

    def __init__(self) -> None:
        super().__init__("it refers to what is not there")


def run(  # noqa: PLR0912, PLR0915  # one opcode after the other, the frequent ones first
    data: bytes,
    start: int,
    find_global: Callable[[str, str], object],
    find_persistent: Callable[[object], object],
    take_tensors: TakeTensors | None = None,
) -> tuple[Any, int]:
    """The object that the pickle at ``start`` describes, and where it ends.

    Args:
        data: the pickle, and bytes after it.
        start: where it begins.
        find_global: gives what a module and a name stand for. A function that it gives is called with what the
            pickle says, and must check it.
        find_persistent: gives what a persistent id stands for.
        take_tensors: reads the tensors whose arguments begin at a byte, and gives where they end. It may leave
            `NOT_KEPT` in the memo.

    Raises:
        NotKeptError: the pickle refers to a value that is not in the memo.
        EOFError: ``data`` ends before the pickle does.
        Exception: of any other kind, when ``data`` is damaged.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # what lies below each mark; nothing takes from there
    memo: list[Any] = []
    made = max(_LEAST_CONTAINERS, len(data) // _BYTES_OF_CONTAINER)
    push, pop = stack.append, stack.pop
    i = start
    try:
        for _ in range(max(_LEAST_OPCODES, len(data) // _BYTES_OF_OPCODE)):
            opcode = data[i]
            i += 1
            match opcode:
                case 0x72:  # LONG_BINPUT
                    index = _u32(data, i)[0]
                    i += 4
                    if index == len(memo):
                        memo.append(stack[-1])
                    else:
                        _remember(memo, index, stack[-1])
                case 0x68:  # BINGET
                    value = memo[data[i]]
                    if value is NOT_KEPT:
                        _miss()
                    push(value)
                    i += 1
                case 0x4B:  # BININT1
                    push(data[i])
                    i += 1
                case 0x58:  # BINUNICODE
                    first = i + 4
                    i = first + _u32(data, i)[0]
                    push(data[first:i].decode("utf-8", "surrogatepass"))
                case 0x28:  # MARK
                    if data[i] == opcode and stack and take_tensors is not None:
                        below_them = len(stack)
                        end = take_tensors(data, i - 1, stack, memo)
                        if end > i:
                            made -= _CONTAINERS_OF_TENSOR * (len(stack) - below_them + 1)
                            i = end
                            continue
                    made -= 1
                    below.append(stack)
                    stack = []
                    push, pop = stack.append, stack.pop
                case 0x74:  # TUPLE
                    made -= 1
                    items = tuple(stack)
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    push(items)
                case 0x71:  # BINPUT
                    index = data[i]
                    i += 1
                    if index == len(memo):
                        memo.append(stack[-1])
                    else:
                        _remember(memo, index, stack[-1])
                case 0x52:  # REDUCE
                    args, function = pop(), pop()
                    made -= cost_of_call(function, args)
                    if made < 0:
                        break
                    push(call(function, args))
                case 0x86:  # TUPLE2
                    made -= 1
                    last = pop()
                    push((pop(), last))
                case 0x85:  # TUPLE1
                    made -= 1
                    push((pop(),))
                case 0x51:  # BINPERSID
                    made -= 1
                    push(find_persistent(pop()))
                case 0x29:  # EMPTY_TUPLE
                    push(())
                case 0x89:  # NEWFALSE
                    push(False)  # noqa: FBT003
                case 0x4D:  # BININT2
                    push(_u16(data, i)[0])
                    i += 2
                case 0x4A:  # BININT
                    push(_i32(data, i)[0])
                    i += 4
                case 0x6A:  # LONG_BINGET
                    value = memo[_u32(data, i)[0]]
                    if value is NOT_KEPT:
                        _miss()
                    push(value)
                    i += 4
                case 0x94:  # MEMOIZE
                    memo.append(stack[-1])
                case 0x87:  # TUPLE3
                    made -= 1
                    last, middle = pop(), pop()
                    push((pop(), middle, last))
                case 0x8C:  # SHORT_BINUNICODE
                    first = i + 1
                    i = first + data[i]
                    push(data[first:i].decode("utf-8", "surrogatepass"))
                case 0x7D:  # EMPTY_DICT
                    made -= 1
                    push({})
                case 0x5D:  # EMPTY_LIST
                    made -= 1
                    push([])
                case 0x73:  # SETITEM
                    value, key = pop(), pop()
                    made -= 1 + cost_of_keys((key,), made)
                    if made < 0:
                        break
                    set_items(stack[-1], (key, value))
                case 0x75:  # SETITEMS
                    items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    made -= cost_of_keys(items[::2], made)
                    if made < 0:
                        break
                    set_items(stack[-1], items)
                case 0x61:  # APPEND
                    last = pop()
                    extend(stack[-1], (last,))
                case 0x65:  # APPENDS
                    items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    extend(stack[-1], items)
                case 0x4E:  # NONE
                    push(None)
                case 0x88:  # NEWTRUE
                    push(True)  # noqa: FBT003
                case 0x47:  # BINFLOAT
                    push(_f64(data, i)[0])
                    i += 8
                case 0x8A:  # LONG1
                    first = i + 1
                    i = first + data[i]
                    push(int.from_bytes(data[first:i], "little", signed=True))
                case 0x63:  # GLOBAL
                    made -= 2
                    module, i = _line(data, i)
                    name, i = _line(data, i)
                    push(_global(find_global, module.decode(), name.decode()))
                case 0x93:  # STACK_GLOBAL
                    made -= 2
                    name = pop()
                    push(_global(find_global, pop(), name))
                case 0x62:  # BUILD
                    state = pop()
                    build(stack[-1], state)
                case 0x80:  # PROTO
                    if data[i] > _NEWEST_PROTOCOL:
                        refuse(f"protocol {data[i]} is unknown")
                    i += 1
                case 0x95:  # FRAME
                    i += 8
                    _check_frame(data, i)
                case 0x81:  # NEWOBJ
                    made -= 1
                    args = pop()
                    push(new(pop(), args))
                case 0x2E:  # STOP
                    if made < 0:
                        break
                    return pop(), i
                case 0x92:  # NEWOBJ_EX
                    made -= 1
                    named, args = pop(), pop()
                    if not isinstance(named, dict):
                        refuse("named arguments that are no dict")
                    push(new(pop(), (*few(args), named)))
                case 0x8F:  # EMPTY_SET
                    made -= 1
                    push(new_set([]))
                case 0x90:  # ADDITEMS
                    items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    made -= cost_of_keys(items, made)
                    if made < 0:
                        break
                    add_elements(stack[-1], items)
                case 0x91:  # FROZENSET
                    made -= 1
                    items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    made -= cost_of_keys(items, made)
                    if made < 0:
                        break
                    for item in items:
                        as_key(item)
                    push(Inert("builtins", "frozenset", (items,), is_made=True))
                case 0x42 | 0x54:  # BINBYTES, BINSTRING
                    first = i + 4
                    i = first + _u32(data, i)[0]
                    push(data[first:i] if opcode == 0x42 else _python2_string(data[first:i]))  # noqa: PLR2004
                case 0x43 | 0x55:  # SHORT_BINBYTES, SHORT_BINSTRING
                    first = i + 1
                    i = first + data[i]
                    push(data[first:i] if opcode == 0x43 else _python2_string(data[first:i]))  # noqa: PLR2004
                case 0x8D:  # BINUNICODE8
                    first = i + 8
                    i = first + _u64(data, i)[0]
                    push(data[first:i].decode("utf-8", "surrogatepass"))
                case 0x8E:  # BINBYTES8
                    first = i + 8
                    i = first + _u64(data, i)[0]
                    push(data[first:i])
                case 0x96:  # BYTEARRAY8
                    made -= 1
                    i += 8 + _u64(data, i)[0]
                    push(Inert("builtins", "bytearray", is_made=True))
                case 0x8B:  # LONG4
                    first = i + 4
                    i = first + _u32(data, i)[0]
                    push(_number(data[first:i]))
                case 0x30:  # POP
                    if stack:
                        pop()
                    else:
                        stack = below.pop()
                        push, pop = stack.append, stack.pop
                case 0x31:  # POP_MARK
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                case 0x32:  # DUP
                    push(stack[-1])
                case 0x64:  # DICT
                    made -= 1
                    items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    push({})
                    made -= cost_of_keys(items[::2], made)
                    if made < 0:
                        break
                    set_items(stack[-1], items)
                case 0x6C:  # LIST
                    items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    push(items)
                case 0x67:  # GET
                    text, i = _line(data, i)
                    index = _index(text)
                    if index < 0 or memo[index] is NOT_KEPT:
                        _miss()
                    push(memo[index])
                case 0x70:  # PUT
                    text, i = _line(data, i)
                    _remember(memo, _index(text), stack[-1])
                case 0x49:  # INT
                    text, i = _line(data, i)
                    push(text == b"01" if text in {b"00", b"01"} else _index(text))
                case 0x4C:  # LONG
                    text, i = _line(data, i)
                    push(_index(text.removesuffix(b"L")))
                case 0x46:  # FLOAT
                    text, i = _line(data, i)
                    if not _REAL.fullmatch(text):
                        refuse("text where a number belongs")
                    push(float(text))
                case 0x53:  # STRING
                    text, i = _line(data, i)
                    if len(text) < len("''") or text[:1] != text[-1:] or text[:1] not in {b"'", b'"'}:
                        refuse("a string without quotes")
                    push(_python2_string(codecs.escape_decode(text[1:-1])[0]))
                case 0x56:  # UNICODE
                    text, i = _line(data, i)
                    push(text.decode("raw-unicode-escape"))
                case 0x50:  # PERSID
                    text, i = _line(data, i)
                    push(find_persistent(text.decode()))
                case 0x69:  # INST
                    module, i = _line(data, i)
                    name, i = _line(data, i)
                    made -= 1
                    items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    push(new(_global(find_global, module.decode(), name.decode()), tuple(items)))
                case 0x6F:  # OBJ
                    made -= 1
                    function, *items = stack
                    stack = below.pop()
                    push, pop = stack.append, stack.pop
                    push(new(function, tuple(items)))
                case _:  # EXT1, EXT2, EXT4, NEXT_BUFFER, READONLY_BUFFER: nothing that a file alone can explain
                    refuse(f"opcode {opcode:#04x} at byte {i - 1} means nothing in a file")
            if made < 0:
                break
    except Exception as error:
        if type(error) is NotKeptError and take_tensors is not None:
            raise
        if i > len(data) - _LONGEST_OPERAND:
            raise EOFError(_CUT_SHORT) from error
        raise
    raise CheckpointError(_TOO_MUCH)


def _miss() -> NoReturn:
    raise NotKeptError


def _remember(memo: list[Any], index: int, value: object) -> None:
    """Put ``value`` into the memo where the numbers are not simply the next ones."""
    if index > len(memo) + _WIDEST_GAP or index < 0:
        refuse("a memo with gaps")
    memo += [NOT_KEPT] * (index + 1 - len(memo))
    memo[index] = value


def _check_frame(data: bytes, start: int) -> None:
    if start + _u64(data, start - 8)[0] > len(data):
        raise EOFError(_CUT_SHORT)


def _line(data: bytes, start: int) -> tuple[bytes, int]:
    end = data.find(b"\n", start)
    if end < 0:
        raise EOFError(_CUT_SHORT)
    return data[start:end], end + 1


def _global(find_global: Callable[[str, str], object], module: object, name: object) -> object:
    if type(module) is not str or type(name) is not str:
        refuse("a global without a name")
    return find_global(module, name)


def _number(content: bytes) -> object:
    if len(content) > _LONGEST_NUMBER:
        return Inert("builtins", "int")
    return int.from_bytes(content, "little", signed=True)


def _index(text: bytes) -> int:
    if len(text) > _LONGEST_NUMBER:
        refuse("a number of more digits than any has")
    if not _INTEGER.fullmatch(text):
        refuse("text where a number belongs")
    return int(text)


def _python2_string(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        refuse("a string of Python 2 that is not UTF-8: torch.load(path, encoding='latin1') reads it; save it again")
