"""Every layout is registered once, says what it is, and is recognised by its bytes or its listing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swa_cli.checkpoints import find_checkpoints
from swa_cli.formats import READERS, SUFFIXES, open_checkpoint
from swa_cli.formats.protocol import CheckpointReader, possible_checkpoint

STATE = {"layer.w": torch.arange(6.0).reshape(2, 3)}


def written(folder: Path) -> dict[str, Path]:
    """A checkpoint of each layout that is a file, by the name of its reader; no name has the usual ending."""
    save_file(STATE, folder / "a.data")
    torch.save(STATE, folder / "b.data")
    index = folder / "c.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"layer.w": "a.data"}}))
    return {"safetensors": folder / "a.data", "torch": folder / "b.data", "Hugging Face, sharded": index}


def claiming(path: Path) -> list[CheckpointReader]:
    with possible_checkpoint(path) as entry:
        return [reader for reader in READERS if reader.claims(entry)]


def test_a_checkpoint_is_claimed_by_its_reader_alone(tmp_path):
    for name, path in written(tmp_path).items():
        assert [reader.name for reader in claiming(path)] == [name]
        assert torch.equal(open_checkpoint(path).get_tensor("layer.w"), STATE["layer.w"])


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02", b"{}", b"GGUF" + bytes(20), b"text"])
def test_other_files_are_claimed_by_none(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)

    assert claiming(path) == []


def test_an_empty_directory_is_claimed_by_none(tmp_path):
    assert claiming(tmp_path) == []


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_reader_says_what_the_reference_needs(reader):
    for text in (reader.name, reader.description, reader.written_by, reader.kept):
        assert text
        assert "\n" not in text
    assert len({other.name for other in READERS}) == len(READERS)


def test_what_any_reader_looks_at_is_found_in_a_directory(tmp_path):
    for number, suffix in enumerate(suffix for suffix in SUFFIXES if not suffix.endswith(".json")):
        torch.save({**STATE, "step": torch.tensor(number)}, tmp_path / f"step-{number}{suffix}")

    found = find_checkpoints([tmp_path]).checkpoints

    assert {checkpoint.path.name.partition(".")[2] for checkpoint in found} == {
        suffix[1:] for suffix in SUFFIXES if not suffix.endswith(".json")
    }
