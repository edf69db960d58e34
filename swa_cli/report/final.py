"""The last word: whether to ship the average, in one sentence."""

import math
from collections.abc import Iterator
from dataclasses import replace

from swa_cli.evaluation.decide import CONTROL, INCUMBENTS
from swa_cli.evaluation.result import Comparison, EvaluationResult
from swa_cli.evaluation.verdict import Verdict
from swa_cli.report.figures import amount, at_most, difference, interval, points
from swa_cli.report.phrases import held_back, is_loss, is_resolvable, margin_of, verdict_in_words
from swa_cli.report.units import counted

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


def final_sentence(result: EvaluationResult) -> str:
    """What ``result.decision`` comes to, with the numbers that it rests on."""
    decision = result.decision
    if not _against(result, decision.primary):
        return f"There is nothing to judge {_swa(result)} by."
    match decision.verdict:
        case "better":
            return _better(result)
        case "non-inferior":
            return _non_inferior(result)
        case "inconclusive":
            return _mixed(result) if decision.mixed else _inconclusive(result)
        case "worse":
            return _worse(result)


def _better(result: EvaluationResult) -> str:
    """Better by the primary metric, or by the secondary one and not worse by the primary."""
    comparisons = _against(result, result.decision.primary)
    first, *others = comparisons
    gains = " and ".join([_gain(result, first), *(_gain(result, one, again=True) for one in others)])
    kept = next((one for one in comparisons if one.verdict == "non-inferior"), None)
    if kept is None:
        return f"Ship {_swa(result)}: {gains}{_ensemble(result)}{_put_up_with(result)}{_averaging_alone(result)}."
    return (
        f"Ship {_swa(result)}: {gains}, so not worse by more than {margin_of(result, kept)}{_ensemble(result)}"
        f"{_but(result, kept)}."
    )


def _averaging_alone(result: EvaluationResult) -> str:
    """What is left of the gain over the last checkpoint where that has statistics of its own too."""
    control = result.compared(result.decision.primary, "control")
    if control is None or not math.isfinite(control.ci_high - control.ci_low):
        return ""
    beside = "the last checkpoint with recomputed BatchNorm statistics"
    change = f"{_change(result, control)} against {beside}"
    second = result.compared(result.decision.secondary, "control") if result.decision.secondary else None
    if second is not None and second.verdict in {"better", "worse"} and second.verdict != control.verdict:
        first, other = (f"{_change(result, one)}, {verdict_in_words(result, one)}" for one in (control, second))
        return f"; of averaging alone, against {beside}: {first}, and {other}"
    if control.verdict == "better":
        return f"; of averaging alone: {change}"
    return f"; but averaging alone is not shown to be of use: {change}"


def _non_inferior(result: EvaluationResult) -> str:
    comparisons = _against(result, result.decision.primary)
    label = result.score(result.decision.primary).label
    first, *others = (f"{_change(result, one)} against {one.other}" for one in comparisons)
    found = " and ".join([first, *(words.removeprefix(f"{label} ") for words in others)])
    return (
        f"You may ship {_swa(result)}: {found}, so not worse by more than {margin_of(result, comparisons[0])}"
        f"{_ensemble(result)}{_put_up_with(result)}."
    )


def _put_up_with(result: EvaluationResult) -> str:
    """Where the secondary metric is worse, but within the margin that was given for it."""
    for _, second in _pairs(result):
        if second.verdict == "non-inferior" and is_loss(result, second):
            return f"; {_change(result, second)} against {second.other} is {verdict_in_words(result, second)}"
    return ""


def _inconclusive(result: EvaluationResult) -> str:
    comparison = _first(result, "inconclusive")
    score = result.score(comparison.metric)
    if comparison.is_nothing:
        same = f"it is the same as that of {comparison.other} on every {result.unit}"
        return f"Shipping {_swa(result)} changes no {score.label}: {same}{_but(result, comparison)}."
    question = f"better than {comparison.other}"
    if comparison.margin is not None:
        question = f"worse than {comparison.other} by more than {margin_of(result, comparison)}"
    n_units = result.n_examples
    too_few = f"{_units(result)} {'is' if n_units == 1 else 'are'} too few"
    found = f"{_change(result, comparison)}{held_back(result, comparison)}"
    words = [f"{too_few} to tell whether {_swa(result)} is {question}: {found}"]
    if is_resolvable(comparison):
        resolved = f"this test set can resolve differences of {amount(score, comparison.smallest_resolvable)}"
        needed = comparison.units_needed
        if needed is not None and needed > (result.n_groups or n_units):
            many = counted(_roughly(needed), result.unit if result.n_groups is None else "group")
            what = "to resolve this one" if comparison.margin is None else "to tell"
            resolved += f", and about {many} would be needed {what} if it is as large as it looks"
        words.append(resolved)
    return "; ".join(words) + _but(result, comparison) + "."


def _mixed(result: EvaluationResult) -> str:
    primary, secondary = next(
        pair for pair in _pairs(result) if (pair[0].verdict, pair[1].verdict) == ("better", "worse")
    )
    others = _others_than(result, primary)
    return (
        f"Whether to ship {_swa(result)} is your choice: against {primary.other} it is better by one metric, "
        f"{_change(result, primary)}, and worse by the other, {_change(result, secondary)}{others}."
    )


