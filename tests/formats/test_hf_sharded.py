"""Hugging Face's sharded form."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swa_cli.averaging import average, plan_average
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import CheckpointError
from swa_cli.formats import open_checkpoint


def save_trainer_checkpoint(folder: Path, state: dict[str, torch.Tensor], suffix: str = "safetensors") -> Path:
    """What the Trainer leaves: two shards, their index, and files that are no weights."""
    folder.mkdir(parents=True)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    where = {}
    for number, name in enumerate(state):
        file = f"{stem}-{number % 2 + 1:05}-of-00002.{suffix}"
        where[name] = file
    for file in sorted(set(where.values())):
        part = {name: state[name] for name in state if where[name] == file}
        if suffix == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    torch.save({"state": {}}, folder / "optimizer.pt")
    torch.save({"lr": 0.1}, folder / "training_args.bin")
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def state_of(step: int) -> dict[str, torch.Tensor]:
    return {f"layer.{i}.weight": torch.full((2, 3), float(i + step)) for i in range(5)}


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_trainers_run_of_shards_is_found_and_put_in_order(tmp_path, suffix):
    for step in (1000, 90, 500):
        save_trainer_checkpoint(tmp_path / "run" / f"checkpoint-{step}", state_of(step), suffix)

    run = find_checkpoints([tmp_path / "run"])
    average(plan_average(run.checkpoints), tmp_path / "o.safetensors")

    assert [member.step for member in run.members] == [90, 500, 1000]
    assert run.notices == ()
    result = load_file(tmp_path / "o.safetensors")
    assert {name: tensor[0, 0].item() for name, tensor in result.items()} == {
        f"layer.{i}.weight": 530 + i for i in range(5)
    }


@pytest.mark.parametrize("named", ["", "model.safetensors.index.json"])
def test_one_is_opened_by_its_folder_or_its_index(tmp_path, named):
    save_trainer_checkpoint(tmp_path / "checkpoint-5", state_of(5))

    (checkpoint,) = find_checkpoints([tmp_path / "checkpoint-5" / named]).checkpoints

    assert len(checkpoint.files) == 2
    assert torch.equal(checkpoint.get_tensor("layer.3.weight"), torch.full((2, 3), 8.0))


def test_a_copy_of_a_sharded_checkpoint_counts_once(tmp_path):
    for folder in ("checkpoint-5", "checkpoint-6", "best"):
        save_trainer_checkpoint(tmp_path / folder, state_of(6 if folder == "best" else int(folder[-1])))

    run = find_checkpoints([tmp_path])

    assert len(run.checkpoints) == 2
    assert "best/model.safetensors.index.json holds the same weights as" in run.notices[0]


def test_a_missing_shard_is_named(tmp_path):
    index = save_trainer_checkpoint(tmp_path / "c", state_of(1))
    (tmp_path / "c" / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"these of its 2 shards are missing:\n.*00002-of-00002"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", r"index\.json: not a whole index"),
        ("[1]", r"index\.json: not the index of a sharded checkpoint: it has no weight_map"),
        ('{"weight_map": {}}', "it has no weight_map"),
        ('{"weight_map": {"w": "../secret.safetensors"}}', r"tensor w: expected the name of a file beside the index"),
        ('{"weight_map": {"w": ""}}', r"tensor w: expected the name of a file beside the index, found ''"),
        ('{"weight_map": {"w": "other.index.json"}}', r"tensor w: expected the name of a file beside the index"),
        ('{"weight_map": {"w": 3}}', r"tensor w: expected the name of a file beside the index, found 3"),
    ],
)
def test_what_is_no_index_says_so(tmp_path, contents, message):
    (tmp_path / "model.safetensors.index.json").write_text(contents)

    with pytest.raises(CheckpointError, match=message):
        find_checkpoints([tmp_path])


@pytest.mark.parametrize(("tensors", "files"), [(20_000, 20_000), (60_000, 3), (20_001, 20_001)])
def test_more_shards_than_any_checkpoint_has_are_refused(tmp_path, tensors, files):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"w{n}": f"{n % files}.safetensors" for n in range(tensors)}}))
    many = "it names more than 20,000 files. Save the checkpoint in larger shards."
    message = many if files > 20_000 else f"these of its {files} shards are missing:"

    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_checkpoint(index)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    index = save_trainer_checkpoint(tmp_path / "c", state_of(1))
    contents = json.loads(index.read_text())
    contents["weight_map"]["lm_head.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(contents))

    with pytest.raises(CheckpointError, match=r"not in the shards that it names:\n  lm_head\.weight in model-00001"):
        open_checkpoint(index)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    index = save_trainer_checkpoint(tmp_path / "c", state_of(1))
    save_file(state_of(1), tmp_path / "c" / "model-00002-of-00002.safetensors")

    with pytest.raises(CheckpointError, match=r"tensor layer\.\d\.weight is in two shards, .*00001-of.*00002-of"):
        open_checkpoint(index)


def test_a_damaged_shard_is_named(tmp_path):
    index = save_trainer_checkpoint(tmp_path / "c", state_of(1))
    shard = tmp_path / "c" / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4])

    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: not a whole safetensors file"):
        open_checkpoint(index)


def test_what_shards_hold_beside_tensors_is_kept(tmp_path):
    index = save_trainer_checkpoint(tmp_path / "c", state_of(1), "bin")
    shard = tmp_path / "c" / "pytorch_model-00001-of-00002.bin"
    torch.save({**torch.load(shard), "m._extra_state": {"seen": 1}}, shard)
    contents = json.loads(index.read_text())
    contents["weight_map"]["m._extra_state"] = shard.name
    index.write_text(json.dumps(contents))

    assert open_checkpoint(index).extra == {"m._extra_state": {"seen": 1}}


def test_a_file_that_holds_everything_stands_for_its_shards(tmp_path):
    save_trainer_checkpoint(tmp_path / "checkpoint-5", state_of(5))
    save_file(state_of(50), tmp_path / "checkpoint-5" / "model.safetensors")

    (checkpoint,) = find_checkpoints([tmp_path / "checkpoint-5"]).checkpoints

    assert checkpoint.path.name == "model.safetensors"


def test_a_module_that_is_called_module_is_no_wrapper_of_its_shard(tmp_path):
    save_file({"module.a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"module.a": "1.safetensors", "b": "2.safetensors"}}))

    assert {*open_checkpoint(index).tensors} == {"module.a", "b"}
