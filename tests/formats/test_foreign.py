"""Checkpoints of formats that are not read are called what they are, with what to do."""

import io
import subprocess
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import CheckpointError, SourceError
from swa_cli.formats import open_checkpoint


def save_dcp(folder, *, beside=()) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        save({"model": {"w": torch.arange(4.0)}}, checkpoint_id=str(folder), no_dist=True)
    for name in beside:
        torch.save({"epoch": 1}, folder / name)


@pytest.mark.parametrize(
    ("folders", "beside"),
    [
        (["step-1", "step-2"], []),
        (["checkpoint-5/pytorch_model_fsdp_0", "checkpoint-5/optimizer_0"], []),
        (["a"], ["meta.pt"]),
    ],
    ids=["torchtitan", "hugging face", "lightning"],
)
def test_a_distributed_checkpoint_names_the_command_that_converts_it(tmp_path, folders, beside):
    for folder in folders:
        save_dcp(tmp_path / folder, beside=beside)
    first = tmp_path / folders[0]
    command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {first} {first}.pt"

    for source in (tmp_path, first):
        with pytest.raises(SourceError) as caught:
            find_checkpoints([source])
        assert str(caught.value).startswith(str(first))
        assert "of torch.distributed.checkpoint, a format that is not read yet" in str(caught.value)
        assert command in str(caught.value)
        assert "optimizer_0" not in str(caught.value)
    with pytest.raises(SourceError, match="dcp_to_torch"):
        open_single(first)
    for part in (first / ".metadata", first / "__0_0.distcp"):
        with pytest.raises(CheckpointError, match=r"a part of a checkpoint\. .* dcp_to_torch"):
            open_checkpoint(part)


def test_what_the_command_makes_is_averaged(tmp_path):
    save_dcp(tmp_path / "step-1")
    with pytest.raises(SourceError) as caught:
        find_checkpoints([tmp_path])
    command = str(caught.value).partition(": python ")[2].partition(". Then")[0].split()

    subprocess.run([sys.executable, *command], check=True, capture_output=True)

    assert open_checkpoint(tmp_path / "step-1.pt").get_tensor("w").tolist() == [0, 1, 2, 3]


def archive(name: str) -> bytes:
    stream = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(stream, "w") as packed:
            packed.writestr("model.pt", b"abc")
    elif name.endswith("npz"):
        np.savez(stream, w=np.ones(3))
    else:
        with tarfile.open(fileobj=stream, mode="w:gz" if name.endswith("gz") else "w") as packed:
            packed.addfile(tarfile.TarInfo("model.pt"))
    return stream.getvalue()


FORMATS = {
    "model-q4.gguf": (b"GGUF\x03\0\0\0", r"a GGUF file \(llama\.cpp\)", "converted from"),
    "weights.h5": (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 or Keras file", "state_dict"),
    "flax_model.msgpack": (b"\x81\xa6params", "a Flax file", "from_flax=True"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch", "an ONNX file", "exported from"),
    "w.npy": (b"\x93NUMPY\x01\0", "a numpy file", "as tensors"),
    "run.tar.gz": (archive("tar.gz"), "an archive", "Unpack it"),
    "w.npz": (archive("npz"), "a numpy file", "as tensors"),
    "run.zip": (archive("run.zip"), "an archive", "name the checkpoint inside"),
    "asr.nemo": (archive("tar"), "a NeMo archive", "model_weights.ckpt"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_format_is_called_what_it_is(tmp_path, name):
    content, what, advice = FORMATS[name]
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match=rf"no checkpoints in .*{name} is {what}.*{advice}"):
        find_checkpoints([tmp_path])
    with pytest.raises(CheckpointError, match=rf"{name}: {what}.*{advice}"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "what"), [("model-q4.gguf", "GGUF"), ("weights.h5", "HDF5"), ("w.npy", "numpy"), ("run.tar.gz", "archive")]
)
def test_the_first_bytes_tell_the_format_under_any_name(tmp_path, name, what):
    (tmp_path / "model.pt").write_bytes(FORMATS[name][0])

    with pytest.raises(CheckpointError, match=rf"model\.pt: an? .*{what}"):
        find_checkpoints([tmp_path])


def test_other_formats_beside_checkpoints_do_not_matter(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "step-1.pt")
    (tmp_path / "step-1.gguf").write_bytes(b"GGUF")
    save_dcp(tmp_path / "sharded")

    assert len(find_checkpoints([tmp_path]).checkpoints) == 1
