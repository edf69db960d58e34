"""Speed of ``swa-eval``, beside the loop one would write: for each checkpoint load it and iterate over the loader.

    python benchmarks/evaluate.py                               # 10 checkpoints, JPEGs and tensors, on the CPU
    python benchmarks/evaluate.py --data jpeg --workers 0       # without processes that load
    python benchmarks/evaluate.py --width 64                    # where forward passes cost more than decoding
    python benchmarks/evaluate.py --without-ensemble            # both without the ensembles as well

Everything is made in a temporary folder below the current one, and removed: a folder of JPEGs (noise with the spectrum
of photographs, 400 × 300, quality 90), a file of tensors (32 × 32), checkpoints of a small CNN with random weights, and
their average. Model and data are those of `evaluated.py`, and all programs use the same loader. Each is a process of
its own, run in turns (A B C, A B C, ...) after one uncounted round, in which the scores are compared. Ratios are within
a round: absolute times drift on a shared machine, ratios hold. The swa_cli measured is the one beside this folder.

The loop scores accuracy and NLL of each checkpoint and of the average, and keeps the softmax for the ensemble. swa-eval
does more: calibrated NLL, Brier score and calibration errors, the ensemble of each number of checkpoints and the
geometric one, and paired intervals from up to 9,999 resamples.

Then the growth: the pass of swa-eval with more and more checkpoints, beside what it is made of, measured on its own:
loading all batches, and forward passes over batches that are in memory. There the process itself loads, or what loads
and what computes would compete for the cores and the parts would not add up. Files are in the page cache. Linux only.

"CPU" is user and system time of a process and its workers: where a run took much longer, it waited.
"""

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from reporting import Report, clean_up_when_terminated, computer, environment, ours, positive, ratios, spread, system

# The parent imports no torch: it only waits.

OURS, LOOP = "swa-eval", "the loop"
KINDS = {"jpeg": "Images", "tensors": "Tensors"}
"""By the names that ``--data`` takes, the data modules of `evaluated.py`."""
STRIDES = {"jpeg": 4, "tensors": 1}
TOLERANCE = 1e-4
"""Of accuracy (a fraction) and NLL (nats): the loop computes in float32 what swa-eval computes in float64."""
AVERAGE = "swa.pt"
PASSES = 3  # of the forward alone, of which the median counts


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command that prints a JSON object."""

    name: str
    command: list[str]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of the process, by the clock and of CPU, and what it printed."""

    wall: float
    cpu: float
    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds of one program in each round: of the process, its CPU, from within without imports, of the pass alone."""

    process: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    within: list[float] = field(default_factory=list[float])
    passed: list[float] = field(default_factory=list[float])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What was made in ``folder``, and how it is to be evaluated."""

    folder: Path
    kind: str
    args: argparse.Namespace

    def config(self, workers: int) -> str:
        """A new one of swa-eval, with so many workers; the loop takes its model and data from it too."""
        args, source = self.args, Path(__file__).with_name("evaluated.py")
        model = {"n_classes": args.classes, "width": args.width, "stride": STRIDES[self.kind]}
        data = {"path": str(self.folder / self.kind), "batch_size": args.batch_size, "num_workers": workers}
        contents = {
            "model": {"class_path": f"{source}:SmallCnn", "init_args": model},
            "data": {"class_path": f"{source}:{KINDS[self.kind]}", "init_args": data},
        }
        path = self.folder / f"{self.kind}-{workers}.yaml"
        path.write_text(json.dumps(contents), encoding="utf-8")  # every JSON file is a YAML file
        return str(path)

    def checkpoints(self, count: int) -> list[str]:
        """The paths of the first ``count``."""
        return [str(path) for path in sorted((self.folder / "checkpoints").iterdir())[:count]]

    def swa_eval(self, count: int, *, ensemble: bool) -> Program:
        """The command as a user runs it."""
        flags = ["--compare-ensemble"] if ensemble else []
        options = ["--swa", str(self.folder / AVERAGE), "--no-best-by-val", "--device", self.args.device, *flags]
        command = [sys.executable, "-m", "swa_cli", "eval", *self.checkpoints(count), *options]
        return Program(name=OURS, command=[*command, "--config", self.config(self.args.workers), "--json", "-"])

    def worker(self, name: str, count: int, *, ensemble: bool, workers: int) -> Program:
        """One of `WORKERS` in a process of its own."""
        wanted = {
            "config": self.config(workers),
            "kind": self.kind,
            "checkpoints": self.checkpoints(count),
            "swa": str(self.folder / AVERAGE),
            "device": self.args.device,
            "ensemble": ensemble,
        }
        return worker(name, wanted)

    def __str__(self) -> str:
        args = self.args
        data = (
            f"{args.images:,} JPEGs of 400 × 300, evaluated at 224 × 224"
            if self.kind == "jpeg"
            else f"{args.tensors:,} tensors of 3 × 32 × 32"
        )
        return f"{data}, {args.classes} classes, batches of {args.batch_size}, width {args.width}; on {args.device}"


