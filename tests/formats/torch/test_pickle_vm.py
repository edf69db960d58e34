"""Pickles that ask for anything at all, and are only read."""

import os
import pickle
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from support.containers import STATE, assert_equal_states, forged, repacked, saved
from swa_cli.errors import CheckpointError
from swa_cli.formats import open_checkpoint
from swa_cli.formats.torch.unpickle import read_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 600), 1 << 600) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(-9, 9), inner) | st.lists(inner).map(tuple),
)


class Evil:
    """Pickled, a call of ``function`` with ``args``."""

    def __init__(self, function, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_a_pickle_that_wants_code_is_read_and_leaves_no_trace(tmp_path):
    marker = tmp_path / "ran"
    evil = {
        "os": Evil(os.system, f"touch {marker}"),  # pyright: ignore
        "exec": Evil(exec, f"open({str(marker)!r}, 'w').close()"),
        "eval": Evil(eval, f"open({str(marker)!r}, 'w').close()"),
        "path": Evil(Path.touch, marker),
    }
    for legacy in (False, True):
        for protocol in (2, 3, 4, 5):
            path = tmp_path / f"{legacy}{protocol}.pt"
            contents = {"step": 3, "state_dict": {**STATE, **evil}, "hook": evil}
            torch.save(contents, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)

            checkpoint = open_checkpoint(path)

            assert_equal_states(checkpoint, STATE)
            assert checkpoint.left_out == ("os", "exec", "eval", "path")
            assert checkpoint.counters == {"step": 3}
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"cposix\nsystem\nX%s\x85R0",
        b"cposix\nsystem\nX%s\x85\x810",
        b"cposix\nsystem\nX%s\x85}\x920",
        b"(X%siposix\nsystem\n0",
        b"(cposix\nsystem\nX%so0",
        b"X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93X%s\x85R0",
        b"cbuiltins\nexec\nX%s\x85R0",
        b"cbuiltins\neval\nX%s\x85R0",
        b"cbuiltins\n__import__\nX\x04\x00\x00\x00this\x85R0",
        b"cos\nPathLike\n)\x81}X\x0c\x00\x00\x00__setstate__cposix\nsystem\nsb0",
    ],
    ids=["reduce", "newobj", "newobj_ex", "inst", "obj", "stack_global", "exec", "eval", "import", "build"],
)
def test_no_opcode_runs_code(tmp_path, monkeypatch, attack):
    """Each attack is let loose before an honest state_dict, in the same pickle."""
    monkeypatch.chdir(tmp_path)
    command = b"touch ran" if b"posix" in attack else b"open('ran', 'w')"
    counted = len(command).to_bytes(4, "little") + command

    def attacked(name: str, content: bytes):
        return (content[:2] + attack.replace(b"%s", counted) + content[2:] if name.endswith("data.pkl") else content,)

    checkpoint = open_checkpoint(repacked(saved(STATE, tmp_path / "x.pt"), attacked))

    assert_equal_states(checkpoint, STATE)
    assert not (tmp_path / "ran").exists()
    assert "this" not in sys.modules


