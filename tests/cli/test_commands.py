"""The commands as a user runs them: exit code, standard output and standard error."""

import json
import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from support import references
from swa_cli.checkpoints import open_single
from swa_cli.formats import BnUpdate, open_checkpoint
from swa_cli.formats.provenance_text import read_provenance, to_metadata

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=6, classes=4):
        super().__init__()
        self.body = nn.Linear(5, width)
        self.bn = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, classes)
    def forward(self, x):
        return self.head(torch.relu(self.bn(self.body(x))))

class Plain(nn.Linear):
    def __init__(self):
        super().__init__(5, 4)

class Data:
    def __init__(self, n=90, highest=3):
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(n, 5, generator=generator) + 2
        self.y = torch.randint(0, highest + 1, (n,), generator=generator)
    def train_dataloader(self):
        return [(x, y) for x, y in zip(self.x.split(32), self.y.split(32))]
    def test_dataloader(self):
        return [(x, y) for x, y in zip(self.x.flip(0).split(40), self.y.flip(0).split(40))]

class NoTrain:
    def test_dataloader(self):
        return []

class Empty:
    def train_dataloader(self):
        return []
    test_dataloader = train_dataloader

class Bad(Data):
    def train_dataloader(self):
        self.x[70, 2] = float("nan")
        return super().train_dataloader()

class Raises(Data):
    def train_dataloader(self):
        yield self.x[:10], self.y[:10]
        raise OSError("disk gone")
    test_dataloader = train_dataloader
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.bn, self.head = nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.bn(self.body(x))))


@pytest.fixture
def run_folder(tmp_path):
    """A folder with a user's code and six checkpoints of a model with BatchNorm."""
    (tmp_path / "mycode.py").write_text(CODE)
    folder = tmp_path / "ckpts"
    folder.mkdir()
    model = Net()
    for epoch in range(6, 12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            for _ in range(30):
                model(torch.randn(50, 5) + 2)
        torch.save({"state_dict": model.state_dict(), "epoch": epoch}, folder / f"epoch-{epoch}.pt")
    return folder


MODEL_AND_DATA = ("--model", "mycode.py:Net", "--data", "mycode.py:Data")


def test_the_three_commands(run_swa, run_folder, tmp_path):
    averaged = run_swa("average", "ckpts", "-o", "swa.safetensors")
    assert (averaged.exit_code, averaged.stderr) == (0, "")
    first, second, third = averaged.stdout.splitlines()
    assert first == "Averaged 6 checkpoints (ckpts/epoch-6.pt to ckpts/epoch-11.pt) into swa.safetensors."
    assert re.fullmatch(r"Read 2\.1 kB in \d+\.\d\d s \(.* [kM]B/s\) on cpu; peak memory [\d.]+ [MG]B\.", second)
    assert third == "Its BatchNorm statistics are averages so far: recompute them with swa-bn-update."
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


def test_what_the_user_s_code_prints_does_not_spoil_the_result(run_swa, run_folder, tmp_path):
    (tmp_path / "loud.py").write_text(
        "from mycode import *\nclass Loud(Data):\n    def setup(self, stage): print('setting up')\n"
    )
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *NET, "--data", "loud.py:Loud", "--json", "-")

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
    assert "has no record of an average by swa-cli" in " ".join(unknown.stderr.replace("│", "").split())


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


def test_bn_update_gives_the_same_bytes_twice_though_the_loader_shuffles(run_swa, run_folder, tmp_path):
    (tmp_path / "shuffled.py").write_text(
        "from mycode import *\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "class Shuffled(Data):\n    def train_dataloader(self):\n"
        "        return DataLoader(TensorDataset(self.x, self.y), batch_size=20, shuffle=True)\n"
    )
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    for name in ("a", "b"):
        torch.rand(7)
        arguments = (*NET, "--data", "shuffled.py:Shuffled", "-o", f"{name}.safetensors")
        assert run_swa("bn-update", "swa.safetensors", *arguments).exit_code == 0

    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


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