# --- Running programs


def worker(name: str, wanted: Mapping[str, Any]) -> Program:
    """The command that runs one of `WORKERS`."""
    return Program(name=name, command=[sys.executable, str(Path(__file__)), "--worker", name, json.dumps(wanted)])


def run(program: Program) -> Measured:
    """Run ``program`` to its end, or end with what it said."""
    before, began = _cpu_of_children(), time.perf_counter()
    done = subprocess.run(program.command, capture_output=True, text=True, env=environment(), check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{program.name} failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return Measured(wall=wall, cpu=_cpu_of_children() - before, report=json.loads(done.stdout))


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def made(args: argparse.Namespace) -> Generator[dict[str, Bench]]:
    """Data and checkpoints, removed afterwards; a bench for each kind of data."""
    with tempfile.TemporaryDirectory(prefix="swa-benchmark-", dir=Path.cwd()) as name:
        folder = Path(name)
        count = max([args.checkpoints, *args.growth])
        sizes = {"images": args.images, "tensors": args.tensors, "classes": args.classes, "width": args.width}
        for kind in args.data:
            wanted = {**sizes, "folder": str(folder), "kind": kind, "checkpoints": count}
            print(f"making the data: {kind}", file=sys.stderr)
            run(worker("make", wanted))
        yield {kind: Bench(folder=folder, kind=kind, args=args) for kind in args.data}


# --- Against the loop


def against_the_loop(bench: Bench, report: Report) -> None:
    """Compare the scores in a round that is not counted, then take the time in turns."""
    args = bench.args
    variants = {"": True, ", no ensemble": False} if args.without_ensemble else {"": True}

    def working(name: str, *, ensemble: bool) -> Measured:
        return run(bench.worker(name, args.checkpoints, ensemble=ensemble, workers=args.workers))

    worst = 0.0
    for ensemble in variants.values():
        print(f"warm-up: {bench.kind}", file=sys.stderr)
        found = run(bench.swa_eval(args.checkpoints, ensemble=ensemble)).report
        worst = max(worst, check(scores_in(found), working("loop", ensemble=ensemble).report["scores"]))
    runs = {f"{name}{suffix}": Timed() for suffix in variants for name in (OURS, LOOP)}
    for number in range(args.rounds):
        for suffix, ensemble in variants.items():
            mine, loops = runs[OURS + suffix], runs[LOOP + suffix]
            measured = run(bench.swa_eval(args.checkpoints, ensemble=ensemble)), working("loop", ensemble=ensemble)
            itself = working("within", ensemble=ensemble).report
            for timed, one in zip((mine, loops), measured, strict=True):
                timed.process.append(one.wall)
                timed.cpu.append(one.cpu)
            loops.within.append(measured[1].report["seconds"])
            mine.within.append(itself["seconds"])
            mine.passed.append(itself["pass"])
            print(
                f"round {number + 1} of {args.rounds}: {bench.kind}{suffix}: {OURS} {mine.process[-1]:.2f} s, "
                f"{LOOP} {loops.process[-1]:.2f} s",
                file=sys.stderr,
            )
    title = f"{args.checkpoints} checkpoints and their average over {bench}; workers: {args.workers}"
    report.keep(title, runs)
    _table(title, runs, variants, report)
    report.say(f"Both give the same accuracy and NLL of every row: they differ by {worst:.1g} at most.")


def _table(title: str, runs: Mapping[str, Timed], variants: Mapping[str, bool], report: Report) -> None:
    rows: list[list[str]] = []
    for suffix in variants:
        mine, loops = runs[OURS + suffix], runs[LOOP + suffix]
        nothing: list[float] = []
        for name, seconds, against, cpu in (
            (OURS, mine.process, loops.process, mine.cpu),
            (LOOP, loops.process, loops.process, loops.cpu),
            (f"{OURS}, after imports", mine.within, loops.within, nothing),
            (f"{LOOP}, after imports", loops.within, loops.within, nothing),
            (f"{OURS}, its pass alone", mine.passed, loops.within, nothing),
        ):
            shown = f"{statistics.median(cpu):.2f} s" if cpu else ""
            rows.append([name + suffix, *spread(seconds), *_ratio(seconds, against), shown])
    report.table(title, ["program", "wall, median", "min-max", f"× {LOOP}", "min-max", "CPU"], rows)


def scores_in(found: Mapping[str, Any]) -> list[dict[str, float]]:
    """Of swa-eval's JSON, in the order of the loop: the checkpoints, the average, the ensemble where there is one."""
    of_kind = {kind: [row for row in found["candidates"] if row["kind"] == kind] for kind in ORDER}
    rows = [row for kind in ORDER for row in of_kind[kind]]
    return [{name: row["metrics"][name] for name in ("accuracy", "nll")} for row in rows]


ORDER = ("checkpoint", "swa", "ensemble")


def check(found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]) -> float:
    """The largest difference between the scores of both; end if they are not the same."""
    if len(found) != len(expected):
        sys.exit(f"{OURS} has {len(found)} rows, {LOOP} {len(expected)}: there is nothing to compare.")
    largest = 0.0
    for place, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, value in theirs.items():
            difference = abs(mine[name] - value)
            if not difference <= TOLERANCE:  # also where it is NaN
                sys.exit(f"row {place + 1}: {name} is {mine[name]!r} by {OURS} and {value!r} by {LOOP}.")
            largest = max(largest, difference)
    return largest


