"""The benchmarks run and say what they measured; how fast it was is nobody's test."""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    # Threads that wait for each other on a busy machine take ten times as long for small tensors.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def script(monkeypatch):
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module
    torch.set_num_threads(threads)


@pytest.fixture
def refusal(script, monkeypatch, capsys, tmp_path):
    """What a benchmark says as it ends with an error, without a table."""
    monkeypatch.chdir(tmp_path)

    def run_to_its_end(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with pytest.raises(SystemExit) as end:
            script(name).main()
        out, errors = capsys.readouterr()
        assert end.value.code not in {0, None}
        assert not tables(out)
        return f"{errors}{end.value.code}"

    return run_to_its_end


def tables(stdout: str) -> list[list[list[str]]]:
    """The cells of every Markdown table, with the header and without the rule below it."""
    found, inside = [], False
    for line in stdout.splitlines():
        if line.startswith("|"):
            found += [] if inside else [[]]
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        inside = line.startswith("|")
    return [[header, *rows] for header, _, *rows in found]


def test_speed_prints_a_table_writes_every_run_and_leaves_nothing_behind(tmp_path):
    sizes = ["--size", "100kB", "--count", "2", "--tensors", "7", "--repeats", "1"]
    result = run(tmp_path, "average.py", "speed", *sizes, "--only", "swa-average,plain,cat", "--json", "speed.json")

    assert result.returncode == 0, result.stderr
    for line in ("machine: ", "system: Linux", "files: on ", "command: python ", "date: 20"):
        assert line in result.stdout
    title, header, rule, *rows = (
        result.stdout[result.stdout.index("2 checkpoints") :].replace("\n\n", "\n").splitlines()
    )
    assert title.startswith("2 checkpoints of 100 kB, float32, safetensors, 7 tensors each; warm cache")
    assert [row.split("|")[1].strip() for row in rows] == ["swa-average", "plain", "cat"]
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}
    assert {line.count("|") for line in (header, rule, *rows)} == {9}
    assert rows[0].split("|")[4].strip() == "1.00"

    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    (runs,) = report["runs"].values()
    assert {name: len(measured) for name, measured in runs.items()} == {"swa-average": 1, "plain": 1, "cat": 1}
    assert all(0 < one["anonymous"] < one["resident"] for name in ("swa-average", "plain") for one in runs[name])
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_a_size_that_is_none_is_refused(tmp_path):
    result = run(tmp_path, "average.py", "speed", "--size", "huge")

    assert result.returncode == 2
    assert "expected a size as in 1.2GB, 100MB or 100kB, found 'huge'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_no_rounds_are_refused(tmp_path):
    result = run(tmp_path, "average.py", "speed", "--repeats", "0")

    assert result.returncode == 2
    assert "argument --repeats: expected a whole number from 1 on, found '0'" in result.stderr


TINY = ["--batches", "2", "--batch-size", "2", "--image-size", "32", "--repeats", "2"]


def test_bn_update_prints_every_program_and_the_cost_of_sequential(tmp_path):
    result = run(tmp_path, "bn_update.py", *TINY, "--sequential", "--json", "bn.json")

    assert result.returncode == 0, result.stderr
    for line in ("machine: ", "system: Linux", "device: CPU, ", "command: python ", "; rounds: 2"):
        assert line in result.stdout
    assert "resnet18, 2 batches of 2 images of 32 × 32, in memory; on cpu" in result.stdout
    ((header, *rows),) = tables(result.stdout)
    assert header == ["program", "wall, median", "min-max", "× update_bn", "min-max", "passes"]
    names = ["recalibrate, population", "update_bn", "update_bn_stats of fvcore", "recalibrate, sequential"]
    assert [row[0] for row in rows] == names
    assert rows[1][3:] == ["1.00", "1.00-1.00", "1"]
    assert float(rows[3][5]) >= 20  # ResNet-18 has 20 BatchNorm layers
    assert "recalibrate, sequential: " in result.stdout
    assert "is by definition, computed from each batch in float64" in result.stdout

    (runs,) = json.loads((tmp_path / "bn.json").read_text(encoding="utf-8"))["runs"].values()
    assert {name: len(seconds) for name, seconds in runs.items() if name != names[2]} == dict.fromkeys(
        [names[0], names[1], names[3]], 2
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bn.json"]


def test_bn_update_says_that_fvcore_is_not_there(tmp_path, script, monkeypatch, capsys):
    bench = script("bn_update")
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["bn_update.py", *TINY])

    bench.main()

    ((_, *rows),) = tables(capsys.readouterr().out)
    assert rows[2] == ["update_bn_stats of fvcore", "not installed", "", "", "", ""]


