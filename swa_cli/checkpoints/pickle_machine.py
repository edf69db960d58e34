"""A stack machine for pickles that imports nothing and calls nothing.

It follows the opcodes of protocols 0 to 5 (`pickletools` describes each). Plain values, lists, dicts and tuples are
built; whatever else a pickle asks for becomes an `Inert` record. Whatever the bytes are, the work and the memory stay
proportional to their number.
"""

import codecs
from collections.abc import Callable
from struct import Struct
from typing import Any

from swa_cli.checkpoints.inert import Inert, add_elements, as_key, call, extend, few, refuse, set_items

_LONGEST_NUMBER = 255
_LONGEST_OPERAND = 8
_CUT_SHORT = "the pickle is cut short"
_NEWEST_PROTOCOL = 5

_u16 = Struct("<H").unpack_from
_u32 = Struct("<I").unpack_from
_i32 = Struct("<i").unpack_from
_u64 = Struct("<Q").unpack_from
_f64 = Struct(">d").unpack_from


def run(  # noqa: PLR0912, PLR0915  # one opcode after the other, the frequent ones first
    data: bytes,
    start: int,
    find_global: Callable[[str, str], object],
    find_persistent: Callable[[object], object],
) -> tuple[Any, int]:
    """The object that the pickle at ``start`` describes, and where it ends.

    Args:
        data: the pickle, and whatever follows it.
        start: where it begins.
        find_global: gives what a module and a name stand for. A function that it gives is called with what the
            pickle says, and must check it.
        find_persistent: gives what a persistent id stands for.

    Raises:
        EOFError: ``data`` ends before the pickle does.
        Exception: of any other kind, when ``data`` is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    push, pop = stack.append, stack.pop
    i = start
    try:
        while True:
            opcode = data[i]
            i += 1
            match opcode:
                case 0x72:  # LONG_BINPUT
                    memo[_u32(data, i)[0]] = stack[-1]
                    i += 4
                case 0x68:  # BINGET
                    push(memo[data[i]])
                    i += 1
                case 0x4B:  # BININT1
                    push(data[i])
                    i += 1
                case 0x58:  # BINUNICODE
                    first = i + 4
                    i = first + _u32(data, i)[0]
                    push(data[first:i].decode("utf-8", "surrogatepass"))
                case 0x28:  # MARK
                    marks.append(len(stack))
                case 0x74:  # TUPLE
                    first = marks.pop()
                    items = tuple(stack[first:])
                    del stack[first:]
                    push(items)
                case 0x71:  # BINPUT
                    memo[data[i]] = stack[-1]
                    i += 1
                case 0x52 | 0x81:  # REDUCE, NEWOBJ
                    args = pop()
                    push(call(pop(), args))
                case 0x86:  # TUPLE2
                    last = pop()
                    push((pop(), last))
                case 0x85:  # TUPLE1
                    push((pop(),))
                case 0x51:  # BINPERSID
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
                    push(memo[_u32(data, i)[0]])
                    i += 4
                case 0x94:  # MEMOIZE
                    memo[len(memo)] = stack[-1]
                case 0x87:  # TUPLE3
                    last, middle = pop(), pop()
                    push((pop(), middle, last))
                case 0x8C:  # SHORT_BINUNICODE
                    first = i + 1
                    i = first + data[i]
                    push(data[first:i].decode("utf-8", "surrogatepass"))
                case 0x7D:  # EMPTY_DICT
                    push({})
                case 0x5D:  # EMPTY_LIST
                    push([])
                case 0x73:  # SETITEM
                    value, key = pop(), pop()
                    set_items(stack[-1], (key, value))
                case 0x75:  # SETITEMS
                    items = _since_mark(stack, marks)
                    set_items(stack[-1], items)
                case 0x61:  # APPEND
                    last = pop()
                    extend(stack[-1], (last,))
                case 0x65:  # APPENDS
                    items = _since_mark(stack, marks)
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
                    module, i = _line(data, i)
                    name, i = _line(data, i)
                    push(_global(find_global, module.decode(), name.decode()))
                case 0x93:  # STACK_GLOBAL
                    name = pop()
                    push(_global(find_global, pop(), name))
                case 0x62:  # BUILD
                    state = pop()
                    if type(stack[-1]) is Inert:
                        stack[-1].state = state
                case 0x80:  # PROTO
                    if data[i] > _NEWEST_PROTOCOL:
                        refuse(f"protocol {data[i]} is unknown")
                    i += 1
                case 0x95:  # FRAME
                    i += 8
                case 0x2E:  # STOP
                    return pop(), i
                case 0x92:  # NEWOBJ_EX
                    named, args = pop(), pop()
                    push(call(pop(), (*few(args), named)))
                case 0x8F:  # EMPTY_SET
                    push(Inert("builtins", "set"))
                case 0x90:  # ADDITEMS
                    items = _since_mark(stack, marks)
                    add_elements(stack[-1], items)
                case 0x91:  # FROZENSET
                    push(Inert("builtins", "frozenset", (_since_mark(stack, marks),)))
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
                    i += 8 + _u64(data, i)[0]
                    push(Inert("builtins", "bytearray"))
                case 0x8B:  # LONG4
                    first = i + 4
                    i = first + _u32(data, i)[0]
                    push(_number(data[first:i]))
                case 0x30:  # POP
                    pop()
                case 0x31:  # POP_MARK
                    del stack[marks.pop() :]
                case 0x32:  # DUP
                    push(stack[-1])
                case 0x64:  # DICT
                    items = _since_mark(stack, marks)
                    push({})
                    set_items(stack[-1], items)
                case 0x6C:  # LIST
                    push(_since_mark(stack, marks))
                case 0x67:  # GET
                    text, i = _line(data, i)
                    push(memo[_index(text)])
                case 0x70:  # PUT
                    text, i = _line(data, i)
                    memo[as_key(_index(text))] = stack[-1]
                case 0x49:  # INT
                    text, i = _line(data, i)
                    push(text == b"01" if text in {b"00", b"01"} else _index(text))
                case 0x4C:  # LONG
                    text, i = _line(data, i)
                    push(_index(text.removesuffix(b"L")))
                case 0x46:  # FLOAT
                    text, i = _line(data, i)
                    push(float(text))
                case 0x53:  # STRING
                    text, i = _line(data, i)
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
                    made = _global(find_global, module.decode(), name.decode())
                    push(call(made, tuple(_since_mark(stack, marks))))
                case 0x6F:  # OBJ
                    made, *rest = _since_mark(stack, marks)
                    push(call(made, tuple(rest)))
                case _:  # EXT1, EXT2, EXT4, NEXT_BUFFER, READONLY_BUFFER: nothing that a file alone can explain
                    refuse(f"opcode {opcode:#04x} at byte {i - 1} means nothing in a file")
    except Exception as error:
        if i > len(data) - _LONGEST_OPERAND:
            raise EOFError(_CUT_SHORT) from error
        raise


def _since_mark(stack: list[Any], marks: list[int]) -> list[Any]:
    first = marks.pop()
    items = stack[first:]
    del stack[first:]
    return items


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
    return int(text)


def _python2_string(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content