def _others_than(result: EvaluationResult, said: Comparison) -> str:
    """What else would be shipped, and is not beaten."""
    others = [one for one in _against(result, said.metric) if one.kind != said.kind and one.verdict != "better"]
    found = [f"{one.other}: {_change(result, one)}, {verdict_in_words(result, one)}" for one in others]
    return f"; against {' and '.join(found)}" if found else ""


def _worse(result: EvaluationResult) -> str:
    comparison = _first(result, "worse")
    return f"Do not ship {_swa(result)}: {_gain(result, comparison)}{_but(result, comparison)}."


def _gain(result: EvaluationResult, comparison: Comparison, *, again: bool = False) -> str:
    """A difference as the predicate of SWA; ``again`` where the metric and what the bracket is have been said."""
    score = result.score(comparison.metric)
    middle, _, _ = difference(score, comparison)
    bracket = _bracket(result, comparison, again=again)
    if comparison.is_nothing:
        return f"the same {score.label} as {comparison.other} on every {result.unit}"
    if score.percent and score.higher_is_better:
        what = "" if again else f" points of {score.label}"
        return f"{middle}{what} {'over' if comparison.difference >= 0 else 'against'} {comparison.other} {bracket}"
    how = "lower" if comparison.difference < 0 else "higher"
    if how == "lower" and comparison.ci_high <= 0:  # by how much, then, and not by how much more
        turned = replace(
            comparison, difference=-comparison.difference, ci_low=-comparison.ci_high, ci_high=-comparison.ci_low
        )
        bracket = _bracket(result, turned, again=again).replace("+", "")
    what = "" if again else f"{score.label} "
    return f"{what}{middle.lstrip('+-')}{points(score)} {how} than that of {comparison.other} {bracket}"


def _change(result: EvaluationResult, comparison: Comparison) -> str:
    score = result.score(comparison.metric)
    middle, _, _ = difference(score, comparison)
    return f"{score.label} {middle}{points(score)} {_bracket(result, comparison)}"


def _bracket(result: EvaluationResult, comparison: Comparison, *, again: bool = False) -> str:
    text = interval(result.score(comparison.metric), comparison)
    return f"({text})" if again or not math.isfinite(comparison.ci_high - comparison.ci_low) else f"(95 % CI {text})"


def _but(result: EvaluationResult, comparison: Comparison) -> str:
    """The secondary metric, where it is better while the primary one, that of ``comparison``, is not."""
    decision = result.decision
    other = result.compared(decision.secondary, comparison.kind) if decision.secondary else None
    if other is None or comparison.metric == decision.secondary or other.verdict != "better":
        return ""
    score = result.score(other.metric)
    middle, _, _ = difference(score, other)
    better = f"; {score.label} is better ({middle}{points(score)}, {_bracket(result, other)[1:]}"
    if comparison.verdict != "inconclusive" or comparison.margin is not None:
        return better
    return f"{better}, and --margin names the loss of {result.score(decision.primary).label} that is put up with"


def _ensemble(result: EvaluationResult) -> str:
    """How near SWA comes to the ensemble, and what it saves."""
    comparison = result.compared(result.decision.primary, "ensemble")
    rows = result.of_kind("ensemble")
    if comparison is None or not rows or rows[0].forward_passes == 1:
        return ""
    score, cost = result.score(comparison.metric), rows[0].forward_passes
    ensemble = f"the ensemble of {rows[0].members or cost}"
    at_cost = f"at {_SHARES.get(cost, f'1/{cost}')} of its cost"
    loss = -comparison.ci_low if score.higher_is_better else comparison.ci_high
    middle, _, _ = difference(score, comparison)
    if not math.isfinite(loss):
        return ""
    if comparison.is_nothing:
        beside = f", no different from {ensemble}"
    elif comparison.verdict == "worse":
        beside = f", {middle}{points(score)} against {ensemble}"
    elif loss > 0:
        beside = f", within {at_most(score, loss)} of {ensemble}"
    elif comparison.verdict != "better":
        beside = f", no worse than {ensemble}"
    elif score.higher_is_better:
        beside = f", and {middle} over {ensemble}"
    else:
        beside = f", and {middle.lstrip('-')}{points(score)} lower than {ensemble}"
    return f"{beside} {at_cost}"


def _against(result: EvaluationResult, metric: str) -> list[Comparison]:
    """The comparisons that decide."""
    kinds = (*INCUMBENTS, CONTROL) if result.decision.verdict == "worse" else INCUMBENTS
    found = (result.compared(metric, kind) for kind in kinds)
    return [comparison for comparison in found if comparison]


def _pairs(result: EvaluationResult) -> Iterator[tuple[Comparison, Comparison]]:
    secondary = result.decision.secondary
    for one in _against(result, result.decision.primary):
        other = result.compared(secondary, one.kind) if secondary else None
        if other:
            yield one, other


def _first(result: EvaluationResult, verdict: Verdict) -> Comparison:
    """The first deciding comparison with that verdict, of the primary metric if there is one."""
    metrics = [result.decision.primary, *([result.decision.secondary] if result.decision.secondary else [])]
    deciding = [one for metric in metrics for one in _against(result, metric)]
    return next((one for one in deciding if one.verdict == verdict), deciding[0])


def _swa(result: EvaluationResult) -> str:
    return result.of_kind("swa")[0].name


def _units(result: EvaluationResult) -> str:
    groups = "" if result.n_groups is None else f" in {counted(result.n_groups, 'group')}"
    return f"{counted(result.n_examples, result.unit)}{groups}"


def _roughly(count: int) -> int:
    """Rounded up to two significant digits."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step