class Config(dict):
    """As omegaconf, addict, easydict and mmengine have them."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__["_parent"] = None


def test_what_trainers_save_beside_the_weights_is_no_hindrance(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    passengers = {
        "cfg": Config(lr=0.1, model=Config(depth=3)),
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "error": ValueError("x"),
        "class": Config,
        "function": os.path.join,
    }
    checkpoint = open_checkpoint(saved({"epoch": 1, "model": model.state_dict(), **passengers}, tmp_path / "x.pt"))

    assert_equal_states(checkpoint, model.state_dict())


def test_numpy_values_keep_what_they_are_made_of():
    best = read_pickle(pickle.dumps({"best": np.float64(0.5)}, protocol=5)).contents["best"]

    dtype, content = best.args
    assert (best.name, dtype.name, dtype.args[0], content) == ("scalar", "dtype", "f8", np.float64(0.5).tobytes())


def test_a_subclass_of_dict_is_a_mapping(tmp_path):
    path = saved(Config(epoch=2, model=Config(STATE), other=Config(w=torch.ones(1))), tmp_path / "x.pt")

    checkpoint = open_checkpoint(path)

    assert_equal_states(checkpoint, STATE)
    assert (checkpoint.counters, checkpoint.alternatives) == ({"epoch": 2}, ("other",))


def test_a_plain_value_without_end_is_left_out(tmp_path):
    cycle: list = []
    cycle.append(cycle)
    deep: list = []
    for _ in range(60):
        deep = [deep, deep]
    wide = [[0] * 1000] * 1000

    checkpoint = open_checkpoint(saved({**STATE, "a": cycle, "b": deep, "c": wide, "d": [1]}, tmp_path / "x.pt"))

    assert (checkpoint.extra, checkpoint.left_out) == ({}, ("a", "b", "c", "d"))


def nested_tuple() -> bytes:
    """A tuple of itself twice, forty deep: small to write, and for ever to hash or to spell out."""
    return b"K\x01" + b"2\x86" * 40


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x04}" + nested_tuple() + b"K\x01s.",
        b"\x80\x04}(" + nested_tuple() + b"K\x01u.",
        b"\x80\x04(" + nested_tuple() + b"K\x01d.",
        b"\x80\x04\x8f(" + nested_tuple() + b"\x90.",
        b"\x80\x04(" + nested_tuple() + b"\x91.",
        b"\x80\x04cbuiltins\nstr\n" + nested_tuple() + b"\x85R.",
        b"\x80\x04(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + nested_tuple() + b"K\x00K\x01tQ.",
        b"\x80\x05\x96" + (6 << 30).to_bytes(8, "little") + b"ab.",
        b"\x80\x04ccollections\ndefaultdict\nN}X\x08\x00\x00\x00__init__cbuiltins\nlist\ns\x86b.",
        b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n}X\x0e\x00\x00\x00__kwdefaults__}sb.",
        b"\x80\x04]2a.",
    ],
    ids=["key", "keys", "dict", "set", "frozenset", "str", "storage key", "bytearray", "class", "function", "cycle"],
)
def test_a_forged_pickle_neither_hangs_nor_changes_anything(tmp_path, pickled):
    with pytest.raises(CheckpointError):
        open_checkpoint(forged(tmp_path, pickled))
    assert open_checkpoint(saved({"model": OrderedDict(STATE)}, tmp_path / "good.pt")).keys() == tuple(STATE)


def test_containers_within_containers_do_not_explode(tmp_path):
    deep: dict = {}
    for _ in range(60):
        deep = {"left": deep, "right": deep}

    assert open_checkpoint(saved({"state_dict": STATE, "deep": deep}, tmp_path / "x.pt")).keys() == tuple(STATE)


@pytest.mark.parametrize("protocol", range(6))
@given(value=PLAIN)
def test_plain_values_of_every_protocol_are_what_pickle_gives(protocol, value):
    pickled = b"before" + pickle.dumps(value, protocol) + b"after"

    read = read_pickle(pickled, len(b"before"))

    assert repr(read.contents) == repr(pickle.loads(pickle.dumps(value, protocol)))
    assert pickled[read.end :] == b"after"


def test_an_ordered_dict_of_python_2_is_read():
    """Its entries are an argument, a list of pairs, and its strings are of bytes."""
    pickled = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x02\xc3\xa4K\x02ee\x85R."

    assert read_pickle(pickled).contents == {"a": 1, "ä": 2}
    with pytest.raises(pickle.UnpicklingError, match="not UTF-8"):
        read_pickle(pickled.replace(b"\xc3\xa4", b"\xff\xff") + b"what follows")


N = 30_000


def counted(text: bytes) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text


@pytest.mark.parametrize(
    "pickled",
    [
        b"ccollections\nOrderedDict\nq\x00](" + b"(K\x01K\x02l" * N + b"eq\x01" + b"h\x00h\x01\x85R0" * N + b"}.",
        b"cos\nsystem\nq\x00(" + b"N" * N + b"tq\x01" + b"h\x00h\x01R0" * N + b"}.",
        b"cos\nsystem\nq\x00(" + b"N" * N + b"tq\x01" + b"h\x00h\x01\x810" * N + b"}.",
        counted(b"a" * 10 * N) + b"q\x00" + b"h\x00h\x00\x93" * N + b"}.",
        b"}(" + b"".join(b"\x8a\x0a" + (n * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for n in range(N)) + b"u.",
        b"(" + b"N" * N + b"tq\x00}(" + b"h\x00N" * N + b"u.",
        b"}q\x00("
        + b"".join(counted(b"%d" % n) + b"N" for n in range(N))
        + b"u}("
        + b"".join(counted(b"%d" % n) + b"h\x00" for n in range(N))
        + b"u.",
        b"(" * N + b"}.",
        b"N" + b"\x85" * N + b"0}.",
        b"]" * N + b"a" * (N - 1) + b".",
        b"\x8b" + N.to_bytes(4, "little") + b"\x7f" * N + b"0}.",
        b"I" + b"9" * N + b"\n.",
        b"p" + b"9" * 200 + b"\n}.",
        b"]q\x00" + b"h\x00" * N + b"(" + b"h\x00" * N + b"e0}.",
    ],
    ids=[
        *("pairs", "arguments", "newobj", "name", "equal hashes", "tuple", "entries", "marks", "deep tuple"),
        *("deep list", "integer", "digits", "memo", "self"),
    ],
)
def test_a_forged_pickle_takes_no_longer_than_its_bytes_allow(tmp_path, pickled):
    """Each would take minutes, or all memory, if anything in it were copied, hashed or compared as often as named."""
    path = forged(tmp_path, b"\x80\x04" + pickled)
    started = time.process_time()

    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    assert time.process_time() - started < 5


def test_modules_within_modules_are_looked_at_for_a_bounded_time(tmp_path):
    module: nn.Module = nn.Identity()
    for _ in range(14):
        module = nn.ModuleList([module, module])
    contents = {str(n): nn.ModuleList([module, module]) for n in range(400)}
    path = saved({**contents, "state_dict": STATE}, tmp_path / "x.pt")
    started = time.process_time()

    with pytest.raises(CheckpointError, match="or too many to read"):
        open_checkpoint(path)
    assert time.process_time() - started < 10


def test_a_name_of_wrappers_only_is_stripped_and_an_endless_one_refused(tmp_path):
    assert open_checkpoint(saved({"module." * 1000 + "w": torch.ones(1)}, tmp_path / "x.pt")).keys() == ("w",)

    with pytest.raises(CheckpointError, match="a name of 700,001 characters, expected at most 10,000"):
        open_checkpoint(saved({"module." * 100_000 + "w": torch.ones(1)}, tmp_path / "x.pt"))
