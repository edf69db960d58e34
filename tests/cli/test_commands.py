"""The commands as a user runs them: exit code, standard output and standard error."""

import os
from pathlib import Path

import pytest
import torch

from support.commands import MODEL, MODEL_AND_DATA, not_finite


@pytest.mark.parametrize("name", ["e[red]-1.pt", "e:100:-1.pt", "sp ace\n-1.pt", os.fsdecode(b"caf\xe9-1.pt")])
def test_odd_file_names_are_shown_as_they_are(run_swa, run_folder, tmp_path, name):
    (run_folder / "epoch-6.pt").rename(run_folder / name)
    shown = name.encode(errors="backslashreplace").decode()

    plan = run_swa("average", "ckpts", "-o", "swa.safetensors", "--dry-run")
    averaged = run_swa("average", "ckpts", "-o", "swa.safetensors")
    evaluated = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA)

    assert (plan.exit_code, averaged.exit_code, evaluated.exit_code) == (0, 0, 0)
    if "\n" not in name:
        assert shown in plan.stdout
        assert f"ckpts/{shown} to ckpts/epoch-11.pt" in averaged.stdout
        assert shown in evaluated.stdout


def break_nothing(folder: Path) -> None:
    del folder


def truncate(folder: Path) -> None:
    path = folder / "epoch-8.pt"
    path.write_bytes(path.read_bytes()[:1000])


def empty(folder: Path) -> None:
    (folder / "epoch-8.pt").write_bytes(b"")


def drop_key(folder: Path) -> None:
    state = torch.load(folder / "epoch-8.pt", weights_only=True)
    del state["state_dict"]["head.bias"]
    torch.save(state, folder / "epoch-8.pt")


def reshape(folder: Path) -> None:
    state = torch.load(folder / "epoch-8.pt", weights_only=True)
    state["state_dict"]["head.bias"] = torch.zeros(7)
    torch.save(state, folder / "epoch-8.pt")


