"""The clauses of the final sentence, each about one comparison."""

from swa_cli.evaluation import Comparison, EvaluationResult
from swa_cli.report.figures import amount, at_most, difference, has_interval, interval, numbers, points
from swa_cli.report.phrases import held_back, is_resolvable, verdict_in_words
from swa_cli.text import counted

_SHARES = {
    2: "half",
    3: "a third",
    4: "a quarter",
    5: "a fifth",
    6: "a sixth",
    7: "a seventh",
    8: "an eighth",
    9: "a ninth",
    10: "a tenth",
    12: "a twelfth",
    20: "a twentieth",
}


def gain(result: EvaluationResult, comparison: Comparison, *, again: bool = False) -> str:
    """Return a difference as a predicate of SWA; ``again`` omits the metric and the words "95 % CI"."""
    score, other = result.score(comparison.metric), comparison.other
    if comparison.is_nothing:
        return f"the same {score.label} as {other} on every {result.unit}"
    text, bracket = interval(score, comparison), "" if again else "95 % CI "
    if comparison.difference == 0:
        return f"the same {score.label} as {other} ({bracket}{text})"
    middle, low, high = numbers(score, comparison)
    if score.percent and score.higher_is_better:
        what = "" if again else f" points of {score.label}"
        return f"{middle}{what} {'over' if comparison.difference > 0 else 'against'} {other} ({bracket}{text})"
    how = "lower" if comparison.difference < 0 else "higher"
    if how == "lower" and comparison.ci_high <= 0:  # "lower" carries the sign
        text = f"{high[1:]} to {low[1:]}"
    what = "" if again else f"{score.label} "
    return f"{what}{middle[1:]}{points(score)} {how} than that of {other} ({bracket}{text})"


def change(result: EvaluationResult, comparison: Comparison) -> str:
    """Return the metric, the difference and its interval."""
    score = result.score(comparison.metric)
    if comparison.is_nothing:
        return f"the same {score.label} on every {result.unit}"
    bracket = "95 % CI " if has_interval(comparison) else ""
    return f"{score.label} {difference(score, comparison)} ({bracket}{interval(score, comparison)})"


def judged(result: EvaluationResult, comparison: Comparison) -> str:
    """Return the metric, the difference, its interval and the verdict."""
    if comparison.is_nothing:
        return change(result, comparison)
    return f"{change(result, comparison)}, {verdict_in_words(result, comparison)}{held_back(result, comparison)}"


def beside_ensemble(result: EvaluationResult) -> str:
    """Return how close SWA comes to the ensemble, and its share of the cost; empty if unknown."""
    comparison = result.compared(result.decision.primary, "ensemble")
    rows = result.of_kind("ensemble")
    if comparison is None or not has_interval(comparison) or comparison.dominated:
        return ""
    if not rows or rows[0].forward_passes == 1:
        return ""
    score, cost = result.score(comparison.metric), rows[0].forward_passes
    ensemble = f"the ensemble of {rows[0].members or cost}"
    loss = -comparison.ci_low if score.higher_is_better else comparison.ci_high
    size, gained = difference(score, comparison), comparison.difference > 0
    if comparison.is_nothing:
        beside = f"no different from {ensemble}"
    elif comparison.verdict in {"better", "worse"} and score.percent and score.higher_is_better:
        beside = f"{'and' if gained else 'but'} {size} {'over' if gained else 'against'} {ensemble}"
    elif comparison.verdict in {"better", "worse"}:
        link = "and" if comparison.verdict == "better" else "but"
        beside = f"{link} {size[1:]} {'higher' if gained else 'lower'} than {ensemble}"
    elif loss > 0:
        beside = f"at most {at_most(score, loss)} {'below' if score.higher_is_better else 'above'} {ensemble}"
    else:
        beside = f"no worse than {ensemble}"
    return f", {beside} at {_SHARES.get(cost, f'1/{cost}')} of its cost"


def resolution(result: EvaluationResult, comparison: Comparison) -> str:
    """Return the differences that the data can resolve, and how many units would decide; empty if unknown."""
    if not is_resolvable(result, comparison):
        return ""
    score, needed = result.score(comparison.metric), result.decision.units_needed
    resolved = f"; these data can resolve differences of {amount(score, comparison.smallest_resolvable)}"
    if needed is None or needed <= (result.n_groups or result.n_examples):
        return resolved
    many = counted(_roughly(needed), result.unit if result.n_groups is None else "group")
    return (
        f"{resolved}, and about {many} would be needed to tell in 80 % of cases if all differences are as large as "
        "they look"
    )


def how_many(result: EvaluationResult) -> str:
    """Return the number of units that were evaluated, and of their groups."""
    groups = "" if result.n_groups is None else f" in {counted(result.n_groups, 'group')}"
    return f"{counted(result.n_examples, result.unit)}{groups}"


def _roughly(count: int) -> int:
    """Round up to two significant digits."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step