def test_statistics_that_were_not_finite_can_be_recomputed(run_swa, run_folder):
    state = torch.load(run_folder / "epoch-8.pt", weights_only=True)
    state["state_dict"]["bn.running_var"][0] = float("inf")
    torch.save(state, run_folder / "epoch-8.pt")
    assert run_swa("average", "ckpts", "-o", "swa.safetensors", "--allow-nonfinite").exit_code == 0

    result = run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA)

    assert result.exit_code == 0
    assert "Wrote swa.safetensors." in result.stdout


def test_models_that_override_train_or_state_dict(run_swa, run_folder, tmp_path):
    (tmp_path / "odd.py").write_text(
        "from mycode import *\n"
        "class Silent(Net):\n"
        "    def train(self, mode=True):\n        super().train(mode)\n"
        "class Delegates(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = Net()\n"
        "    def forward(self, x):\n        return self.net(x)\n"
        "    def state_dict(self, *args, **kwargs):\n        return self.net.state_dict(*args, **kwargs)\n"
        "    def load_state_dict(self, *args, **kwargs):\n        return self.net.load_state_dict(*args, **kwargs)\n"
    )
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    for name in ("Silent", "Delegates"):
        model = ("--model", f"odd.py:{name}", "--data", "mycode.py:Data")
        assert run_swa("bn-update", "swa.safetensors", *model, "-o", f"{name}.safetensors").exit_code == 0
        assert run_swa("eval", "ckpts", "--swa", f"{name}.safetensors", *model).exit_code == 0
    run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA)

    plain = load_file(tmp_path / "swa.safetensors")
    for name in ("Silent", "Delegates"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(found[tensor], plain[tensor]) for tensor in plain)


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


def test_dry_run_prints_the_plan_and_writes_nothing(run_swa, run_folder, tmp_path):
    result = run_swa("average", "ckpts", "-o", "swa.safetensors", "--dry-run")

    assert (result.exit_code, result.stderr) == (0, "")
    assert "6 checkpoints, ordered by epoch" in result.stdout
    assert "8 tensors averaged in float64, rounded once" in result.stdout
    assert "1 tensor taken from the newest file" in result.stdout
    size = sum(t.nbytes for t in Net().state_dict().values())
    assert f"{(6 * (size - 8) + 8) / 1000:.1f} kB to read, {size} B to write" in result.stdout
    assert not (tmp_path / "swa.safetensors").exists()


def test_dry_run_needs_no_output_but_a_device_that_is_there(run_swa, run_folder):
    assert "6 checkpoints" in run_swa("average", "ckpts", "--dry-run").stdout
    assert run_swa("average", "ckpts", "--dry-run", "--device", "cuda:99").exit_code == 1


def test_model_and_data_arguments_are_read_as_yaml(run_swa, run_folder):
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    result = run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA, "--data-arg", "n=64", "--num-batches", 1)

    assert "from 32 samples in 1 batch." in result.stdout


def test_one_checkpoint_works_with_a_notice(run_swa, run_folder):
    result = run_swa("average", "ckpts/epoch-6.pt", "-o", "swa.safetensors")

    assert result.exit_code == 0
    assert result.stderr == "note: only one checkpoint (ckpts/epoch-6.pt): its average is itself.\n"


def test_a_model_without_batchnorm_has_nothing_to_do(run_swa, run_folder, tmp_path):
    model = nn.Linear(5, 4)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    run_swa("average", "plain.pt", "-o", "swa.safetensors")
    before = (tmp_path / "swa.safetensors").read_bytes()

    result = run_swa("bn-update", "swa.safetensors", "--model", "mycode.py:Plain", "--data", "mycode.py:Data")

    assert result.exit_code == 0
    assert "has no BatchNorm statistics: nothing to do" in result.stderr
    assert (tmp_path / "swa.safetensors").read_bytes() == before

    model = ("--model", "mycode.py:Plain", "--data", "mycode.py:Data")
    copied = run_swa("bn-update", "swa.safetensors", *model, "-o", "out.safetensors")
    assert copied.exit_code == 0
    assert "out.safetensors has the weights of swa.safetensors unchanged" in copied.stderr
    copy, original = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "swa.safetensors")
    assert all(torch.equal(copy[name], tensor) for name, tensor in original.items())