@pytest.mark.parametrize("claimed", ["population", "fvcore", "sequential"])
def test_bn_update_times_no_program_whose_statistics_are_wrong(script, claimed):
    """Those of torch for those of another estimator: the batches are few, small and unlike each other."""
    bench = script("bn_update")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    batches = [(torch.randn(2, 3, 6, 6) + shift, torch.zeros(2)) for shift in range(3)]
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = bench.Bench(model=model, initial=initial, batches=batches, device=torch.device("cpu"))

    def update_bn() -> None:
        torch.optim.swa_utils.update_bn(batches, model)

    def program(estimator: str) -> object:
        return bench.Program(name="update_bn", call=update_bn, estimator=estimator, train=True)

    measured.seconds(program("torch"))
    assert bench.check(measured, program("torch")) < 1e-5
    measured.seconds(program(claimed))
    with pytest.raises(SystemExit, match=rf"update_bn: the statistics of \d are not those of the estimator {claimed}"):
        bench.check(measured, program(claimed))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "0"], "argument --batches: expected a whole number from 1 on, found '0'"),
        (["--workers", "-1"], "--workers: expected 0 or more, found -1"),
        (["--model", "resnet"], "--model: torchvision has no classifier 'resnet'; it has alexnet, "),
        (["--model", "alexnet", *TINY], "alexnet has no BatchNorm layers: there is nothing to measure."),
    ],
)
def test_bn_update_refuses_what_it_cannot_measure(refusal, arguments, message):
    assert message in refusal("bn_update", *arguments)


