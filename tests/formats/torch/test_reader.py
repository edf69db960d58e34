"""Torch files, zip and legacy: what is read, and what is refused."""

import contextlib
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from support.containers import STATE, assert_equal_states, repacked, save, saved
from swa_cli.errors import CheckpointError
from swa_cli.formats import open_checkpoint


def test_plain_entries_are_extra_and_others_left_out(tmp_path):
    plain = {"head._extra_state": {"scale": [1.0, None], "on": True}, "name": "ä", "version": 3}
    odd = {"tuple": (1, 2), "nan": float("nan"), "keys": {1: 2}, "bytes": b"a", "set": {1}, "size": torch.Size([1])}
    wrapped = {f"module.{name}": entry for name, entry in {**STATE, **plain, **odd}.items()}

    checkpoint = open_checkpoint(saved({**wrapped, 7: 1}, tmp_path / "x.pt"))

    assert_equal_states(checkpoint, STATE)
    assert checkpoint.extra == plain
    assert checkpoint.left_out == (*(f"module.{name}" for name in odd), "7")


def test_an_entry_without_the_wrapper_does_not_keep_it_on_the_tensors(tmp_path):
    contents = {"module.w": torch.ones(1), "epoch": 3, "module.epoch": 4, "w": "taken"}

    checkpoint = open_checkpoint(saved(contents, tmp_path / "x.pt"))

    assert (checkpoint.keys(), checkpoint.extra, checkpoint.left_out) == (("w",), {"epoch": 3}, ("module.epoch", "w"))


@pytest.mark.parametrize(
    "contents",
    [STATE, {"epoch": 3, "model": OrderedDict(STATE), "optimizer": {"state": {0: torch.randn(9)}}}],
    ids=["bare", "nested"],
)
def test_the_legacy_format_is_streamed(tmp_path, contents):
    checkpoint = open_checkpoint(save(contents, tmp_path / "x.pt", legacy=True))

    assert_equal_states(checkpoint, STATE)


def test_a_legacy_file_of_many_tensors_is_read(tmp_path):
    """Its pickles are longer than what is read at first."""
    state = {f"layer.{i}.weight": torch.full((2,), float(i)) for i in range(3000)}

    assert_equal_states(open_checkpoint(save(state, tmp_path / "x.pt", legacy=True)), state)


def test_tied_tensors_and_views_of_a_legacy_file_lie_in_one_storage(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {"base": base, "tied": base, "row": base[2], "turned": base.t(), "p": nn.Parameter(base)}

    checkpoint = open_checkpoint(save(state, tmp_path / "x.pt", legacy=True))

    assert_equal_states(checkpoint, state)
    assert checkpoint.tensors["base"] == checkpoint.tensors["tied"]


@pytest.mark.parametrize("kept", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_truncated_legacy_file_is_an_error(tmp_path, kept):
    path = save({"w": torch.randn(100), **STATE}, tmp_path / "x.pt", legacy=True)
    content = path.read_bytes()
    path.write_bytes(content[: max(16, int(len(content) * kept))])

    with pytest.raises(CheckpointError, match=r"x\.pt: not a whole torch checkpoint .*truncated"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", "saved on a big-endian machine"),
        (b"\x80\x02M\xe9\x03.", b"\x80\x02M\xe8\x03.", "it does not begin as torch begins its files"),
    ],
)
def test_a_legacy_file_of_another_kind_is_refused(tmp_path, old, new, message):
    path = save(STATE, tmp_path / "x.pt", legacy=True)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))

    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_a_view_of_old_begins_where_its_metadata_say(tmp_path):
    """Torch no longer writes them; ``N`` after the number of elements becomes ("v", 2, 4)."""
    path = save({"w": torch.arange(6.0)}, tmp_path / "x.pt", legacy=True)
    content = path.read_bytes()
    changed = content.replace(b"K\x06Nt", b"K\x06X\x01\x00\x00\x00vK\x02K\x04\x87t").replace(
        b"K\x00K\x06\x85", b"K\x00K\x04\x85"
    )
    assert len(changed) > len(content)
    path.write_bytes(changed)

    assert open_checkpoint(path).get_tensor("w").tolist() == [2, 3, 4, 5]


def test_a_tar_archive_says_what_to_do(tmp_path):
    saved(STATE, tmp_path / "inner.pt")
    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        archive.add(tmp_path / "inner.pt", "inner.pt")

    with pytest.raises(CheckpointError, match=r"a tar archive\. If torch wrote it"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("marker", ["archive_format", "constants.pkl", ".data/extern_modules"])
def test_other_archives_of_torch_say_what_to_save_instead(tmp_path, marker):
    path = repacked(saved(STATE, tmp_path / "x.pt"), lambda n, c: (c,))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"x/{marker}", b"")

    with pytest.raises(CheckpointError, match=r"archive, not a checkpoint\. Save the weights with"):
        open_checkpoint(path)


def test_a_zip64_archive_is_read(tmp_path):
    path = saved(STATE, tmp_path / "x.pt")
    with zipfile.ZipFile(path) as source:
        entries = [(info.filename, source.read(info)) for info in source.infolist()]
    with zipfile.ZipFile(path, "w") as target:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            with target.open(info, "w", force_zip64=True) as record:
                record.write(content)
        for number in range(70_000):  # more than the 16 bits of the plain directory count
            target.writestr(f"x/more/{number}", b"")

    assert_equal_states(open_checkpoint(path), STATE)


