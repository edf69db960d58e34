"""swa-eval as a user runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import references
from support.commands import CODE, MODEL, MODEL_AND_DATA, Net
from swa_cli.formats import BnUpdate, open_checkpoint
from swa_cli.formats.provenance_text import read_provenance, to_metadata


def test_the_json_equals_an_independent_recomputation(run_swa, run_folder, tmp_path, monkeypatch):
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA)
    arguments = ("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--compare-ensemble")
    result = json.loads(run_swa(*arguments, "--json", "-").stdout)
    run_swa(*arguments, "--json", "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == result

    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(90, 5, generator=generator) + 2
    labels = torch.randint(0, 4, (90,), generator=generator).tolist()
    states = [torch.load(run_folder / f"epoch-{e}.pt", weights_only=True)["state_dict"] for e in range(6, 12)]
    log_probs = []
    for state in [*states, load_file(tmp_path / "swa.safetensors")]:
        model = Net().eval()
        model.load_state_dict(state)
        with torch.no_grad():
            log_probs.append(references.log_probs(model.double()(inputs.double()).tolist()))
    *of_members, of_swa = [references.scores(values, labels) for values in log_probs]

    header = {key: result[key] for key in ("schema_version", "task", "split", "n_examples")}
    assert header == {"schema_version": 1, "task": "classification", "split": "test", "n_examples": 90}
    swa, *rest = result["candidates"]
    checkpoints, (last, mean, averaged_bn, ensemble, geometric) = rest[:6], rest[6:]
    assert (averaged_bn["kind"], geometric["kind"]) == ("swa-averaged-bn", "geometric")
    assert (swa["name"], swa["kind"], swa["forward_passes"]) == ("swa.safetensors", "swa", 1)
    assert {name: swa["metrics"][name] for name in of_swa} == pytest.approx(of_swa, abs=1e-6)
    for epoch, row, expected in zip(range(6, 12), checkpoints, of_members, strict=True):
        assert (row["name"], row["kind"], row["step"], row["forward_passes"]) == (
            f"epoch-{epoch}.pt",
            "checkpoint",
            epoch,
            1,
        )
        assert {name: row["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (ensemble["name"], ensemble["kind"], ensemble["members"], ensemble["forward_passes"]) == (
        "ensemble",
        "ensemble",
        6,
        6,
    )
    expected = references.scores(references.ensemble(log_probs[:6]), labels)
    assert {name: ensemble["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (last["kind"], last["metrics"]) == ("last", checkpoints[-1]["metrics"])
    for metric in expected:
        assert mean["metrics"][metric] == pytest.approx(sum(row["metrics"][metric] for row in checkpoints) / 6)


def test_averaged_statistics_are_called_out_loudly(run_swa, run_folder):
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA)

    assert result.exit_code == 0
    assert "Run swa-bn-update first" in " ".join(result.stderr.split())


def put_update(path, **fields):
    """Put another record of recomputed statistics into an average."""
    record = read_provenance(open_checkpoint(path).metadata)
    assert record is not None
    update = {"model": "mycode.py:Net", "data": "mycode.py:Data", "n_samples": 90, "n_batches": 3} | fields
    changed = {"bn_statistics": "recomputed", "bn_update": BnUpdate.model_validate(update)}
    save_file(load_file(path), path, metadata=to_metadata(record.model_copy(update=changed)))


def test_the_evaluation_says_where_the_statistics_come_from(run_swa, run_folder, tmp_path):
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    arguments = ("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--json", "out.json")
    plain = run_swa(*arguments)
    assert "BatchNorm statistics of" not in plain.stdout
    assert json.loads((tmp_path / "out.json").read_text())["bn_update"] is None

    put_update(
        tmp_path / "swa.safetensors",
        seed=4,
        data_args={"n": 90},
        standard_error=0.05,
        kept={"bn": "frozen in training"},
    )
    result = run_swa(*arguments)

    assert (result.exit_code, result.stderr) == (0, "")
    line = (
        "BatchNorm statistics of swa.safetensors: population estimator, 90 samples in 3 batches of mycode.py:Data "
        "(n=90), seed 4, standard errors up to 5.0 %, 1 layer left alone (frozen in training)."
    )
    assert line in result.stdout.splitlines()
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["warnings"] == []
    assert found["bn_update"]["kept"] == {"bn": "frozen in training"}
    assert (found["bn_update"]["file"], found["bn_update"]["standard_error"]) == ("swa.safetensors", 0.05)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param(
            {"standard_error": 0.0513, "partial": True},
            "the BatchNorm statistics of swa.safetensors are from too little of the data, 90 samples: their standard "
            "errors are up to 5.13 %, expected 5 % or less. Run swa-bn-update on more.",
            id="too few samples",
        ),
        pytest.param(
            {"data": "mycode.py:Other"},
            "the BatchNorm statistics of swa.safetensors were recomputed on the data of mycode.py:Other, and the table "
            "is of those of mycode.py:Data: where the two prepare their inputs differently, the scores of the average "
            "are not what they could be. Give swa-bn-update and swa-eval the same --data.",
            id="other data",
        ),
        pytest.param(
            {"unreached": ["bn"]},
            "swa.safetensors: no batch reached the BatchNorm layers bn when the statistics were recomputed, and theirs "
            "are still averages.",
            id="unreached",
        ),
    ],
)
def test_statistics_that_are_not_what_they_could_be_are_called_out(run_swa, run_folder, tmp_path, fields, expected):
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    put_update(tmp_path / "swa.safetensors", **fields)

    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--json", "-")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["warnings"] == [expected]
    shown = re.sub(r"[│╭╮╰╯─\s]+", " ", result.stderr)
    assert expected in shown


@pytest.mark.parametrize(
    ("recorded", "is_another"),
    [
        ("mycode.py:Data", False),
        ("mycode.Data", False),
        ("experiments/first/mycode.py:Data", False),  # seen from another folder then
        ("copies/mycode.py:Data", True),  # there is one, and it is another
        ("mycode.py:NoTrain", True),
        ("yourcode.py:Data", True),
        ("x" * 300 + "/mycode.py:Data", False),
    ],
)
def test_the_same_data_module_may_be_named_otherwise(run_swa, run_folder, tmp_path, recorded, is_another):
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "mycode.py").write_text(CODE)
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    put_update(tmp_path / "swa.safetensors", data=recorded)

    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--json", "-")

    assert (
        any("recomputed on the data of" in warning for warning in json.loads(result.stdout)["warnings"]) is is_another
    )


def test_what_the_user_s_code_prints_does_not_spoil_the_result(run_swa, run_folder, tmp_path):
    (tmp_path / "loud.py").write_text(
        "from mycode import *\nclass Loud(Data):\n    def setup(self, stage): print('setting up')\n"
    )
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL, "--data", "loud.py:Loud", "--json", "-")

    assert json.loads(result.stdout)["n_examples"] == 90
    assert "setting up" in result.stderr


def test_members_that_the_average_is_not_of_are_called_out(run_swa, run_folder, tmp_path):
    run_swa("average", "ckpts", "-o", "ckpts/swa.safetensors", "--last", 3)
    run_swa("bn-update", "ckpts/swa.safetensors", *MODEL_AND_DATA)
    arguments = ("eval", "ckpts", "--swa", "ckpts/swa.safetensors", *MODEL_AND_DATA)

    others, same = run_swa(*arguments), run_swa(*arguments, "--last", 3)
    unknown = run_swa("eval", "ckpts/epoch-6.pt", "--swa", "ckpts/epoch-7.pt", *MODEL_AND_DATA)

    said = " ".join(others.stderr.replace("│", "").split())
    assert "the average of 3 checkpoints (epoch-9.pt to epoch-11.pt), the table is of 6 that are not the same" in said
    assert same.stderr == ""
    assert "has no swa-cli provenance; its sources are unknown" in " ".join(unknown.stderr.replace("│", "").split())


def test_the_evaluation_has_the_average_s_selection_unless_it_has_one(run_swa, run_folder, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "average: {sources: ckpts, output: swa.safetensors, include: ['*'], exclude: '*-11.pt', every: 2, last: 2}\n"
    )
    arguments = ("eval", "--config", "run.yaml", *MODEL_AND_DATA, "--json", "-")
    assert run_swa("average", "--config", "run.yaml").exit_code == 0

    def members(*flags: object) -> list[int]:
        candidates = json.loads(run_swa(*arguments, *flags).stdout)["candidates"]
        return [row["step"] for row in candidates if row["kind"] == "checkpoint"]

    assert members() == [8, 10]
    assert members("--last", 1) == [11]
    assert members("--from", 7, "--to", 8) == [7, 8]


def test_a_key_counts_for_the_swa_file_too(run_swa, run_folder, tmp_path):
    ema, raw = ({name: tensor.clone() for name, tensor in Net().state_dict().items()} for _ in range(2))
    for name in ("1.pt", "swa.pt"):
        torch.save({"state_dict": raw, "ema": ema, "epoch": 1}, tmp_path / name)

    result = run_swa("eval", "1.pt", "--swa", "swa.pt", "--key", "ema", *MODEL_AND_DATA, "--json", "-")

    swa, checkpoint = json.loads(result.stdout)["candidates"][:2]
    assert swa["metrics"] == checkpoint["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "eval"])
def test_a_terminal_that_fails_does_not_lose_the_json(run_folder, tmp_path, command):
    (tmp_path / "run.yaml").write_text(
        "model: mycode.py:Net\ndata: mycode.py:Data\naverage: {sources: ckpts, output: swa.safetensors, force: true}\n"
        "bn_update:\neval: {json: result.json}\n"
    )
    program = [sys.executable, "-m", "swa_cli"]
    subprocess.run([*program, "average", "--config", "run.yaml"], cwd=tmp_path, check=True, capture_output=True)

    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*program, command, "--config", "run.yaml"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert process.returncode == 1
    assert "No space left on device" in process.stderr
    assert "a bug" not in process.stderr
    assert json.loads((tmp_path / "result.json").read_text())["n_examples"] == 90


def test_a_pipe_that_closes_ends_quietly(run_folder, tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "swa_cli", "average", "ckpts", "--dry-run"]
    result = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)

    assert (result.returncode, result.stderr) == (141, "")


def test_an_average_of_other_weights_of_the_same_files_is_said(run_swa, run_folder):
    for path in run_folder.iterdir():
        contents = torch.load(path)
        torch.save(contents | {"ema": contents["state_dict"]}, path)
    assert run_swa("average", "ckpts", "--key", "ema", "-o", "swa.safetensors").exit_code == 0

    other = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA)
    same = run_swa("eval", "ckpts", "--swa", "swa.safetensors", "--key", "ema", *MODEL_AND_DATA)

    said = "is the average of the weights under ema, the table has those under the usual key"
    assert said in " ".join(other.stderr.replace("│", "").split())
    assert (same.exit_code, "it compares different weights" in same.stderr) == (0, False)
