"""swa-bn-update as a user runs it: every option does what it says, every failure leaves the file as it was."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from support.commands import MODEL, MODEL_AND_DATA
from swa_cli.checkpoints import open_single
from swa_cli.formats import open_checkpoint

pytestmark = pytest.mark.slow

CODE = """
import os
import random
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.ops import FrozenBatchNorm2d

class Net(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3)
        self.bn1 = norm(6)
        self.middle = nn.Conv2d(6, 6, 3)
        self.bn2 = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
    def forward(self, x):
        return self.drop(self.bn2(self.middle(self.bn1(self.body(x)).relu()))).mean(dim=(2, 3))

class Untracked(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3)
        self.bn1 = nn.BatchNorm2d(6)
        self.middle = nn.Conv2d(6, 6, 3)
        self.bn2 = nn.BatchNorm2d(6)
        self.free = nn.BatchNorm2d(6, track_running_stats=False, affine=False)
    def forward(self, x):
        return self.free(self.bn2(self.middle(self.bn1(self.body(x))))).mean(dim=(2, 3))

def WithFrozen():
    return Net(FrozenBatchNorm2d)

class Images(Dataset):
    def __init__(self, n, transform=None):
        self.images = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(4)) + 1
        self.transform = transform
    def __len__(self):
        return len(self.images)
    def __getitem__(self, index):
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), index % 6

def augment(image):
    noise = np.random.default_rng(random.getrandbits(30)).normal() + np.random.normal()
    return image * torch.rand(1) + noise

class Data:
    def __init__(self, n=70, batch_size=16, workers=0, augmented=False, drop_last=False):
        self.n, self.transform = n, augment if augmented else None
        self.options = {"batch_size": batch_size, "num_workers": workers, "drop_last": drop_last}
    def train_dataloader(self):
        return DataLoader(Images(self.n, self.transform), shuffle=True, **self.options)
    def val_dataloader(self):
        return DataLoader(Images(self.n, None), batch_size=30)

class Raises(Images):
    def __getitem__(self, index):
        if index == 40:
            raise OSError("the disk went away")
        return super().__getitem__(index)

class Dies(Images):
    def __getitem__(self, index):
        if index == 40:
            os._exit(7)
        return super().__getitem__(index)

class NaN(Images):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return (image * float("nan") if index == 40 else image), label

class Of(Data):
    def __init__(self, kind, workers=0):
        super().__init__(workers=workers)
        self.kind = globals()[kind]
    def train_dataloader(self):
        return DataLoader(self.kind(self.n), shuffle=False, **self.options)

class Once(Data):
    def train_dataloader(self):
        yield from super().train_dataloader()
"""

NET = ("--model", "imagecode.py:Net")
DATA = ("--data", "imagecode.py:Data")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.bn1, self.middle = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3)
        self.bn2 = nn.BatchNorm2d(6)

    def forward(self, x):
        return self.bn2(self.middle(self.bn1(self.body(x)).relu()))


@pytest.fixture
def average(run_swa, tmp_path):
    """A user's code and an average of three checkpoints; the name of its file."""
    (tmp_path / "imagecode.py").write_text(CODE)
    (tmp_path / "ckpts").mkdir()
    model = Net()
    for epoch in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
            for _ in range(40):
                model(torch.randn(40, 3, 8, 8) + 1)
        torch.save({"state_dict": model.state_dict(), "epoch": epoch}, tmp_path / "ckpts" / f"epoch-{epoch}.pt")
    assert run_swa("average", "ckpts", "-o", "swa.safetensors").exit_code == 0
    return "swa.safetensors"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record_of(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["swa_cli"])["bn_update"]


@pytest.fixture
def update(run_swa, average, tmp_path):
    """Run swa-bn-update into another file; the result, the tensors and the JSON."""

    def run(*arguments: object, model=NET, data=DATA):
        result = run_swa(
            "bn-update", average, "-o", "new.safetensors", "--force", *model, *data, "--json", "bn.json", *arguments
        )
        assert result.exit_code == 0, result.stderr
        return result, load_file(tmp_path / "new.safetensors"), json.loads((tmp_path / "bn.json").read_text())

    return run


