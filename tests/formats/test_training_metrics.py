"""Metrics and steps, wherever trainers put them."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from support.containers import save
from swa_cli.checkpoints import Selection, find_checkpoints
from swa_cli.formats import open_checkpoint
from swa_cli.formats.training_metrics import metrics_in_name

WEIGHTS = {"w": torch.ones(2), "n": torch.tensor(3)}


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_numbers_tensors_and_numpy_s_are_metrics_and_counters_are_not(tmp_path, legacy):
    contents = {
        "state_dict": WEIGHTS,
        "epoch": torch.tensor(7),
        "iteration": 70.0,
        "step": 0.5,
        "global_step": np.int64(700),
        "metric": 0.5,
        "loss": torch.tensor(0.25),
        "acc": np.float64(0.75),
        "acc5": np.float32(0.5),
        "half": torch.tensor([0.125], dtype=torch.bfloat16),
        "count": 3,
        "flag": True,
        "name": "x",
        "vector": torch.ones(2),
        "best_acc1": 99.0,
        "lr": 0.1,
        "version": 2,
    }
    save(contents, tmp_path / "x.pt", legacy=legacy)

    checkpoint = open_checkpoint(tmp_path / "x.pt")

    assert checkpoint.counters == {"epoch": 7, "global_step": 700, "iteration": 70}
    assert checkpoint.metrics == {"metric": 0.5, "loss": 0.25, "acc": 0.75, "acc5": 0.5, "half": 0.125, "count": 3.0}


def test_metrics_in_a_mapping_of_their_own_and_counters_under_meta(tmp_path):
    torch.save(
        {
            "state_dict": WEIGHTS,
            "metrics": {"val_loss": 0.5, "acc": torch.tensor(0.25), "lr": 1.0, "epoch": 9},
            "acc": 0.125,
            "meta": {"epoch": 4, "iter": 400},
        },
        tmp_path / "x.pth",
    )

    checkpoint = open_checkpoint(tmp_path / "x.pth")

    assert checkpoint.metrics == {"val_loss": 0.5, "acc": 0.125}
    assert checkpoint.counters == {"epoch": 4, "iter": 400}


def test_tensors_of_a_bare_state_dict_are_no_metrics(tmp_path):
    torch.save({**WEIGHTS, "scale": torch.tensor(2.0), "step": torch.tensor(5), "acc": 0.5}, tmp_path / "x.pt")

    checkpoint = open_checkpoint(tmp_path / "x.pt")

    assert (checkpoint.metrics, checkpoint.counters) == ({"acc": 0.5}, {})


def test_safetensors_metadata_that_read_as_numbers(tmp_path):
    metadata = {"step": "12", "acc": "0.5", "loss": " 1e-2", "bad": "nan", "format": "pt", "note": "12 epochs"}
    save_file(WEIGHTS, tmp_path / "x.safetensors", metadata)

    checkpoint = open_checkpoint(tmp_path / "x.safetensors")

    assert checkpoint.counters == {"step": 12}
    assert {name: value for name, value in checkpoint.metrics.items() if name != "bad"} == {"acc": 0.5, "loss": 0.01}
    assert math.isnan(checkpoint.metrics["bad"])


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("epoch=3-val_loss=0.21.ckpt", {"val_loss": 0.21}),
        ("epoch=3-val_loss=0.21-v1.ckpt", {"val_loss": 0.21}),
        ("epoch=3-step=30-val_acc=1-loss=-2.5e-3.ckpt", {"val_acc": 1.0, "loss": -0.0025}),
        ("checkpoint.best_loss_3.21.pt", {"loss": 3.21}),
        ("checkpoint.best_bleu_31.75.pt", {"bleu": 31.75}),
        ("model_best.pth.tar", {}),
        ("epoch-3.pt", {}),
        ("epoch=3.ckpt", {}),
        ("a=b.pt", {}),
    ],
)
def test_the_metrics_in_a_name(name, metrics):
    assert metrics_in_name(Path(name)) == metrics


def test_contents_go_before_names(tmp_path):
    torch.save({"state_dict": WEIGHTS, "val_loss": 0.2149}, tmp_path / "epoch=3-val_loss=0.21-acc=0.5.ckpt")

    assert open_checkpoint(tmp_path / "epoch=3-val_loss=0.21-acc=0.5.ckpt").metrics == {"val_loss": 0.2149, "acc": 0.5}


def callback(monitor: str, current: float, files: dict[str, float]) -> dict:
    scores = {f"/elsewhere/{name}": torch.tensor(score) for name, score in files.items()}
    return {"monitor": monitor, "current_score": torch.tensor(current), "best_k_models": scores}


def test_a_callback_of_lightning_is_believed_about_this_file_only(tmp_path):
    """Of two callbacks one may not have seen this epoch's score yet when the other saves."""
    one = {"ModelCheckpoint{'monitor': 'loss'}": callback("loss", 0.5, {"a.ckpt": 0.25})}
    two = {**one, "ModelCheckpoint{'monitor': 'acc'}": callback("acc", 0.75, {"other.ckpt": 0.75})}
    for name, callbacks in {"a.ckpt": one, "b.ckpt": one, "two.ckpt": two}.items():
        torch.save({"state_dict": WEIGHTS, "callbacks": callbacks}, tmp_path / name)
    (tmp_path / "two.ckpt").rename(tmp_path / "copy.ckpt")

    assert open_checkpoint(tmp_path / "a.ckpt").metrics == {"loss": 0.25}
    assert open_checkpoint(tmp_path / "b.ckpt").metrics == {"loss": 0.5}
    assert open_checkpoint(tmp_path / "copy.ckpt").metrics == {}


