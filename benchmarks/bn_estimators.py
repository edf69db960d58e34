"""What an average of a run scores with each kind of BatchNorm statistics.

    swa demo && python benchmarks/bn_estimators.py --config sample_configs/digits.yaml
    python benchmarks/bn_estimators.py --config sample_configs/digits.yaml --seeds 0 1 2 3 4 5 6 7 8 9
    python sample_configs/train_fashion_mnist.py --out fashion-mnist/checkpoints
    python benchmarks/bn_estimators.py --config sample_configs/fashion_mnist.yaml

The checkpoints are averaged as the configuration says, in a temporary folder below the current one. The average is
scored with the last checkpoint's statistics, the average of all, and those of each estimator on the training data; the
last checkpoint with its own and with recomputed ones, so that what the recomputing does is told from what the averaging
does. Then the estimator population in batches of several sizes, beside sequential, which does not depend on them.

The training data are read once, as the configuration's loader gives them, and kept: all estimators see the same. With
--seeds the demo's training is run anew for each, and figures are means over the runs. Linux only.
"""

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from reporting import Report, clean_up_when_terminated, computer, ours, positive, system
from torch import nn

from swa_cli.batchnorm import Estimator, bn_buffers, bn_layers, recalibrate
from swa_cli.checkpoints import open_single
from swa_cli.config.load import load_config
from swa_cli.config.schema import Config
from swa_cli.demo.train import train_digits
from swa_cli.errors import SwaError
from swa_cli.evaluation import Comparison, Member, Other, Residents, SplitRecords, Stream, compare, observe, scores_of
from swa_cli.pipeline.average import average_step
from swa_cli.pipeline.build_user_objects import data_module_of, model_of
from swa_cli.system.devices import resolve_device
from swa_cli.tasks.classification import Classification
from swa_cli.user.batch import Batch, make_splitter
from swa_cli.user.datamodule import Split, batches_of, choose_split, iterate, splitter_of
from swa_cli.user.forward import Forward
from swa_cli.user.model import state_dict_for

ESTIMATORS: tuple[Estimator, ...] = ("population", "torch", "official", "sequential")
DIGITS = ("swa_cli.demo.digits.DigitsCnn", "swa_cli.demo.digits.DigitsData")
AVERAGE, LAST = "average", "last checkpoint"

State = Mapping[str, Any]
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training run: a model to be filled, its average, its last checkpoint, and the data.

    ``statistics`` are the names of the BatchNorm buffers in the state_dicts; ``training`` has the batches of the
    loader, ``test`` those of the split that is scored.
    """

    model: nn.Module
    average: State
    last: State
    statistics: frozenset[str]
    training: Batches
    test: Batches
    split: Split
    n_averaged: int
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Weights with statistics, scored; ``differences`` in accuracy and NLL are to the same weights with population."""

    weights: str
    statistics: str
    accuracy: float
    nll: float
    differences: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class OfSize:
    """Population in batches of one size: its score, and how far its variances are from those of sequential.

    ``worst`` and ``rms`` are over all channels of all layers, of the relative difference of ``running_var + eps``,
    which is what a layer divides by.
    """

    batch_size: int
    nll: float
    worst: float
    rms: float


# --- The run


def run_of(config: Config, folder: Path, device: torch.device) -> Run:
    """Average the checkpoints of ``config`` in ``folder``, and read its data."""
    output = folder / "swa.safetensors"
    plain = replace(config.average, output=output, like=None, max_shard_size=None, force=True)
    averaged = average_step(plain, notify=_say)
    model, _ = model_of(config.model)
    average = state_dict_for(model, open_single(output, key=None))
    last = state_dict_for(model, averaged.sources[-1])
    data, _ = data_module_of(config.data)
    split = config.eval.split or choose_split(data)
    statistics_ = frozenset(bn_buffers(model, bn_layers(model)))
    if not statistics_:
        sys.exit("the model has no BatchNorm statistics: there is nothing to compare.")
    return Run(
        model=model,
        average=average,
        last=last,
        statistics=statistics_,
        training=read(data, "train"),
        test=read(data, split),
        split=split,
        n_averaged=averaged.n_averaged,
        device=device,
    )


def read(data: object, split: Split) -> Batches:
    """All batches of a split, (input, target)."""
    take_apart = make_splitter(splitter_of(data))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        examples = [take_apart(batch) for batch in iterate(batches_of(data, split))]
    return [(_only_input(example, split), example.target) for example in examples]