def test_a_table_of_layers_the_json_and_the_record(update, tmp_path):
    result, _, report = update("--seed", 5, "--data-arg", "n=64", "--data-arg", "batch_size=8")

    lines = result.stdout.splitlines()
    assert lines[0] == "Recomputed the statistics of 2 BatchNorm layers from 64 samples in 8 batches."
    assert lines[1].startswith("The furthest that a mean moved is 0.")
    assert lines[2].strip() == "The furthest moves, in old standard deviations"
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines if line.startswith("│")]
    layers = {layer["name"]: layer for layer in report["layers"]}
    moved = [max(layers[row[0]]["mean_shift"], abs(layers[row[0]]["std_shift"])) for row in rows]
    assert moved == sorted(moved, reverse=True)
    for row in rows:
        layer = layers[row[0]]
        assert row[1:4] == [f"{layer['n_elements']:,}", f"{layer['mean_shift']:.3f}", f"{layer['std_shift']:+.3f}"]
        assert row[4:] == [f"{100 * layer[name]:.2f} %" for name in ("mean_error", "variance_error")]
    assert {name: (layer["n_elements"], layer["n_calls"]) for name, layer in layers.items()} == {
        "bn1": (64 * 36, 8),
        "bn2": (64 * 16, 8),
    }
    record = record_of(tmp_path / "new.safetensors")
    assert {
        name: record[name] for name in ("estimator", "n_samples", "n_batches", "seed", "data_args", "kept", "partial")
    } == {
        "estimator": "population",
        "n_samples": 64,
        "n_batches": 8,
        "seed": 5,
        "data_args": {"n": 64, "batch_size": 8},
        "kept": {},
        "partial": False,
    }
    assert record["standard_error"] == report["standard_error"] > 0
    assert (report["output"], report["passes"], report["converged"]) == ("new.safetensors", 1, None)


def test_names_of_layers_are_there_on_a_narrow_terminal(update, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    result, _, _ = update()

    assert "│ bn1   │" in result.stdout
    assert max(map(len, result.stdout.splitlines()[2:8])) <= 80


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (("--batch-size", 8), "batches of about 8 samples: below the first layer the statistics depend on that"),
        (("--data", "imagecode.py:Of", "--data-arg", "kind=Images"), "the training loader does not shuffle"),
        (("--batch-size", 8, "--estimator", "sequential"), None),
        ((), None),
    ],
)
def test_batches_that_show_below_the_first_layer_are_noted(update, arguments, note):
    result, _, _ = update(*arguments)

    found = [line for line in result.stderr.splitlines() if "below the first layer" in line]
    assert len(found) == (note is not None)
    assert note is None or note in found[0]


def test_a_second_update_finds_that_nothing_moves(update, run_swa, tmp_path):
    update("--estimator", "sequential")

    result = run_swa("bn-update", "new.safetensors", *NET, *DATA, "--estimator", "sequential")

    assert "No statistics changed." in result.stdout


@pytest.mark.parametrize(
    ("batch", "given"),
    [
        ("(torch.arange(4), torch.randn(4, 3, 8, 8), torch.zeros(4))", "int64 [4], float32 [4, 3, 8, 8]"),
        ("[{'image': torch.zeros(3, 8, 8)}] * 64", f"{'dict, ' * 9}dict and 53 more"),
    ],
)
def test_an_error_of_the_model_says_what_it_was_given(run_swa, average, tmp_path, batch, given):
    """Of a batch of many parts the first ten."""
    (tmp_path / "batches.py").write_text(
        f"from imagecode import *\nclass Batches(Data):\n    def train_dataloader(self):\n        return [{batch}]\n"
    )

    result = run_swa("bn-update", average, *NET, "--data", "batches.py:Batches")

    assert f"The model was called with ({given}" in result.stderr
    assert "define split_batch(batch)" in result.stderr


def test_json_alone_on_standard_output(run_swa, average):
    result = run_swa("bn-update", average, *NET, *DATA, "--json", "-")

    assert json.loads(result.stdout)["n_samples"] == 70


