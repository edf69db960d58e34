"""The last word: whether to ship the average, in one sentence."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from swa_cli.evaluation import CONTROL, DECIDING, INCUMBENTS, Comparison, Decision, EvaluationResult, decide
from swa_cli.report.clauses import beside_ensemble, change, gain, how_many, judged, resolution
from swa_cli.report.figures import difference, has_interval, interval
from swa_cli.report.phrases import held_back, is_loss, margin_of, verdict_in_words


class _Case(NamedTuple):
    """SWA against one of those that decide: by both metrics, and what these come to together."""

    primary: Comparison
    secondary: Comparison | None
    alone: Decision

    @property
    def loss(self) -> Comparison | None:
        """The metric by which SWA is worse, the primary one if it is."""
        return next((one for one in (self.primary, self.secondary) if one and one.verdict == "worse"), None)


def final_sentence(result: EvaluationResult) -> str:
    """What ``result.decision`` comes to, with the numbers that it rests on."""
    cases = _cases(result)
    if not cases:
        return f"There is nothing to compare {_swa(result)} with."
    match result.decision.verdict:
        case "better" | "non-inferior":
            said = _shipped(result, cases)
        case "inconclusive":
            case = _deciding(result, cases)
            said = (_mixed if case.alone.mixed else _inconclusive)(result, case, _others(cases, case))
        case "worse":
            case = _deciding(result, cases)
            said = _worse(result, case, _others(cases, case))
    return f"{said}."


def _cases(result: EvaluationResult) -> list[_Case]:
    """The last checkpoint, the best by validation, and the control, as far as they were compared."""
    decision = result.decision
    found: list[_Case] = []
    for kind in DECIDING:
        primary = result.compared(decision.primary, kind)
        if primary:
            secondary = result.compared(decision.secondary, kind) if decision.secondary else None
            both = [one for one in (primary, secondary) if one]
            alone = decide(both, primary=decision.primary, secondary=decision.secondary)
            found.append(_Case(primary, secondary, alone))
    return [case for case in found if case.primary.kind != CONTROL or case.alone.verdict == "worse"]


def _deciding(result: EvaluationResult, cases: Sequence[_Case]) -> _Case:
    """The one that the verdict is of, the least favourable of several."""

    def favour(case: _Case) -> tuple[bool, bool, bool, float]:
        """The control comes after the others, a loss by the secondary metric alone after one by the primary."""
        rests_on = case.loss or case.primary
        gained = rests_on.difference if result.score(rests_on.metric).higher_is_better else -rests_on.difference
        by_secondary = rests_on is not case.primary
        gained = math.inf if math.isnan(gained) else gained
        return case.primary.kind == CONTROL, not case.alone.mixed, by_secondary, gained

    return min((case for case in cases if case.alone.verdict == result.decision.verdict), key=favour)


def _others(cases: Sequence[_Case], said: _Case) -> list[_Case]:
    return [case for case in cases if case is not said and case.primary.kind in INCUMBENTS]


def _shipped(result: EvaluationResult, cases: Sequence[_Case]) -> str:
    """Better than each by one of both metrics, or not worse by more than the margin."""
    first, *more = (case.primary for case in cases)
    found = " and ".join([gain(result, first), *(gain(result, one, again=True) for one in more)])
    kept = [case for case in cases if case.primary.verdict == "non-inferior"]
    if kept:
        found += f", so not worse by more than {margin_of(result, kept[0].primary)}"
    verb = "Ship" if result.decision.verdict == "better" else "You may ship"
    tail = "".join([_gain_in_secondary(result, kept), *_accepted_losses(result, cases), _averaging_alone(result)])
    return f"{verb} {_swa(result)}: {found}{beside_ensemble(result)}{tail}"


def _accepted_losses(result: EvaluationResult, cases: Iterable[_Case]) -> Iterable[str]:
    """Where the secondary metric is worse, but within the margin that was given for it."""
    for _, second, _ in cases:
        if second and second.verdict == "non-inferior" and is_loss(result, second):
            yield f"; {change(result, second)} against {second.other} is {verdict_in_words(result, second)}"


def _averaging_alone(result: EvaluationResult) -> str:
    """What is left of the gain over the last checkpoint where that has statistics of its own too."""
    control = result.compared(result.decision.primary, "control")
    if result.decision.verdict != "better" or control is None or not has_interval(control):
        return ""
    second = result.compared(result.decision.secondary, "control") if result.decision.secondary else None
    said = [judged(result, control)]
    if second and second.verdict in {"better", "worse"} and second.verdict != control.verdict:
        said.append(judged(result, second))
    helps = any(one and one.verdict == "better" for one in (control, second))
    return (
        f"; averaging alone{'' if helps else ' is not shown to help'}, against the last checkpoint with recomputed "
        f"BatchNorm statistics: {', and '.join(said)}"
    )


def _inconclusive(result: EvaluationResult, case: _Case, others: Sequence[_Case]) -> str:
    one, swa = case.primary, _swa(result)
    score = result.score(one.metric)
    beside = [other for other in others if _adds(other, case)]
    tail = f"{_gain_in_secondary(result, [case])}{_margin_option(result, case)}{_against(result, beside)}"
    if one.is_nothing:
        same = f"it is the same on every {result.unit}"
        return f"Shipping {swa} in place of {one.other} changes no {score.label}: {same}{tail}"
    question = f"better or worse than {one.other}"
    if one.margin is not None:
        question = f"worse than {one.other} by more than {margin_of(result, one)}"
    if not has_interval(one):
        return f"{how_many(result)} cannot show whether {swa} is {question}: {change(result, one)}{tail}"
    too_few = f"{how_many(result)} {'is' if result.n_examples == 1 else 'are'} too few"
    found = f"{change(result, one)}{held_back(result, one)}"
    return f"{too_few} to tell whether {swa} is {question}: {found}{resolution(result, one)}{tail}"


def _adds(other: _Case, said: _Case) -> bool:
    """Whether something else is known of it than of the one that has been named."""
    nothing = other.primary.is_nothing or said.primary.is_nothing
    return nothing or other.alone.verdict != "inconclusive" or other.alone.mixed


def _mixed(result: EvaluationResult, case: _Case, others: Sequence[_Case]) -> str:
    assert case.secondary
    return (
        f"Whether to ship {_swa(result)} is your choice: against {case.primary.other} it is better by one metric, "
        f"{change(result, case.primary)}, and worse by the other, {change(result, case.secondary)}"
        f"{_against(result, others)}"
    )


def _worse(result: EvaluationResult, case: _Case, others: Sequence[_Case]) -> str:
    assert case.loss
    beside = [other for other in others if "better" in {other.primary.verdict, other.alone.verdict}]
    tail = f"{_gain_in_secondary(result, [case])}{_against(result, beside)}"
    return f"Do not ship {_swa(result)}: {gain(result, case.loss)}{tail}"


def _against(result: EvaluationResult, cases: Iterable[_Case]) -> str:
    """What is found against the others, where that is not why the verdict is what it is."""
    return "".join(f"; against {case.primary.other}: {_both(result, case)}" for case in cases)


def _both(result: EvaluationResult, case: _Case) -> str:
    decided = [one for one in (case.secondary,) if one and one.verdict in {"better", "worse"}]
    return ", and ".join(judged(result, one) for one in (case.primary, *decided))


def _gain_in_secondary(result: EvaluationResult, cases: Iterable[_Case]) -> str:
    """Against which of them the secondary metric is better while the primary one is not."""
    gains = [case.secondary for case in cases if case.secondary and case.secondary.verdict == "better"]
    if not gains:
        return ""
    score = result.score(gains[0].metric)
    found = " and ".join(
        f"that of {one.other} ({difference(score, one)}, 95 % CI {interval(score, one)})" for one in gains
    )
    return f"; {score.label} is better than {found}"


def _margin_option(result: EvaluationResult, case: _Case) -> str:
    """What to do where a margin, which was not given, could decide."""
    if case.primary.margin is not None or case.secondary is None or case.secondary.verdict != "better":
        return ""
    return f", and --margin sets the loss of {result.score(case.primary.metric).label} that you accept"


def _swa(result: EvaluationResult) -> str:
    return result.of_kind("swa")[0].name