def test_bn_update_of_a_torch_checkpoint_needs_an_output(run_swa, run_folder, tmp_path):
    """The control that tells averaging from recalibration: the last checkpoint with recomputed statistics."""
    in_place = run_swa("bn-update", "ckpts/epoch-6.pt", *MODEL_AND_DATA)
    assert (in_place.exit_code, in_place.stdout) == (2, "")
    assert "was not written by swa-cli and is not replaced in place: add -o NAME.safetensors" in in_place.stderr

    result = run_swa("bn-update", "ckpts/epoch-6.pt", *MODEL_AND_DATA, "-o", "control.safetensors")
    assert result.exit_code == 0
    assert (tmp_path / "control.safetensors").exists()


class Code:
    def __reduce__(self):
        return (exec, ("open('pwned', 'w')",))


def test_a_checkpoint_that_wants_code_is_averaged_and_not_run(run_swa, run_folder, tmp_path):
    path = tmp_path / "ckpts" / "epoch-8.pt"
    torch.save({**torch.load(path, weights_only=True), "hook": Code()}, path)

    result = run_swa("average", "ckpts", "-o", "new.safetensors")

    assert (result.exit_code, result.stderr) == (0, "")
    assert not (tmp_path / "pwned").exists()


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


def not_finite(folder: Path) -> None:
    state = torch.load(folder / "epoch-8.pt", weights_only=True)
    state["state_dict"]["head.bias"][2] = float("nan")
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
NET = ("--model", "mycode.py:Net")
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
    "mode": (break_nothing, (*AVERAGE, "--best", "2", "--metric", "acc"), 2, "--best 2 needs --mode min|max"),
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
    "no output": (break_nothing, ("average", "ckpts"), 2, "no output given: name it with -o swa.safetensors"),
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
    "argument": (break_nothing, (*UPDATE, *NET, *DATA, "--model-arg", "width"), 2, "expected key=value"),
    "model missing": (break_nothing, (*UPDATE, *DATA), 2, "no model given: name it with --model file.py:Name"),
    "model keys": (
        break_nothing,
        (*UPDATE, "--model", "mycode.py:Plain", *DATA),
        1,
        "2 missing from the file:\n  weight\n  bias",
    ),
    "model shapes": (
        break_nothing,
        (*UPDATE, *NET, *DATA, "--model-arg", "classes=9"),
        1,
        "head.weight: the model has [9, 6], the file [4, 6]",
    ),
    "model fails": (break_nothing, (*UPDATE, *NET, *DATA, "--model-arg", "depth=2"), 1, "failed: TypeError"),
    "no loader": (
        break_nothing,
        (*UPDATE, *NET, "--data", "mycode.py:NoTrain"),
        1,
        "NoTrain has no train_dataloader()",
    ),
    "empty loader": (break_nothing, (*UPDATE, *NET, "--data", "mycode.py:Empty"), 1, "the data loader is empty"),
    "nan batch": (break_nothing, (*UPDATE, *NET, "--data", "mycode.py:Bad"), 1, "batch 2: the batch itself holds NaN"),
    "loader raises": (
        break_nothing,
        (*UPDATE, *NET, "--data", "mycode.py:Raises"),
        1,
        "loading batch 1 failed: OSError: disk gone",
    ),
    "not a checkpoint": (
        break_nothing,
        ("bn-update", "mycode.py", "-o", "new.safetensors", *NET, *DATA),
        1,
        "mycode.py: neither safetensors",
    ),
    "labels": (
        break_nothing,
        (*EVAL, *NET, *DATA, "--data-arg", "highest=8"),
        1,
        "is out of range, expected 0 to 3, since the model has 4 logits",
    ),
    "no split": (break_nothing, (*EVAL, *NET, *DATA, "--split", "val"), 1, "Data has no val_dataloader()"),
    "empty test": (break_nothing, (*EVAL, *NET, "--data", "mycode.py:Empty"), 1, "the data loader is empty"),
    "test raises": (break_nothing, (*EVAL, *NET, "--data", "mycode.py:Raises"), 1, "loading batch 1 failed: OSError"),
    "member missing": (drop_key, (*EVAL, *NET, *DATA), 1, "ckpts/epoch-8.pt does not fit the model Net"),
    "member nan": (not_finite, (*EVAL, *NET, *DATA), 1, "epoch-8.pt, batch 0: the model gives NaN"),
    "no swa": (
        break_nothing,
        ("eval", "ckpts", "--swa", "gone.safetensors", *NET, *DATA),
        1,
        "gone.safetensors: cannot be read",
    ),
    "json name": (break_nothing, (*EVAL[:4], *NET, *DATA, "--json", "swa.safetensors"), 2, "the name of a checkpoint"),
    "json nowhere": (break_nothing, (*EVAL[:4], *NET, *DATA, "--json", "no/x.json"), 1, "there is no directory no"),
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


