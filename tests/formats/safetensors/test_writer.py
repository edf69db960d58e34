"""Sharded safetensors files as they are written."""

import json

import torch
from safetensors.torch import load_file

from support.templates import plan_of
from swa_cli.averaging import average
from swa_cli.outputs import Target


def test_shards_are_no_larger_than_asked_for(tmp_path):
    torch.save(
        {f"w{number:02}": torch.randn(100) for number in range(10)} | {"large": torch.randn(1000)}, tmp_path / "1.pt"
    )

    average(plan_of(tmp_path / "1.pt"), Target(path=tmp_path / "out", max_shard_size=1000))

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards: dict[str, list[str]] = {}
    for name, shard in index["weight_map"].items():
        shards.setdefault(shard, []).append(name)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*shards, "model.safetensors.index.json"]
    )
    assert index["metadata"]["total_size"] == 8000
    expected = torch.load(tmp_path / "1.pt")
    for shard, names in shards.items():
        tensors = load_file(tmp_path / "out" / shard)
        assert set(tensors) == set(names)
        assert names == ["large"] or sum(tensor.nbytes for tensor in tensors.values()) <= 1000
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())


def test_what_all_fits_in_one_shard_has_no_index(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "1.pt")

    average(plan_of(tmp_path / "1.pt"), Target(path=tmp_path / "out", max_shard_size=1000))

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
