"""How often the intervals, verdicts and decisions of an evaluation are right, on simulated checkpoints.

    python tests/evaluation/simulate_coverage.py --jobs 2
    OLD/bin/python tests/evaluation/simulate_coverage.py --parts power tails    # by the version installed in OLD

A simulated example has a difficulty, which all models share, and a margin for each model: the difficulty, noise of the
model's own, and a constant that sets the accuracy. A model is right where its margin is positive, and its NLL is that
of a logistic model with four times the margin: overconfident, so that a few examples have most of the loss. SWA is
either as good as the checkpoints by accuracy and NLL, or makes 15 % fewer errors. The sets go through the functions
that swa-eval calls, with fewer resamples.

- intervals: how often the interval of each comparison covers the true difference, how often SWA is called better or
  worse against the truth, and how often a comparison is said to rest on too few examples.
- power: how often the decision is "Ship" and "Do not ship", by the rows that are asked for.
- needed: how often the decision is "Ship" with as many examples as a set says would be needed, drawn from that set.
- resolved: how often Student's test finds the difference that few units are said to resolve.
- tails: equals by NLL of which the bulk is a little better and a few examples are much worse (lognormal, sigma 3).
"""

import argparse
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.special import log_expit, ndtri

from swa_cli.evaluation import Comparison, Other, bootstrap, compare
from swa_cli.evaluation.decide import decide
from swa_cli.tasks import Records
from swa_cli.tasks.scores import ACCURACY, NLL

Floats = NDArray[np.float64]

SIZES = (100, 300, 1_000, 10_000)
OWN, OWN_SWA, SHARPNESS, FEWER_ERRORS = 0.5, 0.25, 4.0, 0.15
COMPARED = tuple(product(("accuracy", "nll"), ("last", "best", "mean", "control", "ensemble")))
ASKED = {"last": ("last",), "last, best": ("last", "best"), "all": ("last", "best", "mean", "control", "ensemble")}
SHIPPED = ((0.8, 300), (0.8, 1_000), (0.95, 1_000), (0.99, 3_000))
ASKING, LEAST, MOST = 6, 100, 5_000  # sets that say how many examples would be needed, if that is between these


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
        """Draw those of SWA, each checkpoint and the control, (2 + members, n); all of the same spread."""
        shared, own = rng.standard_normal(n), rng.standard_normal((self.members + 2, n))
        noise = np.repeat([OWN_SWA, OWN], [1, self.members + 1])
        accuracies = np.repeat([self.accuracy_of_swa, self.accuracy], [1, self.members + 1])
        standard = (shared + noise[:, None] * own) / np.hypot(1, noise)[:, None]
        return np.hypot(1, OWN) * (standard + ndtri(accuracies)[:, None])


def scores(margins: Floats) -> tuple[Floats, Floats]:
    """Return right or wrong, and the NLL, of SWA, the checkpoints, the control and the ensemble."""
    log_right, log_wrong = log_expit(SHARPNESS * margins), log_expit(-SHARPNESS * margins)
    mean_right, mean_wrong = (
        np.logaddexp.reduce(one[1:-1], axis=0) - math.log(len(margins) - 2) for one in (log_right, log_wrong)
    )
    right = np.vstack([margins > 0, mean_right > mean_wrong]).astype(np.float64)
    return right, -np.vstack([log_right, mean_right])


def records_of(right: Floats, nll: Floats) -> Records:
    """Return the records of one model, as the task classification has them."""
    ones = np.ones(len(nll))
    return Records(columns={"correct": right, "count": ones, "nll": nll, "weight": ones}, tallies={})


def compared(swa: Records, others: Sequence[Other], *, resamples: int, seed: int) -> list[Comparison]:
    """Compare with the library of any commit."""
    options: dict[str, Any] = {"seed": seed}
    if "n_resamples" in inspect.signature(compare).parameters:
        options["n_resamples"] = resamples
    else:
        bootstrap.resamples_for = lambda n_units: resamples
    return list(compare(swa, others, (ACCURACY, NLL), **options))


def comparisons(right: Floats, nll: Floats, kinds: Iterable[str], *, resamples: int, seed: int) -> list[Comparison]:
    """Compare as swa-eval does; rows of both: SWA, the checkpoints, the control, the ensemble."""
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
    """Estimate the ensemble's gain over a checkpoint, by accuracy and NLL, from 500,000 examples."""
    rng = np.random.default_rng([members, round(1e4 * accuracy)])
    recipe = Recipe(accuracy=accuracy, members=members, better=False)
    found = [scores(recipe.margins(rng, 50_000)) for _ in range(10)]
    by_accuracy, by_nll = (
        float(np.mean([(one[part][-1] - one[part][1:-2].mean(axis=0)).mean() for one in found])) for part in (0, 1)
    )
    return by_accuracy, by_nll


