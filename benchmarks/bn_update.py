"""Speed of `recalibrate`, beside what else recomputes BatchNorm statistics.

    python benchmarks/bn_update.py                                   # ResNet-18, 20 batches of 32, on the CPU
    python benchmarks/bn_update.py --device cuda --batches 200
    python benchmarks/bn_update.py --sequential --repeats 3          # and the estimator with a pass for each layer

Against `torch.optim.swa_utils.update_bn`, and `fvcore.nn.precise_bn.update_bn_stats` where fvcore is installed. All
run in this process on one model (random weights), the same batches (noise, brighter and stronger in some images than in
others) and one device, in turns (A B C, A B C, ...), after one uncounted round in which the statistics are checked.
They are timed without the start of the interpreter and imports, on CUDA from synchronised to synchronised. Ratios are
within a round: absolute times drift on a shared machine, ratios hold. The swa_cli measured is the one beside this
folder.

Without --workers the batches are made beforehand and lie in memory, so that no loader hides what the programs cost;
with it they come from a DataLoader. Linux only.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
import torchvision
from reporting import Report, computer, ours, positive, ratios, spread, system, version_of
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

from swa_cli.batchnorm import Estimator, recalibrate
from swa_cli.errors import SwaError
from swa_cli.system.devices import resolve_device
from swa_cli.user.forward import Forward

ESTIMATORS: tuple[Estimator, ...] = ("population", "torch", "official", "sequential")
TORCH, FVCORE = "update_bn", "update_bn_stats of fvcore"
KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-4
"""Of a mean in standard deviations, of a variance relative to itself: far above what rounding in float32 costs (1e-6,
and for fvcore's E[x²] − E[x]² as much again for each unit of mean²/variance), and far below what the estimators differ
by, which is at least Bessel's correction: 6e-4 for 32 images of 7 × 7, the last layers of a ResNet at 224 pixels."""

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]] | DataLoader[tuple[torch.Tensor, ...]]
Statistics = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Program:
    """``call`` gives the model new statistics, those of ``estimator``; ``train``: with all of the model in train mode.

    ``fvcore`` is the population's with the biased variance.
    """

    name: str
    call: Callable[[], object]
    estimator: Estimator | str
    train: bool


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The model, and its state_dict before anything was done to it; the batches are on the CPU."""

    model: nn.Module
    initial: Mapping[str, torch.Tensor]
    batches: Batches
    device: torch.device

    def seconds(self, program: Program) -> float:
        """Wall time of one run."""
        self.model.load_state_dict(self.initial)
        self.model.train()
        torch.manual_seed(0)
        self._synchronise()
        began = time.perf_counter()
        program.call()
        self._synchronise()
        return time.perf_counter() - began

    def passes(self, program: Program) -> float:
        """Forward passes for each batch in one run."""
        calls: list[nn.Module] = []

        def count(module: nn.Module, _: object) -> None:
            calls.append(module)

        hook = self.model.register_forward_pre_hook(count)
        self.seconds(program)
        hook.remove()
        return len(calls) / len(self.batches)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return (
            f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        )
    return f"CPU, {torch.get_num_threads()} threads"


# --- What is measured


def bench_for(args: argparse.Namespace) -> Bench:
    """The model and batches that the command line asks for."""
    torch.manual_seed(0)
    device = resolve_device(args.device)
    model = torchvision.models.get_model(args.model, weights=None).to(device)
    n = args.batches * args.batch_size
    contrast, brightness = 0.5 + torch.rand(n, 1, 1, 1), torch.randn(n, 3, 1, 1)
    images = torch.randn(n, 3, args.image_size, args.image_size).mul_(contrast).add_(brightness)
    labels = torch.zeros(n, dtype=torch.int64)
    batches: Batches = list(zip(images.split(args.batch_size), labels.split(args.batch_size), strict=True))
    if args.workers is not None:
        batches = DataLoader(TensorDataset(images, labels), batch_size=args.batch_size, num_workers=args.workers)
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return Bench(model=model, initial=initial, batches=batches, device=device)


def programs_for(bench: Bench, args: argparse.Namespace) -> list[Program]:
    """Ours first."""
    model, batches, device = bench.model, bench.batches, bench.device

    def recalibrated(estimator: Estimator) -> Program:
        def call() -> object:
            return recalibrate(model, batches, estimator=estimator, forward=Forward(device=device))

        return Program(name=_named(estimator), call=call, estimator=estimator, train=False)

    programs = [
        recalibrated(args.estimator),
        Program(name=TORCH, call=lambda: update_bn(batches, model, device), estimator="torch", train=True),
    ]
    if find_spec("fvcore") is not None:
        update_bn_stats = importlib.import_module("fvcore.nn.precise_bn").update_bn_stats

        def call() -> object:
            return update_bn_stats(model, (inputs.to(device) for inputs, _ in batches), num_iters=len(batches))

        programs.append(Program(name=FVCORE, call=call, estimator="fvcore", train=True))
    if args.sequential and args.estimator != "sequential":
        programs.append(recalibrated("sequential"))
    return programs


def measure(bench: Bench, programs: Sequence[Program], args: argparse.Namespace, report: Report) -> None:
    """Check the statistics in a round that is not counted, then take the time in turns."""
    passes: dict[str, float] = {}
    differences: list[float] = []
    for program in programs:
        print(f"warm-up: {program.name}", file=sys.stderr)
        passes[program.name] = bench.passes(program)
        differences.append(check(bench, program))
    runs: dict[str, list[float]] = {program.name: [] for program in programs}
    for number in range(args.repeats):
        for program in programs:
            seconds = bench.seconds(program)
            runs[program.name].append(seconds)
            print(f"round {number + 1} of {args.repeats}: {program.name}: {seconds:.3f} s", file=sys.stderr)
    report.keep(_title(args), runs)
    _table(runs, passes, args, report)
    own, sequential = _named(args.estimator), _named("sequential")
    if args.sequential and own != sequential:
        cost = statistics.median(ratios(runs[sequential], runs[own]))
        report.say(f"{sequential}: {passes[sequential]:.4g} forward passes in {cost:.2f} × the time of {own}.")
    report.say(
        "Every program's statistics are what its estimator is by definition, computed from each batch in float64: the "
        f"largest difference was {max(differences):.1g} (of a mean, in standard deviations, or of a variance, "
        f"relative); {TOLERANCE:g} is allowed."
    )


def _named(estimator: str) -> str:
    return f"recalibrate, {estimator}"


def _title(args: argparse.Namespace) -> str:
    loader = "in memory" if args.workers is None else f"from a DataLoader, workers: {args.workers}"
    return (
        f"{args.model}, {args.batches} batches of {args.batch_size} images of {args.image_size} × {args.image_size}, "
        f"{loader}; on {args.device}"
    )


def _table(
    runs: Mapping[str, Sequence[float]], passes: Mapping[str, float], args: argparse.Namespace, report: Report
) -> None:
    rows: list[list[str]] = []
    for name, seconds in runs.items():
        against = ratios(seconds, runs[TORCH])
        rows.append(
            [
                name,
                *spread(seconds, digits=3),
                f"{statistics.median(against):.2f}",
                f"{min(against):.2f}-{max(against):.2f}",
                f"{passes[name]:.4g}",
            ]
        )
    columns = ["program", "wall, median", "min-max", f"× {TORCH}", "min-max", "passes"]
    if FVCORE not in runs:
        rows.insert(2, [FVCORE, "not installed", *[""] * (len(columns) - 2)])
    report.table(_title(args), columns, rows)


# --- What is right


def check(bench: Bench, program: Program) -> float:
    """Compare what ``program`` left in the model with the definition of its estimator; end if they differ.

    Returns the largest difference.
    """
    found: Statistics = {
        name: (_buffer(layer.running_mean), _buffer(layer.running_var))
        for name, layer in batchnorm_layers(bench.model).items()
    }
    largest = 0.0
    for name, (mean, variance) in defined(bench, program).items():
        scale = variance + batchnorm_layers(bench.model)[name].eps
        of_mean = float(((found[name][0] - mean).abs() / scale.sqrt()).max())
        of_variance = float(((found[name][1] - variance).abs() / scale).max())
        error = max(of_mean, of_variance)
        if not error <= TOLERANCE:  # also where it is NaN
            sys.exit(
                f"{program.name}: the statistics of {name} are not those of the estimator {program.estimator}: "
                f"expected differences of mean and variance up to {TOLERANCE:g}, found {of_mean:.2g} and "
                f"{of_variance:.2g}."
            )
        largest = max(largest, error)
    return largest


def batchnorm_layers(model: nn.Module) -> dict[str, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]:
    """By name; there are no other kinds in torchvision's classifiers."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KINDS)}