def test_debug_shows_the_traceback(run_swa):
    result = run_swa("average", "gone", "-o", "x.safetensors", "--debug")

    assert "Traceback (most recent call last)" in result.stderr
    assert "error: no such file or directory: gone" in result.stderr


def test_allow_nonfinite_lets_nan_through(run_swa, run_folder, tmp_path):
    not_finite(run_folder)

    result = run_swa("average", "ckpts", "-o", "swa.safetensors", "--allow-nonfinite")

    assert result.exit_code == 0
    assert load_file(tmp_path / "swa.safetensors")["head.bias"].isnan().tolist() == [False, False, True, False]


def test_ctrl_c_ends_with_130_and_no_output(run_swa, run_folder, tmp_path, monkeypatch):
    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)  # as from the keyboard, while the threads work

    monkeypatch.setattr("swa_cli.averaging.cpu.put", interrupt)
    result = run_swa("average", "ckpts", "-o", "swa.safetensors")

    assert result.exit_code == 130
    assert result.stderr == "error: interrupted; nothing was left half-written.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpts", "mycode.py"]


def test_a_bug_of_ours_is_owned_up_to(run_swa, run_folder, monkeypatch):
    monkeypatch.setattr("swa_cli.pipeline.average.plan_average", int)  # which takes no such arguments
    result = run_swa("average", "ckpts", "-o", "swa.safetensors")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: a bug in swa-cli: TypeError: ")
    assert "Traceback" not in result.stderr


