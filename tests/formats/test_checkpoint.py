"""Reading what trainers leave, and refusing what is not a checkpoint."""

import argparse
import os
import pathlib
import pickle
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from support.containers import STATE, saved
from swa_cli.errors import CheckpointError
from swa_cli.formats import open_checkpoint


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "model_state", "module", "net"])
def test_the_usual_keys_are_found(tmp_path, key):
    checkpoint = open_checkpoint(
        saved({"epoch": 3, key: OrderedDict(STATE), "loss": torch.tensor(1.0)}, tmp_path / "x.pt")
    )

    assert checkpoint.keys() == tuple(STATE)
    assert torch.equal(checkpoint.get_tensor("a.weight"), STATE["a.weight"])
    assert torch.equal(checkpoint.get_tensor("a.bias"), STATE["a.bias"])
    assert checkpoint.counters == {"epoch": 3}


def test_a_dotted_key_names_any_place(tmp_path):
    path = saved({"state": {"model": {"module.w": torch.ones(2)}, "rng": 1}}, tmp_path / "x.pt")

    assert open_checkpoint(path, key="state.model").keys() == ("w",)
    with pytest.raises(
        CheckpointError, match=r"has no key 'state.net': at state, expected 'net', found .*'model'"
    ) as error:
        open_checkpoint(path, key="state.net")
    assert str(path) in str(error.value)
    with pytest.raises(CheckpointError, match=r"Name one of these with `key`: state.model"):
        open_checkpoint(path)


def test_two_usual_keys_are_not_guessed_between(tmp_path):
    path = saved({"model": STATE, "net": STATE}, tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match=r"several state_dicts: model, net\. Name one with `key`"):
        open_checkpoint(path)


@pytest.mark.parametrize("contents", [{"epoch": 3}, [1, 2], {}], ids=["no tensors", "a list", "nothing"])
def test_a_file_without_weights_says_what_it_holds(tmp_path, contents):
    with pytest.raises(CheckpointError, match=r"x\.pt: holds"):
        open_checkpoint(saved(contents, tmp_path / "x.pt"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b"], ("a", "b")),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ("a", "b")),
        (["module.module.a"], ("a",)),
        (["body._orig_mod.a", "head.b"], ("body.a", "head.b")),
        (["module.a", "b"], ("module.a", "b")),
        (["n_averaged", "module.a"], ("a",)),
        (["n_averaged", "a"], ("n_averaged", "a")),
    ],
)
def test_wrapper_prefixes_are_stripped(tmp_path, names, expected):
    path = saved({name: torch.ones(1) for name in names}, tmp_path / "x.pt")

    assert open_checkpoint(path).keys() == expected


def test_a_real_averaged_model_is_unwrapped(tmp_path):
    model = torch.nn.Linear(2, 2)
    path = saved(torch.optim.swa_utils.AveragedModel(model).state_dict(), tmp_path / "x.pt")

    assert open_checkpoint(path).keys() == ("weight", "bias")


def test_names_that_collide_are_refused(tmp_path):
    path = saved({"a.w": torch.ones(1), "a._orig_mod.w": torch.ones(1)}, tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match=r"a\.w and a\._orig_mod\.w have the same name"):
        open_checkpoint(path)