# --- As the checkpoints grow more


def growth(bench: Bench, report: Report) -> None:
    """The pass of swa-eval for each number of checkpoints, against loading once and its forward passes."""
    args = bench.args
    passes: dict[int, list[float]] = {count: [] for count in args.growth}
    parts: dict[str, list[float]] = {"load": [], "forward": []}
    for number in range(args.rounds + 1):
        measured = run(bench.worker("parts", 1, ensemble=False, workers=0)).report
        of_round = {
            count: run(bench.worker("within", count, ensemble=True, workers=0)).report["pass"] for count in args.growth
        }
        if not number:
            continue  # the warm-up
        for name, seconds in parts.items():
            seconds.append(measured[name])
        for count, seconds in of_round.items():
            passes[count].append(seconds)
        print(f"round {number} of {args.rounds}: {bench.kind}: growth", file=sys.stderr)
    rows: list[list[str]] = []
    for count, seconds in passes.items():
        floor = [load + (count + 1) * forward for load, forward in zip(*parts.values(), strict=True)]
        rows.append([str(count), *spread(seconds), *spread(floor), *_ratio(seconds, floor)])
    title = f"The pass as the checkpoints grow more, with ensembles, over {bench}; workers: 0"
    columns = ["checkpoints", "pass, median", "min-max", "load once, forward each", "min-max", "ratio", "min-max"]
    report.keep(title, {"passes": passes, "parts": parts})
    report.table(title, columns, rows)
    slopes = [
        statistics.linear_regression(args.growth, [of[number] for of in passes.values()]).slope
        for number in range(args.rounds)
    ]
    more, of_more = _ratio(slopes, parts["forward"])
    report.say(
        f"On their own, loading takes {_shown(parts['load'])} and the forward passes of one model "
        f"{_shown(parts['forward'])}. Each further checkpoint adds {_shown(slopes)} to the pass, {more} ({of_more}) "
        "× its forward passes."
    )


def _shown(seconds: Sequence[float]) -> str:
    median, ends = spread(seconds, digits=3)
    return f"{median} ({ends})"


def _ratio(seconds: Sequence[float], others: Sequence[float]) -> tuple[str, str]:
    """The median of the ratios within a round, and their range."""
    found = ratios(seconds, others)
    return f"{statistics.median(found):.2f}", f"{min(found):.2f}-{max(found):.2f}"