def test_evaluate_times_every_program_and_the_growth(tmp_path):
    sizes = ["--data", "tensors", "--tensors", "20", "--classes", "3", "--width", "2", "--workers", "0"]
    options = ["--checkpoints", "2", "--growth", "1", "3", "--rounds", "1", "--json", "e.json"]
    result = run(tmp_path, "evaluate.py", *sizes, *options)

    assert result.returncode == 0, result.stderr
    for line in ("machine: ", "system: Linux", "device: CPU, ", "command: python ", "; rounds: 1"):
        assert line in result.stdout
    about = "over 20 tensors of 3 × 32 × 32, 3 classes, batches of 64, width 2; on cpu; workers: 0"
    assert f"2 checkpoints and their average {about}" in result.stdout
    assert f"The pass as the checkpoints grow more, with ensembles, {about}" in result.stdout
    (header, *programs), (_, *growth) = tables(result.stdout)
    assert header == ["program", "wall, median", "min-max", "× the loop", "min-max", "CPU"]
    names = ["swa-eval", "the loop", "swa-eval, after imports", "the loop, after imports", "swa-eval, its pass alone"]
    assert [row[0] for row in programs] == names
    assert [row[3] for row in programs if row[0].startswith("the loop")] == ["1.00", "1.00"]
    assert [row[0] for row in growth] == ["1", "3"]
    assert "Both give the same accuracy and NLL of every row" in result.stdout

    against, growing = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))["runs"].values()
    (passed,), (within,), (process,) = (against["swa-eval"][name] for name in ("passed", "within", "process"))
    assert 0 < passed < within < process
    (load,), (forward,) = (growing["parts"][name] for name in ("load", "forward"))
    floors = [load + 2 * forward, load + 4 * forward]
    assert [row[3] for row in growth] == [f"{seconds:.2f} s" for seconds in floors]
    (few,), (many,) = growing["passes"].values()
    assert f"{(many - few) / 2:.3f} s" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def test_the_loop_of_evaluate_scores_what_swa_eval_scores_on_jpegs(tmp_path, script):
    bench = script("evaluate")
    sizes = {"images": 5, "classes": 3, "width": 2, "checkpoints": 2}
    bench.make({**sizes, "folder": str(tmp_path), "kind": "jpeg"})
    args = argparse.Namespace(**sizes, batch_size=2, device="cpu")
    made = bench.Bench(folder=tmp_path, kind="jpeg", args=args)
    program = made.worker("loop", 2, ensemble=True, workers=0)

    scores = bench.loop(json.loads(program.command[-1]))["scores"]

    module = importlib.import_module("evaluated")
    loader = module.Images(path=tmp_path / "jpeg", batch_size=5, num_workers=0).test_dataloader()
    ((images, labels),) = loader
    assert images.shape == (5, 3, 224, 224)
    assert labels.tolist() == [0, 0, 1, 1, 2]
    probs = []
    for path in (*made.checkpoints(2), tmp_path / "swa.pt"):
        model = module.SmallCnn(n_classes=3, width=2, stride=4).double().eval()
        model.load_state_dict(torch.load(path))
        probs.append(model(images.double()).softmax(1).detach())
    probs.append((probs[0] + probs[1]) / 2)
    expected = [
        {
            "accuracy": pytest.approx((one.argmax(1) == labels).double().mean().item()),
            "nll": pytest.approx(-one[range(5), labels].log().mean().item(), rel=1e-5),
        }
        for one in probs
    ]
    assert scores == expected
    assert len({f"{score['nll']:.4f}" for score in scores}) == 4  # or this would not tell them apart


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([{"accuracy": 0.5, "nll": 1.0002}], "row 1: nll is 1.0002 by swa-eval and 1.0 by the loop"),
        ([{"accuracy": 0.6, "nll": 1.0}], "row 1: accuracy is 0.6 by swa-eval and 0.5 by the loop"),
        ([{"accuracy": 0.5, "nll": float("nan")}], "row 1: nll is nan by swa-eval and 1.0 by the loop"),
        ([], "swa-eval has 0 rows, the loop 1"),
    ],
)
def test_evaluate_times_nothing_where_the_scores_differ(script, found, message):
    with pytest.raises(SystemExit, match=message):
        script("evaluate").check(found, [{"accuracy": 0.5, "nll": 1.0}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "argument --rounds: expected a whole number from 1 on, found '0'"),
        (["--workers", "-1"], "--workers: expected 0 or more, found -1"),
        (["--growth", "3", "3"], "--growth: expected two different numbers or more, found 3"),
        (["--images", "7"], "--images: expected one for each of the 100 classes, found 7"),
    ],
)
def test_evaluate_refuses_what_it_cannot_measure(refusal, arguments, message):
    assert message in refusal("evaluate", *arguments)


RUN = """
from pathlib import Path
import torch
from torch import nn

def Net():
    return nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.ReLU(), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 4))

class Data:
    def train_dataloader(self):
        return torch.load(Path(__file__).with_name("train"))

    def test_dataloader(self):
        return torch.load(Path(__file__).with_name("test"))
"""
CONFIG = """
model: user.py:Net
data: user.py:Data
average:
  sources: [ckpts]
  output: not-written.safetensors
"""