def test_harmless_passengers_are_let_in(tmp_path):
    passengers = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs/1")),
        "elsewhere": pathlib.PureWindowsPath("C:/runs"),
        "best": np.float64(0.93),
        "count": np.int64(3),
        "rng": np.random.get_state(),  # noqa: NPY002
        "history": np.arange(3.0),
        "seen": {1, 2},
        "frozen": frozenset({"a"}),
        "phase": 1 + 2j,
        "raw": bytearray(b"ab"),
        "counts": Counter("aab"),
        "by_kind": defaultdict(list, {"a": [1]}),
        "by_pair": {(1, "a"): 2, ((1,), 2): 3},
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "layout": torch.strided,
        "version": torch.__version__,
        "generator": torch.get_rng_state(),
    }
    checkpoint = open_checkpoint(saved({"state_dict": STATE, "global_step": 7, **passengers}, tmp_path / "x.ckpt"))

    assert checkpoint.keys() == tuple(STATE)
    assert checkpoint.counters == {"global_step": 7}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_an_error(tmp_path, suffix, kept):
    path = tmp_path / f"x.{suffix}"
    big = {"w": torch.randn(1000), **STATE}
    torch.save(big, path) if suffix == "pt" else save_file(big, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    with pytest.raises(CheckpointError, match=rf"x\.{suffix}: not a whole .*truncated"):
        open_checkpoint(path)


def test_a_file_cut_after_it_was_opened_is_an_error(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.randn(1000)}, path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:2000])

    with pytest.raises(CheckpointError, match=r"x\.safetensors was changed while it was read\. Wait until"):
        checkpoint.get_tensor("w")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        (b"<html>not found</html>", "neither safetensors nor a torch checkpoint"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all", "not a whole safetensors file"),
        (b"PK\x03\x04" + b"\x00" * 100, "not a whole torch checkpoint"),
    ],
)
def test_what_is_no_checkpoint_says_what_it_is(tmp_path, content, message):
    path = tmp_path / "x.pt"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)


def test_a_plain_pickle_is_not_read(tmp_path):
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"w": 1}))

    with pytest.raises(CheckpointError, match=r"x\.pt: a pickle that torch\.save did not write\. Load it with"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("tensor", "what", "remedy"),
    [
        (torch.eye(3).to_sparse(), "sparse", ".to_dense()"),
        (torch.eye(3).to_sparse(1), "sparse", ".to_dense()"),
        (torch.eye(3).half().to_sparse(), "sparse", ".to_dense()"),
        (torch.zeros(2, device="meta"), "on the meta device, without data", ""),
        (torch.zeros(2, dtype=torch.complex64).conj(), "a lazy conjugate or negative", ".resolve_conj().resolve_neg()"),
    ],
)
def test_tensors_that_are_not_dense_are_refused_by_name_where_they_matter(tmp_path, tensor, what, remedy):
    path = saved({"dense": torch.ones(2), "odd": tensor}, tmp_path / "x.pt")
    beside = saved({"state_dict": STATE, "optimizer": {"odd": tensor}}, tmp_path / "y.pt")

    with pytest.raises(CheckpointError, match=rf"x\.pt: tensor odd is {what}; only dense tensors") as error:
        open_checkpoint(path)
    assert f" {remedy} in the training script before saving." in str(error.value) or not remedy
    assert open_checkpoint(beside).keys() == tuple(STATE)


