"""Files of one step that are parts of a checkpoint, or different networks, are refused; whole checkpoints are not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swa_cli.checkpoints import Selection, find_checkpoints, inspect_checkpoints
from swa_cli.errors import SourceError


def save(folder: Path, names, **counters: int) -> Path:
    """Different weights of one shape under each name, as the halves of a split matrix have."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"w": torch.randn(4, 8)}
        if name.endswith(".safetensors"):
            save_file(state, path)
        else:
            torch.save({"state_dict": state, **counters}, path)
    return folder


PARTS = {
    "fsdp": (["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"], "verl: python -m verl.model_merger"),
    "llama": (["consolidated.00.pth", "consolidated.01.pth"], "convert_llama_weights_to_hf.py"),
    "megatron": (
        ["iter_0000100/mp_rank_00/model_optim_rng.pt", "iter_0000100/mp_rank_01/model_optim_rng.pt"],
        "Megatron-LM: tools/checkpoint/convert.py",
    ),
    "pipeline": (["mp_rank_00_000/model.pt", "mp_rank_00_001/model.pt"], None),
    "deepspeed": (
        ["global_step5/mp_rank_00_model_states.pt", "global_step5/mp_rank_01_model_states.pt"],
        "zero_to_fp32.py",
    ),
    "layers": (["layer_01-model_states.pt", "layer_02-model_states.pt"], "pipeline-parallel"),
    "dcp as Hugging Face": (
        ["shard-00001-model-00001-of-00001.safetensors", "shard-00002-model-00001-of-00001.safetensors"],
        "consolidate_safetensors_files",
    ),
    "shards": (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], r"\*\.index\.json"),
    "shards of torch": (["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"], r"\*\.index\.json"),
    "torchtune": (["hf_model_0001_3.pt", "hf_model_0002_3.pt"], "shards of one checkpoint"),
    "composer": (["ep1-ba5-rank0.pt", "ep1-ba5-rank1.pt"], r"`include='ep\*-ba\*-rank0\.pt'`"),
    "fairseq": (["checkpoint_best-shard0.pt", "checkpoint_best-shard1.pt"], "parts of one checkpoint"),
    "folders of ranks": (["rank_0/step_7.pt", "rank_1/step_7.pt"], r"`include='rank_0'`"),
    "several steps": (["step_1/rank_0.pt", "step_1/rank_1.pt", "step_2/rank_0.pt", "step_2/rank_1.pt"], "rank_0"),
    "several steps of several ranks": (
        [f"iter_000{step}/mp_rank_0{rank}/model.pt" for step in (1, 2) for rank in (0, 1)],
        "model-parallel parts",
    ),
    "ranks that stopped": (["stop_rank_0.pt", "stop_rank_1.pt"], "written by each rank"),
    "ranks of the best": (["best_step_5_rank0.pt", "best_step_5_rank1.pt"], "written by each rank"),
    "ranks of zero": (["zero_pp_rank_0_mp_rank_00_model.pt", "zero_pp_rank_1_mp_rank_00_model.pt"], "model-parallel"),
    "part of": (["part-1-of-2.pt", "part-2-of-2.pt"], "parts of one checkpoint"),
    "gan": (["net_g_100.pth", "net_d_100.pth"], r"different networks.*`include='net_g_\*\.pth'`|net_d_"),
    "cycle": (["5_net_G_A.pth", "5_net_G_B.pth", "10_net_G_A.pth", "10_net_G_B.pth"], r"`include='\*_net_G_A\.pth'`"),
    "camel": (["netG_5.pth", "netD_5.pth"], "different networks"),
    "vocoder": (["G_1000.pth", "D_1000.pth"], "Average each network by itself"),
    "roles": (["generator.pt", "discriminator.pt"], "different networks"),
    "encoders": (["encoder-epoch3.pt", "decoder-epoch3.pt"], "different networks"),
}


@pytest.mark.parametrize("layout", PARTS)
def test_parts_of_one_checkpoint_are_refused_by_name(tmp_path, layout):
    parts, advice = PARTS[layout]
    save(tmp_path / "run", parts)

    with pytest.raises(
        SourceError, match=r"(?s)by their names, these files are .*their mean would mean nothing"
    ) as error:
        find_checkpoints([tmp_path / "run"])

    said = str(error.value)
    assert all(str(tmp_path / "run" / part) in said for part in parts)
    assert advice is None or error.match(advice)


LONE = {
    "a shard": ["model-00002-of-00003.safetensors"],
    "a shard of torch": ["pytorch_model-00001-of-00002.bin"],
    "a shard at two steps": [f"checkpoint-{step}/model-00001-of-00002.safetensors" for step in (5, 10)],
    "a rank": ["model_world_size_4_rank_1.pt"],
    "a part": ["part-1-of-12.pt"],
}


@pytest.mark.parametrize("layout", LONE)
def test_some_of_several_parts_are_refused_like_all_of_them(tmp_path, layout):
    save(tmp_path, LONE[layout])

    with pytest.raises(SourceError, match=r"the others are not here; the average would lack their tensors") as error:
        find_checkpoints([tmp_path / name for name in LONE[layout]])

    assert all(str(tmp_path / name) in str(error.value) for name in LONE[layout])


