"""The three commands one after the other, and swa run."""

import json
import re
import zlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from support.commands import MODEL_AND_DATA


def test_the_three_commands(run_swa, run_folder, tmp_path):
    averaged = run_swa("average", "ckpts", "-o", "swa.safetensors")
    assert (averaged.exit_code, averaged.stderr) == (0, "")
    first, second, third = averaged.stdout.splitlines()
    assert first == "Averaged 6 checkpoints (ckpts/epoch-6.pt to ckpts/epoch-11.pt) into swa.safetensors."
    assert re.fullmatch(r"Read 2\.1 kB in \d+\.\d\d s \(.* [kM]B/s\) on cpu; peak memory [\d.]+ [MG]B\.", second)
    assert third == "Its BatchNorm statistics are still averages: recompute them with swa-bn-update."
    before = load_file(tmp_path / "swa.safetensors")

    updated = run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA)
    assert (updated.exit_code, updated.stderr) == (0, "")
    assert "1 BatchNorm layer from 90 samples in 3 batches" in updated.stdout
    after = load_file(tmp_path / "swa.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    with safe_open(tmp_path / "swa.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["swa_cli"])
    assert (record["bn_statistics"], record["n_averaged"]) == ("recomputed", 6)
    update = record["bn_update"]
    assert (update["model"], update["data"]) == ("mycode.py:Net", "mycode.py:Data")
    assert (update["n_samples"], update["n_batches"], update["unreached"]) == (90, 3, [])
    assert update["tensors"] == {
        name: zlib.crc32(after[name].numpy().tobytes())
        for name in ("bn.num_batches_tracked", "bn.running_mean", "bn.running_var")
    }

    evaluated = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--compare-ensemble")
    assert (evaluated.exit_code, evaluated.stderr) == (0, "")
    rows = ["epoch-6.pt", "epoch-11.pt", "mean over checkpoints", "last (epoch-11.pt)", "SWA (swa.safetensors)"]
    assert all(row in evaluated.stdout for row in [*rows, "ensemble of 6", "90 examples of the test split"])
    assert "SWA against the ensemble: accuracy" in evaluated.stdout


def test_one_configuration_carries_all_and_flags_go_over_it(run_swa, run_folder, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: {class_path: mycode.py:Net}\n"
        "data: {class_path: mycode.py:Data}\n"
        "average: {sources: [ckpts], output: swa.safetensors, last: 3}\n"
        "bn_update: {output: updated.safetensors}\n"
        "eval: {compare_ensemble: true, json: result.json}\n"
    )
    whole = run_swa("run", "--config", "run.yaml")
    assert (whole.exit_code, whole.stderr) == (0, "")
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in result["candidates"]][:4] == [
        "updated.safetensors",
        "epoch-9.pt",
        "epoch-10.pt",
        "epoch-11.pt",
    ]

    steps = [
        run_swa("average", "--config", "run.yaml", "--force"),
        run_swa("bn-update", "--config", "run.yaml", "-o", "again.safetensors"),
        run_swa("eval", "--config", "run.yaml", "--json", "steps.json", "--swa", "again.safetensors"),
    ]
    assert [step.exit_code for step in steps] == [0, 0, 0]
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "updated.safetensors").read_bytes()
    by_steps = json.loads((tmp_path / "steps.json").read_text())
    assert [row["metrics"] for row in by_steps["candidates"]] == [row["metrics"] for row in result["candidates"]]


@pytest.mark.parametrize(
    "setting",
    [
        "average: {dry_run: true}",
        "bn_update: {input: x}",
        "eval: {swa: x}",
        "eval: {checkpoints: [x]}",
        "eval: {every: 2}",
        "eval: {include: ['*']}",
    ],
)
def test_run_refuses_what_it_would_ignore(run_swa, run_folder, tmp_path, setting):
    section = setting.partition(":")[0]
    others = "average: {sources: [ckpts], output: swa.safetensors}\n" if section != "average" else ""
    (tmp_path / "run.yaml").write_text(f"model: mycode.py:Net\ndata: mycode.py:Data\n{others}{setting}\n")

    result = run_swa("run", "--config", "run.yaml")

    assert result.exit_code == 2
    assert "is set, but swa run passes on what each step gave" in result.stderr
    assert not (tmp_path / "swa.safetensors").exists()


def test_run_finds_a_bad_json_path_before_it_works(run_swa, run_folder, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: mycode.py:Net\ndata: mycode.py:Data\n"
        "average: {sources: [ckpts], output: swa.safetensors}\neval: {json: nowhere/x.json}\n"
    )
    result = run_swa("run", "--config", "run.yaml")

    assert "there is no directory nowhere" in result.stderr
    assert not (tmp_path / "swa.safetensors").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("bn_update: {output: taken.safetensors}", "taken.safetensors exists already"),
        ("model: mycode.py:Nat", "has no 'Nat'. Did you mean"),
        ("task: mycode.py:Net", "the task is a Net, expected an object with scores(output, target)"),
        ("eval: {metrics: {f1: {class_path: mycode.py:F1}}}", "mycode.py has no 'F1'"),
    ],
)
def test_run_looks_at_what_the_later_steps_need_first(run_swa, run_folder, tmp_path, lines, message):
    (tmp_path / "taken.safetensors").write_bytes(b"")
    model = "" if "model" in lines else "model: mycode.py:Net\n"
    (tmp_path / "run.yaml").write_text(
        f"{model}data: mycode.py:Data\naverage: {{sources: ckpts, output: swa.safetensors}}\n{lines}\n"
    )

    result = run_swa("run", "--config", "run.yaml")

    assert message in result.stderr
    assert result.exit_code == 1
    assert not (tmp_path / "swa.safetensors").exists()


def test_model_and_data_arguments_are_read_as_yaml(run_swa, run_folder):
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    result = run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA, "--data-arg", "n=64", "--num-batches", 1)

    assert "from 32 samples in 1 batch." in result.stdout
