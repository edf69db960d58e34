"""Every sample configuration is loaded; the digits are run end to end."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from swa_cli.config import load_config
from swa_cli.data import batches_of, build_data_module
from swa_cli.demo.digits import DigitsCnn, DigitsData
from swa_cli.demo.run import demo_config
from swa_cli.models import build_model
from swa_cli.targets import load_target

CONFIGS = sorted((Path(__file__).parent.parent / "sample_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_sample_loads_and_its_model_and_data_module_are_there(path):
    config = load_config(path)

    assert config.model is not None
    assert config.data is not None
    assert isinstance(build_model(config.model.class_path, config.model.init_args), torch.nn.Module)
    assert callable(load_target(config.data.class_path, what="data module"))
    assert config.average.sources
    assert config.average.output


def test_the_digits_sample_is_the_demo_s_configuration():
    (path,) = [path for path in CONFIGS if path.stem == "digits"]

    assert load_config(path) == demo_config(Path("swa-demo"), seed=0)


def test_the_demo_trains_and_the_digits_sample_runs_on_what_it_left(run_swa, tmp_path):
    demo = run_swa("demo")
    assert (demo.exit_code, demo.stderr) == (0, "")
    for part in (
        "700 examples of the test split",
        "ensemble of 12",
        "swa-demo/swa.safetensors",
        "swa-average",
        "swa-eval",
    ):
        assert part in demo.stdout
    assert len(list((tmp_path / "swa-demo" / "checkpoints").iterdir())) == 12
    first = json.loads((tmp_path / "swa-demo" / "results.json").read_text())
    average = (tmp_path / "swa-demo" / "swa.safetensors").read_bytes()

    (path,) = [path for path in CONFIGS if path.stem == "digits"]
    again = run_swa("run", "--config", path)

    assert (again.exit_code, again.stderr) == (0, "")
    assert json.loads((tmp_path / "swa-demo" / "results.json").read_text()) == first
    assert (tmp_path / "swa-demo" / "swa.safetensors").read_bytes() == average
    rows = {row["kind"]: row["metrics"] for row in first["candidates"]}
    assert rows["swa"]["nll"] < rows["mean"]["nll"]
    assert rows["ensemble"]["nll"] <= rows["mean"]["nll"]


def test_the_demo_says_what_to_install(run_swa, monkeypatch):
    monkeypatch.setattr("swa_cli.demo.run.find_spec", lambda name: None)

    result = run_swa("demo")

    assert result.exit_code == 2
    assert "pip install 'swa-cli[demo]'" in result.stderr


def test_a_demo_that_cannot_be_written(run_swa, tmp_path):
    (tmp_path / "taken").write_text("a file")

    result = run_swa("demo", "--out", "taken")

    assert result.exit_code == 1
    assert "cannot write the demo to taken: " in result.stderr


def test_the_digits_are_split_without_overlap():
    data = DigitsData()
    data.setup("fit")
    parts = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]
    images = [torch.cat([batch[0] for batch in part]).flatten(1) for part in parts]

    assert [len(part) for part in images] == [897, 200, 700]
    rows = {tuple(row.tolist()) for part in images for row in part}
    assert len(rows) > 1790  # a few of the 1,797 images are exact copies of each other
    assert DigitsCnn()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_imagenet_data_module_reads_image_folders(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (300, 260), "red").save(tmp_path / part / name / "1.jpg")
    (path,) = [path for path in CONFIGS if path.stem == "torchvision_imagenet"]
    target = load_config(path).data
    assert target is not None
    target = replace(target, init_args={"root": str(tmp_path), "workers": 0})

    data = build_data_module(target.class_path, target.init_args)

    for split in ("train", "val"):
        images, labels = next(iter(batches_of(data, split)))
        assert images.shape == (2, 3, 224, 224)
        assert sorted(labels.tolist()) == [0, 1]


def write_idx(path: Path, values: torch.Tensor) -> None:
    header = (0x0800 + values.ndim).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


def test_the_fashion_script_trains_and_its_configuration_runs(run_swa, tmp_path):
    """On noise in the format of the real files, one epoch each: the path, not the accuracy."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 5600), ("t10k", 300)):
        write_idx(raw / f"{name}-images-idx3-ubyte", torch.randint(0, 256, (n, 28, 28)))
        write_idx(raw / f"{name}-labels-idx1-ubyte", torch.randint(0, 10, (n,)))
    (path,) = [path for path in CONFIGS if path.stem == "fashion_mnist"]
    script = path.with_name("train_fashion_mnist.py")
    arguments = ["--epochs", "3", "--keep", "2", "--out", "fashion-mnist/checkpoints"]
    subprocess.run([sys.executable, script, *arguments], cwd=tmp_path, check=True, capture_output=True)
    result = run_swa("run", "--config", path, "--device", "cpu")

    assert result.exit_code == 0, result.stderr
    assert "error:" not in result.stderr  # that statistics had not settled after three epochs may be said
    assert "300 examples of the test split" in result.stdout
    assert "ensemble of 2" in result.stdout