def _buffer(buffer: torch.Tensor | None) -> torch.Tensor:
    assert buffer is not None
    return buffer.to("cpu", torch.float64)  # a copy, as the buffer is float32


@torch.no_grad()
def defined(bench: Bench, program: Program) -> Statistics:
    """The statistics that the estimator of ``program`` is by definition, of every layer that the batches reach.

    From the moments of each layer's inputs in each batch, float64, in a pass of its own in the mode that ``program``
    had the model in. ``sequential`` is a fixed point: in eval mode, with the statistics that were found, each layer's
    inputs have these statistics.
    """
    model, layers = bench.model, batchnorm_layers(bench.model)
    sequential = program.estimator == "sequential"
    model.train(program.train)
    for layer in layers.values():
        layer.train(not sequential)
    counts: dict[str, list[int]] = {}
    means: dict[str, list[torch.Tensor]] = {}
    variances: dict[str, list[torch.Tensor]] = {}

    def observe(name: str) -> Callable[[nn.Module, tuple[torch.Tensor]], None]:
        def hook(_: nn.Module, args: tuple[torch.Tensor]) -> None:
            values = args[0].to(torch.float64).transpose(0, 1).flatten(1)
            counts.setdefault(name, []).append(values.shape[1])
            means.setdefault(name, []).append(values.mean(dim=1).cpu())
            variances.setdefault(name, []).append(values.var(dim=1, correction=0).cpu())

        return hook

    hooks = [layer.register_forward_pre_hook(observe(name)) for name, layer in layers.items()]
    torch.manual_seed(0)
    for inputs, _ in cast("Iterable[tuple[torch.Tensor, torch.Tensor]]", bench.batches):
        model(inputs.to(bench.device))
    for hook in hooks:
        hook.remove()
    return {
        name: definition(program.estimator, counts[name], torch.stack(means[name]), torch.stack(variances[name]))
        for name in counts
    }


