"""Tensors that are read many at a time are those that the stack machine reads one opcode after the other."""

import io
import zipfile
from collections import OrderedDict
from random import Random

import pytest
import torch

from support.containers import assert_equal_states, repacked, saved
from swa_cli.formats import open_checkpoint
from swa_cli.formats.torch.unpickle import read_pickle

DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.bool)


def state_dict(tensors: int = 150) -> OrderedDict[str, torch.Tensor]:
    """Tensors of all ranks up to six, some of one storage, some transposed, with names of every length."""
    chosen = Random(7)
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for number in range(tensors):
        shape = chosen.choices((1, 2, 3), k=chosen.randrange(7))
        tensor = torch.zeros(shape, dtype=chosen.choice(DTYPES))
        name = f"{number}.{'layer.é' * chosen.randrange(5)}"
        state[name] = tensor.transpose(0, -1) if tensor.dim() and number % 5 == 0 else tensor
        if number % 7 == 0:
            state[f"{name}.view"] = tensor.reshape(-1)[:1]
    return state


def pickle_of(contents: object, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(contents, stream, **options)
    with zipfile.ZipFile(stream) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))


def result_of(data: bytes, *, in_runs: bool) -> str:
    """What is read, or that it is refused."""
    try:
        read = read_pickle(data, in_runs=in_runs)
    except Exception as error:  # noqa: BLE001  # of any kind, for a damaged pickle
        return f"{type(error).__name__}: {error}"
    return repr((read.contents, read.storages, read.end))


STATE = state_dict()
TRAINED = {"epoch": 1, "model": STATE, "ema": {f"ema.{name}": tensor for name, tensor in STATE.items()}, "again": STATE}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_runs_are_what_the_machine_reads(protocol):
    data = pickle_of(TRAINED, pickle_protocol=protocol)
    expected = result_of(data, in_runs=False)

    first, second = result_of(data, in_runs=True), result_of(data, in_runs=True)

    assert first == expected
    assert second == expected


def test_a_file_with_other_numbers_shares_the_tensors_of_the_one_before():
    first, second = (read_pickle(pickle_of({**TRAINED, "epoch": epoch})).contents for epoch in (1, 2))

    shared = [name for name, tensor in first["ema"].items() if second["ema"][name] is tensor]
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["ema"] == second["ema"]
    assert len(shared) > 100  # the others are written before the memo has its 256th value


def test_the_same_bytes_after_another_beginning_are_read_anew():
    """The kind of storage is named before the run, which refers to it."""
    floats = pickle_of(STATE)
    halves = floats.replace(b"\nFloatStorage\n", b"\nHalfStorage\n")

    before, after = read_pickle(floats), read_pickle(halves)

    assert halves != floats
    assert repr((after.contents, after.storages)) == repr(
        (read_pickle(halves, in_runs=False).contents, read_pickle(halves, in_runs=False).storages)
    )
    assert repr(before.contents) != repr(after.contents)


def test_damaged_runs_are_read_or_refused_as_by_the_machine():
    data, chosen = pickle_of(TRAINED), Random(3)
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(chosen.choice((1, 1, 3))):
            damaged[chosen.randrange(len(data))] = chosen.choice((chosen.randrange(256), *b"Xhjqr(tQR)K\x85"))
        read_pickle(data)

        found = result_of(bytes(damaged), in_runs=True)

        assert found == result_of(bytes(damaged), in_runs=False)


def counted(text: bytes) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text


def test_a_name_that_looks_like_the_end_of_one_is_a_name():
    name = "a" + pickle_of({"x": torch.ones(1)}).decode("latin-1")[60:140] + "b"
    state = {f"{number}": torch.ones(2) for number in range(40)} | {name: torch.zeros(3), "last": torch.ones(1)}
    data = pickle_of(state)

    assert [*read_pickle(data).contents] == [*state]
    assert result_of(data, in_runs=True) == result_of(data, in_runs=False)


def test_values_that_torch_refers_to_nowhere_are_found_all_the_same():
    """A forged pickle takes the arguments of each call from the memo once more."""
    data = pickle_of(STATE)
    memo = max(place for place in range(5000) if b"r" + place.to_bytes(4, "little") in data)
    for place in range(memo - 20, memo):
        forged = data[:-1] + b"j" + place.to_bytes(4, "little") + b"0."

        assert result_of(forged, in_runs=True) == result_of(forged, in_runs=False)
        assert read_pickle(forged).contents.keys() == STATE.keys()


def test_checkpoints_of_a_run_are_read_each_with_its_own_values(tmp_path):
    for epoch in range(3):
        state = {name: torch.full_like(tensor, epoch) for name, tensor in STATE.items() if "view" not in name}
        path = saved({"epoch": epoch, "state_dict": state}, tmp_path / f"{epoch}.pt")

        checkpoint = open_checkpoint(path)

        assert checkpoint.counters == {"epoch": epoch}
        assert_equal_states(checkpoint, state)


def test_a_storage_named_otherwise_before_a_known_run_is_refused(tmp_path):
    path = saved({"epoch": 1, "model": STATE}, tmp_path / "x.pt")
    open_checkpoint(path)

    def renamed(name: str, content: bytes):
        if not name.endswith("data.pkl"):
            return (content,)
        pid = b"(" + counted(b"storage") + b"ctorch\nDoubleStorage\n" + counted(b"100") + counted(b"cpu") + b"K\x09tQ0"
        return (content[:2] + pid + content[2:],)

    with pytest.raises(Exception, match="named as two different ones"):
        open_checkpoint(repacked(path, renamed))
