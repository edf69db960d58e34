"""Runs of tensors in a pickle: each is read in one go, and kept for the next file.

`torch.save` writes the same thirty opcodes for each tensor of a state_dict. One pattern matches them all, in a third of
the time that the stack machine needs for them. The files of a training run differ in a few numbers outside these runs,
so the runs of the latest pickle serve the next one wherever the bytes are the same.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import numpy as np

from swa_cli.formats.latest import Latest
from swa_cli.formats.torch.inert_objects import call
from swa_cli.formats.torch.rebuild import PickledStorage

NOT_KEPT: Any = object()
"""In the memo: no value, or one that the pickles of torch refer to nowhere."""

_GET = rb"(h.|j.{4})"
_PUT = rb"r(.{4})"
_INT = rb"(?:K.|M..|J.{4})"
_TUPLE = _INT + rb"\x85|" + _INT * 2 + rb"\x86|" + _INT * 3 + rb"\x87|\((?:" + _INT + rb"){4,64}+t"
_INTS = rb"(?:\)|(" + _TUPLE + rb")" + _PUT + rb")"
_KEY = rb"(?:X(.)\0\0\0([0-9]{1,10})" + _PUT + rb"|" + _GET + rb")"
_STORAGE = rb"\(" + _GET * 2 + _KEY + _GET + rb"(" + _INT + rb")(N?)t" + _PUT + rb"Q"
_VIEW = rb"(" + _INT + rb")" + _INTS * 2 + rb"([\x88\x89])" + _GET + rb"\)R" + _PUT
_CALL = rb"\(" + _STORAGE + _VIEW + rb"t" + _PUT + rb"R" + _PUT
_FIRST = re.compile(rb"()()()()" + _CALL, re.DOTALL)
_NEXT = re.compile(rb"X(.)\0\0\0(.{1,255}?)" + _PUT + _GET + _CALL, re.DOTALL)
_NUMBER = re.compile(_INT, re.DOTALL)
_BYTES_OF_VALUE = 8
"""Of a pickle, for each value in its memo: fewer than a run of tensors has."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Tensors that follow each other in ``data``, and what they add to the stack and the memo."""

    data: bytes
    start: int
    end: int
    function: object
    """The one that makes the first tensor."""
    refers_to: dict[int, Any]
    """The values before the run to which it refers, by their places in the memo."""
    pushed: list[Any]
    remembered: list[Any]
    storages: dict[str, PickledStorage]


_latest = Latest[dict[int, _Run]]()
"""The runs of the latest pickle, by the length of the memo where each begins."""