def definition(
    estimator: str, counts: Sequence[int], means: torch.Tensor, variances: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of one layer, shape (C,).

    Args:
        counts: elements per channel in each of B batches; all batches have as many images, and so ``official`` is
            ``torch``.
        means: float64, shape (B, C).
        variances: biased, float64, shape (B, C).
    """
    n = torch.tensor(counts, dtype=torch.float64)[:, None]
    if estimator in {"torch", "official"}:
        return means.mean(dim=0), (variances * n / (n - 1)).mean(dim=0)
    total = n.sum()
    mean = (n * means).sum(dim=0) / total
    squares = (n * (variances + (means - mean).square())).sum(dim=0)
    return mean, squares / (total if estimator == "fvcore" else total - 1)


# --- The command line


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="a classifier of torchvision (default: resnet18)")
    parser.add_argument("--batch-size", type=positive, default=32, help="images (default: 32)")
    parser.add_argument("--batches", type=positive, default=20, help="in a pass (default: 20)")
    parser.add_argument("--image-size", type=positive, default=224, help="pixels, height and width (default: 224)")
    parser.add_argument("--workers", type=int, help="of a DataLoader, 0 for none (default: no DataLoader)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="population", help="ours (default: population)")
    parser.add_argument("--sequential", action="store_true", help="time the estimator sequential as well")
    parser.add_argument("--repeats", type=positive, default=5, help="rounds that count (default: 5)")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    args = parser.parse_args()
    known = torchvision.models.list_models(module=torchvision.models)
    if args.model not in known:
        parser.error(f"--model: torchvision has no classifier {args.model!r}; it has {', '.join(known)}")
    if args.workers is not None and args.workers < 0:
        parser.error(f"--workers: expected 0 or more, found {args.workers}")
    return args


def main() -> None:
    """Measure."""
    args = parse()
    try:
        bench = bench_for(args)
    except SwaError as error:
        sys.exit(str(error))
    if not batchnorm_layers(bench.model):
        sys.exit(f"{args.model} has no BatchNorm layers: there is nothing to measure.")
    where = {
        "machine": computer(),
        "system": system("torch", "torchvision", "numpy"),
        "programs": f"{ours()}, fvcore {version_of('fvcore')}",
        "device": _device(bench.device),
    }
    report = Report(where, rounds=args.repeats)
    measure(bench, programs_for(bench, args), args, report)
    report.write(args.json)


if __name__ == "__main__":
    main()