def test_the_trainer_s_state_beside_the_weights_gives_step_and_metrics(tmp_path):
    for step in (9, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": torch.full((2,), float(step))}, folder / "model.safetensors", {"format": "pt"})
        history = [
            {"step": at, "epoch": 1.0, "eval_loss": at / 100, "eval_runtime": 3.0, "learning_rate": 0.1}
            for at in (9, 10)
        ]
        history.insert(0, {"step": step, "loss": 0.5, "grad_norm": 2.0})
        state = {"global_step": step, "epoch": 1.0, "log_history": history}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        torch.save({"state_dict": WEIGHTS, "epoch": step}, folder / "mine.pt")

    files = find_checkpoints([tmp_path / "*" / "model.safetensors"]).members

    assert [file.step for file in files] == [9, 10]
    assert [file.metrics for file in files] == [{"loss": 0.5, "eval_loss": 0.09}, {"loss": 0.5, "eval_loss": 0.1}]
    assert open_checkpoint(tmp_path / "checkpoint-9" / "mine.pt").counters == {"epoch": 9}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"global_step": "x"}', '{"global_step": 4, "log_history": [3, {"step": 4}]}']
)
def test_a_trainer_s_state_of_another_kind_does_no_harm(tmp_path, text):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(text)

    assert open_checkpoint(tmp_path / "model.safetensors").metrics == {}


def test_what_looks_saved_before_training_is_said(tmp_path):
    states = {0: {}, 1: {0: {"momentum_buffer": torch.ones(1)}}, 2: {0: {"momentum_buffer": torch.ones(1)}}}
    for step, state in states.items():
        optimizer = {"state": state, "param_groups": [{"lr": 0.1}]}
        weights = {"w": torch.full((1,), float(step))}
        torch.save({"state_dict": weights, "global_step": step, "optimizer": optimizer}, tmp_path / f"{step}.pt")

    whole, later = find_checkpoints([tmp_path]), find_checkpoints([tmp_path / "[12].pt"])

    (notice,) = whole.notices
    assert notice == (
        f"saved before training, it seems (step 0; an empty optimizer, where others' is not): {tmp_path}/0.pt. Leave "
        "out with `exclude` if so."
    )
    assert later.notices == ()


@pytest.mark.parametrize("optimizers", [[{"state": {}}], {"a": {"state": {}}}, {"state": {}}])
def test_an_optimizer_that_never_has_a_state_says_nothing(tmp_path, optimizers):
    for step in (1, 2):
        torch.save(
            {"state_dict": {"w": torch.randn(1)}, "epoch": step, "optimizer_states": optimizers},
            tmp_path / f"{step}.pt",
        )

    run = find_checkpoints([tmp_path])

    assert [file.optimizer_is_empty for file in run.checkpoints] == [True, True]
    assert run.notices == ()


def test_what_the_name_of_a_copy_says_is_said_of_the_file_too(tmp_path):
    """As fairseq names the best ones once more."""
    for epoch, loss in ((1, 3.5), (2, 3.25), (3, 3.75)):
        torch.save({"model": {"w": torch.tensor([loss])}}, tmp_path / f"checkpoint{epoch}.pt")
        if epoch != 2:
            shutil.copy(tmp_path / f"checkpoint{epoch}.pt", tmp_path / f"checkpoint.best_loss_{loss:.2f}.pt")
    os.link(tmp_path / "checkpoint2.pt", tmp_path / "checkpoint.best_loss_3.25.pt")

    run = find_checkpoints([tmp_path], selection=Selection(best=2, metric="loss", mode="min"))

    assert [(member.path.name, member.metrics) for member in run.members] == [
        ("checkpoint1.pt", {"loss": 3.5}),
        ("checkpoint2.pt", {"loss": 3.25}),
    ]


def test_a_counter_that_nobody_counted_is_no_sign_of_an_untrained_file(tmp_path):
    for epoch in (1, 2):
        torch.save({"state_dict": {"w": torch.randn(1)}, "global_step": 0}, tmp_path / f"{epoch}.pt")
    torch.save({"state_dict": {"w": torch.randn(1)}, "global_step": 0}, tmp_path / "only.ckpt")

    assert find_checkpoints([tmp_path / "[12].pt"]).notices == ()
    (notice,) = find_checkpoints([tmp_path / "only.ckpt"]).notices
    assert notice.startswith("saved before training, it seems (step 0):")


def test_numbers_that_cannot_be_read_are_no_metrics(tmp_path):
    sparse = torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (1,), check_invariants=True)
    contents = {"state_dict": WEIGHTS, "sparse": sparse, "complex": torch.tensor(1j), "acc": torch.tensor(0.5)}
    torch.save({**contents, "other": np.str_("x"), "huge": 1 << 200, "date": np.datetime64(5, "D")}, tmp_path / "x.pt")

    assert open_checkpoint(tmp_path / "x.pt").metrics == {"acc": 0.5}
