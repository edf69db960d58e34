"""Speed of ``swa-eval --compare-ensemble``, beside the loop one would write.

    python benchmarks/evaluate.py --data jpeg --examples 1000 --rounds 3 --growth 1 5 10
    python benchmarks/evaluate.py --data tensors --examples 2000 --rounds 3 --growth 1 5 10

Data (JPEGs of noise with the spectrum of photographs, or tensors), checkpoints of a small CNN and their average are
made in a temporary folder below the current one. The loop loads each checkpoint, iterates over the same loader as
swa-eval, scores accuracy and NLL, and keeps the softmax for the ensemble. swa-eval does more: calibration, ensembles of
each number of checkpoints, and paired intervals. Both are whole processes that run in turns; in a first round, which is
not counted, their scores are compared. "After imports" is the same from within the process.

Then the growth: the pass of swa-eval with more and more checkpoints, beside loading all batches once and the forward
passes of all models, each measured on its own in a process that loads without workers. Linux only.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import torch
from common import Parser, Run, alternate, print_setup, ratios, run, spread, start, table, worker
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_pil_image

OURS, LOOP, WITHIN = "swa-eval", "the loop", "within"
CLASSES, BATCH_SIZE, COMPARED, WORKERS = 100, 64, 10, 2
TOLERANCE = 1e-4
"""Of accuracy and NLL: the loop computes in float32 what swa-eval computes in float64."""


class SmallCnn(nn.Sequential):
    """Three convolutions with BatchNorm, for images of any size; ``stride`` is that of the first."""

    def __init__(self, *, stride: int) -> None:
        layers: list[nn.Module] = []
        for before, after, step in ((3, 16, stride), (16, 32, 2), (32, 64, 2)):
            convolution = nn.Conv2d(before, after, 3, stride=step, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


class Data:
    """JPEGs in a folder for each class, cropped as for an evaluation on ImageNet, or the tensors of a file."""

    def __init__(self, *, path: str, workers: int) -> None:
        normalize = transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize]
        is_folder, self._workers = Path(path).is_dir(), workers
        self._dataset: Any = (
            ImageFolder(path, transforms.Compose(steps)) if is_folder else TensorDataset(*torch.load(path))
        )

    def test_dataloader(self) -> DataLoader[Any]:
        """Images and class indices."""
        return DataLoader(self._dataset, batch_size=BATCH_SIZE, num_workers=self._workers)


def configure(folder: Path, kind: str, workers: int) -> str:
    """Write swa-eval's configuration; the loop takes its model and data from it too."""
    model, data = {"stride": 4 if kind == "jpeg" else 1}, {"path": str(folder / "data"), "workers": workers}
    contents = {
        "model": {"class_path": f"{__file__}:SmallCnn", "init_args": model},
        "data": {"class_path": f"{__file__}:Data", "init_args": data},
    }
    path = folder / f"{workers}-workers.yaml"
    path.write_text(json.dumps(contents), encoding="utf-8")  # every JSON file is a YAML file
    return str(path)


def against_the_loop(folder: Path, kind: str, rounds: int, title: str) -> None:
    """Compare the scores of both, then run them in turns."""
    config, swa = configure(folder, kind, WORKERS), str(folder / "swa.pt")
    paths = sorted(map(str, (folder / "checkpoints").iterdir()))[:COMPARED]
    options = ["--swa", swa, "--compare-ensemble", "--no-best-by-val", "--device", "cpu", "--config", config]
    commands = {
        OURS: [sys.executable, "-m", "swa_cli", "eval", *paths, *options, "--json", "-"],
        LOOP: worker("loop", config, paths, swa),
        WITHIN: worker("within", config, paths, swa),
    }
    scores: dict[str, dict[str, float]] = {}

    def check(name: str, found: Run) -> None:
        if name == OURS:
            scores.update((row["name"], row["metrics"]) for row in found.report["candidates"])
        for row, metrics in found.report["scores"].items() if name == LOOP else ():
            for metric, value in metrics.items():
                ours = scores[row][metric]
                assert abs(ours - value) <= TOLERANCE, f"{row}: {metric} is {ours} by {OURS} and {value} by {LOOP}"

    runs = alternate({name: partial(run, command, reports=True) for name, command in commands.items()}, rounds, check)
    whole = {name: [one.wall for one in found] for name, found in runs.items()}
    inside = {name: [one.report["seconds"] for one in runs[name]] for name in (LOOP, WITHIN)}
    rows = [
        [name, *spread(seconds, unit=" s"), *spread(ratios(seconds, against))]
        for name, seconds, against in (
            (OURS, whole[OURS], whole[LOOP]),
            (LOOP, whole[LOOP], whole[LOOP]),
            (f"{OURS}, after imports", inside[WITHIN], inside[LOOP]),
            (f"{LOOP}, after imports", inside[LOOP], inside[LOOP]),
            (f"{OURS}, its pass alone", [one.report["pass"] for one in runs[WITHIN]], inside[LOOP]),
        )
    ]
    for row in rows:
        row.append(f"{median(one.cpu for one in runs[row[0]]):.2f} s" if row[0] in runs else "")
    columns = ["program", "wall, median", "min-max", f"× {LOOP}", "min-max", "CPU"]
    table(f"{COMPARED} checkpoints and their average over {title}; workers: {WORKERS}", columns, rows)


