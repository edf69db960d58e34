"""What the reports say of thousands of results: each claim held against the numbers."""

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from support.report_claims import Oracle, Text, false_claims, hold, hold_cells, hold_column, hold_lines
from swa_cli.evaluation.compare import Other, compare
from swa_cli.evaluation.decide import decide
from swa_cli.evaluation.result import Candidate, Comparison, Decision, EvaluationResult, Kind, Score
from swa_cli.report.figures import column
from swa_cli.report.grids import comparisons_grid
from swa_cli.report.summary_sentences import differences
from swa_cli.report.verdict_sentence import final_sentence
from swa_cli.tasks import Metric, Records
from swa_cli.tasks.metrics import from_parts, ratio
from swa_cli.tasks.scores import ACCURACY, NLL

Alter = Callable[[str], str]
OTHERS: dict[Kind, str] = {
    "last": "the last checkpoint",
    "best": "the best by validation",
    "mean": "the mean over checkpoints",
    "control": "the last checkpoint with BatchNorm recomputed",
    "ensemble": "the ensemble",
}
PRIMARIES = (
    Score(name="accuracy", label="accuracy", higher_is_better=True, percent=True, shown=True),
    Score(name="accuracy", label="accuracy", higher_is_better=True, percent=True, shown=True),
    Score(name="rmse", label="RMSE", higher_is_better=False, percent=False, shown=True),
    Score(name="errors", label="errors", higher_is_better=False, percent=True, shown=True),
    Score(name="reward", label="reward", higher_is_better=True, percent=False, shown=True),
)
SECONDARY = Score(name="nll", label="NLL", higher_is_better=False, percent=False, shown=True)
SWA = Candidate(name="swa.safetensors", kind="swa", scores={})


def interval_of(dice: random.Random, score: Score) -> tuple[float, float, float]:
    """A difference and its bounds, of every kind that there is; signs at random."""
    size = dice.choice([1e-4, 0.003, 0.05, 0.4]) if score.percent else 10 ** dice.uniform(-7, 4)
    size = min(1.0, size * dice.uniform(0.5, 1.5)) if score.percent else size * dice.uniform(0.5, 1.5)
    match dice.choices(
        ("clear", "open", "touching", "none", "zero", "equal", "unknown", "odd"), (60, 20, 4, 4, 3, 3, 3, 3)
    )[0]:
        case "clear":
            found = size, size * dice.choice([0.9, 0.1, 1e-3, 1e-9]), size * dice.uniform(1.05, 2.5)
        case "open":
            found = size, -size * dice.choice([3, 0.5, 1e-3, 1e-9]), size * dice.uniform(1.05, 3)
        case "touching":
            found = size, 0.0, 2 * size
        case "none":
            found = 0.0, 0.0, 0.0
        case "zero":
            found = 0.0, -size, size * dice.uniform(0.5, 2)
        case "equal":
            found = size, size, size
        case "unknown":
            found = size, -math.inf, math.inf
        case _:
            found = dice.choice([math.inf, math.nan]), -math.inf, math.inf
    difference, low, high = found
    if score.percent and math.isfinite(high - low):
        low, high = max(low, -1.0), min(high, 1.0)
    is_gain = dice.random() < (0.4 if score is SECONDARY else 0.7)
    return (difference, low, high) if is_gain == score.higher_is_better else (-difference, -high, -low)


def comparison_of(dice: random.Random, score: Score, kind: Kind, margin: float | None) -> Comparison:
    difference, low, high = interval_of(dice, score)
    significant = low > 0 or high < 0
    p_value = (
        dice.choice([1e-6, 0.004, 0.0312, 0.049999]) if significant else dice.choice([0.05, 0.07, 0.5, 0.995, 1.0])
    )
    if significant and dice.random() < 0.15:
        p_value = dice.choice([0.0501, 0.062])  # McNemar's
    corrected_for = dice.choice([1, 2]) if kind in {"mean", "ensemble"} else 1
    known = math.isfinite(high - low)
    error = (high - low) / 4 if known else math.inf
    dominated = known and dice.random() < 0.08
    return Comparison(
        metric=score.name,
        other=OTHERS[kind],
        kind=kind,
        difference=difference,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        p_adjusted=min(1.0, p_value * corrected_for),
        standard_error=error,
        smallest_resolvable=2.8 * error,
        units_needed=None,
        margin=margin,
        verdict="inconclusive",
        corrected_for=corrected_for,
        effective_n=dice.uniform(1, 9) if dominated else 100,
        dominated=dominated,
    )


