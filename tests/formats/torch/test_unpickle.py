"""What torch.load reads as something else, or refuses, is refused: every case is given to torch.load, too."""

import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from support.containers import assert_equal_states, forged, repacked, saved
from swa_cli.errors import CheckpointError
from swa_cli.formats import open_checkpoint
from swa_cli.formats.torch.unpickle import read_pickle

STATE = {"a": torch.arange(4.0), "b": torch.arange(4.0) + 9}


def torch_reads(path: Path) -> Any:
    """What ``torch.load`` gives, or None if it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # noqa: BLE001  # of any kind
        return None


def assert_like_torch(path: Path, *, refused: bool) -> None:
    """We read what torch reads, or nothing; what it refuses never."""
    theirs = torch_reads(path)
    if refused or theirs is None:
        with pytest.raises(CheckpointError):
            open_checkpoint(path)
    else:
        assert_equal_states(open_checkpoint(path), {n: t for n, t in theirs.items() if isinstance(t, torch.Tensor)})


class Archive:
    """The bytes of a torch file, and where in them its directory describes each record."""

    def __init__(self, path: Path) -> None:
        self.path, self.data = path, bytearray(path.read_bytes())
        self.end = self.data.rindex(b"PK\5\6")
        count, _, at = struct.unpack_from("<HII", self.data, self.end + 10)
        self.entries: dict[str, int] = {}
        for _ in range(count):
            lengths = struct.unpack_from("<HHH", self.data, at + 28)
            name = self.data[at + 46 : at + 46 + lengths[0]].decode()
            self.entries[name.partition("/")[2]] = at
            at += 46 + sum(lengths)

    def header(self, name: str) -> int:
        return struct.unpack_from("<I", self.data, self.entries[name] + 42)[0]

    def put(self, at: int, form: str, *values: int) -> None:
        struct.pack_into(form, self.data, at, *values)


def twice(archive: Archive, name: str) -> None:
    """A second record of the same name, or of one that torch takes for the same."""
    archive.path.write_bytes(archive.data)
    with zipfile.ZipFile(archive.path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr(f"x/{name}", torch.arange(4.0).flip(0).numpy().tobytes())
    archive.data = bytearray(archive.path.read_bytes())


ARCHIVES: dict[str, Callable[[Archive], object]] = {
    "a record twice": lambda a: twice(a, "data/0"),
    "a record twice, but for case": lambda a: twice(a, "DATA/0"),
    "two pickles": lambda a: twice(a, "data.pkl"),
    "an offset into another record": lambda a: a.put(a.entries["data/0"] + 42, "<I", a.header("data/1")),
    "an offset between records": lambda a: a.put(a.entries["data/0"] + 42, "<I", a.header("data/1") - 8),
    "an offset beyond the end": lambda a: a.put(a.entries["data/0"] + 42, "<I", len(a.data) + 1),
    "a size of the directory": lambda a: a.put(a.entries["data/0"] + 20, "<II", 15, 15),
    "a size that is too large": lambda a: a.put(a.entries["data/0"] + 20, "<II", 200, 200),
    "two sizes": lambda a: a.put(a.entries["data/0"] + 20, "<I", 15),
    "another name in the header": lambda a: a.put(a.header("data/0") + 30, "<B", ord("y")),
    "another method in the header": lambda a: a.put(a.header("data/0") + 8, "<H", 8),
    "an encrypted record": lambda a: a.put(a.entries["data/0"] + 8, "<H", 0x809),
    "a record that is a folder": lambda a: a.put(a.entries["data/0"] + 38, "<I", 0x10),
    "a record of another volume": lambda a: a.put(a.entries["data/0"] + 34, "<H", 1),
    "a record in no folder": lambda a: a.put(a.entries["data/1"] + 46, "<B", ord("y")),
    "a name that is no UTF-8": lambda a: a.put(a.entries["data/1"] + 46, "<B", 0xFF),
    "a record less": lambda a: a.put(a.end + 8, "<HH", len(a.entries) - 1, len(a.entries) - 1),
    "something after the end": lambda a: a.data.extend(b"more"),
    "an entry beyond the directory": lambda a: a.put(max(a.entries.values()) + 30, "<H", 128),
    "one of many volumes": lambda a: a.put(a.end - 4, "<I", 7),
    "another length of the zip64 end": lambda a: a.put(a.data.rindex(b"PK\6\6") + 4, "<Q", 43),
    "a version of tomorrow": lambda a: a.put(a.data.index(b"3\n", a.header("version")), "<B", ord("z")),
    "an alignment that is no number": lambda a: a.put(a.data.index(b"64", a.header(".storage_alignment")), "<B", 1),
    "damage beside what is averaged": lambda a: a.put(a.header(".data/serialization_id"), "<I", 0),
}


@pytest.mark.parametrize("change", ARCHIVES.values(), ids=list(ARCHIVES))
def test_an_archive_that_can_be_read_in_two_ways_is_refused(tmp_path, change):
    archive = Archive(saved(STATE, tmp_path / "x.pt"))
    change(archive)
    archive.path.write_bytes(archive.data)

    with pytest.raises(CheckpointError):
        open_checkpoint(archive.path)


def test_two_ends_of_which_one_is_in_the_comment_of_the_other_are_refused(tmp_path):
    archive = Archive(saved(STATE, tmp_path / "x.pt"))
    end = bytes(archive.data[archive.end :])
    archive.put(archive.end + 20, "<H", len(end))
    archive.path.write_bytes(archive.data + end)

    with pytest.raises(CheckpointError, match="its directory is not where it should be"):
        open_checkpoint(archive.path)


def short(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def storage(key: str = "0", kind: str = "FloatStorage", numel: bytes = b"K\x04", where: str = "cpu") -> bytes:
    return b"(" + short("storage") + f"ctorch\n{kind}\n".encode() + short(key) + short(where) + numel + b"tQ"


def tensor(
    of: bytes | None = None,
    offset: bytes = b"K\x00",
    shape: bytes = b"K\x04\x85",
    stride: bytes = b"K\x01\x85",
    grad: bytes = b"\x89",
    rest: bytes = b"",
) -> bytes:
    hooks = b"ccollections\nOrderedDict\n)R"
    of = storage() if of is None else of
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + of + offset + shape + stride + grad + hooks + rest + b"tR"


def state(**entries: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(short(name) + value for name, value in entries.items()) + b"u."


ONE = short("a") + tensor()
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
ORDERED = b"ccollections\nOrderedDict\n"
WITH_STATE = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n"
SET = b"cbuiltins\nset\n]\x85R"
BYTES = b"c_codecs\nencode\n" + short("x") + short("latin1") + b"\x86R"
COMPLEX = b"cbuiltins\ncomplex\nK\x01\x85R"
DEVICE = b"ctorch\ndevice\n" + short("cpu") + b"\x85R"
NAMESPACE = b"cargparse\nNamespace\n)\x81"
ARGUMENTS = tensor().partition(b"_rebuild_tensor_v2\n")[2].removesuffix(b"R")

READ: dict[str, bytes] = {
    "a tensor": state(a=tensor()),
    "two storages": state(a=tensor(), b=tensor(storage("1"))),
    "a view": state(a=tensor(offset=b"K\x01", shape=b"K\x03\x85"), b=tensor()),
    "another device": state(a=tensor(storage(where="cuda:7"))),
    "a parameter": state(a=PARAMETER + b"(" + tensor() + b"\x88" + ORDERED + b")RtR"),
    "keys that are equal": b"\x80\x02}" + ONE + b"s(K\x01N\x88NG?\xf0\x00\x00\x00\x00\x00\x00Nu.",
    "a set, bytes, a number and a device": state(a=tensor(), b=b"(" + SET + BYTES + COMPLEX + DEVICE + b"t"),
    "attributes": state(a=WITH_STATE + ARGUMENTS + b"}" + short("tag") + b"K\x01stR"),
    "a name twice": state(a=tensor(), b=tensor())[:-2] + short("a") + tensor(storage("1")) + b"u.",
    "a state of an OrderedDict": b"\x80\x02" + ORDERED + b")R" + ONE + b"s}" + short("_metadata") + b"}sb.",
}
REFUSED: dict[str, bytes] = {
    "a storage of two types": state(a=tensor(), b=tensor(storage(kind="IntStorage"))),
    "a storage of two sizes": state(a=tensor(), b=tensor(storage(numel=b"K\x02"), shape=b"K\x02\x85")),
    "a storage on two devices, one of them none": state(a=tensor(storage(where="meta"))),
    "a storage that is larger than its record": state(a=tensor(storage(numel=b"K\x05"))),
    "a storage that is smaller than its record": state(a=tensor(storage(numel=b"K\x03"), shape=b"K\x03\x85")),
    "a storage of a dtype": state(a=tensor(storage(kind="float32"))),
    "a storage without a place": state(a=tensor(storage().replace(short("cpu"), b""))),
    "a storage of minus one": state(a=tensor(storage(numel=b"J\xff\xff\xff\xff"))),
    "a persistent id that is text": b"\x80\x02}" + ONE + b"sPx\n0.",
    "a module as in older files": b"\x80\x02}" + ONE + b"s(" + short("module") + b"NNNtQ0.",
    "a state for a tensor": state(a=tensor() + b"(" + storage("1") + b"K\x00K\x04\x85K\x01\x85tb"),
    "a state for a dict": b"\x80\x02}" + ONE + b"s}b.",
    "a state for a list": b"\x80\x02}" + ONE + b"s]}b0.",
    "a state for a class": b"\x80\x02}" + ONE + b"s" + ORDERED + b"}b0.",
    "a state that sets the data": state(
        a=WITH_STATE + ARGUMENTS + b"}" + short("data") + tensor(storage("1")) + b"stR"
    ),
    "a Counter of a list": b"\x80\x02ccollections\nCounter\n]" + ONE + b"\x86a\x85R.",
    "an OrderedDict made otherwise": b"\x80\x02" + ORDERED + b"}" + ONE + b"s\x85\x81.",
    "a tensor beyond its storage": state(a=tensor(offset=b"K\x01")),
    "a tensor with a stride beyond it": state(a=tensor(stride=b"K\x02\x85")),
    "a tensor with a negative offset": state(a=tensor(offset=b"J\xff\xff\xff\xff")),
    "a tensor with a negative stride": state(a=tensor(offset=b"K\x03", stride=b"J\xff\xff\xff\xff\x85")),
    "a tensor with a size that is a Boolean": state(a=tensor(shape=b"\x88\x85")),
    "a tensor with more dimensions than strides": state(a=tensor(shape=b"K\x02K\x02\x86")),
    "a tensor of 65 dimensions": state(a=tensor(shape=b"(" + b"K\x01" * 65 + b"t", stride=b"(" + b"K\x01" * 65 + b"t")),
    "a gradient that is a number": state(a=tensor(grad=b"K\x01")),
    "a gradient of integers": state(a=tensor(storage(kind="IntStorage"), grad=b"\x88")),
    "metadata that are none": state(a=tensor(rest=b"K\x01")),
    "a parameter of a number": state(a=tensor(), b=PARAMETER + b"(K\x01\x88N" + b"tR"),
    "a parameter made by its class": state(a=b"ctorch.nn.parameter\nParameter\n" + tensor() + b"\x85R"),
    "a tensor made by its class": state(a=tensor(), b=b"ctorch\nFloatTensor\n)R"),
    "a device of a number": b"\x80\x02}" + ONE + b"sctorch\ndevice\nK\x01\x85R0.",
    "bytes of a number": b"\x80\x02}" + ONE + b"sc_codecs\nencode\nK\x01" + short("latin1") + b"\x86R0.",
    "a size of text": state(a=tensor(shape=b"ctorch\nSize\n" + short("ab") + b"\x85\x85R")),
    "a list as a key": b"\x80\x02}" + ONE + b"s]Ns.",
    "a list in a key": b"\x80\x02}" + ONE + b"s]\x85Ns.",
    "an element of a tensor": b"\x80\x02}" + ONE + b"s" + tensor() + b"Na0.",
    "what is below a mark": b"\x80\x02}" + ONE + b"sN(0s.",
    "a memo that is not there": b"\x80\x02}" + ONE + b"sq\x01h\x000.",
    "an opcode of tomorrow": b"\x80\x02}" + ONE + b"s\xff.",
    "something after the pickle": state(a=tensor()) + b"more",
    "text that is no UTF-8": b"\x80\x02}" + ONE + b"sU\x01\xffU\x01as.",
}


def with_storages(tmp_path: Path, pickled: bytes) -> Path:
    path = forged(tmp_path, pickled)
    floats = {f"data/{key}": tensor.numpy().tobytes() for key, tensor in zip("01", STATE.values(), strict=True)}
    return repacked(path, lambda name, content: (floats.get(name.partition("/")[2], content),))


@pytest.mark.parametrize("pickled", READ.values(), ids=list(READ))
def test_what_torch_reads_is_read_alike(tmp_path, pickled):
    path = with_storages(tmp_path, pickled)

    assert torch_reads(path) is not None
    assert_like_torch(path, refused=False)


@pytest.mark.parametrize("pickled", REFUSED.values(), ids=list(REFUSED))
def test_what_torch_reads_otherwise_or_not_at_all_is_refused(tmp_path, pickled):
    with pytest.raises(CheckpointError):
        open_checkpoint(with_storages(tmp_path, pickled))


def test_an_ordered_dict_does_not_change_with_the_dict_that_it_was_made_of(tmp_path):
    made = ORDERED + b"}q\x00" + ONE + b"s\x85R"
    later = b"h\x00" + short("a") + tensor(storage("1")) + b"s"
    path = with_storages(tmp_path, state(state_dict=made, later=later))

    checkpoint, loaded = open_checkpoint(path), torch_reads(path)

    assert loaded is not None
    assert torch.equal(loaded["later"]["a"], STATE["b"])
    assert_equal_states(checkpoint, loaded["state_dict"])


CHANGES = {
    "SETITEM": b"K\x00K\x02s",
    "SETITEMS": b"(K\x00K\x02u",
    "APPEND": b"K\x01a",
    "APPENDS": b"(K\x01e",
    "BUILD": b"(K\x01K\x02tb",
    "ADDITEMS": b"(K\x01\x90",
}
"""What each opcode that changes the value below it may do."""
TAKEN: dict[str, tuple[bytes, set[str]]] = {
    "a list": (b"]", {"APPEND", "APPENDS"}),
    "a dict": (b"}", {"SETITEM", "SETITEMS"}),
    "an OrderedDict": (ORDERED + b")R", {"SETITEM", "SETITEMS"}),
    "a set": (SET, {"ADDITEMS"}),
    "a set of protocol 4": (b"\x8f", {"ADDITEMS"}),
    "a frozenset": (b"cbuiltins\nfrozenset\n]\x85R", set()),
    "bytes": (BYTES, set()),
    "a bytearray": (b"cbuiltins\nbytearray\n" + BYTES + b"\x85R", set()),
    "a complex number": (COMPLEX, set()),
    "a device": (DEVICE, set()),
    "a namespace": (NAMESPACE, set()),
    "a tensor": (tensor(), set()),
    "a tuple": (b")", set()),
    "text": (short("x"), set()),
    "a class": (ORDERED, set()),
    "a class that torch does not know": (b"cx\ny\n", set()),
}
"""Values, and the opcodes that they take."""


@pytest.mark.parametrize(("value", "takes"), TAKEN.values(), ids=list(TAKEN))
def test_only_containers_are_filled_and_each_by_its_own_opcodes(tmp_path, value, takes):
    for opcode, change in CHANGES.items():
        path = with_storages(tmp_path, state(a=tensor(), b=value + change))
        if opcode in takes:
            assert_equal_states(open_checkpoint(path), {"a": STATE["a"]})
            assert opcode == "ADDITEMS" or torch_reads(path) is not None  # which torch does not know
        else:
            assert torch_reads(path) is None
            with pytest.raises(CheckpointError):
                open_checkpoint(path)


@pytest.mark.parametrize(
    "key",
    [NAMESPACE, SET, b"]", b"}", ORDERED + b")R", b"cbuiltins\nbytearray\n" + BYTES + b"\x85R", NAMESPACE + b"\x85"],
    ids=["a namespace", "a set", "a list", "a dict", "an OrderedDict", "a bytearray", "a tuple of a namespace"],
)
def test_values_that_have_no_hash_are_no_keys(tmp_path, key):
    path = with_storages(tmp_path, state(b=b"}" + key + b"Ns", a=tensor()))

    assert torch_reads(path) is None
    with pytest.raises(CheckpointError, match="as a key"):
        open_checkpoint(path)


def test_a_set_does_not_change_with_the_list_that_it_was_made_of():
    listed = b"\x80\x02(]q\x00" + short("a") + b"acbuiltins\nset\nh\x00\x85Rh\x00" + short("b") + b"a"

    of_list = read_pickle(listed + b"l.").contents
    enlarged = read_pickle(listed + b"0(" + short("c") + b"\x90l.").contents

    assert (of_list[0], of_list[1].args, of_list[2]) == (["a", "b"], (["a"],), ["a", "b"])
    assert (enlarged[0], enlarged[1].args) == (["a", "b"], (["a", "c"],))


LEGACY: dict[str, Callable[[bytes], bytes]] = {
    "another magic number": lambda data: data.replace(b"\x80\x02\x8a\nl\xfc", b"\x80\x02N0\x8a\nl\xfd", 1),
    "another number of elements": lambda data: data[: -4 * 4 - 8] + (5).to_bytes(8, "little") + data[-4 * 4 :],
    "fewer elements": lambda data: data[: -4 * 4 - 8] + (3).to_bytes(8, "little") + data[-4 * 4 :],
    "a storage that is not listed": lambda data: data[: -4 * 4 - 10] + b"0." + data[-4 * 4 - 8 :],
}


@pytest.mark.parametrize("change", LEGACY.values(), ids=list(LEGACY))
def test_an_older_file_that_torch_reads_otherwise_is_refused(tmp_path, change):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pt").read_bytes()
    assert_like_torch(tmp_path / "x.pt", refused=False)
    (tmp_path / "x.pt").write_bytes(change(data))
    assert change(data) != data

    assert_like_torch(tmp_path / "x.pt", refused=True)


def test_an_older_file_that_is_a_tar_archive_too_is_refused(tmp_path):
    """Torch would look for other members in it; the name of the first is the magic number."""
    torch.save({"a": torch.arange(99.0)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    head = bytearray((tmp_path / "x.pt").read_bytes())
    assert len(head) > 512
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    (tmp_path / "x.pt").write_bytes(head)

    with pytest.raises(CheckpointError, match="it is a tar archive, too"):
        open_checkpoint(tmp_path / "x.pt")