def growth(folder: Path, kind: str, counts: list[int], rounds: int, title: str) -> None:
    """Run the pass of swa-eval for each number of checkpoints, in turns with loading and forward passes alone."""
    config, swa = configure(folder, kind, 0), str(folder / "swa.pt")
    paths = sorted(map(str, (folder / "checkpoints").iterdir()))
    commands = {0: worker("parts", config), **{n: worker("within", config, paths[:n], swa) for n in counts}}
    runs = alternate({n: partial(run, command, reports=True) for n, command in commands.items()}, rounds)
    load, forward = ([one.report[part] for one in runs[0]] for part in ("load", "forward"))
    seconds = {count: [one.report["pass"] for one in runs[count]] for count in counts}
    rows: list[list[Any]] = []
    for count, of_count in seconds.items():
        floor = [once + (count + 1) * each for once, each in zip(load, forward, strict=True)]
        cells = [*spread(of_count, unit=" s"), *spread(floor, unit=" s"), *spread(ratios(of_count, floor))]
        rows.append([count, *cells])
    columns = ["checkpoints", "pass, median", "min-max", "load once, forward each", "min-max", "ratio", "min-max"]
    table(f"The pass as the checkpoints grow more, over {title}; workers: 0", columns, rows)
    slopes = [linear_regression(counts, of_round).slope for of_round in zip(*seconds.values(), strict=True)]
    parts_alone = ("loading", load), ("forward passes of one model", forward), ("a further checkpoint", slopes)
    rows = [[name, *spread(values, "{:.3f}", " s")] for name, values in parts_alone]
    rows.append(["a further checkpoint over its forward passes", *spread(ratios(slopes, forward))])
    table("The parts", ["part", "median", "min-max"], rows)


# --- Workers: each is a process of its own