def _only_input(example: Batch, split: Split) -> torch.Tensor:
    if example.kwargs or len(example.args) != 1 or not isinstance(example.args[0], torch.Tensor):
        sys.exit(
            f"the batches of the {split} split are not one tensor and a target, which is all this script rebatches."
        )
    return example.args[0]


def _say(note: str) -> None:
    print(note, file=sys.stderr)


def describe(run: Run) -> str:
    """What was averaged, scored, and taken the statistics from."""
    n_test, n_training = (sum(len(inputs) for inputs, _ in batches) for batches in (run.test, run.training))
    return (
        f"average of {run.n_averaged} checkpoints, scored on {n_test:,} examples of the {run.split} split; statistics "
        f"from {n_training:,} training examples in batches of {len(run.training[0][0])}"
    )


# --- What is compared


def recalibrated(run: Run, state: State, estimator: Estimator, batches: Batches) -> State:
    """``state`` with other statistics."""
    model = filled(run, state)
    recalibrate(model, batches, estimator=estimator, forward=Forward(device=run.device))
    return model.state_dict()


def filled(run: Run, state: State) -> nn.Module:
    """A copy of the model with these weights."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(dict(state), strict=False)
    return model


def seen(run: Run, states: Mapping[str, State]) -> SplitRecords:
    """All of them on the test split, in one pass."""
    members = [Member(name=name, kind="swa", state_dict=state) for name, state in states.items()]
    stream = Stream(split=run.split, batches=run.test, members=members)
    forward = Forward(device=run.device)
    (observed,) = observe(Residents(run.model, forward), [stream], task=Classification(), forward=forward)
    return observed


def arms_of(run: Run) -> list[Arm]:
    """Every combination of weights and statistics."""
    with_last = {**run.average, **{name: run.last[name] for name in run.statistics}}
    of_average = {"of the last checkpoint": with_last, "averaged": run.average}
    of_average |= {estimator: recalibrated(run, run.average, estimator, run.training) for estimator in ESTIMATORS}
    of_last = {"its own": run.last, "population": recalibrated(run, run.last, "population", run.training)}
    return [*_scored(run, AVERAGE, of_average), *_scored(run, LAST, of_last)]


def _scored(run: Run, weights: str, states: Mapping[str, State]) -> list[Arm]:
    observed = seen(run, states)
    metrics = observed.task.metrics(observed.rows[0].records)
    (population,) = [row.records for row in observed.rows if row.name == "population"]
    arms: list[Arm] = []
    for row in observed.rows:
        scores = scores_of(row, metrics)
        other = Other(name="population", kind="swa", records=[population])
        differences = () if row.name == "population" else compare(row.records, [other], metrics)
        arms.append(
            Arm(
                weights=weights,
                statistics=row.name,
                accuracy=scores["accuracy"],
                nll=scores["nll"],
                differences=differences,
            )
        )
    return arms


def sizes_of(run: Run, batch_sizes: Sequence[int]) -> list[OfSize]:
    """Population on the training data in the same order, in batches of each size."""
    inputs, targets = (torch.cat(parts) for parts in zip(*run.training, strict=True))
    reference = _variances(run, recalibrated(run, run.average, "sequential", run.training))
    found: list[OfSize] = []
    for size in batch_sizes:
        batches = list(zip(inputs.split(size), targets.split(size), strict=True))
        state = recalibrated(run, run.average, "population", batches)
        error = (_variances(run, state) / reference - 1).abs()
        observed = seen(run, {"population": state})
        nll = scores_of(observed.rows[0], observed.task.metrics(observed.rows[0].records))["nll"]
        found.append(
            OfSize(
                batch_size=min(size, len(inputs)),
                nll=nll,
                worst=float(error.max()),
                rms=float(error.square().mean().sqrt()),
            )
        )
    return found


def _variances(run: Run, state: State) -> torch.Tensor:
    """``running_var + eps`` of all channels of all layers, one after the other."""
    layers = bn_layers(filled(run, state)).values()
    return torch.cat([layer.running_var.to(torch.float64) + layer.eps for layer in layers])


# --- The tables


def arms_table(runs: Sequence[Sequence[Arm]], title: str, report: Report) -> None:
    """A row for each arm: of one run its figures, of several the means, and the smallest and largest."""
    rows = [
        [
            arms[0].weights,
            arms[0].statistics,
            over([arm.nll for arm in arms], "{:.4f}"),
            over([100 * arm.accuracy for arm in arms], "{:.2f}"),
            _differences(arms, "nll", "{:+.2g}"),
            _differences(arms, "accuracy", "{:+.2f}"),
        ]
        for arms in zip(*runs, strict=True)
    ]
    interval = "[95 %]" if len(runs) == 1 else "(min to max); intervals without 0"
    columns = ["weights", "statistics", "NLL", "accuracy %", f"NLL − population {interval}"]
    report.table(title, [*columns, f"accuracy − population {interval}, points"], rows)


def _differences(arms: Sequence[Arm], metric: str, form: str) -> str:
    scale = 100 if metric == "accuracy" else 1
    found = [one for arm in arms for one in arm.differences if one.metric == metric]
    if not found:
        return ""
    mean = over([scale * one.difference for one in found], form)
    if len(found) == 1:
        return f"{mean} [{form.format(scale * found[0].ci_low)}, {form.format(scale * found[0].ci_high)}]"
    return f"{mean}; {sum(one.verdict != 'inconclusive' for one in found)} of {len(found)}"


def sizes_table(runs: Sequence[Sequence[OfSize]], title: str, report: Report) -> None:
    """A row for each size of batches."""
    rows = [
        [
            str(sizes[0].batch_size),
            over([size.nll for size in sizes], "{:.4f}"),
            over([100 * size.worst for size in sizes], "{:.2g}"),
            over([100 * size.rms for size in sizes], "{:.2g}"),
        ]
        for sizes in zip(*runs, strict=True)
    ]
    columns = ["batch size", "NLL", "variance against sequential: largest error %", "root mean square %"]
    report.table(title, columns, rows)


def over(values: Sequence[float], form: str) -> str:
    """The value; of several their mean, the smallest and the largest."""
    mean = form.format(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


# --- The command line


def configurations(config: Config, seeds: Sequence[int], folder: Path) -> Iterator[tuple[str, Config]]:
    """``config``, or for each seed what it says of a run that is made in ``folder`` first."""
    if not seeds:
        yield "run", config
    for seed in seeds:
        assert config.data is not None  # it is the demo's
        _say(f"training the demo with seed {seed}")
        train_digits(folder / f"seed-{seed}", seed=seed)
        data = replace(config.data, init_args={**config.data.init_args, "seed": seed})
        yield (
            f"seed {seed}",
            replace(config, data=data, average=replace(config.average, sources=(folder / f"seed-{seed}",))),
        )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of a run, as swa run takes it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="train the demo anew with each of these")
    sizes = [8, 32, 128, 1000]
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=sizes, help="(default: 8 32 128 1000)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 (default: that of the configuration's section eval)")
    parser.add_argument("--json", type=Path, help="write the figures of all runs to this file")
    return parser.parse_args()


def main() -> None:
    """Score, and print both tables."""
    args = parse()
    clean_up_when_terminated()
    try:
        config = load_config(args.config)
        targets = tuple(target.class_path if target else None for target in (config.model, config.data))
        if args.seeds and targets != DIGITS:
            sys.exit(f"--seeds trains the demo: expected {' and '.join(DIGITS)} in {args.config}, found {targets}.")
        device = resolve_device(args.device or config.eval.device)
        with tempfile.TemporaryDirectory(prefix="swa-benchmark-", dir=Path.cwd()) as folder:
            compare_statistics(config, Path(folder), device, args)
    except SwaError as error:
        sys.exit(str(error))


def compare_statistics(config: Config, folder: Path, device: torch.device, args: argparse.Namespace) -> None:
    """Of every run the arms and the sizes; then the tables over all of them."""
    where = {"machine": computer(), "system": system("torch", "numpy"), "programs": ours(), "device": str(device)}
    report = Report(where)
    arms: list[list[Arm]] = []
    sizes: list[list[OfSize]] = []
    about = ""
    for name, of_seed in configurations(config, args.seeds, folder):
        run = run_of(of_seed, folder, device)
        arms.append(arms_of(run))
        sizes.append(sizes_of(run, args.batch_sizes))
        report.keep(name, {"arms": arms[-1], "sizes": sizes[-1]})
        about = describe(run)
    runs = f"; means over {len(arms)} runs, and the smallest to the largest" if len(arms) > 1 else ""
    arms_table(arms, f"{args.config.name}: {about}{runs}", report)
    sizes_table(sizes, f"{args.config.name}: the average with the estimator population{runs}", report)
    report.write(args.json)


if __name__ == "__main__":
    main()