def batches_in(folder: Path, name: str, sizes: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Unequal, and unlike each other."""
    batches = [(index + (1 + index) * torch.randn(size, 3), torch.arange(size) % 4) for index, size in enumerate(sizes)]
    torch.save(batches, folder / name)
    return batches


EPS = 1e-5  # of the BatchNorm layers


def normalised(values: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return (values - mean) / (variance + EPS).sqrt()


def both_layers(parts: list[torch.Tensor], estimator: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance of both layers of `RUN`, from their definition, in float64."""

    def of(inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if estimator in {"population", "sequential"}:
            return torch.cat(inputs).mean(0), torch.cat(inputs).var(0)
        weights = torch.tensor([[len(part) if estimator == "official" else 1.0] for part in inputs]).double()
        means, variances = torch.stack([part.mean(0) for part in inputs]), torch.stack([part.var(0) for part in inputs])
        return (weights * means).sum(0) / weights.sum(), (weights * variances).sum(0) / weights.sum()

    first = of(parts)
    by = [first if estimator == "sequential" else (part.mean(0), part.var(0, correction=0)) for part in parts]
    return [first, of([normalised(part, *used).relu() for part, used in zip(parts, by, strict=True)])]


def test_bn_estimators_scores_what_each_estimator_is_by_definition(tmp_path, save_run):
    (tmp_path / "user.py").write_text(RUN)
    (tmp_path / "run.yaml").write_text(CONFIG)
    training, test = batches_in(tmp_path, "train", [40, 24, 5]), batches_in(tmp_path, "test", [30, 20])
    states = [
        {
            **{f"{layer}.running_mean": torch.randn(3) for layer in (0, 2)},
            **{f"{layer}.running_var": torch.rand(3) + 0.5 for layer in (0, 2)},
            **{f"{layer}.num_batches_tracked": torch.tensor(7) for layer in (0, 2)},
            "3.weight": torch.randn(4, 3),
            "3.bias": torch.randn(4),
        }
        for _ in range(3)
    ]
    save_run(states)
    before = {*tmp_path.iterdir()}

    result = run(tmp_path, "bn_estimators.py", "--config", "run.yaml", "--batch-sizes", "10", "999", "--json", "e.json")

    assert result.returncode == 0, result.stderr
    assert {path.name for path in {*tmp_path.iterdir()} - before} - {"__pycache__"} == {"e.json"}
    last = {name: tensor.double() for name, tensor in states[-1].items()}
    average = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in last}
    inputs = [values.double() for values, _ in training]

    def stored(state: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(state[f"{layer}.running_mean"], state[f"{layer}.running_var"]) for layer in (0, 2)]

    def nll(state: dict[str, torch.Tensor], layers: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
        hidden = normalised(torch.cat([values for values, _ in test]).double(), *layers[0]).relu()
        logits = normalised(hidden, *layers[1]) @ state["3.weight"].T + state["3.bias"]
        return nn.functional.cross_entropy(logits, torch.cat([target for _, target in test])).item()

    expected = {
        ("average", "of the last checkpoint"): nll(average, stored(last)),
        ("average", "averaged"): nll(average, stored(average)),
        **{
            ("average", estimator): nll(average, both_layers(inputs, estimator))
            for estimator in ("population", "torch", "official", "sequential")
        },
        ("last checkpoint", "its own"): nll(last, stored(last)),
        ("last checkpoint", "population"): nll(last, both_layers(inputs, "population")),
    }
    found = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))["runs"]["run"]
    scores = {(arm["weights"], arm["statistics"]): arm["nll"] for arm in found["arms"]}
    assert scores == pytest.approx(expected, rel=1e-5)
    assert len({f"{score:.4f}" for score in scores.values()}) == 8  # or this would not tell them apart
    for arm in found["arms"]:
        (of_nll,) = [one for one in arm["differences"] if one["metric"] == "nll"] or [{"difference": 0}]
        difference = arm["nll"] - scores[arm["weights"], "population"]
        assert of_nll["difference"] == pytest.approx(difference, abs=1e-7)

    (_, *arms), (_, *sizes) = tables(result.stdout)
    assert [tuple(row[:3]) for row in arms] == [(*names, f"{score:.4f}") for names, score in scores.items()]
    assert [row[0] for row in sizes] == ["10", "69"]
    sequential = torch.cat([variance + EPS for _, variance in both_layers(inputs, "sequential")])
    for size, of_size in zip((10, 69), found["sizes"], strict=True):
        layers = both_layers(list(torch.cat(inputs).split(size)), "population")
        error = (torch.cat([variance + EPS for _, variance in layers]) / sequential - 1).abs()
        assert of_size["nll"] == pytest.approx(nll(average, layers), rel=1e-5)
        assert of_size["worst"] == pytest.approx(error.max().item(), rel=1e-3, abs=1e-6)
        assert of_size["rms"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-3, abs=1e-6)


