"""How often the intervals, verdicts and decisions of an evaluation are right, on simulated checkpoints.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --jobs 2 --against 5a17481
    python benchmarks/coverage.py --parts needed tails

A simulated example has a difficulty, which all models share, and a margin for each model: the difficulty, noise of the
model's own, and a constant that sets the accuracy. A model is right where its margin is positive, and its NLL is that
of a logistic model with four times the margin: overconfident, so that a few examples have most of the loss. SWA is
either as good as the checkpoints by accuracy and NLL, or makes 15 % fewer errors. The sets go through the very
functions that swa-eval calls, with fewer resamples (--resamples).

- intervals: how often the interval of each comparison covers the true difference, how often SWA is called better or
  worse against the truth, and how often a comparison is said to rest on too few examples.
- power: how often the decision is "Ship" and "Do not ship", whichever rows are asked for, beside another commit.
- needed: how often the decision is "Ship" with as many examples as a set says would be needed, drawn from that set; and
  how often Student's test finds the difference that few units are said to resolve.
- tails: equals by NLL of which the bulk is a little better and a few examples are much worse (lognormal, sigma 3).

Linux only.
"""

import argparse
import inspect
import io
import json
import math
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reporting import ROOT, Report, computer, positive
from scipy.special import log_expit, ndtri

from swa_cli.evaluation import bootstrap
from swa_cli.evaluation.compare import Other, compare
from swa_cli.evaluation.decide import decide
from swa_cli.evaluation.result import Comparison
from swa_cli.tasks import Records
from swa_cli.tasks.scores import ACCURACY, NLL

Floats = NDArray[np.float64]