def test_the_estimators_differ_and_sequential_says_its_cost(update):
    found = {}
    for estimator in ("population", "torch", "official", "sequential"):
        result, tensors, report = update("--estimator", estimator)
        found[estimator] = tensors["bn2.running_var"]
        assert report["estimator"] == estimator
        if estimator == "sequential":
            assert "sequential: a pass of 5 batches to find the order of 2 layers, and one for each" in result.stderr
            assert report["passes"] == 3
        else:
            assert result.stderr == ""

    values = list(found.values())
    assert not any(torch.equal(values[i], values[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize(
    ("arguments", "samples", "batches"),
    [
        (("--num-batches", 2), 32, 2),
        (("--num-samples", 33), 48, 3),
        (("--num-samples", 33, "--num-batches", 2), 32, 2),
        (("--batch-size", 35), 70, 2),
        (("--batch-size", 32, "--num-samples", 40), 64, 2),
        (("--data-arg", "drop_last=true"), 64, 4),
        (("--data-arg", "n=65"), 65, 5),  # a last batch of one sample
        (("--until-converged", 100), 70, 5),  # fewer than the eight batches that it takes
    ],
)
def test_how_much_of_the_data_is_used(update, arguments, samples, batches):
    _, _, report = update(*arguments)

    assert (report["n_samples"], report["n_batches"]) == (samples, batches)


def test_until_converged_stops_early_and_says_so(update):
    arguments = ("--data-arg", "n=4000", "--until-converged", 0.05)
    result, _, report = update(*arguments)

    assert report["converged"]
    assert 8 <= report["n_batches"] < 250
    assert (
        f"converged: the largest standard error is {report['standard_error']:.3g}, 0.05 was asked for." in result.stderr
    )
    result, _, report = update("--until-converged", 0.001)
    assert (report["converged"], report["n_batches"]) == (False, 5)
    assert "not converged, and no batches are left" in result.stderr


def test_all_data_may_be_enough(update, tmp_path, run_swa):
    """The loader ends before a look at the errors: they are small enough all the same."""
    result, _, report = update("--data-arg", "n=100", "--until-converged", 5)
    assert report["converged"]
    assert "note: converged: the largest standard error" in result.stderr
    assert not record_of(tmp_path / "new.safetensors")["partial"]
    update("--num-batches", 1000)
    assert not record_of(tmp_path / "new.safetensors")["partial"]
    update("--num-batches", 4)
    assert record_of(tmp_path / "new.safetensors")["partial"]


def test_statistics_that_were_not_finite_are_replaced_and_said(run_swa, average, tmp_path):
    tensors = load_file(tmp_path / average)
    tensors["bn1.running_var"][2] = torch.nan
    tensors["bn2.running_var"][1] = -1
    save_file(tensors, tmp_path / "broken.safetensors")

    result = run_swa("bn-update", "broken.safetensors", "-o", "new.safetensors", *NET, *DATA, "--json", "bn.json")

    assert result.exit_code == 0, result.stderr
    assert "the old statistics of 2 layers held NaN, infinity or a negative variance" in " ".join(result.stderr.split())
    assert [layer["var_ratio"] for layer in json.loads((tmp_path / "bn.json").read_text())["layers"]] == [None, None]
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "new.safetensors").values())


def test_augmentation_and_shuffling_give_the_same_bytes_twice_whatever_the_workers(update, tmp_path):
    digests = {}
    for name, arguments in {
        "one": (),
        "again": (),
        "workers": ("--data-arg", "workers=2"),
        "seed": ("--seed", 1),
        "plain": ("--eval-transforms",),
    }.items():
        _, tensors, _ = update("--data-arg", "augmented=true", *arguments)
        digests[name] = hashlib.sha256(b"".join(tensors[key].numpy().tobytes() for key in sorted(tensors))).hexdigest()

    assert digests["one"] == digests["again"] == digests["workers"]
    assert len(set(digests.values())) == 3


def test_eval_transforms_take_those_of_the_validation_set(update):
    _, without, _ = update()
    result, augmented, report = update("--data-arg", "augmented=true", "--eval-transforms")

    assert "training images as evaluation sees them: the transform of val_dataloader(), None" in result.stderr
    assert report["eval_transforms"]
    for name, tensor in without.items():
        torch.testing.assert_close(augmented[name], tensor, rtol=1e-5, atol=1e-6)


def test_amp_channels_last_and_compile_reach_the_model(update, monkeypatch):
    compiled, formats = [], []
    convolve = nn.functional.conv2d

    def watched(x, weight, *rest):
        formats.append(tuple(t.is_contiguous(memory_format=torch.channels_last) for t in (x, weight)))
        return convolve(x, weight, *rest)

    monkeypatch.setattr("torch.nn.modules.conv.F.conv2d", watched)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: (compiled.append(model), compile_(model, backend="eager"))[1])
    _, plain, _ = update()
    assert (True, True) not in formats
    for arguments, close in ((("--amp", "bf16"), 3e-2), (("--channels-last",), 1e-4), (("--compile",), 1e-4)):
        formats.clear()
        _, found, report = update(*arguments)
        assert (set(formats) == {(True, True)}) == (arguments == ("--channels-last",))
        torch.testing.assert_close(found["bn2.running_var"], plain["bn2.running_var"], rtol=close, atol=close)
        if "--amp" in arguments:
            assert not torch.equal(found["bn2.running_var"], plain["bn2.running_var"])
            assert report["amp"] == "bf16"

    assert len(compiled) == 1