@pytest.mark.parametrize(
    ("dtype", "readable"),
    [(torch.float8_e8m0fnu, True), (torch.float8_e5m2, True), (torch.complex128, True), (torch.complex32, False)],
    ids=str,
)
def test_dtypes_are_read_or_refused_by_name(tmp_path, dtype, readable):
    tensor = torch.frombuffer(bytearray(range(64)), dtype=dtype)
    path = saved({"w": tensor}, tmp_path / "x.pt")

    if readable:
        assert torch.equal(open_checkpoint(path).get_tensor("w").view(torch.uint8), tensor.view(torch.uint8))
    else:
        with pytest.raises(CheckpointError, match="tensor w is of dtype complex32; only dense tensors"):
            open_checkpoint(path)


def test_a_tensor_expanded_without_end_is_refused(tmp_path):
    path = saved({"w": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match=r"tensor w repeats the 4 bytes .* Save it as tensor\.contiguous\(\)"):
        open_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_reading_takes_few_bytes_beside_the_weights(tmp_path, legacy):
    weights = {f"w{i}": torch.randn(1 << 18) for i in range(8)}
    optimizer = {"state": {i: torch.randn(1 << 18) for i in range(16)}}
    path = save({"model": weights, "optimizer": optimizer}, tmp_path / "x.pt", legacy=legacy)

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    checkpoint = open_checkpoint(path)
    for name in checkpoint.tensors:
        checkpoint.get_tensor(name)

    assert bytes_read() - before < 1.05 * 8 * (1 << 20)


KEYS = st.text("ab.", min_size=1, max_size=3)
TENSORS = st.builds(
    lambda shape, dtype, turned: torch.randn(shape).to(dtype).t() if turned else torch.randn(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=2),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8]),
    st.booleans(),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | TENSORS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(contents=st.dictionaries(KEYS, PLAIN, max_size=4), legacy=st.booleans(), protocol=st.sampled_from([2, 2, 4, 5]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_torch_loads(tmp_path, contents, legacy, protocol):
    path = tmp_path / "x.pt"
    contents = {"more": contents, "state_dict": {"w": torch.ones(2), **contents}}
    torch.save(contents, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    loaded = torch.load(path, weights_only=protocol == 2)["state_dict"]

    with contextlib.suppress(CheckpointError):  # names that collide once they are stripped
        checkpoint = open_checkpoint(path)
        tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
        assert_equal_states(checkpoint, tensors)
        for name, value in checkpoint.extra.items():
            assert loaded[name] == value
        assert {*tensors, *checkpoint.extra, *checkpoint.left_out} == set(loaded)


def test_an_archive_that_another_program_packed_is_read_right(tmp_path):
    path = repacked(saved({"model": STATE}, tmp_path / "x.pt"), lambda name, content: (content,))

    for name, tensor in STATE.items():
        assert torch.equal(open_checkpoint(path).get_tensor(name), tensor)


def test_an_archive_without_byte_order_is_little_endian(tmp_path):
    without = repacked(
        saved(STATE, tmp_path / "x.pt"), lambda name, content: None if "byteorder" in name else (content,)
    )

    assert torch.equal(open_checkpoint(without).get_tensor("a.weight"), STATE["a.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, c: (c, zipfile.ZIP_DEFLATED) if "/data/" in n else (c,), r"record x/data/\d is compressed"),
        (lambda n, c: (b"big",) if "byteorder" in n else (c,), "saved on a big-endian machine"),
        (lambda n, c: None if n.endswith("data/0") else (c,), r"tensor a\.weight: its record data/0 is missing"),
        (
            lambda n, c: (c[:8],) if n.endswith("data/0") else (c,),
            r"reaches beyond its record: expected 24 bytes, found 8",
        ),
        (lambda n, c: None if n.endswith("data.pkl") else (c,), "it has no data.pkl"),
        (lambda n, c: (c[:-9],) if n.endswith("data.pkl") else (c,), "not a whole torch checkpoint"),
    ],
)
def test_an_archive_that_is_not_what_torch_wrote_is_refused(tmp_path, change, message):
    path = repacked(saved(STATE, tmp_path / "x.pt"), change)

    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_an_archive_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        path = saved(STATE, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)

    assert torch.equal(open_checkpoint(path).get_tensor("a.weight"), STATE["a.weight"])


def test_torchscript_says_what_to_save_instead(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))  # pyright: ignore

    with pytest.raises(CheckpointError, match=r"a TorchScript archive, not a checkpoint\. Save the weights with"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda state: state, "at the top"),
        (lambda state: {"model": state, "iteration": 3}, "under 'model'"),
        (lambda state: {"epoch": 1, "state_dict": OrderedDict(state)}, "under 'state_dict'"),
    ],
)
def test_weights_that_are_numpy_arrays_are_named_for_what_they_are(tmp_path, wrap, where):
    arrays = {name: np.zeros(3) for name in ("w", "b")}

    with pytest.raises(
        CheckpointError, match=f"x.pt: the weights {where} are numpy arrays, expected tensors. Save them"
    ):
        open_checkpoint(saved(wrap(arrays), tmp_path / "x.pt"))