SIZES = (100, 300, 1_000, 10_000)
MEMBERS = (5, 10, 20)
ACCURACIES = (0.6, 0.9, 0.98, 0.998)
OWN, OWN_SWA, SHARPNESS, FEWER_ERRORS = 0.5, 0.25, 4.0, 0.15
METRICS = ("accuracy", "nll")
KINDS = ("last", "best", "mean", "control", "ensemble")
ASKED = {"last": ("last",), "last, best": ("last", "best"), "all": KINDS}
SHIPPED = ((0.8, 300), (0.8, 1_000), (0.95, 1_000), (0.99, 3_000))
NEEDED = ((0.8, 300), (0.95, 400), (0.99, 1_000))
ASKING, LEAST, MOST = 6, 100, 5_000  # sets that say how many examples would be needed, if that is between these
FEW = (6, 10, 15, 30)
RARE = (3, 10, 30)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A population of checkpoints with their average."""

    accuracy: float
    members: int
    better: bool

    @property
    def accuracy_of_swa(self) -> float:
        """That of the checkpoints, or with fewer errors."""
        return 1 - (1 - self.accuracy) * (1 - FEWER_ERRORS * self.better)

    def margins(self, rng: np.random.Generator, n: int) -> Floats:
        """Of SWA, each checkpoint and the control, (2 + members, n); all of the same spread."""
        shared, own = rng.standard_normal(n), rng.standard_normal((self.members + 2, n))
        noise = np.repeat([OWN_SWA, OWN], [1, self.members + 1])
        spread = np.hypot(1, OWN)
        accuracies = np.repeat([self.accuracy_of_swa, self.accuracy], [1, self.members + 1])
        return spread * ((shared + noise[:, None] * own) / np.hypot(1, noise)[:, None] + ndtri(accuracies)[:, None])


def scores(margins: Floats) -> tuple[Floats, Floats]:
    """Right or wrong, and the NLL, of SWA, the checkpoints, the control and the ensemble."""
    log_right, log_wrong = log_expit(SHARPNESS * margins), log_expit(-SHARPNESS * margins)
    mean_right, mean_wrong = (
        np.logaddexp.reduce(one[1:-1], axis=0) - math.log(len(margins) - 2) for one in (log_right, log_wrong)
    )
    right = np.vstack([margins > 0, mean_right > mean_wrong]).astype(np.float64)
    return right, -np.vstack([log_right, mean_right])


def records_of(right: Floats, nll: Floats) -> Records:
    """Of one model, as the task classification has them."""
    ones = np.ones(len(nll))
    return Records(columns={"correct": right, "count": ones, "nll": nll, "weight": ones}, tallies={})


def compared(swa: Records, others: Sequence[Other], *, resamples: int, seed: int) -> list[Comparison]:
    """By the library of any commit."""
    options: dict[str, Any] = {"seed": seed}
    if "n_resamples" in inspect.signature(compare).parameters:
        options["n_resamples"] = resamples
    else:
        bootstrap.resamples_for = lambda n_units: resamples  # noqa: ARG005
    return list(compare(swa, others, (ACCURACY, NLL), **options))


def comparisons(right: Floats, nll: Floats, kinds: Iterable[str], *, resamples: int, seed: int) -> list[Comparison]:
    """As swa-eval makes them; rows of both: SWA, the checkpoints, the control, the ensemble."""
    swa, *checkpoints, control, ensemble = (records_of(*one) for one in zip(right, nll, strict=True))
    records: dict[Any, list[Records]] = {
        "last": checkpoints[-1:],
        "best": checkpoints[:1],
        "mean": checkpoints,
        "control": [control],
        "ensemble": [ensemble],
    }
    others = [Other(name=kind, kind=kind, records=records[kind]) for kind in records if kind in kinds]
    return compared(swa, others, resamples=resamples, seed=seed)


@cache
def gain_of_ensemble(accuracy: float, members: int) -> tuple[float, float]:
    """By accuracy and NLL over a checkpoint, from 500,000 examples."""
    rng = np.random.default_rng([members, round(1e4 * accuracy)])
    recipe = Recipe(accuracy=accuracy, members=members, better=False)
    found = [scores(recipe.margins(rng, 50_000)) for _ in range(10)]
    accuracy_gain, nll_gain = (
        float(np.mean([(one[part][-1] - one[part][1:-2].mean(axis=0)).mean() for one in found])) for part in (0, 1)
    )
    return accuracy_gain, nll_gain


@cache
def truth(recipe: Recipe) -> dict[tuple[str, str], float]:
    """The true differences, by metric and kind."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    spread = float(np.hypot(1, OWN))

    def mean_nll(accuracy: float) -> float:
        return float(weights @ -log_expit(SHARPNESS * spread * (nodes + ndtri(accuracy))) / weights.sum())

    accuracy = recipe.accuracy_of_swa - recipe.accuracy
    nll = mean_nll(recipe.accuracy_of_swa) - mean_nll(recipe.accuracy)
    true = {(name, kind): value for name, value in (("accuracy", accuracy), ("nll", nll)) for kind in KINDS}
    gain = gain_of_ensemble(recipe.accuracy, recipe.members)
    return {**true, ("accuracy", "ensemble"): accuracy - gain[0], ("nll", "ensemble"): nll - gain[1]}