class TensorRuns:
    """Reads the runs of one pickle.

    Args:
        storages: those that the pickle names, by key.
        find_persistent: gives what a persistent id stands for, and adds it to ``storages``.
    """

    def __init__(self, storages: dict[str, PickledStorage], find_persistent: Callable[[object], object]) -> None:
        self._storages = storages
        self._find_persistent = find_persistent
        self._before = dict(_latest.value or {})
        self._runs: dict[int, _Run] = {}
        self._ints: dict[bytes, tuple[int, ...]] = {b"": ()}
        self._places = b""

    def take(self, data: bytes, start: int, stack: list[Any], memo: list[Any]) -> int:
        """Read the tensors of which the first has its arguments at ``start``, its name and function on the stack.

        Returns:
            Where the last of them ends; ``start`` if none is written as torch writes it.
        """
        if type(stack[-1]) is not FunctionType or not _FIRST.match(data, start):
            return start
        run = self._again(data, start, stack, memo)
        if run is None:
            length = len(memo)
            run = self._read(data, start, stack[-1], memo)
            del memo[length:]
        if run.pushed:
            self._runs[len(memo)] = run
            stack[-1:] = run.pushed
            memo += run.remembered
        return run.end

    def keep(self) -> None:
        """Let the runs serve the next pickle."""
        _latest.value = self._runs

    def _again(self, data: bytes, start: int, stack: list[Any], memo: list[Any]) -> _Run | None:
        """The run of the latest pickle with the same bytes, if it means the same here."""
        run = self._before.pop(len(memo), None)  # compared once, however often a forged pickle returns to it
        if run is None or run.function is not stack[-1]:
            return None
        end = start + run.end - run.start
        if data[start:end] != run.data[run.start : run.end]:
            return None
        if not all(_is_same(memo[place], value) for place, value in run.refers_to.items()):
            return None
        if any(self._storages[key] != run.storages[key] for key in self._storages.keys() & run.storages.keys()):
            return None
        self._storages |= run.storages
        return replace(run, data=data, start=start, end=end)

    def _read(  # noqa: PLR0915  # one tensor after the other
        self, data: bytes, start: int, function: Any, memo: list[Any]
    ) -> _Run:
        """The run that begins here, as far as its bytes are those that torch writes; its values are in the memo."""
        begin, end, match = len(memo), start, _FIRST.match(data, start)
        run = _Run(data, start, end, function, {}, [], [], {})
        known: dict[bytes, Any] = {}
        no_hooks: dict[bytes, object] = {}
        if match and not self._places:
            self._places = np.arange(len(data) // _BYTES_OF_VALUE, dtype="<u4").tobytes()

        def at(reference: bytes) -> Any:
            if reference not in known:
                place = int.from_bytes(reference[1:], "little")
                if memo[place] is NOT_KEPT:
                    raise IndexError
                known[reference] = memo[place]
                if place < begin:
                    run.refers_to[place] = memo[place]
            return known[reference]

        while match:
            groups = match.groups(b"")
            name_size, name, name_at, makes, word, kind, key_size, digits, key_at, key, device, numel = groups[:12]
            whole, id_at, offset, shape, shape_at, stride, stride_at, has_grad, hooks, hooks_at, args_at, made_at = (
                groups[12:]
            )
            places = b"".join((name_at, key_at, id_at, shape_at, stride_at, hooks_at, args_at, made_at))
            expected = 4 * len(memo)
            if self._places[expected : expected + len(places)] != places:
                break
            if len(name) != sum(name_size) or len(digits) != sum(key_size):  # the pattern may have found other ends
                break
            try:
                function = at(makes) if makes else function
                pid = (at(word), at(kind), at(key) if key else digits.decode(), at(device), self._numbers(numel)[0])
                if hooks not in no_hooks:
                    no_hooks[hooks] = call(at(hooks), ())
            except IndexError:
                break
            if type(function) is not FunctionType:
                break
            storage = self._find_persistent((*pid, None) if whole else pid)
            lengths, steps = self._numbers(shape), self._numbers(stride)
            tensor = function(storage, self._numbers(offset)[0], lengths, steps, has_grad == b"\x88", no_hooks[hooks])
            if pid[2] in self._storages:
                run.storages[pid[2]] = self._storages[pid[2]]
            if name:
                run.pushed.append(name.decode("utf-8", "surrogatepass"))
                memo.append(run.pushed[-1])
            run.pushed.append(tensor)
            if digits:
                memo.append(pid[2])
            memo.append(NOT_KEPT)
            if shape:
                memo.append(lengths)
            if stride:
                memo.append(steps)
            memo += (NOT_KEPT, NOT_KEPT, tensor)
            end = match.end()
            match = _NEXT.match(data, end)
        return replace(run, end=end, remembered=memo[begin:])

    def _numbers(self, opcodes: bytes) -> tuple[int, ...]:
        """The integers that a tuple, or a number alone, is written with."""
        found = self._ints.get(opcodes)
        if found is None:
            found = self._ints[opcodes] = tuple(
                int.from_bytes(number[1:], "little", signed=number[:1] == b"J")
                for number in _NUMBER.findall(opcodes, 1 if opcodes[:1] == b"(" else 0)
            )
        return found


def _is_same(value: object, other: object) -> bool:
    return value is other or (type(value) is str and value == other)
