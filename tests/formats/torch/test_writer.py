"""Torch files as they are written."""

import subprocess
import sys
import zipfile

import pytest
import torch

from support.templates import plan_of, same, state_of_all_kinds
from swa_cli.averaging import average
from swa_cli.checkpoints import find_checkpoints
from swa_cli.formats import open_checkpoint
from swa_cli.formats.provenance_text import read_provenance


def test_a_torch_file_holds_every_kind_of_tensor(tmp_path):
    state = state_of_all_kinds()
    torch.save(state, tmp_path / "1.pt")

    average(plan_of(tmp_path / "1.pt"), tmp_path / "out.pt")

    for mmap in (False, True):
        loaded = torch.load(tmp_path / "out.pt", weights_only=True, mmap=mmap)
        assert list(loaded) == list(state)
        assert all(same(loaded[name], state[name]) for name in state)
    assert zipfile.ZipFile(tmp_path / "out.pt").testzip() is None  # every CRC is right
    assert read_provenance(open_checkpoint(tmp_path / "out.pt").metadata) is not None


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pth.tar", ".bin"])
def test_the_suffix_says_that_it_is_a_torch_file(tmp_path, suffix):
    torch.save({"w": torch.ones(2), "_extra_state": {"a": [1]}}, tmp_path / "1.pt")

    average(plan_of(tmp_path / "1.pt"), tmp_path / f"out{suffix}")

    assert torch.load(tmp_path / f"out{suffix}")["_extra_state"] == {"a": [1]}


def test_tied_tensors_share_a_storage(tmp_path):
    shared = torch.randn(3, 2)
    torch.save({"a": shared, "b": shared, "c": torch.randn(2)}, tmp_path / "1.pt")

    average(plan_of(tmp_path / "1.pt"), tmp_path / "out.pt")

    loaded = torch.load(tmp_path / "out.pt")
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()
    assert torch.equal(loaded["b"], shared)


def test_an_average_in_a_torch_file_is_a_source_only_when_named(tmp_path):
    for step in (1, 2):
        torch.save({"w": torch.full((2,), float(step))}, tmp_path / f"{step}.pt")
    average(plan_of(tmp_path), tmp_path / "3.pt")

    found = find_checkpoints([tmp_path])

    assert [checkpoint.path.name for checkpoint in found.checkpoints] == ["1.pt", "2.pt"]
    assert any("3.pt was written by swa-cli" in notice for notice in found.notices)
    assert len(find_checkpoints([tmp_path / "3.pt"]).checkpoints) == 1


def test_a_torch_file_is_written_without_torch(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}, "optimizer": {}}, tmp_path / "1.pt")
    program = (
        "import sys\nfrom swa_cli.cli.main import swa\ntry:\n    swa()\nfinally:\n    assert 'torch' not in sys.modules"
    )

    for options in (["-o", "a.pt"], ["-o", "b.pt", "--like", "1.pt"], ["-o", "c", "--max-shard-size", "5GB"]):
        done = subprocess.run([sys.executable, "-c", program, "average", "1.pt", *options], cwd=tmp_path, check=False)
        assert done.returncode == 0