@cache
def truth(recipe: Recipe) -> dict[tuple[str, str], float]:
    """Return the true differences, by metric and kind."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    spread = float(np.hypot(1, OWN))

    def mean_nll(accuracy: float) -> float:
        return float(weights @ -log_expit(SHARPNESS * spread * (nodes + ndtri(accuracy))) / weights.sum())

    gain = gain_of_ensemble(recipe.accuracy, recipe.members)
    of = {
        "accuracy": recipe.accuracy_of_swa - recipe.accuracy,
        "nll": mean_nll(recipe.accuracy_of_swa) - mean_nll(recipe.accuracy),
    }
    return {
        (metric, kind): of[metric] - (gain[metric == "nll"] if kind == "ensemble" else 0) for metric, kind in COMPARED
    }


# --- The parts: each takes a cell, and returns shares of the sets


def intervals(cell: tuple[float, int, bool, int], sets: int, resamples: int) -> list[list[float]]:
    """For each comparison: covered, called better or worse against the truth, rests on few, missed without a word."""
    accuracy, members, better, n = cell
    recipe = Recipe(accuracy=accuracy, members=members, better=better)
    true, rng = truth(recipe), np.random.default_rng([members, n, round(1e4 * accuracy), better])
    found: dict[tuple[str, str], list[tuple[bool, ...]]] = {key: [] for key in COMPARED}
    for seed in range(sets):
        for one in comparisons(*scores(recipe.margins(rng, n)), ASKED["all"], resamples=resamples, seed=seed):
            difference = true[one.metric, one.kind]
            gain = difference if one.metric == "accuracy" else -difference
            covered, few = one.ci_low - 1e-12 <= difference <= one.ci_high + 1e-12, one.dominated
            verdicts = one.verdict == "better" and gain <= 0, one.verdict == "worse" and gain >= 0
            found[one.metric, one.kind].append((covered, *verdicts, few, not covered and not few))
    return [np.mean(rows, axis=0).tolist() for rows in found.values()]


def power(cell: tuple[bool, tuple[float, int], str], sets: int, resamples: int) -> list[float]:
    """How often the decision is "Ship" and "Do not ship"."""
    better, (accuracy, n), asked = cell
    recipe, rng = (
        Recipe(accuracy=accuracy, members=5, better=better),
        np.random.default_rng([n, round(1e4 * accuracy), better]),
    )
    verdicts: list[str] = []
    for seed in range(sets):
        judged = comparisons(*scores(recipe.margins(rng, n)), ASKED[asked], resamples=resamples, seed=seed)
        verdicts.append(decide(judged, primary="accuracy", secondary="nll").verdict)
    return [verdicts.count(name) / sets for name in ("better", "worse")]


def needed(cell: tuple[tuple[float, int], str], sets: int, resamples: int) -> list[tuple[int, float]]:
    """For a few sets: how many examples they ask for, and how often "Ship" comes of as many of their examples."""
    from swa_cli.evaluation.power import effects, units_to_decide

    (accuracy, n), asked = cell
    rng = np.random.default_rng([n, round(1e4 * accuracy), len(ASKED[asked])])
    recipe, found = Recipe(accuracy=accuracy, members=2, better=True), list[tuple[int, float]]()
    while len(found) < ASKING:
        right, nll = scores(recipe.margins(rng, n))
        judged = comparisons(right, nll, ASKED[asked], resamples=resamples, seed=0)
        decision = decide(judged, primary="accuracy", secondary="nll")
        swa, best, last, *_ = (records_of(*one) for one in zip(right, nll, strict=True))
        places: dict[Any, Records] = {"last": last, "best": best}
        incumbents = {kind: records for kind, records in places.items() if kind in ASKED[asked]}
        gains = [one.difference for one in judged if one.metric == "accuracy"]
        units = units_to_decide(effects(judged, decision, (ACCURACY, NLL), swa, incumbents, None))
        if min(gains) <= 0 or units is None or not LEAST < units < MOST:
            continue
        shipped = 0
        for seed in range(sets):
            drawn = rng.integers(0, n, units)
            again = comparisons(right[:, drawn], nll[:, drawn], ASKED[asked], resamples=resamples, seed=seed)
            shipped += decide(again, primary="accuracy", secondary="nll").verdict == "better"
        found.append((units, shipped / sets))
    return found


def _against_last(ours: Floats, theirs: Floats, *, resamples: int, seed: int) -> Comparison:
    """Compare two NLLs."""
    swa, other = (records_of((np.arange(len(one)) % 2).astype(np.float64), one) for one in (ours, theirs))
    return compared(swa, [Other(name="last", kind="last", records=[other])], resamples=resamples, seed=seed)[-1]


def resolved(n: int, sets: int, resamples: int) -> float:
    """How often n units with a normal NLL show the difference that a set of n units is said to resolve."""
    from swa_cli.evaluation.significance import detectable

    rng, found = np.random.default_rng(n), 0
    for seed in range(10 * sets):
        theirs = rng.standard_normal(n)
        ours = theirs + rng.standard_normal(n) - detectable(n) / math.sqrt(n)
        found += _against_last(ours, theirs, resamples=resamples, seed=seed).verdict == "better"
    return found / (10 * sets)


def tails(cell: tuple[int, int], sets: int, resamples: int) -> list[float]:
    """Covered, called better, called worse, said to rest on few; ``rare`` of the n examples are much worse."""
    rare, n = cell
    rng, rows = np.random.default_rng(cell), list[tuple[bool, ...]]()
    scale, mean = 0.01, math.exp(4.5)
    for seed in range(4 * sets):
        tail = np.where(rng.random(n) < rare / n, scale * rng.lognormal(0, 3, n), 0.0)
        theirs = rng.exponential(0.2, n)
        ours = theirs + tail - scale * mean * rare / n + 0.02 * rng.standard_normal(n)
        last = _against_last(ours, theirs, resamples=resamples, seed=seed)
        few = getattr(last, "dominated", False)  # before there was such a field
        rows.append((last.ci_low <= 0 <= last.ci_high, last.verdict == "better", last.verdict == "worse", few))
    return np.mean(rows, axis=0).tolist()


PARTS: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
    "intervals": (intervals, list(product((0.6, 0.9, 0.98, 0.998), (5, 10, 20), (False, True), SIZES))),
    "power": (power, list(product((True, False), SHIPPED, ASKED))),
    "needed": (needed, list(product(((0.8, 300), (0.95, 400), (0.99, 1_000)), ("last", "last, best")))),
    "resolved": (resolved, (6, 10, 15, 30)),
    "tails": (tails, list(product((3, 10, 30), (300, 1_000)))),
}


def simulate(part: str, sets: int, resamples: int, jobs: int) -> list[Any]:
    """Return the result of each cell of a part, in their order."""
    of, cells = PARTS[part]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(partial(of, sets=sets, resamples=resamples), cells))


# --- The tables


def percent(share: float, digits: int = 1) -> str:
    """Return a share in %."""
    return f"{100 * share:.{digits}f}"


def interval_rows(found: list[Any]) -> list[list[str]]:
    """Return the means over all populations of one size, a row for each comparison."""

    def cell(n: int, index: int) -> str:
        of = [
            (rows[index], not better)
            for (_, _, better, size), rows in zip(PARTS["intervals"][1], found, strict=True)
            if size == n
        ]
        covered, _, _, few, unsaid = np.mean([row for row, _ in of], axis=0)
        against_truth = [row for row, equal in of if equal or COMPARED[index][1] == "ensemble"]
        _, better, worse, *_ = np.mean(against_truth, axis=0)
        said = f" ({100 * few:.0f}: {percent(unsaid)})" if round(100 * few) else ""
        return f"{percent(covered)}{said} · {percent(better)} · {percent(worse)}"

    return [[*names, *(cell(n, index) for n in SIZES)] for index, names in enumerate(COMPARED)]


def needed_row(sets: list[tuple[int, float]]) -> list[str]:
    """Return the range of examples needed, and the range and the mean of "Ship"."""
    units, shares = zip(*sets, strict=True)
    ends = f"{percent(min(shares), 0)} to {percent(max(shares), 0)}"
    return [f"{min(units):,} to {max(units):,}", ends, percent(float(np.mean(shares)))]


def table_of(part: str, found: list[Any]) -> tuple[str, list[str], list[list[str]]]:
    """Return the title, the columns and the rows of a part."""
    cells = list(zip(PARTS[part][1], found, strict=True))
    match part:
        case "intervals":
            title = (
                "Covered · called better · called worse, in % (in brackets: said to rest on few examples: missed "
                "otherwise); better and worse are of equals, and for the ensemble against the truth"
            )
            return title, ["metric", "against", *(f"n {n:,}" for n in SIZES)], interval_rows(found)
        case "power":
            columns = ["accuracy", "n", "SWA", "rows", '"Ship"', '"Do not ship"']
            rows = [
                [str(accuracy), f"{n:,}", "15 % fewer errors" if better else "equal", asked, *map(percent, shares)]
                for (better, (accuracy, n), asked), shares in cells
            ]
            return "Decisions, in % of sets", columns, rows
        case "needed":
            title = '"Ship" with as many examples as a set says would be needed, in % (six sets)'
            rows = [[str(accuracy), asked, *needed_row(sets)] for ((accuracy, _), asked), sets in cells]
            return title, ["accuracy", "incumbents", "needed", '"Ship"', "mean"], rows
        case "resolved":
            title = "A difference as large as n units are said to resolve is found, in % of sets"
            return title, [f"n {n}" for n, _ in cells], [[percent(share) for share in found]]
        case _:
            columns = ["such examples", "n", "covered", "called better", "called worse", "said to rest on few"]
            rows = [[str(rare), f"{n:,}", *map(percent, shares)] for (rare, n), shares in cells]
            return "Equals by NLL with a few much worse examples, in % of sets", columns, rows


def main() -> None:
    """Run the parts, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sets", type=int, default=250, help="of each population and size (default: 250)")
    parser.add_argument("--resamples", type=int, default=299, help="of each set (default: 299)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args()
    console = Console(width=200, highlight=False)
    for part in options.parts:
        title, columns, rows = table_of(part, simulate(part, options.sets, options.resamples, options.jobs))
        table = Table(*columns, box=box.MARKDOWN)
        for row in rows:
            table.add_row(*row)
        console.print(f"\n{title}")
        console.print(table)


if __name__ == "__main__":
    main()
