"""Where an output may go."""

import pytest
import torch
from safetensors.torch import load_file

from support.templates import average_like, huggingface, plan_of
from swa_cli.averaging import average
from swa_cli.checkpoints import open_single
from swa_cli.errors import OutputError, UsageError
from swa_cli.formats import open_checkpoint
from swa_cli.outputs import Like, Target


def test_a_folder_is_replaced_only_with_force_and_only_what_is_ours(tmp_path):
    source = huggingface(tmp_path / "run" / "checkpoint-1", 1.0)
    like = Like(checkpoint=open_single(source), key=None)
    plan = plan_of(source / "model.safetensors")
    target = Target(path=tmp_path / "out", like=like)
    average(plan, target)

    with pytest.raises(OutputError, match="out exists already"):
        average(plan, target)
    average(plan, target, overwrite=True)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"files that swa-cli did not put there \(notes\.txt\)"):
        average(plan, target, overwrite=True)
    with pytest.raises(OutputError, match="the directory holds files that swa-cli did not write"):
        average(plan, Target(path=source, like=like), overwrite=True)

    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert (source / "optimizer.pt").read_text() == "optimizer.pt"


def test_an_empty_folder_is_filled(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "1.pt")
    (tmp_path / "out").mkdir()

    average(plan_of(tmp_path / "1.pt"), Target(path=tmp_path / "out", max_shard_size=1000))

    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("like", "output", "message"),
    [
        (
            "1.pt",
            "out.safetensors",
            r"`like='.*1\.pt'` is a torch file, and .* is not\. Give the output a name ending in \.pt",
        ),
        ("1.safetensors", "out.pt", r"is a safetensors file, and .*out\.pt is not"),
        (
            "shards",
            "out.safetensors",
            r"is a sharded checkpoint, and .* one file\. Give `output` the name of a directory",
        ),
    ],
)
def test_a_name_that_does_not_go_with_the_structure(tmp_path, like, output, message):
    torch.save({"w": torch.ones(500), "v": torch.ones(500)}, tmp_path / "1.pt")
    plan = plan_of(tmp_path / "1.pt")
    average(plan, tmp_path / "1.safetensors")
    average(plan, Target(path=tmp_path / "shards", max_shard_size=2000))

    with pytest.raises(UsageError, match=message):
        average_like([tmp_path / "1.pt"], tmp_path / like, tmp_path / output)


def test_options_that_exclude_each_other(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "1.pt")
    plan, like = plan_of(tmp_path / "1.pt"), Like(checkpoint=open_checkpoint(tmp_path / "1.pt"), key=None)

    with pytest.raises(UsageError, match="leave out `max_shard_size`"):
        average(plan, Target(path=tmp_path / "out", like=like, max_shard_size=5))
    with pytest.raises(
        UsageError, match=r"shards are written into a directory\. Give `output` the name of one, without \.pt"
    ):
        average(plan, Target(path=tmp_path / "out.pt", max_shard_size=5))
    with pytest.raises(UsageError, match="A directory is written with `max_shard_size`, or `like`"):
        average(plan, Target(path=tmp_path / "out"))
    with pytest.raises(UsageError, match=r"no checkpoint is called \.txt"):
        average(plan, Target(path=tmp_path / "out.txt", like=like))