def frozen_run(tmp_path, names: list[str]) -> None:
    """Checkpoints in which these layers never change."""
    first = torch.load(tmp_path / "ckpts" / "epoch-0.pt")["state_dict"]
    for epoch in (1, 2):
        path = tmp_path / "ckpts" / f"epoch-{epoch}.pt"
        contents = torch.load(path)
        for name in first:
            if any(name.startswith(f"{layer}.running") or name == f"{layer}.num_batches_tracked" for layer in names):
                contents["state_dict"][name] = first[name]
        torch.save(contents, path)


def test_frozen_layers_are_left_alone_unless_told(update, run_swa, tmp_path):
    frozen_run(tmp_path, ["bn1"])
    said = run_swa("average", "ckpts", "-o", "swa.safetensors", "--force").stderr
    assert "bn1" in said
    before = load_file(tmp_path / "swa.safetensors")

    result, left, report = update()
    assert "left alone, as they were frozen in training (--recalibrate-frozen recomputes them): bn1." in result.stderr
    assert torch.equal(left["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(left["bn2.running_mean"], before["bn2.running_mean"])
    assert report["kept"] == {"bn1": "frozen in training"}
    _, all_, report = update("--recalibrate-frozen")
    assert not torch.equal(all_["bn1.running_mean"], before["bn1.running_mean"])
    assert report["kept"] == {}


def test_a_model_whose_layers_were_all_frozen_has_nothing_to_do(update, run_swa, tmp_path):
    frozen_run(tmp_path, ["bn1", "bn2"])
    run_swa("average", "ckpts", "-o", "swa.safetensors", "--force")

    result, tensors, report = update()

    assert (
        "all 2 BatchNorm layers were frozen in training (--recalibrate-frozen recomputes them): nothing to do."
        in result.stderr
    )
    assert torch.equal(tensors["bn1.running_mean"], load_file(tmp_path / "swa.safetensors")["bn1.running_mean"])
    assert report["layers"] == []
    assert len(update("--recalibrate-frozen")[2]["layers"]) == 2


def test_torchvisions_frozen_batchnorm_is_named(update, run_swa, tmp_path):
    for path in sorted((tmp_path / "ckpts").iterdir()):
        contents = torch.load(path)
        del contents["state_dict"]["bn1.num_batches_tracked"]
        contents["state_dict"]["bn1.running_mean"] += float(path.stem[-1])  # else the averaging calls it frozen already
        torch.save(contents, path)
    run_swa("average", "ckpts", "-o", "swa.safetensors", "--force")

    result, _, report = update(model=("--model", "imagecode.py:WithFrozen"))

    assert "kept as it was, since a FrozenBatchNorm2d does not update its statistics in training: bn1." in result.stderr
    assert [layer["name"] for layer in report["layers"]] == ["bn2"]


def test_layers_that_keep_no_statistics_are_named(update):
    result, _, _ = update(model=("--model", "imagecode.py:Untracked"))

    assert "these BatchNorm layers keep no statistics (track_running_stats=False): free." in result.stderr


def test_a_half_precision_file_is_told_to_round(run_swa, average, tmp_path):
    run_swa("average", "ckpts", "-o", "half.safetensors", "--dtype", "bfloat16")
    run_swa("bn-update", average, *NET, *DATA)

    result = run_swa("bn-update", "half.safetensors", *NET, *DATA)

    assert (
        "the file stores the statistics as bfloat16: they were taken in float64 and are rounded to that."
        in result.stderr
    )
    exact, rounded = (load_file(tmp_path / name)["bn1.running_var"] for name in (average, "half.safetensors"))
    torch.testing.assert_close(rounded.float(), exact, rtol=2e-2, atol=0)


def test_a_collapse_is_warned_of_in_red(run_swa, average, tmp_path):
    tensors = load_file(tmp_path / average)
    for name in ("body.weight", "middle.weight"):
        tensors[name] *= 0.2
    save_file(tensors, tmp_path / "weak.safetensors")

    result = run_swa("bn-update", "weak.safetensors", "-o", "new.safetensors", *NET, *DATA, "--json", "bn.json")

    assert "warning" in result.stderr
    assert "the variances of 2 layers collapsed" in " ".join(result.stderr.split())
    assert len(json.loads((tmp_path / "bn.json").read_text())["warnings"]) == 1


FAILURES = {
    "a loader that raises in the middle": (
        ("--data", "imagecode.py:Of", "--data-arg", "kind=Raises"),
        "OSError: the disk went away",
    ),
    "a worker that raises": (
        ("--data", "imagecode.py:Of", "--data-arg", "kind=Raises", "--data-arg", "workers=2"),
        "OSError: the disk went away",
    ),
    "a worker that dies": (
        ("--data", "imagecode.py:Of", "--data-arg", "kind=Dies", "--data-arg", "workers=2"),
        "DataLoader worker",
    ),
    "NaN in one batch": (
        ("--data", "imagecode.py:Of", "--data-arg", "kind=NaN"),
        "batch 2: the batch itself holds NaN or infinity",
    ),
    "an empty loader": ((*DATA, "--data-arg", "n=10", "--data-arg", "drop_last=true"), "the data loader is empty"),
    "a loader of one pass": (
        ("--data", "imagecode.py:Once", "--estimator", "sequential"),
        "can be passed over once only",
    ),
    "a loader that cannot be rebuilt": (("--data", "imagecode.py:Once", "--batch-size", "4"), "cannot be rebuilt"),
    "no transforms to take": (
        ("--data", "imagecode.py:Once", "--eval-transforms"),
        "does not offer its training images",
    ),
    "a JSON over the user's code": ((*DATA, "--json", "imagecode.py"), "exists and is not JSON"),
    "compile and sequential": ((*DATA, "--compile", "--estimator", "sequential"), "--compile does not go with"),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("in_place", [True, False])
def test_a_failure_is_one_message_and_the_file_is_as_it_was(run_swa, average, tmp_path, case, in_place):
    arguments, message = FAILURES[case]
    before, names = digest(tmp_path / average), sorted(path.name for path in tmp_path.iterdir())

    output = () if in_place else ("-o", "new.safetensors")
    result = run_swa("bn-update", average, *output, *NET, *arguments)

    assert result.exit_code in {1, 2}
    assert message in " ".join(result.stderr.split())
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.stderr
    assert digest(tmp_path / average) == before
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__")
    assert left == [name for name in names if name != "__pycache__"]


def test_an_output_that_comes_meanwhile_is_kept(run_swa, average, tmp_path):
    (tmp_path / "late.py").write_text(
        "from imagecode import *\n"
        "class Late(Data):\n"
        "    def train_dataloader(self):\n"
        "        __import__('pathlib').Path('new.safetensors').write_text('mine')\n"
        "        return super().train_dataloader()\n"
    )

    result = run_swa("bn-update", average, "-o", "new.safetensors", *NET, "--data", "late.py:Late")

    assert (result.exit_code, (tmp_path / "new.safetensors").read_text()) == (1, "mine")
    assert "new.safetensors exists already" in result.stderr


def test_a_json_that_cannot_be_written_says_that_the_statistics_are(run_swa, average, tmp_path):
    (tmp_path / "gone.py").write_text(
        "from imagecode import *\n"
        "class Gone(Data):\n"
        "    def train_dataloader(self):\n"
        "        os.rmdir('out')\n"
        "        return super().train_dataloader()\n"
    )
    (tmp_path / "out").mkdir()

    result = run_swa("bn-update", average, *NET, "--data", "gone.py:Gone", "--json", "out/bn.json")

    assert result.exit_code == 1
    assert "The new statistics were written to swa.safetensors." in result.stderr


def test_a_model_of_frozen_layers_only_has_nothing_to_do(run_swa, tmp_path):
    (tmp_path / "frozen.py").write_text(
        "from imagecode import *\ndef Model():\n    return nn.Sequential(FrozenBatchNorm2d(3), nn.Flatten())\n"
    )
    (tmp_path / "imagecode.py").write_text(CODE)
    save_file(
        {f"0.{name}": torch.ones(3) for name in ("weight", "bias", "running_mean", "running_var")},
        tmp_path / "a.safetensors",
    )

    result = run_swa("bn-update", "a.safetensors", "-o", "b.safetensors", "--model", "frozen.py:Model", *DATA)

    assert result.exit_code == 0, result.stderr
    assert "since a FrozenBatchNorm2d does not update its statistics in training: 0." in result.stderr
    assert load_file(tmp_path / "b.safetensors").keys() == load_file(tmp_path / "a.safetensors").keys()


def test_a_key_that_is_not_there_is_an_error(run_swa, average, tmp_path):
    before = digest(tmp_path / "ckpts/epoch-2.pt")

    result = run_swa("bn-update", "ckpts/epoch-2.pt", "--key", "model.ema", "-o", "control.safetensors", *NET, *DATA)

    assert result.exit_code == 1
    assert "ckpts/epoch-2.pt: has no key 'model.ema'" in result.stderr
    assert digest(tmp_path / "ckpts/epoch-2.pt") == before
    assert not (tmp_path / "control.safetensors").exists()


def test_without_a_key_it_is_the_recorded_one_though_another_would_be_found(run_swa, average, tmp_path):
    """--like keeps what else a file holds; here another state_dict, at the usual place."""
    for path in (tmp_path / "ckpts").iterdir():
        state = torch.load(path)["state_dict"]
        torch.save({"state_dict": {name: torch.zeros_like(value) for name, value in state.items()}, "ema": state}, path)
    averaged = run_swa("average", "ckpts", "--key", "ema", "--like", "ckpts/epoch-2.pt", "-o", "swa.pt")
    assert averaged.exit_code == 0, averaged.stderr

    result = run_swa("bn-update", "swa.pt", "-o", "new.pt", *NET, *DATA)

    assert result.exit_code == 0, result.stderr
    new, old = torch.load(tmp_path / "new.pt"), torch.load(tmp_path / "swa.pt")
    assert not torch.equal(new["ema"]["bn1.running_mean"], old["ema"]["bn1.running_mean"])
    assert torch.equal(new["ema"]["body.weight"], old["ema"]["body.weight"])
    assert bool(old["ema"]["body.weight"].any())


def test_weights_that_load_state_dict_ignores_are_an_error(run_swa, average, tmp_path):
    (tmp_path / "renames.py").write_text(
        "from imagecode import *\n"
        "class Renames(Net):\n"
        "    def state_dict(self, *args, **kwargs):\n"
        "        state = super().state_dict(*args, **kwargs)\n"
        "        return {'x' + name if name.startswith('body') else name: value for name, value in state.items()}\n"
    )
    tensors = load_file(tmp_path / average)
    save_file(
        {"x" + name if name.startswith("body") else name: t for name, t in tensors.items()}, tmp_path / "x.safetensors"
    )

    result = run_swa("bn-update", "x.safetensors", "-o", "y.safetensors", "--model", "renames.py:Renames", *DATA)

    assert result.exit_code == 1
    assert "does not accept the names that its state_dict() returns (xbody.weight, xbody.bias)" in result.stderr


def test_bn_update_gives_the_same_bytes_twice_though_the_loader_shuffles(run_swa, run_folder, tmp_path):
    (tmp_path / "shuffled.py").write_text(
        "from mycode import *\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "class Shuffled(Data):\n    def train_dataloader(self):\n"
        "        return DataLoader(TensorDataset(self.x, self.y), batch_size=20, shuffle=True)\n"
    )
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    for name in ("a", "b"):
        torch.rand(7)
        arguments = (*MODEL, "--data", "shuffled.py:Shuffled", "-o", f"{name}.safetensors")
        assert run_swa("bn-update", "swa.safetensors", *arguments).exit_code == 0

    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


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
    _, offset = open_checkpoint(tmp_path / "elsewhere" / "bn.pt").tensors["bn.running_var"].origin
    with (tmp_path / "elsewhere" / "bn.pt").open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
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
