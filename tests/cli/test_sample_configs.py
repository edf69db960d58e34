"""Every sample configuration is loaded; the digits are run end to end."""

import importlib
import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import make_friedman1, make_friedman2, make_friedman3

from swa_cli.config.load import load_config
from swa_cli.demo.digits import DigitsCnn, DigitsData
from swa_cli.demo.run import demo_config
from swa_cli.pipeline.build_user_objects import task_of
from swa_cli.user.datamodule import batches_of, build_data_module
from swa_cli.user.import_object import load_target
from swa_cli.user.model import build_model

pytestmark = pytest.mark.slow

CONFIGS = sorted((Path(__file__).parents[2] / "sample_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_sample_loads_and_its_model_and_data_module_are_there(path):
    if path.stem == "causal_lm":
        pytest.importorskip("transformers")
    config = load_config(path)

    assert config.model is not None
    assert config.data is not None
    assert isinstance(build_model(config.model.class_path, config.model.init_args), torch.nn.Module)
    assert callable(load_target(config.data.class_path, what="data module"))
    assert config.average.sources
    assert config.average.output
    assert config.task is None or task_of(config.task)


def test_the_training_script_trains_what_the_configurations_name(run_swa, tmp_path):
    """Two epochs of the quickest: the path, not the score."""
    (path,) = [path for path in CONFIGS if path.stem == "friedman"]
    arguments = ["--task", "friedman1", "--epochs", "2", "--keep", "2", "--out", "friedman/checkpoints"]
    script = path.with_name("train_task.py")
    subprocess.run([sys.executable, script, *arguments], cwd=tmp_path, check=True, capture_output=True)

    result = run_swa("run", "--config", path, "--device", "cpu")

    assert result.exit_code == 0, result.stderr
    assert "2,000 examples of the test split" in result.stdout
    assert json.loads((tmp_path / "friedman" / "results.json").read_text())["task"] == "regression"


@pytest.mark.parametrize("name", ["friedman", "cluster", "segmentation", "multilabel", "causal_lm"])
def test_a_recipe_is_that_of_its_configuration(name, monkeypatch):
    if name == "causal_lm":
        pytest.importorskip("transformers")
    (path,) = [path for path in CONFIGS if path.stem == name]
    monkeypatch.syspath_prepend(path.parent)
    recipe = importlib.import_module("train_task").RECIPES[{"friedman": "friedman1"}.get(name, name)]
    config = load_config(path)
    assert config.model
    assert config.data

    model = build_model(config.model.class_path, config.model.init_args)

    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (model, recipe.model())]
    assert shapes[0] == shapes[1]
    assert vars(build_data_module(config.data.class_path, config.data.init_args)) == vars(recipe.data())


def module_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The code beside a configuration."""
    (path,) = [path for path in CONFIGS if path.stem == name]
    monkeypatch.syspath_prepend(path.parent)
    return importlib.import_module(name)


def test_the_friedman_targets_are_those_of_scikit_learn(monkeypatch):
    """Up to the noise, which is drawn otherwise."""
    friedman = module_of("friedman", monkeypatch)
    monkeypatch.setattr(friedman, "NOISE", dict.fromkeys(friedman.NOISE, 0.0))
    for problem, theirs in ((1, make_friedman1), (2, make_friedman2), (3, make_friedman3)):
        expected_inputs, expected = theirs(20_000, random_state=0)
        inputs, targets = friedman.friedman(problem, 20_000, np.random.default_rng(0))

        assert inputs.mean(axis=0) == pytest.approx(expected_inputs.mean(axis=0), rel=0.03)
        assert (inputs.min(axis=0) >= expected_inputs.min(axis=0) - 1).all()
        assert (targets.mean(), targets.std()) == pytest.approx((expected.mean(), expected.std()), rel=0.03)


def test_the_graphs_are_those_of_the_paper_s_generator(monkeypatch):
    """Sizes, densities and marks as science has them: communities of 5 to 34, p = 0.55 inside and 0.25 between."""
    cluster = module_of("cluster", monkeypatch)
    rng = np.random.default_rng(0)
    graphs = [cluster.cluster_graph(rng) for _ in range(300)]
    edges: dict[bool, list[float]] = {True: [], False: []}
    for marks, adjacency, community in graphs:
        sizes = community.bincount(minlength=6)
        assert ((sizes >= 5) & (sizes <= 34)).all()
        assert sorted(marks[marks > 0].tolist()) == [1, 2, 3, 4, 5, 6]
        assert (marks[marks > 0] - 1 == community[marks > 0]).all()
        assert (adjacency == adjacency.T).all()
        assert not adjacency.diagonal().any()
        same = community[:, None] == community
        pairs = torch.ones_like(same).triu(diagonal=1)
        edges[True] += adjacency[same & pairs].tolist()
        edges[False] += adjacency[~same & pairs].tolist()

    assert np.mean([len(marks) for marks, _, _ in graphs]) == pytest.approx(117, rel=0.03)
    assert np.mean(edges[True]) == pytest.approx(0.55, abs=0.005)
    assert np.mean(edges[False]) == pytest.approx(0.25, abs=0.005)


def test_the_padding_of_a_graph_changes_nothing(monkeypatch):
    cluster = module_of("cluster", monkeypatch)
    rng = np.random.default_rng(0)
    graphs = [cluster.cluster_graph(rng) for _ in range(5)]
    model = cluster.ClusterGcn(width=8).eval()

    def logits(batch):
        return model(batch["marks"], batch["adjacency"], batch["graph"])

    alone = torch.cat([logits(cluster.together([graph])) for graph in graphs])
    torch.testing.assert_close(logits(cluster.together(graphs)), alone)


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


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("out", "cannot write the demo to out: Not a directory. Name another place with --out."),
        ("out/checkpoints", "cannot write the demo to out: File exists. Name another place with --out."),
        ("out/checkpoints/epoch-1.pt/x", "cannot write out/checkpoints/epoch-1.pt: it is a directory."),
    ],
)
def test_a_demo_that_cannot_be_written(run_swa, tmp_path, monkeypatch, taken, message):
    monkeypatch.setattr("swa_cli.demo.train.EPOCHS", 2)
    monkeypatch.setattr("swa_cli.demo.train.KEPT", 1)
    (tmp_path / taken).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / taken).write_text("a file")

    result = run_swa("demo", "--out", "out", "--force")

    assert (result.exit_code, result.stderr.count("error: ")) == (1, 1)
    assert message in result.stderr


@pytest.mark.parametrize("mine", ["checkpoints/epoch-12.pt", "swa.safetensors", ".hidden"])
def test_the_demo_leaves_what_is_there(run_swa, tmp_path, mine):
    path = tmp_path / "run" / mine
    path.parent.mkdir(parents=True)
    path.write_text("mine")

    results = [run_swa("demo", "--out", out) for out in ("run", str(tmp_path / "run"))]

    assert [result.exit_code for result in results] == [1, 1]
    assert "run is not empty. Name another directory with --out, or write into it with --force." in results[0].stderr
    assert path.read_text() == "mine"
    assert len([*tmp_path.rglob("*")]) == len(path.relative_to(tmp_path).parts)


def test_the_demo_writes_its_own_directory_anew(run_swa, tmp_path, monkeypatch):
    monkeypatch.setattr("swa_cli.demo.train.EPOCHS", 3)
    monkeypatch.setattr("swa_cli.demo.train.KEPT", 2)

    results = [run_swa("demo"), run_swa("demo", "--seed", "1"), run_swa("demo", "--out", "swa-demo")]

    assert [result.exit_code for result in results] == [0, 0, 1]
    assert "swa-demo is not empty" in results[2].stderr


def test_a_demo_on_a_full_disk_leaves_no_half_checkpoint(run_swa, tmp_path, monkeypatch):
    monkeypatch.setattr("swa_cli.demo.train.EPOCHS", 2)
    monkeypatch.setattr("swa_cli.demo.train.KEPT", 1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        result = run_swa("demo", "--out", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert result.exit_code == 1
    assert "out/checkpoints/epoch-1.pt: File too large. Nothing was left behind" in result.stderr
    assert not [*(tmp_path / "out" / "checkpoints").iterdir()]


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