COMMANDS = ["", "inspect", "average", "bn-update", "eval", "run", "demo"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_torch_nor_torchvision(command):
    code = (
        "import sys\n"
        "from swa_cli.cli.main import swa\n"
        "try: swa()\n"
        "except SystemExit as end: assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'yaml', 'sklearn', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command_line = [sys.executable, "-c", code, *command.split(), "--help"]
    result = subprocess.run(command_line, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage" in result.stdout


@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_averaging_on_the_cpu_imports_no_torch(run_folder, tmp_path, container):
    sources = "ckpts"
    if container == "safetensors":
        (tmp_path / "safe").mkdir()
        sources = "safe"
        for epoch in (1, 2):
            save_file({"w": torch.randn(3).bfloat16()}, tmp_path / "safe" / f"{epoch}.safetensors")
    code = (
        "import sys\n"
        "from swa_cli.cli.main import swa\n"
        f"sys.argv = ['swa', 'average', '{sources}', '-o', 'out.safetensors']\n"
        "try:\n    swa()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'scipy', 'swa_cli.evaluation', 'swa_cli.batchnorm'} & {*sys.modules}\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")
    assert load_file(tmp_path / "out.safetensors")


@pytest.mark.parametrize("program", ["swa-average", "swa-bn-update", "swa-eval", "swa"])
def test_the_programs_are_installed(program):
    result = subprocess.run([Path(sys.executable).with_name(program), "-h"], capture_output=True, text=True, check=True)

    assert program in result.stdout
    assert "--install-completion" in result.stdout


def test_the_version(run_swa):
    from importlib.metadata import version

    assert run_swa("--version").stdout.strip() == version("swa-cli")


def test_statistics_that_were_recomputed_are_verified_as_such(run_swa, run_folder, tmp_path):
    run_swa("average", "ckpts", "-o", "swa.pt")
    (tmp_path / "elsewhere").mkdir()
    updated = run_swa("bn-update", "swa.pt", *MODEL_AND_DATA, "-o", "elsewhere/bn.pt")
    assert updated.exit_code == 0, updated.stderr

    result = run_swa("verify", "elsewhere/bn.pt")

    assert result.exit_code == 0, result.stderr
    assert "bit for bit: 6 tensors" in result.stdout
    assert "3 BatchNorm statistics more, recomputed after the averaging, as they were written then." in result.stdout
    record = json.loads(open_checkpoint(tmp_path / "elsewhere" / "bn.pt").metadata["swa_cli"])
    assert record["folder"] == f"../{run_folder.name}"
    stored = open_checkpoint(tmp_path / "elsewhere" / "bn.pt").tensors["bn.running_var"]
    with (tmp_path / "elsewhere" / "bn.pt").open("r+b") as stream:
        stream.seek(stored.offset)
        byte = stream.read(1)[0]
        stream.seek(stored.offset)
        stream.write(bytes([byte ^ 1]))
    result = run_swa("verify", "elsewhere/bn.pt")
    assert result.exit_code == 1
    assert "tensor bn.running_var: it is not what was recomputed for the average" in result.stderr


@pytest.mark.parametrize("output", ["swa.pt", "swa.safetensors", "folder", "like.pth"])
def test_every_kind_of_output_can_be_updated_in_place(run_swa, run_folder, tmp_path, output):
    form = {"folder": ("--max-shard-size", "1KB"), "like.pth": ("--like", "ckpts/epoch-7.pt")}.get(output, ())
    assert run_swa("average", "ckpts", "-o", output, *form).exit_code == 0
    before = open_single(tmp_path / output)
    old = {name: before.get_tensor(name) for name in before.tensors}

    result = run_swa("bn-update", output, *MODEL_AND_DATA)

    assert (result.exit_code, result.stderr) == (0, "")
    after = open_single(tmp_path / output)
    assert after.container == before.container
    changed = {name for name, tensor in old.items() if not torch.equal(tensor, after.get_tensor(name))}
    assert changed == {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    assert run_swa("verify", output).exit_code == 0
    evaluated = run_swa("eval", "ckpts", "--swa", output, *MODEL_AND_DATA)
    assert evaluated.exit_code == 0, evaluated.stderr
    assert "averages of the checkpoints" not in evaluated.stderr


def test_a_dry_run_says_what_would_be_written(run_swa, run_folder, tmp_path):
    torch.save({"model": torch.load(run_folder / "epoch-6.pt")["state_dict"], "optimizer": {}}, tmp_path / "like.pt")

    shards = run_swa("average", "ckpts", "-o", "out", "--max-shard-size", "200B", "--dry-run")
    like = run_swa("average", "ckpts", "-o", "out.pt", "--like", "like.pt", "--dry-run")
    other = run_swa("average", "ckpts", "-o", "out.safetensors", "--like", "like.pt", "--dry-run")

    assert (shards.exit_code, like.exit_code, other.exit_code) == (0, 0, 2)
    assert re.search(
        r"\d files in all, [\d.]+ kB: model-00001-of-0000\d\.safetensors, .*\.index\.json\n", shards.stdout
    )
    assert "left out, as they belong to other weights: optimizer\n" in like.stdout
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("output", ["ckpts/epoch-11.pt", "like.pt"])
def test_what_is_read_is_not_written_over(run_swa, run_folder, tmp_path, output):
    torch.save({"model": torch.load(run_folder / "epoch-6.pt")["state_dict"], "optimizer": {}}, tmp_path / "like.pt")
    before = (tmp_path / output).read_bytes()
    like = ("--like", "like.pt") if output == "like.pt" else ()

    result = run_swa("average", "ckpts", "-o", output, "--force", *like)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"cannot write {output}: it is one of the checkpoints that are read. Name another output." in result.stderr
    assert (tmp_path / output).read_bytes() == before


def test_an_average_in_the_run_does_not_hide_what_lies_below(run_swa, run_folder, tmp_path):
    (tmp_path / "logs" / "version_0").mkdir(parents=True)
    run_folder.rename(tmp_path / "logs" / "version_0" / "checkpoints")

    for form in (("-o", "logs/swa.pt"), ("-o", "logs/swa2.pt"), ("-o", "logs/swa", "--max-shard-size", "1KB")):
        result = run_swa("average", "logs", "--last", "2", *form)
        assert result.exit_code == 0, result.stderr
        assert "Averaged 2 checkpoints (logs/version_0/checkpoints/epoch-10.pt to" in result.stdout
    result = run_swa("eval", "logs", "--last", "2", "--swa", "logs/swa.pt", *MODEL_AND_DATA)

    assert result.exit_code == 0, result.stderr


def test_an_average_under_an_unusual_key_is_found(run_swa, run_folder, tmp_path):
    for path in run_folder.iterdir():
        state = torch.load(path)["state_dict"]
        torch.save({"ema": {"weights": state}, "raw": {"other": torch.ones(1)}, "epoch": int(path.stem[6:])}, path)
    key = ("--key", "ema.weights")
    averaged = run_swa("average", "ckpts", *key, "--like", "ckpts/epoch-7.pt", "-o", "swa.pt")
    assert averaged.exit_code == 0, averaged.stderr

    updated = run_swa("bn-update", "swa.pt", *MODEL_AND_DATA)
    verified = run_swa("verify", "swa.pt")
    evaluated = run_swa("eval", "ckpts", *key, "--swa", "swa.pt", *MODEL_AND_DATA)

    assert (updated.exit_code, verified.exit_code, evaluated.exit_code) == (0, 0, 0), verified.stderr
    assert next(iter(torch.load(tmp_path / "swa.pt")["ema"]["weights"])) == "body.weight"


def test_more_shards_than_files_can_be_open(run_swa, tmp_path, monkeypatch):
    torch.save({f"w{number}": torch.ones(10) for number in range(30)}, tmp_path / "1.pt")
    monkeypatch.setattr("resource.getrlimit", lambda _: (40, 40))

    result = run_swa("average", "1.pt", "-o", "out", "--max-shard-size", "40B")

    assert result.exit_code == 1
    assert "the output would be 31 files, and no more than 20 can be open at once here" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["run", "verify"])
def test_one_process_only(run_swa, tmp_path, monkeypatch, command):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "run.yaml").write_text("{}")

    result = run_swa(command, *(["--config", "run.yaml"] if command == "run" else ["swa.pt"]))

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"swa {command} runs as one process, and torchrun started several" in result.stderr


def test_flags_go_over_what_excludes_them_in_the_file(run_swa, run_folder, tmp_path):
    config = "average: {sources: [ckpts], output: out, weights: [1, 1, 1, 1, 1, 2], max_shard_size: 1KB}"
    (tmp_path / "run.yaml").write_text(config)

    ema = run_swa("average", "--config", "run.yaml", "--ema", "0.5", "--dry-run")
    like = run_swa(
        "average", "--config", "run.yaml", "--like", f"{run_folder.name}/epoch-7.pt", "-o", "out.pt", "--dry-run"
    )

    assert (ema.exit_code, like.exit_code) == (0, 0), ema.stderr + like.stderr


def test_names_do_not_steer_the_terminal(run_swa, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "1.pt")
    torch.save({"v\x1b[31m": torch.ones(1)}, tmp_path / "2.pt")

    result = run_swa("average", "1.pt", "2.pt", "-o", "out.pt")

    assert result.exit_code == 1
    assert "v\\x1b[31m" in result.stderr
    assert "\x1b" not in result.stderr


def test_an_average_of_other_weights_of_the_same_files_is_said(run_swa, run_folder):
    for path in run_folder.iterdir():
        contents = torch.load(path)
        torch.save(contents | {"ema": contents["state_dict"]}, path)
    assert run_swa("average", "ckpts", "--key", "ema", "-o", "swa.safetensors").exit_code == 0

    other = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA)
    same = run_swa("eval", "ckpts", "--swa", "swa.safetensors", "--key", "ema", *MODEL_AND_DATA)

    said = "is an average of the weights under ema, the table has those under the usual key"
    assert said in " ".join(other.stderr.replace("│", "").split())
    assert (same.exit_code, "it compares different weights" in same.stderr) == (0, False)