# --- Workers: each is a process of its own, and imports torch there


def make(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Write the data of one kind, and the checkpoints with their average, which serve both kinds."""
    import torch

    torch.manual_seed(0)
    folder = Path(wanted["folder"])
    if wanted["kind"] == "jpeg":
        _write_images(folder / "jpeg", wanted["images"], wanted["classes"])
    else:
        n = wanted["tensors"]
        torch.save((torch.randn(n, 3, 32, 32), torch.randint(wanted["classes"], (n,))), folder / "tensors")
    _write_checkpoints(folder, wanted)
    return {}


def _write_images(folder: Path, count: int, classes: int) -> None:
    """Noise with as much in each octave as in the next, as photographs have it."""
    import torch
    from torchvision.transforms.functional import to_pil_image

    height, width = 300, 400
    for index in range(classes):
        (folder / f"{index:04}").mkdir(parents=True)
    for number in range(count):
        image = torch.zeros(1, 3, height, width)
        for octave in range(1, 8):
            noise = torch.randn(1, 3, -(-height // 2**octave), -(-width // 2**octave))
            image += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
        image += torch.randn(1, 3, height, width) / 2
        pixels = (image[0] / image.std() / 5 + 0.5).clamp(0, 1)
        to_pil_image(pixels).save(folder / f"{number % classes:04}" / f"{number:06}.jpg", quality=90)


def _write_checkpoints(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Random weights, with something in common, so that their average is like them."""
    import torch
    from evaluated import SmallCnn
    from torch import nn

    if (folder / AVERAGE).exists():
        return
    (folder / "checkpoints").mkdir()
    model = SmallCnn(n_classes=wanted["classes"], width=wanted["width"], stride=1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    common = model.state_dict()
    states: list[dict[str, torch.Tensor]] = []
    for number in range(wanted["checkpoints"]):
        state = {
            name: tensor + 0.5 * tensor.std() * torch.randn_like(tensor) if tensor.ndim > 1 else tensor
            for name, tensor in common.items()
        }
        states.append(state)
        torch.save(state, folder / "checkpoints" / f"epoch-{number:04}.pt")
    average = {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if tensor.is_floating_point() else tensor
        for name, tensor in common.items()
    }
    torch.save(average, folder / AVERAGE)


def _model_and_loader(wanted: Mapping[str, Any]) -> tuple[Any, Any]:
    import evaluated

    config = json.loads(Path(wanted["config"]).read_text(encoding="utf-8"))
    data = getattr(evaluated, KINDS[wanted["kind"]])(**config["data"]["init_args"])
    model = evaluated.SmallCnn(**config["model"]["init_args"])
    return model.to(wanted["device"]), data.test_dataloader()


def loop(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Load each checkpoint, iterate over the loader, count; of the checkpoints keep the softmax if asked to."""
    import_module("evaluated")  # before the clock starts
    import torch
    from torch.nn.functional import cross_entropy

    began, device = time.perf_counter(), wanted["device"]
    model, loader = _model_and_loader(wanted)
    scores: list[dict[str, float]] = []
    members: list[torch.Tensor] = []
    labels = torch.empty(0)
    for path in (*wanted["checkpoints"], wanted["swa"]):
        model.load_state_dict(torch.load(path, map_location=device))
        model.eval()
        n, correct, nll = 0, 0, 0.0
        softmax: list[torch.Tensor] = []
        targets: list[torch.Tensor] = []
        with torch.no_grad():
            for batch, batch_labels in loader:
                images, target = batch.to(device), batch_labels.to(device)
                logits = model(images)
                n += len(target)
                correct += int((logits.argmax(dim=1) == target).sum())
                nll += float(cross_entropy(logits, target, reduction="sum"))
                if wanted["ensemble"] and path != wanted["swa"]:
                    softmax.append(logits.softmax(dim=1))
                    targets.append(target)
        scores.append({"accuracy": correct / n, "nll": nll / n})
        if softmax:
            members.append(torch.cat(softmax))
            labels = torch.cat(targets)
    if members:
        mean = torch.stack(members).mean(dim=0)
        accuracy = float((mean.argmax(dim=1) == labels).double().mean())
        scores.append({"accuracy": accuracy, "nll": float(-mean.gather(1, labels[:, None]).log().mean())})
    return {"seconds": time.perf_counter() - began, "scores": scores}


def within(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """swa-eval without the start of the interpreter and imports, and the pass in it."""
    import_module("evaluated")  # before the clock starts

    from swa_cli.config.load import load_config
    from swa_cli.pipeline.evaluation.step import eval_step

    seconds: list[float] = []

    @contextlib.contextmanager
    def track(description: str, *, total: int | None, unit: str) -> Generator[Callable[[int], None]]:
        del description, total, unit
        entered = time.perf_counter()
        yield lambda _: None
        seconds.append(time.perf_counter() - entered)

    flags = {
        "checkpoints": wanted["checkpoints"],
        "swa": wanted["swa"],
        "compare_ensemble": wanted["ensemble"],
        "best_by_val": False,
        "device": wanted["device"],
    }
    began = time.perf_counter()
    eval_step(load_config(Path(wanted["config"]), {"eval": flags}), notify=lambda _: None, track=track)
    return {"seconds": time.perf_counter() - began, "pass": sum(seconds)}


def parts(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A pass over the loader that only loads, and one of one model over batches that are in memory."""
    import torch

    model, loader = _model_and_loader(wanted)
    model.eval()
    began = time.perf_counter()
    batches = [images.to(wanted["device"]) for images, _ in loader]
    load = time.perf_counter() - began
    forward: list[float] = []
    with torch.no_grad():
        for _ in range(PASSES + 1):
            began = time.perf_counter()
            for images in batches:
                model(images)
            if wanted["device"] == "cuda":
                torch.cuda.synchronize()
            forward.append(time.perf_counter() - began)
    return {"load": load, "forward": statistics.median(forward[1:])}


def threads(_: Mapping[str, Any]) -> dict[str, Any]:
    """With how many threads torch computes where it is free to choose."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "gpu": gpu}


WORKERS = {"make": make, "loop": loop, "within": within, "parts": parts, "threads": threads}


# --- The command line


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=KINDS, default=list(KINDS), help="(default: both)")
    parser.add_argument("--images", type=positive, default=500, help="JPEGs (default: 500)")
    parser.add_argument("--tensors", type=positive, default=4000, help="examples in the file (default: 4000)")
    parser.add_argument("--classes", type=positive, default=100, help="(default: 100)")
    parser.add_argument("--width", type=positive, default=16, help="channels of the first layer (default: 16)")
    parser.add_argument("--batch-size", type=positive, default=64, help="(default: 64)")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader, 0 for none (default: 2)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: cpu)")
    parser.add_argument("--checkpoints", type=positive, default=10, help="beside the loop (default: 10)")
    growing = [1, 2, 5, 10, 20]
    about = "numbers of checkpoints, at least two, or none at all (default: 1 2 5 10 20)"
    parser.add_argument("--growth", nargs="*", type=positive, default=growing, help=about)
    parser.add_argument("--without-ensemble", action="store_true", help="time both without ensembles as well")
    parser.add_argument("--rounds", type=positive, default=5, help="that count (default: 5)")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    args = parser.parse_args()
    if args.workers < 0:
        parser.error(f"--workers: expected 0 or more, found {args.workers}")
    if len({*args.growth}) == 1:
        parser.error(f"--growth: expected two different numbers or more, found {args.growth[0]}")
    if "jpeg" in args.data and args.images < args.classes:
        parser.error(f"--images: expected one for each of the {args.classes} classes, found {args.images}")
    return args


def main() -> None:
    """Measure."""
    args = parse()
    clean_up_when_terminated()
    found = run(worker("threads", {})).report
    if args.device == "cuda" and found["gpu"] is None:
        sys.exit("--device cuda: torch finds no GPU.")
    where = {
        "machine": computer(),
        "system": system("torch", "torchvision", "pillow", "numpy"),
        "programs": ours(),
        "device": found["gpu"] if args.device == "cuda" else f"CPU, {found['threads']} threads",
    }
    report = Report(where, rounds=args.rounds)
    with made(args) as benches:
        for bench in benches.values():
            against_the_loop(bench, report)
        for bench in benches.values():
            if args.growth:
                growth(bench, report)
    report.write(args.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(WORKERS[sys.argv[2]](json.loads(sys.argv[3]))))
    else:
        main()
