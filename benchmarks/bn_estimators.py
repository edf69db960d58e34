"""What an average of a run scores with each kind of BatchNorm statistics.

    python benchmarks/bn_estimators.py --config sample_configs/fashion_mnist.yaml
    python benchmarks/bn_estimators.py --config sample_configs/digits.yaml --seeds 0 1 2 3 4 5 6 7 8 9

The checkpoints of the configuration are averaged in a temporary folder below the current one. The average is scored
with the last checkpoint's statistics, the average of all, and those of each estimator on the training data; the last
checkpoint with its own and with recomputed ones, which separates what recomputing does from what averaging does. A
second table has the estimator population with batches of several sizes, beside sequential, which does not depend on
them. Everything is done by the commands that a user has. ``--seeds`` runs `swa demo` with each seed first.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from common import Parser, print_setup, run, start, table
from safetensors.numpy import load_file, save_file

EPS = 1e-5  # of the BatchNorm layers
ESTIMATORS = ("population", "torch", "official", "sequential")
AVERAGE, LAST = "average", "last checkpoint"

Rows = list[tuple[str, dict[str, Any]]]


def swa(*arguments: object, reports: bool = False) -> Any:
    """Run a command of swa-cli; return the JSON that it prints, if it does."""
    return run([sys.executable, "-m", "swa_cli", *map(str, arguments)], reports=reports).report


def user_code(config: Path, seed: int | None) -> list[str]:
    """Return the flags that name the model and the data of a configuration."""
    contents, flags = yaml.safe_load(config.read_text(encoding="utf-8")), list[str]()
    for part in ("model", "data"):
        path, arguments = contents[part]["class_path"], contents[part].get("init_args", {})
        beside = config.resolve().parent / path
        flags += [f"--{part}", str(beside) if ":" in path else path]
        if part == "data" and seed is not None:
            arguments = {**arguments, "seed": seed}
        flags += [f"--{part}-arg={key}={value}" for key, value in arguments.items()]
    return flags


def scored(path: Path, population: Path, user: Sequence[str]) -> dict[str, Any]:
    """Return NLL and accuracy of a file, and its differences from the same weights with population's statistics."""
    other = path.with_name("other.safetensors")
    save_file(load_file(population), other)  # without its provenance, or it would not count as a checkpoint
    found = swa("eval", other, "--swa", path, "--no-best-by-val", *user, "--json", "-", reports=True)
    (row,) = [row for row in found["candidates"] if row["kind"] == "swa"]
    return {**row["metrics"], "differences": {one["metric"]: one for one in found["comparisons"]}}


def measure(config: Path, batch_sizes: Sequence[int], folder: Path, seed: int | None) -> tuple[Rows, Rows]:
    """Return the scores with each kind of statistics, and with each size of batches."""
    sources: list[object] = []
    if seed is not None:
        swa("demo", "--seed", seed, "--out", folder / "demo")
        sources = [folder / "demo" / "checkpoints"]
    user = user_code(config, seed)
    average, last, mixed = (folder / f"{name}.safetensors" for name in ("average", "last", "mixed"))
    swa("average", *sources, "--config", config, "-o", average, "--force")
    swa("average", *sources, "--config", config, "--last", 1, "-o", last, "--force")
    names = ("running_mean", "running_var", "num_batches_tracked")
    of_last = {name: value for name, value in load_file(last).items() if name.endswith(names)}
    save_file({**load_file(average), **of_last}, mixed)

    def updated(path: Path, name: str, *options: object) -> Path:
        output = folder / f"{path.stem}-{name}.safetensors"
        swa("bn-update", path, "-o", output, *user, *options)
        return output

    recomputed = {name: updated(average, name, "--estimator", name) for name in ESTIMATORS}
    arms: Rows = []
    for weights, states in (
        (AVERAGE, {"of the last checkpoint": mixed, "averaged": average, **recomputed}),
        (LAST, {"its own": last, "population": updated(last, "population")}),
    ):
        for name, path in states.items():
            found = scored(path, states["population"], user)
            arms.append((weights, {"statistics": name, **found, "reference": name == "population"}))
    sizes: Rows = []
    for size in batch_sizes:
        path = updated(average, str(size), "--batch-size", size)
        new, exact = load_file(path), load_file(recomputed["sequential"])
        errors = np.concatenate(
            [(new[name] + EPS) / (exact[name] + EPS) - 1 for name in exact if name.endswith("running_var")]
        )
        found = scored(path, recomputed["population"], user)
        worst, square = float(np.abs(errors).max()), float(np.sqrt(np.mean(errors**2)))
        sizes.append((str(size), {"nll": found["nll"], "worst": worst, "rms": square}))
    return arms, sizes


def over(values: Sequence[float], form: str) -> str:
    """Return the value; of several their mean, the smallest and the largest."""
    middle = form.format(mean(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def differences(of_runs: Sequence[dict[str, Any]], metric: str, form: str, scale: int = 1) -> str:
    """Return the difference from population with its interval; of several runs, how many intervals have no 0."""
    if of_runs[0]["reference"]:
        return ""
    found = [one["differences"][metric] for one in of_runs]
    middle = over([scale * one["difference"] for one in found], form)
    if len(found) == 1:
        return f"{middle} [{form.format(scale * found[0]['ci_low'])}, {form.format(scale * found[0]['ci_high'])}]"
    return f"{middle}; {sum(one['ci_low'] > 0 or one['ci_high'] < 0 for one in found)} of {len(found)}"


def main() -> None:
    """Score, and print both tables."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="of a run, as swa run takes it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[None], help="run the demo with each of these")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128, 1000])
    options = parser.parse_args()
    print_setup("torch", "numpy")
    arms: list[Rows] = []
    sizes: list[Rows] = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="swa-benchmark-", dir=Path.cwd()) as name:
            of_arms, of_sizes = measure(options.config, options.batch_sizes, Path(name), seed)
        arms.append(of_arms)
        sizes.append(of_sizes)
    interval = "[95 %]" if len(arms) == 1 else "(min to max); intervals without 0"
    rows: list[list[str]] = []
    for of_runs in zip(*arms, strict=True):
        weights, found = of_runs[0][0], [one for _, one in of_runs]
        scores = over([one["nll"] for one in found], "{:.4f}"), over([100 * one["accuracy"] for one in found], "{:.2f}")
        shown = differences(found, "nll", "{:+.2g}"), differences(found, "accuracy", "{:+.2f}", 100)
        rows.append([weights, found[0]["statistics"], *scores, *shown])
    columns = ["weights", "statistics", "NLL", "accuracy %", f"NLL − population {interval}"]
    table(f"{options.config.name}", [*columns, f"accuracy − population {interval}, points"], rows)
    rows = []
    for of_runs in zip(*sizes, strict=True):
        found = [one for _, one in of_runs]
        errors = [over([100 * one[name] for one in found], "{:.2g}") for name in ("worst", "rms")]
        rows.append([of_runs[0][0], over([one["nll"] for one in found], "{:.4f}"), *errors])
    columns = ["batch size", "NLL", "variance against sequential: largest error %", "root mean square %"]
    table("The average with the estimator population", columns, rows)


if __name__ == "__main__":
    start(main)