# --- Intervals


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of one comparison in as many sets; shares of them."""

    metric: str
    kind: str
    n: int
    accuracy: float
    equal: bool
    sets: int
    covered: float
    better: float
    worse: float
    few: float
    missed_unsaid: float


def intervals_of(cell: tuple[float, int, bool, int], sets: int, resamples: int) -> list[Tally]:
    """Of one population and size."""
    accuracy, members, better, n = cell
    recipe = Recipe(accuracy=accuracy, members=members, better=better)
    true, rng = truth(recipe), np.random.default_rng([members, n, round(1e4 * accuracy), better])
    found: dict[tuple[str, str], list[tuple[bool, ...]]] = {key: [] for key in product(METRICS, KINDS)}
    for seed in range(sets):
        for one in comparisons(*scores(recipe.margins(rng, n)), KINDS, resamples=resamples, seed=seed):
            difference = true[one.metric, one.kind]
            gain = difference if one.metric == "accuracy" else -difference
            covered = one.ci_low - 1e-12 <= difference <= one.ci_high + 1e-12
            few = getattr(one, "dominated", False)
            verdicts = one.verdict == "better" and gain <= 0, one.verdict == "worse" and gain >= 0
            found[one.metric, one.kind].append((covered, *verdicts, few, not covered and not few))
    return [
        Tally(
            metric=metric, kind=kind, n=n, accuracy=accuracy, equal=not better, sets=sets,
            covered=shares[0], better=shares[1], worse=shares[2], few=shares[3], missed_unsaid=shares[4],
        )
        for (metric, kind), rows in found.items()
        for shares in [[float(one) for one in np.mean(rows, axis=0)]]
    ]  # fmt: skip


def show_intervals(report: Report, found: Sequence[Tally]) -> None:
    """By comparison and size, then by accuracy."""

    def row(rows: Sequence[Tally]) -> str:
        covered, unsaid = (100 * np.mean([getattr(one, name) for one in rows]) for name in ("covered", "missed_unsaid"))
        equals = [one for one in rows if one.equal or one.kind == "ensemble"]
        better, worse = (100 * np.mean([getattr(one, name) for one in equals]) for name in ("better", "worse"))
        few = 100 * np.mean([one.few for one in rows])
        said = f" ({few:.0f}: {unsaid:.1f})" if round(few) else ""
        return f"{covered:.1f}{said} · {better:.1f} · {worse:.1f}"

    for title, values in (("n", SIZES), ("accuracy", ACCURACIES)):
        rows = [
            [metric, kind]
            + [
                row([one for one in found if (one.metric, one.kind, getattr(one, title)) == (metric, kind, value)])
                for value in values
            ]
            for metric, kind in product(METRICS, KINDS)
        ]
        report.table(
            f"Covered · called better · called worse, in %, by {title} (in brackets: said to rest on few examples, and "
            "missed where that is not said); better and worse of equals, and of the ensemble against the truth",
            ["metric", "against", *(f"{title} {value:,}" for value in values)],
            rows,
        )
    report.keep("intervals", found)


# --- Power


def power_of(cell: tuple[float, int, str, bool], sets: int, resamples: int) -> dict[str, float]:
    """How often the decision is each verdict."""
    accuracy, n, asked, better = cell
    recipe = Recipe(accuracy=accuracy, members=5, better=better)
    rng = np.random.default_rng([n, round(1e4 * accuracy), better])
    verdicts = [
        decide(
            comparisons(*scores(recipe.margins(rng, n)), ASKED[asked], resamples=resamples, seed=seed),
            primary="accuracy",
            secondary="nll",
        ).verdict
        for seed in range(sets)
    ]
    return {name: verdicts.count(name) / sets for name in ("better", "worse")}


def show_power(report: Report, cells: Sequence[Any], found: Sequence[Any], before: Sequence[Any] | None) -> None:
    """Now and before, if that was asked for."""
    rows = []
    for place, (accuracy, n, asked, better) in enumerate(cells):
        now = found[place]
        then = before[place] if before else None
        shares = [
            f"{100 * now[name]:.1f}" + (f" ({100 * then[name]:.1f})" if then else "") for name in ("better", "worse")
        ]
        rows.append([f"{accuracy}", f"{n:,}", "15 % fewer errors" if better else "equal", asked, *shares])
    beside = " (in brackets: before)" if before else ""
    report.table(f"Decisions, in % of sets{beside}", ["accuracy", "n", "SWA", "rows", '"Ship"', '"Do not ship"'], rows)
    report.keep("power", [list(zip(cells, found, strict=True)), before])


def before(commit: str, arguments: argparse.Namespace) -> Any:
    """The same cells by the library of another commit."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            [shutil.which("git") or "git", "-C", str(ROOT), "archive", commit, "swa_cli"],
            check=True,
            capture_output=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        there = Path(folder, "benchmarks")
        there.mkdir()
        for name in ("coverage.py", "reporting.py"):
            shutil.copy(ROOT / "benchmarks" / name, there)
        options = [
            "--sets",
            str(arguments.sets),
            "--resamples",
            str(arguments.resamples),
            "--jobs",
            str(arguments.jobs),
        ]
        parts = [part for part in ("power", "tails") if part in arguments.parts]
        json_file = Path(folder, "found.json")
        command = [sys.executable, str(there / "coverage.py"), "--parts", *parts, *options, "--json", str(json_file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        return json.loads(json_file.read_text(encoding="utf-8"))["runs"]


# --- What would be needed


def needed_of(cell: tuple[float, int, str], sets: int, resamples: int) -> list[tuple[int, float]]:
    """Of a few sets how many examples they ask for, and how often "Ship" comes of as many of their examples."""
    from swa_cli.evaluation.power import effects, units_to_decide

    accuracy, n, asked = cell
    rng = np.random.default_rng([n, round(1e4 * accuracy), len(ASKED[asked])])
    recipe, found = Recipe(accuracy=accuracy, members=2, better=True), []
    while len(found) < ASKING:
        right, nll = scores(recipe.margins(rng, n))
        judged = comparisons(right, nll, ASKED[asked], resamples=resamples, seed=0)
        decision = decide(judged, primary="accuracy", secondary="nll")
        places = {"last": 2, "best": 1}
        incumbents: dict[Any, Records] = {
            kind: records_of(right[place], nll[place]) for kind, place in places.items() if kind in ASKED[asked]
        }
        gains = [one.difference for one in judged if one.metric == "accuracy"]
        swa = records_of(right[0], nll[0])
        needed = units_to_decide(effects(judged, decision, (ACCURACY, NLL), swa, incumbents, None))
        if min(gains) <= 0 or needed is None or not LEAST < needed < MOST:
            continue
        shipped = 0
        for seed in range(sets):
            drawn = rng.integers(0, n, needed)
            again = comparisons(right[:, drawn], nll[:, drawn], ASKED[asked], resamples=resamples, seed=seed)
            shipped += decide(again, primary="accuracy", secondary="nll").verdict == "better"
        found.append((needed, shipped / sets))
    return found


def resolved_of(n: int, sets: int, resamples: int) -> float:
    """How often n units with a normal NLL show the difference that a set of n units is said to resolve."""
    from swa_cli.evaluation.significance import detectable

    rng, found = np.random.default_rng(n), 0
    for seed in range(10 * sets):
        theirs = rng.standard_normal(n)
        ours = theirs + rng.standard_normal(n) - detectable(n) / math.sqrt(n)
        swa, other = (records_of((np.arange(n) % 2).astype(np.float64), one) for one in (ours, theirs))
        judged = compared(swa, [Other(name="last", kind="last", records=[other])], resamples=resamples, seed=seed)
        found += judged[-1].verdict == "better"
    return found / (10 * sets)


# --- Tails


def tails_of(cell: tuple[int, int], sets: int, resamples: int) -> dict[str, float]:
    """As many examples, of which so many are expected to be much worse; the differences' mean is 0."""
    rare, n = cell
    rng, rows = np.random.default_rng(cell), []
    scale, mean = 0.01, math.exp(4.5)
    for seed in range(4 * sets):
        tail = np.where(rng.random(n) < rare / n, scale * rng.lognormal(0, 3, n), 0.0)
        theirs = rng.exponential(0.2, n)
        ours = theirs + tail - scale * mean * rare / n + 0.02 * rng.standard_normal(n)
        swa, other = (records_of((np.arange(n) % 2).astype(np.float64), one) for one in (ours, theirs))
        last = compared(swa, [Other(name="last", kind="last", records=[other])], resamples=resamples, seed=seed)[-1]
        few = getattr(last, "dominated", False)
        rows.append((last.ci_low <= 0 <= last.ci_high, last.verdict == "better", last.verdict == "worse", few))
    return dict(zip(("covered", "better", "worse", "few"), map(float, np.mean(rows, axis=0)), strict=True))


# --- The command


def run(jobs: int, of: Callable[..., Any], cells: Sequence[Any], sets: int, resamples: int) -> Iterator[Any]:
    """Of each cell, in their order."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(of, cells, [sets] * len(cells), [resamples] * len(cells))


def main() -> None:
    """Run the parts, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["intervals", "power", "needed", "tails"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument(
        "--sets",
        type=positive,
        default=250,
        help="of each population and size (default: 250)",
    )
    parser.add_argument("--resamples", type=positive, default=299, help="of each set (default: 299)")
    parser.add_argument("--jobs", type=positive, default=1, help="processes (default: 1)")
    parser.add_argument("--against", metavar="COMMIT", help="decide with the library of this commit too")
    parser.add_argument("--json", type=Path, help="write all figures there")
    given = parser.parse_args()
    report = Report({"machine": computer(), "numpy": np.__version__})
    report.say(f"{given.sets} sets of each population and size, {given.resamples} resamples of each set.")
    other = before(given.against, given) if given.against else {}

    def found(of: Callable[..., Any], cells: Sequence[Any]) -> list[Any]:
        return list(run(given.jobs, of, cells, given.sets, given.resamples))

    if "intervals" in given.parts:
        cells = list(product(ACCURACIES, MEMBERS, (False, True), SIZES))
        show_intervals(report, [one for rows in found(intervals_of, cells) for one in rows])
    if "power" in given.parts:
        ships = [(*cell, asked, better) for better in (True, False) for cell in SHIPPED for asked in ASKED]
        then = [one for _, one in other["power"][0]] if other else None
        show_power(report, ships, found(power_of, ships), then)
    if "needed" in given.parts:
        asks = [(*cell, asked) for cell in NEEDED for asked in ("last", "last, best")]
        shipped = found(needed_of, asks)
        report.table(
            '"Ship" with as many examples as a set says would be needed, in % (six sets)',
            ["accuracy", "incumbents", "needed", '"Ship"', "mean"],
            [
                [
                    f"{accuracy}",
                    asked,
                    f"{min(one for one, _ in rows):,} to {max(one for one, _ in rows):,}",
                    f"{100 * min(share for _, share in rows):.0f} to {100 * max(share for _, share in rows):.0f}",
                    f"{100 * np.mean([share for _, share in rows]):.1f}",
                ]
                for (accuracy, _, asked), rows in zip(asks, shipped, strict=True)
            ],
        )
        resolved = found(resolved_of, FEW)
        report.table(
            "A difference as large as n units are said to resolve is found, in % of sets",
            [f"n {n}" for n in FEW],
            [[f"{100 * share:.1f}" for share in resolved]],
        )
        report.keep("needed", [shipped, resolved])
    if "tails" in given.parts:
        heavy = list(product(RARE, (300, 1_000)))
        show_tails(report, heavy, found(tails_of, heavy), other.get("tails"))
    report.write(given.json)


def show_tails(
    report: Report, cells: Sequence[tuple[int, int]], found: Sequence[Any], then: Sequence[Any] | None
) -> None:
    """Now and before, if that was asked for."""
    names = ("covered", "better", "worse", "few")
    rows = [
        [
            f"{rare}",
            f"{n:,}",
            *(
                f"{100 * found[place][name]:.1f}" + (f" ({100 * then[place][name]:.1f})" if then else "")
                for name in names
            ),
        ]
        for place, (rare, n) in enumerate(cells)
    ]
    report.table(
        "Equals by NLL with a few much worse examples, in % of sets" + (" (in brackets: before)" if then else ""),
        ["such examples", "n", "covered", "called better", "called worse", "said to rest on few"],
        rows,
    )
    report.keep("tails", found)


if __name__ == "__main__":
    main()