def test_bn_estimators_trains_the_demo_for_each_seed(tmp_path, script, monkeypatch, capsys):
    """Not in earnest: the trainer leaves two untrained networks."""
    bench = script("bn_estimators")
    seeds = []

    def train(folder, *, seed):
        folder.mkdir()
        seeds.append(seed)
        for epoch in range(2):
            torch.manual_seed(10 * seed + epoch)
            torch.save(importlib.import_module("swa_cli.demo.digits").DigitsCnn().state_dict(), folder / f"{epoch}.pt")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "train_digits", train)
    config = SCRIPTS.parent / "sample_configs" / "digits.yaml"
    arguments = ["--config", str(config), "--seeds", "1", "2", "--batch-sizes", "100", "--json", "e.json"]
    monkeypatch.setattr(sys, "argv", ["bn_estimators.py", *arguments])

    bench.main()

    assert seeds == [1, 2]
    printed = capsys.readouterr().out
    assert "average of 2 checkpoints, scored on 700 examples of the test split; statistics from 897 training" in printed
    assert "means over 2 runs" in printed
    runs = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))["runs"]
    assert list(runs) == ["seed 1", "seed 2"]
    one, other = (run["arms"][0]["nll"] for run in runs.values())
    row = tables(printed)[0][1]
    assert row[2] == f"{(one + other) / 2:.4f} ({min(one, other):.4f} to {max(one, other):.4f})"
    assert row[4].endswith(" of 2")
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (
            "model: torchvision.models.resnet18",
            ["--seeds", "0"],
            "--seeds trains the demo: expected swa_cli.demo.digits",
        ),
        ("average: {sources: [nowhere]}", [], "no such file or directory: nowhere"),
        ("avrage: {}", [], "unknown key 'avrage'. Did you mean 'average'?"),
    ],
    ids=["seeds of another run", "no checkpoints", "unknown key"],
)
def test_bn_estimators_refuses_a_run_that_it_cannot_make(tmp_path, refusal, config, arguments, message):
    (tmp_path / "run.yaml").write_text(config)

    assert message in refusal("bn_estimators", "--config", "run.yaml", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_bn_estimators_refuses_batches_that_are_not_one_tensor(tmp_path, save_run, refusal):
    (tmp_path / "user.py").write_text(RUN)
    (tmp_path / "run.yaml").write_text(CONFIG)
    state = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.ReLU(), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 4))
    save_run([state.state_dict()] * 2)
    torch.save([(torch.randn(4, 3), torch.randn(4, 3), torch.zeros(4))], tmp_path / "train")

    message = refusal("bn_estimators", "--config", "run.yaml")

    assert "the batches of the train split are not one tensor and a target" in message


def test_coverage_counts_what_a_few_examples_make(tmp_path):
    options = ["--parts", "tails", "--sets", "1", "--resamples", "49", "--json", "found.json"]

    done = run(tmp_path, "coverage.py", *options)

    assert (done.returncode, done.stderr) == (0, "")
    (heavy,) = tables(done.stdout)
    assert heavy[0] == ["such examples", "n", "covered", "called better", "called worse", "said to rest on few"]
    assert [row[:2] for row in heavy[1:]] == [[rare, n] for rare in ("3", "10", "30") for n in ("300", "1,000")]
    assert all(0 <= float(share) <= 100 for row in heavy[1:] for share in row[2:])
    assert set(json.loads((tmp_path / "found.json").read_text())["runs"]) == {"tails"}