def test_a_safetensors_file_has_no_keys_to_walk(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors")

    with pytest.raises(CheckpointError, match="flat and has no key 'model'"):
        open_checkpoint(tmp_path / "x.safetensors", key="model")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt: cannot be read: No such file"):
        open_checkpoint(tmp_path / "gone.pt")


@pytest.mark.parametrize("spread", [1 << 25, 8], ids=["at once", "in parts"])
def test_views_and_parameters_are_read_where_they_lie(tmp_path, monkeypatch, spread):
    monkeypatch.setattr("swa_cli.formats.file_reader._WIDEST_SPAN", spread)
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = {
        "t": base.permute(2, 0, 1),
        "row": base[1],
        "p": nn.Parameter(base),
        "b": nn.Buffer(base),
        "x": base[:, :1].expand(2, 5, 4),
        "u16": torch.arange(5).to(torch.uint16),
        "f8": torch.arange(5.0).to(torch.float8_e4m3fn),
        "c": torch.arange(3).to(torch.complex64),
    }
    state["p"].note = "a parameter with an attribute"  # pyright: ignore

    checkpoint = open_checkpoint(saved({"epoch": 2, "state_dict": state}, tmp_path / "x.pt"))

    for name, tensor in state.items():
        flat = tensor.detach().contiguous().reshape(-1)
        n = len(flat)
        assert checkpoint.get_tensor(name).shape == tensor.shape
        for start, stop in ((0, 1), (n // 3, n // 2), (0, n), (n - 2, n)):
            part = checkpoint.get_elements(name, start, stop)
            assert part.dtype.name == str(tensor.dtype)[6:]
            assert part.tobytes() == flat[start:stop].view(torch.uint8).numpy().tobytes(), (name, start, stop)


def test_tensors_without_a_name_are_left_out_and_said(tmp_path):
    checkpoint = open_checkpoint(saved({"w": torch.ones(1), 1: torch.ones(1)}, tmp_path / "x.pt"))

    assert checkpoint.keys() == ("w",)
    assert checkpoint.left_out == ("1",)


def test_a_dtype_that_torch_lacks_is_named(tmp_path):
    header = b'{"w":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}   '
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")

    with pytest.raises(CheckpointError, match="tensor w has dtype F4, which cannot be averaged"):
        open_checkpoint(tmp_path / "x.safetensors")


def test_counters_are_read_from_safetensors_metadata(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"step": "300", "epoch": "three"})

    assert open_checkpoint(tmp_path / "x.safetensors").counters == {"step": 300}


def test_optimizer_state_is_never_read(tmp_path):
    path = saved(
        {"state_dict": {"w": torch.ones(3)}, "optimizer": {"state": {0: torch.randn(100_000)}}}, tmp_path / "x.pt"
    )

    checkpoint = open_checkpoint(path)

    assert sum(stored.spec.nbytes for stored in checkpoint.tensors.values()) == 12
    assert checkpoint.get_tensor("w").tolist() == [1, 1, 1]


def test_tensors_beside_state_dicts_are_not_taken_for_the_model(tmp_path):
    path = saved({"encoder": STATE, "decoder": STATE, "best": torch.tensor(0.5), "epoch": 1}, tmp_path / "x.pt")

    with pytest.raises(CheckpointError, match=r"holds tensors, and state_dicts beside them: encoder, decoder\. Name"):
        open_checkpoint(path)
    assert open_checkpoint(path, key="encoder").keys() == tuple(STATE)


def test_a_key_with_a_dot_in_it_is_found_as_it_is(tmp_path):
    assert open_checkpoint(saved({"ema.model": STATE}, tmp_path / "x.pt"), key="ema.model").keys() == tuple(STATE)


def test_a_tensor_alone_is_called_so(tmp_path):
    with pytest.raises(CheckpointError, match="holds a tensor, expected a state_dict"):
        open_checkpoint(saved(torch.ones(2), tmp_path / "x.pt"))


def test_little_of_a_wide_transposed_tensor_is_read_for_few_elements(tmp_path, monkeypatch):
    tensor = torch.arange(2_000_000.0).reshape(-1, 2).t()
    checkpoint = open_checkpoint(saved({"w": tensor}, tmp_path / "x.pt"))
    read = []
    real = os.preadv

    def count(descriptor, views, offset):
        read.append(sum(map(len, views)))
        return real(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", count)
    found = checkpoint.get_elements("w", 999_990, 1_000_010)

    assert found.tolist() == tensor.reshape(-1)[999_990:1_000_010].tolist()
    assert sum(read) < 1000


def test_the_stride_of_an_axis_of_one_element_means_nothing(tmp_path):
    tensor = torch.arange(20.0).as_strided((1, 5), (2**61, 2))
    checkpoint = open_checkpoint(saved({"w": tensor}, tmp_path / "x.pt"))

    assert checkpoint.get_tensor("w").tolist() == [[0, 2, 4, 6, 8]]


def test_windows_that_slide_over_a_long_tensor_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("swa_cli.formats.file_reader._WIDEST_SPAN", 1000)
    windows = torch.arange(3000.0).unfold(0, 2000, 1)[:7]
    assert windows.stride() == (1, 1)

    assert torch.equal(open_checkpoint(saved({"w": windows}, tmp_path / "x.pt")).get_tensor("w"), windows)