@pytest.mark.parametrize(
    "name", ["model-00001-of-00001.safetensors", "model_world_size_1_rank_0.pt", "shard1of1.pt", "epoch_3_of_10.pt"]
)
def test_the_only_part_is_a_checkpoint(tmp_path, name):
    save(tmp_path, [name])

    assert len(find_checkpoints([tmp_path]).checkpoints) == 1


@pytest.mark.parametrize(
    ("names", "step"),
    [
        (["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"], None),
        (["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"], None),
        (["model-00002-of-00003.safetensors"], None),
        (["checkpoint-7/model-00001-of-00002.bin", "checkpoint-7/model-00002-of-00002.bin"], 7),
        (["ep5-rank0.pt", "ep5-rank1.pt"], 5),
    ],
)
def test_the_number_of_a_part_is_no_step(tmp_path, names, step):
    survey = inspect_checkpoints([save(tmp_path / "run", names)]).survey

    assert survey.parts
    assert [member.step for member in survey.order.members] == [step] * len(names)
    assert survey.order.by == ("name" if step is None else "number in the name")


def test_the_parts_of_one_rank_can_be_averaged_by_themselves(tmp_path):
    names = [f"ep{epoch}-ba{epoch * 10}-rank{rank}.pt" for epoch in (1, 2) for rank in (0, 1)]
    save(tmp_path, names)

    run = find_checkpoints([tmp_path], selection=Selection(include=("ep*-ba*-rank0.pt",)))

    assert [checkpoint.path.name for checkpoint in run.checkpoints] == ["ep1-ba10-rank0.pt", "ep2-ba20-rank0.pt"]


WHOLE = {
    "epochs with steps": [f"epoch_1_step_{step}.pt" for step in (5, 10)],
    "folders of epochs": [f"epoch_{epoch}_step_5/model.pt" for epoch in (1, 2)],
    "lightning": ["epoch=1-step=5.ckpt", "epoch=1-step=10.ckpt", "epoch=1-step=10-v1.ckpt", "last.ckpt"],
    "hugging face": [f"checkpoint-{step}/model.safetensors" for step in (500, 1000)],
    "timm": ["checkpoint-3.pth.tar", "recovery-3-100.pth.tar", "model_best.pth.tar", "last.pth.tar"],
    "raw and EMA": ["model_1000.pt", "ema_1000.pt", "model_2000.pt", "ema_2000.pt"],
    "guided diffusion": ["model001000.pt", "ema_0.9999_001000.pt", "ema_0.999_001000.pt"],
    "seeds": [f"seed{seed}_epoch5.pt" for seed in range(3)],
    "folds": [f"fold_{fold}_of_5.pt" for fold in range(1, 6)],
    "steps of so many": [f"epoch_{epoch}_of_10.pt" for epoch in range(1, 4)],
    "one rank": ["ep1-ba5-rank0.pt", "ep2-ba10-rank0.pt"],
    "places among the best": [f"top_rank{place}_acc.pth" for place in range(1, 6)],
    "places among the best, without the metric": [f"top-rank-{place}.pth" for place in range(1, 6)],
    "places among the best of an epoch": [f"epoch5_best_rank_{place}.pt" for place in range(3)],
    "rank of LoRA": ["lora-rank8-step5.pt", "lora-rank16-step5.pt"],
    "shards of data one after the other": [f"after_shard_{n}.pt" for n in range(3)],
    "iterations of one epoch": ["model_ep1_it500.pt", "model_ep1_it1000.pt"],
    "letters": ["run_a_5.pt", "run_b_5.pt", "model-d.pt", "frank3.pt", "frank4.pt"],
    "best by two metrics": ["best_acc_epoch5.pt", "best_loss_epoch5.pt"],
}


@pytest.mark.parametrize("layout", WHOLE)
def test_checkpoints_of_a_run_are_no_parts(tmp_path, layout):
    save(tmp_path, WHOLE[layout])

    assert len(find_checkpoints([tmp_path]).checkpoints) == len(WHOLE[layout])


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (WHOLE["seeds"], "seed0_epoch*.pt"),
        (WHOLE["folds"], "fold_1_of_*.pt"),
        (["fold0/best.pt", "fold1/best.pt", "fold2/best.pt"], "fold0"),
        (["model-seed=1.ckpt", "model-seed=2.ckpt"], "model-seed=1.ckpt"),
    ],
)
def test_folds_and_seeds_are_said(tmp_path, names, pattern):
    save(tmp_path, names)

    notices = find_checkpoints([tmp_path]).notices

    said = [notice for notice in notices if "models of different folds or seeds: " in notice]
    assert len(said) == 1
    assert said[0].endswith(f"from the same weights, average the checkpoints of one: `include='{pattern}'`.")
    assert all(name in said[0] for name in names)