def make(folder: str, kind: str, n: int, checkpoints: int) -> None:
    """Write the data, and checkpoints with random weights that have something in common, and their average."""
    torch.manual_seed(0)
    for number in range(n if kind == "jpeg" else 0):
        image = torch.randn(1, 3, 300, 400) / 2
        for octave in range(1, 8):  # each has as much as the next, as in photographs
            noise = torch.randn(1, 3, -(-300 // 2**octave), -(-400 // 2**octave))
            image += interpolate(noise, (300, 400), mode="bilinear")
        path = Path(folder, "data", f"{number % CLASSES:04}", f"{number:06}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image((image[0] / image.std() / 5 + 0.5).clamp(0, 1)).save(path, quality=90)
    if kind == "tensors":
        torch.save((torch.randn(n, 3, 32, 32), torch.randint(CLASSES, (n,))), Path(folder, "data"))
    common = SmallCnn(stride=1).state_dict()
    total = {name: torch.zeros_like(tensor) for name, tensor in common.items()}
    Path(folder, "checkpoints").mkdir()
    for number in range(checkpoints):
        state = {name: one + 0.5 * one.std() * torch.randn_like(one) if one.ndim > 1 else one for name, one in
                 common.items()}  # fmt: skip
        total = {name: total[name] + one for name, one in state.items()}
        torch.save(state, Path(folder, "checkpoints", f"epoch-{number:04}.pt"))
    average = {name: (one / checkpoints).to(one.dtype) for name, one in total.items()}
    torch.save(average, Path(folder, "swa.pt"))


def _model_and_loader(config: str) -> tuple[nn.Module, DataLoader[Any]]:
    parts = json.loads(Path(config).read_text(encoding="utf-8"))
    return SmallCnn(**parts["model"]["init_args"]).eval(), Data(**parts["data"]["init_args"]).test_dataloader()


@torch.no_grad()
def loop(config: str, checkpoints: list[str], swa: str) -> dict[str, Any]:
    """Load each checkpoint, iterate over the loader and count; keep the softmax of the checkpoints."""
    began = time.perf_counter()
    model, loader = _model_and_loader(config)
    scores: dict[str, dict[str, float]] = {}
    members: list[torch.Tensor] = []
    labels = torch.empty(0)
    for path in (*checkpoints, swa):
        model.load_state_dict(torch.load(path))
        correct, nll, softmax, targets = 0, 0.0, list[torch.Tensor](), list[torch.Tensor]()
        for images, target in loader:
            logits = model(images)
            correct += int((logits.argmax(dim=1) == target).sum())
            nll += float(cross_entropy(logits, target, reduction="sum"))
            softmax.append(logits.softmax(dim=1))
            targets.append(target)
        labels = torch.cat(targets)
        scores[Path(path).name] = {"accuracy": correct / len(labels), "nll": nll / len(labels)}
        members += [torch.cat(softmax)] if path != swa else []
    mean = torch.stack(members).mean(dim=0)
    accuracy = float((mean.argmax(dim=1) == labels).double().mean())
    scores["ensemble"] = {"accuracy": accuracy, "nll": float(-mean.gather(1, labels[:, None]).log().mean())}
    return {"seconds": time.perf_counter() - began, "scores": scores}


def within(config: str, checkpoints: list[str], swa: str) -> dict[str, float]:
    """Evaluate as swa-eval does, after all imports; return the seconds of all and of the pass."""
    from swa_cli.config.load import load_config
    from swa_cli.pipeline.evaluation.step import eval_step

    seconds: list[float] = []

    @contextmanager
    def track(description: str, *, total: int | None, unit: str) -> Generator[Callable[[int], None]]:
        del description, total, unit
        entered = time.perf_counter()
        yield lambda _: None
        seconds.append(time.perf_counter() - entered)

    members = {"checkpoints": checkpoints, "swa": swa}
    flags = {**members, "compare_ensemble": True, "best_by_val": False, "device": "cpu"}
    began = time.perf_counter()
    eval_step(load_config(Path(config), {"eval": flags}), notify=lambda _: None, track=track)
    return {"seconds": time.perf_counter() - began, "pass": sum(seconds)}


@torch.no_grad()
def parts(config: str) -> dict[str, float]:
    """Go over the loader without a model, and over batches in memory with one model: the median of three times."""
    model, loader = _model_and_loader(config)
    began = time.perf_counter()
    batches = [images for images, _ in loader]
    load, forward = time.perf_counter() - began, list[float]()
    for _ in range(4):
        began = time.perf_counter()
        for images in batches:
            model(images)
        forward.append(time.perf_counter() - began)
    return {"load": load, "forward": median(forward[1:])}


def main() -> None:
    """Measure one kind of data."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", choices=["jpeg", "tensors"], default="jpeg", help="(default: jpeg)")
    parser.add_argument("--examples", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--growth", nargs="*", type=int, default=[1, 5, 10], help="checkpoints (default: 1 5 10)")
    parser.add_argument("--rounds", type=int, default=3, help="that count (default: 3)")
    options = parser.parse_args()
    print_setup("torch", "torchvision", "pillow", "numpy")
    of = "JPEGs of 400 × 300, evaluated at 224 × 224" if options.data == "jpeg" else "tensors of 3 × 32 × 32"
    title = f"{options.examples:,} {of}, {CLASSES} classes, batches of {BATCH_SIZE}; {torch.get_num_threads()} threads"
    with tempfile.TemporaryDirectory(prefix="swa-benchmark-", dir=Path.cwd()) as name:
        run(worker("make", name, options.data, options.examples, max([COMPARED, *options.growth])))
        against_the_loop(Path(name), options.data, options.rounds, title)
        if options.growth:
            growth(Path(name), options.data, options.growth, options.rounds, title)


if __name__ == "__main__":
    start(main, [make, loop, within, parts])
