"""The final sentence: whether to ship the average, and why."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from swa_cli.errors import option
from swa_cli.evaluation import CONTROL, DECIDING, INCUMBENTS, Comparison, Decision, EvaluationResult, decide
from swa_cli.report.clauses import beside_ensemble, change, gain, how_many, judged, resolution
from swa_cli.report.figures import difference, has_interval, interval
from swa_cli.report.phrases import held_back, is_loss, margin_of, verdict_in_words


class _Case(NamedTuple):
    """SWA against one of the deciding candidates: both metrics, and their combined decision."""

    primary: Comparison
    secondary: Comparison | None
    alone: Decision

    @property
    def loss(self) -> Comparison | None:
        """The comparison in which SWA is worse, by the primary metric if possible."""
        return next((one for one in (self.primary, self.secondary) if one and one.verdict == "worse"), None)


def final_sentence(result: EvaluationResult) -> str:
    """Return ``result.decision`` as a sentence, with the numbers that it rests on."""
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
    """Return the cases that can decide: the last checkpoint, the best by validation, and a control that is better."""
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
    """Return the case that the verdict comes from, the least favourable of several."""

    def favour(case: _Case) -> tuple[bool, bool, bool, float]:
        """Sort the control last, and a loss by the secondary metric alone after one by the primary."""
        rests_on = case.loss or case.primary
        gained = rests_on.difference if result.score(rests_on.metric).higher_is_better else -rests_on.difference
        by_secondary = rests_on is not case.primary
        gained = math.inf if math.isnan(gained) else gained
        return case.primary.kind == CONTROL, not case.alone.mixed, by_secondary, gained

    return min((case for case in cases if case.alone.verdict == result.decision.verdict), key=favour)


def _others(cases: Sequence[_Case], said: _Case) -> list[_Case]:
    return [case for case in cases if case is not said and case.primary.kind in INCUMBENTS]


def _shipped(result: EvaluationResult, cases: Sequence[_Case]) -> str:
    """Phrase a positive verdict: better than each incumbent, or not worse by more than the margin."""
    first, *more = (case.primary for case in cases)
    found = " and ".join([gain(result, first), *(gain(result, one, again=True) for one in more)])
    kept = [case for case in cases if case.primary.verdict == "non-inferior"]
    if kept:
        found += f", so not worse by more than {margin_of(result, kept[0].primary)}"
    verb = "Ship" if result.decision.verdict == "better" else "You may ship"
    tail = "".join([_gain_in_secondary(result, kept), *_accepted_losses(result, cases), _averaging_alone(result)])
    return f"{verb} {_swa(result)}: {found}{beside_ensemble(result)}{tail}"


def _accepted_losses(result: EvaluationResult, cases: Iterable[_Case]) -> Iterable[str]:
    """Yield the losses of the secondary metric that lie within its margin."""
    for _, second, _ in cases:
        if second and second.verdict == "non-inferior" and is_loss(result, second):
            yield f"; {change(result, second)} against {second.other} is {verdict_in_words(result, second)}"


def _averaging_alone(result: EvaluationResult) -> str:
    """Return the gain over the last checkpoint with recomputed statistics, if there is a control."""
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
    """Return whether a case adds information to the one that was named."""
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
    """Return the findings against the other incumbents, which did not determine the verdict."""
    return "".join(f"; against {case.primary.other}: {_both(result, case)}" for case in cases)


def _both(result: EvaluationResult, case: _Case) -> str:
    decided = [one for one in (case.secondary,) if one and one.verdict in {"better", "worse"}]
    return ", and ".join(judged(result, one) for one in (case.primary, *decided))


def _gain_in_secondary(result: EvaluationResult, cases: Iterable[_Case]) -> str:
    """Return the gains in the secondary metric where the primary one is not better."""
    gains = [case.secondary for case in cases if case.secondary and case.secondary.verdict == "better"]
    if not gains:
        return ""
    score = result.score(gains[0].metric)
    found = " and ".join(
        f"that of {one.other} ({difference(score, one)}, 95 % CI {interval(score, one)})" for one in gains
    )
    return f"; {score.label} is better than {found}"


def _margin_option(result: EvaluationResult, case: _Case) -> str:
    """Return a hint at the option ``margin``, if a margin could decide and none was given."""
    if case.primary.margin is not None or case.secondary is None or case.secondary.verdict != "better":
        return ""
    return f", and {option('margin')} sets the loss of {result.score(case.primary.metric).label} that you accept"


def _swa(result: EvaluationResult) -> str:
    return result.of_kind("swa")[0].name