def test_the_epochs_of_one_seed_are_none(tmp_path):
    save(tmp_path, [f"seed1_epoch{epoch}.pt" for epoch in range(3)])

    assert find_checkpoints([tmp_path]).notices == ()


def test_the_ranks_of_a_fold_are_parts(tmp_path):
    save(tmp_path, [f"fold{fold}-step5-rank{rank}.pt" for fold in (0, 1) for rank in (0, 1)])

    with pytest.raises(SourceError, match=r"written by each rank(?s:.*)`include='fold\*-step\*-rank0\.pt'`"):
        find_checkpoints([tmp_path])


def test_a_name_with_the_marks_of_ours_is_a_name_like_any(tmp_path):
    save(tmp_path, ["\ue007rank1.pt", "rank\ue007.pt", "\ue007rank2.pt", "\ue007\ue007.pt"])

    with pytest.raises(SourceError, match="written by each rank"):
        find_checkpoints([tmp_path])


@pytest.mark.parametrize("names", [["rank0.pt", "rank1.pt"], ["part_1.pt", "part_2.pt"], ["net_g.pt", "net_d.pt"]])
def test_files_that_say_different_steps_are_no_parts(tmp_path, names):
    for step, name in enumerate(names):
        save(tmp_path, [name], global_step=step)

    assert len(find_checkpoints([tmp_path]).checkpoints) == 2


def test_numbered_parts_without_a_step_are_parts_if_they_say_the_same_step(tmp_path):
    save(tmp_path, ["part_1.pt", "part_2.pt"], epoch=3)

    with pytest.raises(SourceError, match="parts of one checkpoint"):
        find_checkpoints([tmp_path])


def test_ranks_that_saved_the_same_weights_count_once(tmp_path):
    for rank in (0, 1):
        torch.save({"w": torch.ones(3)}, tmp_path / f"step1-rank{rank}.pt")

    assert len(find_checkpoints([tmp_path]).checkpoints) == 1


EMA = {
    "at the end": ([f"epoch_{n}.pt" for n in (3, 4)], [f"epoch_{n}_ema.pt" for n in (3, 4)], "*_ema.*"),
    "within": ([f"model_epoch_{n}.pth" for n in (3, 4)], [f"model_ema_epoch_{n}.pth" for n in (3, 4)], "*_ema_*"),
    "before": ([f"step-{n}.pt" for n in (3, 4)], [f"EMA-step-{n}.pt" for n in (3, 4)], "EMA-*"),
    "safetensors": (["a5.safetensors", "a6.safetensors"], ["a5.ema.safetensors", "a6_ema.safetensors"], "*ema*"),
    "a folder": ([f"step_{n}/model.pt" for n in (3, 4)], [f"step_{n}_ema/model.pt" for n in (3, 4)], "*_ema"),
    "one": (["schema_1.pt", "schema_2.pt"], ["schema_2_ema.pt"], "*_ema.*"),
}


@pytest.mark.parametrize("layout", EMA)
def test_raw_weights_and_their_ema_are_refused_and_each_can_be_chosen(tmp_path, layout):
    raw, ema, pattern = EMA[layout]
    save(tmp_path / "run", [*raw, *ema])

    with pytest.raises(SourceError, match="raw weights and an EMA of the same step") as error:
        find_checkpoints([tmp_path / "run"])
    without = find_checkpoints([tmp_path / "run"], selection=Selection(exclude=(pattern,)))
    only = find_checkpoints([tmp_path / "run"], selection=Selection(include=(pattern,)))

    said = f"`exclude='{pattern}'` for the raw weights, `include='{pattern}'` for the EMA."
    assert said in str(error.value)
    for found, names in ((without, raw), (only, ema)):
        assert {checkpoint.path for checkpoint in found.checkpoints} == {tmp_path / "run" / name for name in names}


@pytest.mark.parametrize(
    "names", [["epoch_3_ema.pt", "epoch_4_ema.pt"], ["epoch_3.pt", "epoch_4_ema.pt"], ["a.pt", "schema.pt", "aema.pt"]]
)
def test_ema_files_without_the_raw_ones_are_averaged(tmp_path, names):
    save(tmp_path, names)

    assert len(find_checkpoints([tmp_path]).checkpoints) == len(names)


def test_every_command_refuses_parts_and_inspect_shows_them(run_swa, tmp_path):
    save(tmp_path / "run", PARTS["fsdp"][0])

    averaged = run_swa("average", "run", "-o", "o.safetensors")
    dry = run_swa("average", "run", "--last", "1", "--dry-run")
    seen = run_swa("inspect", "run")
    picked = run_swa("inspect", "run", "--last", "1")

    assert [averaged.exit_code, dry.exit_code, seen.exit_code, picked.exit_code] == [1, 1, 0, 1]
    assert not (tmp_path / "o.safetensors").exists()
    assert all("rank_1.pt. Merge them" in result.stderr for result in (averaged, dry, seen, picked))
    assert "model_world_size_2_rank_1.pt" in seen.stdout
    assert "What each flag would pick" not in seen.stdout