def without_checkpoints(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def without_steps(folder):
    for number, path in enumerate(sorted(folder.glob("*.pt"))):
        contents = torch.load(path)
        torch.save(contents["state_dict"], folder / f"{'abcdef'[number]}.pt")
        path.unlink()


AVERAGE = ("average", "ckpts", "-o", "new.safetensors")


UPDATE = ("bn-update", "swa.safetensors", "-o", "new.safetensors")


EVAL = ("eval", "ckpts", "--swa", "swa.safetensors", "--json", "new.json")


DATA = ("--data", "mycode.py:Data")


BAD_INPUT = {
    "no such directory": (
        break_nothing,
        ("average", "gone", "-o", "new.safetensors"),
        1,
        "no such file or directory: gone",
    ),
    "no checkpoints": (without_checkpoints, AVERAGE, 1, "no checkpoints in ckpts"),
    "truncated": (truncate, AVERAGE, 1, "ckpts/epoch-8.pt: not a whole torch checkpoint"),
    "empty": (empty, AVERAGE, 1, "ckpts/epoch-8.pt: the file is empty"),
    "key": (
        drop_key,
        AVERAGE,
        1,
        "ckpts/epoch-8.pt: head.bias: expected float32 [4] as in epoch-6.pt, found no such tensor",
    ),
    "shape": (
        reshape,
        AVERAGE,
        1,
        "ckpts/epoch-8.pt: head.bias: expected float32 [4] as in epoch-6.pt, found float32 [7]",
    ),
    "nan": (not_finite, AVERAGE, 1, "ckpts/epoch-8.pt: tensor head.bias holds nan at index [2]"),
    "last": (break_nothing, (*AVERAGE, "--last", "9"), 1, "--last 9: there are only 6 checkpoints in ckpts"),
    "first and last": (break_nothing, (*AVERAGE, "--last", "3", "--first", "3"), 2, "exclude each other"),
    "from and to": (break_nothing, (*AVERAGE, "--from", "9", "--to", "8"), 2, "--from 9 --to 8: the first is greater"),
    "no such steps": (
        break_nothing,
        (*AVERAGE, "--from", "12"),
        1,
        "--from 12: no checkpoint in ckpts is in that range; the steps (epoch) are 6 to 11.",
    ),
    "no steps": (without_steps, (*AVERAGE, "--last", "2"), 1, "--last 2: no steps could be told apart"),
    "metric": (
        break_nothing,
        (*AVERAGE, "--best", "2", "--metric", "acc", "--mode", "max"),
        2,
        "--metric acc: no file has a metric of this name. The files have none",
    ),
    "mode": (break_nothing, (*AVERAGE, "--best", "2", "--metric", "acc"), 2, "--best 2 needs --mode:"),
    "nothing included": (
        break_nothing,
        (*AVERAGE, "--include", "x*"),
        1,
        "none of the 6 files in ckpts is left after --include 'x*'. The first is epoch-6.pt.",
    ),
    "no folder": (break_nothing, ("average", "ckpts", "-o", "no/new.safetensors"), 1, "there is no directory no"),
    "suffix": (
        break_nothing,
        ("average", "ckpts", "-o", "new"),
        2,
        "new: give the output a name ending in .safetensors",
    ),
    "exists": (break_nothing, ("average", "ckpts", "-o", "swa.safetensors"), 1, "swa.safetensors exists already"),
    "no output": (break_nothing, ("average", "ckpts"), 2, "no output given: name it with --output swa.safetensors"),
    "no sources": (
        break_nothing,
        ("average", "-o", "new.safetensors"),
        2,
        "no checkpoints given: name it with SOURCES",
    ),
    "device": (break_nothing, (*AVERAGE, "--device", "tpu"), 2, "unknown device 'tpu'"),
    "gpu": (break_nothing, (*AVERAGE, "--device", "cuda:99"), 1, "device cuda:99 is not there"),
    "option": (break_nothing, (*AVERAGE, "--outptu", "x"), 2, "No such option: --outptu"),
    "config": (break_nothing, (*AVERAGE, "--config", "gone.yaml"), 2, "cannot read the configuration gone.yaml"),
    "argument": (break_nothing, (*UPDATE, *MODEL, *DATA, "--model-arg", "width"), 2, "expected key=value"),
    "model missing": (break_nothing, (*UPDATE, *DATA), 2, "no model given: name it with --model file.py:Name"),
    "model keys": (
        break_nothing,
        (*UPDATE, "--model", "mycode.py:Plain", *DATA),
        1,
        "2 missing from the file:\n  weight\n  bias",
    ),
    "model shapes": (
        break_nothing,
        (*UPDATE, *MODEL, *DATA, "--model-arg", "classes=9"),
        1,
        "head.weight: the model has [9, 6], the file [4, 6]",
    ),
    "model fails": (break_nothing, (*UPDATE, *MODEL, *DATA, "--model-arg", "depth=2"), 1, "failed: TypeError"),
    "no loader": (
        break_nothing,
        (*UPDATE, *MODEL, "--data", "mycode.py:NoTrain"),
        1,
        "NoTrain has no train_dataloader()",
    ),
    "empty loader": (break_nothing, (*UPDATE, *MODEL, "--data", "mycode.py:Empty"), 1, "the data loader is empty"),
    "nan batch": (
        break_nothing,
        (*UPDATE, *MODEL, "--data", "mycode.py:Bad"),
        1,
        "batch 2: the batch itself holds NaN",
    ),
    "loader raises": (
        break_nothing,
        (*UPDATE, *MODEL, "--data", "mycode.py:Raises"),
        1,
        "loading batch 1 failed: OSError: disk gone",
    ),
    "not a checkpoint": (
        break_nothing,
        ("bn-update", "mycode.py", "-o", "new.safetensors", *MODEL, *DATA),
        1,
        "mycode.py: neither safetensors",
    ),
    "labels": (
        break_nothing,
        (*EVAL, *MODEL, *DATA, "--data-arg", "highest=8"),
        1,
        "is out of range, expected 0 to 3, since the model has 4 logits",
    ),
    "no split": (break_nothing, (*EVAL, *MODEL, *DATA, "--split", "val"), 1, "Data has no val_dataloader()"),
    "empty test": (break_nothing, (*EVAL, *MODEL, "--data", "mycode.py:Empty"), 1, "the data loader is empty"),
    "test raises": (break_nothing, (*EVAL, *MODEL, "--data", "mycode.py:Raises"), 1, "loading batch 1 failed: OSError"),
    "member missing": (drop_key, (*EVAL, *MODEL, *DATA), 1, "ckpts/epoch-8.pt does not fit the model Net"),
    "member nan": (not_finite, (*EVAL, *MODEL, *DATA), 1, "epoch-8.pt, batch 0: the model's output holds NaN"),
    "no swa": (
        break_nothing,
        ("eval", "ckpts", "--swa", "gone.safetensors", *MODEL, *DATA),
        1,
        "gone.safetensors: cannot be read",
    ),
    "json name": (
        break_nothing,
        (*EVAL[:4], *MODEL, *DATA, "--json", "swa.safetensors"),
        2,
        "the name of a checkpoint",
    ),
    "json nowhere": (break_nothing, (*EVAL[:4], *MODEL, *DATA, "--json", "no/x.json"), 1, "there is no directory no"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_message_and_no_output(run_swa, run_folder, tmp_path, case):
    break_it, arguments, code, message = BAD_INPUT[case]
    assert run_swa("average", "ckpts", "-o", "swa.safetensors").exit_code == 0
    swa = (tmp_path / "swa.safetensors").read_bytes()
    break_it(run_folder)
    before = sorted(tmp_path.rglob("*"))

    result = run_swa(*arguments)

    assert message in result.stderr
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    made = [path for path in sorted(tmp_path.rglob("*")) if path not in before and "__pycache__" not in path.parts]
    assert made == []
    assert (tmp_path / "swa.safetensors").read_bytes() == swa


def test_names_do_not_steer_the_terminal(run_swa, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "1.pt")
    torch.save({"v\x1b[31m": torch.ones(1)}, tmp_path / "2.pt")

    result = run_swa("average", "1.pt", "2.pt", "-o", "out.pt")

    assert result.exit_code == 1
    assert "v\\x1b[31m" in result.stderr
    assert "\x1b" not in result.stderr