def result_of(dice: random.Random) -> EvaluationResult:
    """Consistent in itself: verdicts follow from the numbers, and the decision from these."""
    primary = dice.choice(PRIMARIES)
    scores = [primary, SECONDARY] if dice.random() < 0.75 else [primary]
    kinds: list[Kind] = ["last", *(kind for kind in OTHERS if kind != "last" and dice.random() < 0.6)]
    margins = {
        primary.name: dice.choice([None, None, 0.0, 0.01, 0.025, 0.5] if primary.percent else [None, 1.0, 0.001]),
        "nll": dice.choice([None, None, 1.0, 0.05, 123456.0]),
    }
    comparisons = [comparison_of(dice, score, kind, margins[score.name]) for score in scores for kind in kinds]
    members = dice.choice([1, 2, 3, 5, 10, 12, 17])
    ensemble = Candidate(name="ensemble", kind="ensemble", scores={}, members=members, forward_passes=members)
    n = dice.choice([1, 5, 6, 400, 10_000])
    return judged(
        comparisons,
        scores,
        Decision(
            verdict="inconclusive",
            mixed=False,
            primary=primary.name,
            secondary="nll" if len(scores) > 1 else None,
            units_needed=dice.choice([None, 3, n + 1, 7643, 10**9]),
        ),
        candidates=(SWA, ensemble),
        n_examples=n,
        n_groups=dice.choice([None, None, 1, max(1, n // 3)]),
        unit=dice.choice(["example", "image"]),
    )


def judged(comparisons: list[Comparison], scores: list[Score], decision: Decision, **fields: Any) -> EvaluationResult:
    result = EvaluationResult(
        split="test", task="t", scores=tuple(scores), comparisons=tuple(comparisons), decision=decision, **fields
    )
    oracle = Oracle(result, Text(""))
    verdicts: list[Any] = [oracle.verdict(one) for one in comparisons]
    told = [replace(one, verdict=verdict) for one, verdict in zip(comparisons, verdicts, strict=True)]
    found = decide(told, primary=decision.primary, secondary=decision.secondary)
    return replace(result, comparisons=tuple(told), decision=replace(found, units_needed=decision.units_needed))


@pytest.mark.parametrize("seed", range(5))
def test_every_claim_of_the_last_sentence_holds(seed):
    dice = random.Random(seed)
    results = [result_of(dice) for _ in range(400)]

    seen = Counter(Oracle(result, Text("")).decided() for result in results)

    assert not [false for result in results if (false := false_claims(hold, final_sentence(result), result))]
    assert seen.keys() == {"better", "non-inferior", "inconclusive", "your choice", "worse"}
    assert min(seen.values()) >= 5


@pytest.mark.parametrize("seed", range(2))
def test_every_claim_of_the_comparisons_holds(seed):
    dice = random.Random(seed)
    for _ in range(120):
        result = result_of(dice)
        (rows,) = comparisons_grid(result).sections

        assert not false_claims(hold_lines, [*differences(result)], result)
        for cells, one in zip(rows, result.comparisons, strict=True):
            assert not false_claims(hold_cells, cells, one, result)


@pytest.mark.parametrize("score", PRIMARIES[1:], ids=lambda score: score.name)
def test_every_cell_of_a_column_is_its_number(score):
    dice = random.Random(score.name)
    odd = (None, math.nan, math.inf, -math.inf, 0.0, -0.0, -1e-17, 1.0, 0.99999, 1e-9)
    for _ in range(300):
        scale = 1.0 if score.percent else 10 ** dice.uniform(-20, 20)
        values = [
            dice.choice(odd[:2] + odd[4:] if score.percent else odd)
            if dice.random() < 0.3
            else scale * dice.random() ** dice.choice([1, 3, 9]) * (1 if score.percent else dice.choice([-1, 1]))
            for _ in range(dice.randrange(1, 6))
        ]

        assert not false_claims(hold_column, column(score, values), values, score.percent)


ERROR = from_parts("errors", "errors", ratio("wrong", "count"), higher_is_better=False, percent=True, compared=True)
SQUARES = from_parts("rmse", "RMSE", ratio("squared", "count", then=np.sqrt), higher_is_better=False, compared=True)


def records_of(rng: np.random.Generator, n: int, *, right: float, scale: float) -> Records:
    correct = (rng.random(n) < right).astype(np.float64)
    nll = scale * rng.lognormal(sigma=rng.choice([0.0, 1.0, 3.0]), size=n) * np.where(correct > 0, 0.3, 2.0)
    columns = {"correct": correct, "wrong": 1 - correct, "nll": nll, "squared": nll**2, "count": np.ones(n)}
    return Records(columns={**columns, "weight": np.full(n, rng.choice([1.0, 1.0, 1.0, 0.0]))}, tallies={})


@pytest.mark.parametrize("n", [1, 5, 6, 7, 40])
@pytest.mark.parametrize("primary", [ACCURACY, ERROR, SQUARES], ids=lambda metric: metric.name)
def test_every_claim_holds_where_the_numbers_are_those_of_compare(n: int, primary: Metric):
    for seed in range(3):
        rng = np.random.default_rng([seed, n])
        swa, *others = (
            records_of(rng, n, right=rng.choice([0.3, 0.9, 1.0]), scale=rng.choice([1e-6, 1.0])) for _ in OTHERS
        )
        against = [
            Other(name=OTHERS[kind], kind=kind, records=[one]) for kind, one in zip(OTHERS, others, strict=False)
        ]
        if seed == 0:
            against[0] = replace(against[0], records=[swa])
        margins = {primary.name: 0.01, "nll": 1.0} if seed == 1 else {}
        groups = np.arange(n) // 2 if seed == 2 else None
        comparisons = compare(swa, against, (primary, NLL), groups=groups, margins=margins)
        score = next(one for one in PRIMARIES if one.name == primary.name)
        ensemble = Candidate(name="ensemble", kind="ensemble", scores={}, members=5, forward_passes=5)

        result = EvaluationResult(
            split="test",
            task="t",
            unit="example",
            n_examples=n,
            n_groups=None if groups is None else int(groups.max()) + 1,
            scores=(score, SECONDARY),
            candidates=(SWA, ensemble),
            comparisons=comparisons,
            decision=decide(comparisons, primary=primary.name, secondary="nll"),
        )

        assert not false_claims(hold, final_sentence(result), result)


def swapped(one: str, other: str) -> Alter:
    """Each for the other, wherever they stand."""
    return lambda text: re.sub(f"{one}|{other}", lambda found: other if found[0] == one else one, text)


def half(text: str) -> str:
    return re.sub(r"(at most )([\d.]+)", lambda found: f"{found[1]}{float(found[2]) / 2:g}", text)


def next_digit(text: str) -> str:
    """The last digit of the first difference is another."""
    return re.sub(r"([+-][\d.]*)(\d)", lambda found: f"{found[1]}{(int(found[2]) + 1) % 10}", text, count=1)


ALTERED: dict[str, Alter] = {
    "the other incumbent": swapped("the last checkpoint(?! with)", "the best by validation"),
    "another metric": swapped("NLL", "accuracy"),
    "the opposite sign": lambda text: re.sub(
        r"(?<=[ (])[+-](?=[\d.]*[1-9])", lambda f: "-" if f[0] == "+" else "+", text, count=1
    ),
    "another digit": next_digit,
    "no number": lambda text: re.sub(r"[+-][\d.]+\d", "+nan", text, count=1),
    "minus zero": lambda text: re.sub(r"\+0\.00(?!\d)", "-0.00", text, count=1),
    "one points": lambda text: text.replace("1 point,", "1 points,").replace("1 point.", "1 points."),
    "two point": lambda text: text.replace(" points", " point", 1),
    "another verdict": swapped("Ship swa", "You may ship swa"),
    "over": swapped(" over ", " against "),
    "lower": swapped(" lower than", " higher than"),
    "a gain that goes unsaid": lambda text: re.sub(r"(Do not ship.*); against .*better.*", r"\1.", text),
    "a loss that goes unsaid": lambda text: re.sub(r"(.*ship.*); NLL .* is worse, but .*", r"\1.", text),
    "nearer to the ensemble": half,
    "more than the numbers hold": lambda text: text.replace("at most", "within"),
}


@cache
def said() -> list[tuple[str, EvaluationResult]]:
    dice = random.Random(7)
    results = [result_of(dice) for _ in range(250)]
    return [(final_sentence(result), result) for result in results]


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED.keys())
def test_a_claim_that_the_numbers_do_not_hold_is_found(alter: Alter):
    altered = [(text, result) for sentence, result in said() if (text := alter(sentence)) != sentence]

    assert len(altered) >= 3
    assert not [text for text, result in altered if not false_claims(hold, text, result)]
