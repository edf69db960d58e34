"""What reports say of a result, read claim by claim and held against the numbers, knowing nothing of how it is made."""

import math
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from swa_cli.evaluation.result import Comparison, EvaluationResult

NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]\d+)?"
OTHER = r"the last checkpoint with BatchNorm recomputed|the last checkpoint|the best by validation"
INCUMBENTS = ("last", "best")
COSTS = {"half": 2, "a third": 3, "a quarter": 4, "a fifth": 5, "a tenth": 10, "a twelfth": 12}
# docs/explanation/statistics.md: the deciding metric, then whether the NLL is better, neither, or worse
TABLE = {
    "better": {"better": "better", "neither": "better", "worse": "your choice"},
    "non-inferior": {"better": "better", "neither": "non-inferior", "worse": "worse"},
    "inconclusive": {"better": "inconclusive", "neither": "inconclusive", "worse": "worse"},
    "worse": {"better": "worse", "neither": "worse", "worse": "worse"},
}


class Text:
    """What of the sentence has not been read."""

    def __init__(self, rest: str) -> None:
        self.rest = rest

    def take(self, pattern: str) -> re.Match[str] | None:
        found = re.match(pattern, self.rest)
        if found:
            self.rest = self.rest[found.end() :]
        return found

    def must(self, pattern: str) -> re.Match[str]:
        found = self.take(pattern)
        assert found, f"expected {pattern!r}, found {self.rest!r}"
        return found


def false_claims(hold: Callable[..., None], *arguments: object) -> list[str]:
    """The first claim that one of the functions below finds false, with its arguments; empty if all claims hold."""
    try:
        hold(*arguments)
    except AssertionError as error:
        claim = traceback.extract_tb(error.__traceback__)[-1].line
        return [f"{claim}: {error}", *map(str, arguments)]
    return []


def hold(sentence: str, result: EvaluationResult) -> None:
    """Hold every claim of the last sentence against the numbers.

    Raises:
        AssertionError: a claim is false, or none that is known here, or something that had to be said is not.
    """
    grammar(sentence)
    Oracle(result, Text(sentence)).read()


def hold_lines(lines: Iterable[str], result: EvaluationResult) -> None:
    """The same for the lines of the others, which have to name every comparison."""
    said = [one for line in lines for one in _compared_in(line, result)]
    assert {*map(id, said)} == {*map(id, result.comparisons)}


def _compared_in(line: str, result: EvaluationResult) -> list[Comparison]:
    grammar(line)
    text = Text(line)
    other = text.must(r"SWA against ([^:]+): ")[1]
    oracle, found = Oracle(result, text), []
    while not found or text.take("; "):
        one = oracle.by_label(oracle.kind(other), text.must(r"(\w+) ")[1])
        found.append(one)
        if text.take(f"the same on every {result.unit}"):
            assert one.difference == one.ci_low == one.ci_high == 0
            continue
        oracle.figures(one)
        text.must(": ")
        oracle.word(one)
    text.must(r"\.$")
    return found


def hold_cells(cells: tuple[str, ...], one: Comparison, result: EvaluationResult) -> None:
    """The same for a row of the table of comparisons."""
    other, label, difference, interval, p_value, verdict = cells
    grammar(" ".join(cells))
    oracle = Oracle(result, Text(f"{difference} ({interval}), {verdict}"))
    assert (other, label) == (one.other, result.score(one.metric).label)
    if not oracle.text.take(r"0 \(0\)"):
        oracle.figures(one)
    else:
        assert one.difference == one.ci_low == one.ci_high == 0
    oracle.text.must(", ")
    oracle.word(one, why=False)
    assert p_value.endswith(" (Holm)") == (one.corrected_for > 1)
    assert is_p(p_value.removesuffix(" (Holm)"), one.p_adjusted)


def grammar(sentence: str) -> None:
    """No number that is none, no minus before a zero, no "1 points", no "2 example"."""
    assert not re.search(r"\b(nan|inf|None)\b", sentence), sentence
    for number in re.findall(r"(?<![\w.])-\d[\d.]*(?:e[+-]\d+)?", sentence):
        assert float(number.rstrip(".")) != 0, sentence
    for count, plural in re.findall(r"(?<![\w.,])([\d.,e+-]+) (?:example|image|group|point)(s?)\b", sentence):
        assert (count.lstrip("+-") == "1") == (plural == ""), sentence


def hold_column(texts: list[str], values: list[float | None], percent: bool) -> None:  # noqa: FBT001
    """Each cell of a column of scores: blank, n/a, inf, or a number that is no zero, and no 100 %, unless it is."""
    for text, number in zip(texts, values, strict=True):
        if number is None or math.isnan(number):
            assert text == ("" if number is None else "n/a")
            continue
        if math.isinf(number):
            assert text == str(number)
            continue
        shown = 100 * number if percent else number
        assert re.fullmatch(NUMBER, text)
        assert float(text) != 0 or not text.startswith("-"), text
        largest = 1.0 if percent else max(abs(value) for value in values if value is not None and math.isfinite(value))
        rounding = float(text) == 0 and abs(number) < 1e-12 * largest
        assert shows(text, shown) or rounding or (percent and text == "99.99" and shown < 100), (text, shown)
        assert not percent or (float(text) == 100) == (number == 1), (text, number)


def shows(text: str, number: float) -> bool:
    """Whether a number is rounded to the digits shown, its sign kept; less than the last digit may be shown as one."""
    mantissa, _, exponent = text.lstrip("+-").partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    shown = float(text)
    if number == 0 or shown == 0:
        return shown == number
    near = abs(shown - number) <= last / 2 * (1 + 1e-6) + 1e-14 * abs(number)
    return math.copysign(1, shown) == math.copysign(1, number) and (near or abs(shown) <= 1.000001 * last > abs(number))


@dataclass
class Oracle:
    """A result and what of its sentence is left to be read."""

    result: EvaluationResult
    text: Text

    # What the numbers hold

    def one(self, kind: str, metric: str | None) -> Comparison | None:
        return next((one for one in self.result.comparisons if (one.kind, one.metric) == (kind, metric)), None)

    def primary(self, kind: str) -> Comparison:
        found = self.one(kind, self.result.decision.primary)
        assert found, kind
        return found

    def kinds(self) -> list[str]:
        return [kind for kind in INCUMBENTS if self.one(kind, self.result.decision.primary)]

    def scale(self, one: Comparison) -> int:
        return 100 if self.result.score(one.metric).percent else 1

    def gains(self, one: Comparison) -> tuple[float, float, float]:
        """The difference and its bounds, more being better."""
        low, high = one.ci_low, one.ci_high
        if self.result.score(one.metric).higher_is_better:
            return one.difference, low, high
        return -one.difference, -high, -low

    def verdict(self, one: Comparison) -> str:
        _, low, high = self.gains(one)
        found = "inconclusive"
        if one.dominated:
            pass
        elif low > 0 and one.p_adjusted <= 0.05:
            found = "better"
        elif one.margin is not None and low > -one.margin:
            found = "non-inferior"
        elif high < 0 and one.p_adjusted <= 0.05:
            found = "worse"
        return found

    def is_worse(self, one: Comparison) -> bool:
        return not one.dominated and self.gains(one)[2] < 0 and one.p_adjusted <= 0.05

    def together(self, kind: str) -> str:
        second = self.one(kind, self.result.decision.secondary)
        word = self.verdict(second) if second else "neither"
        return TABLE[self.verdict(self.primary(kind))][word if word in {"better", "worse"} else "neither"]

    def decided(self) -> str:
        found = [self.together(kind) for kind in self.kinds()]
        if self.one("control", self.result.decision.primary) and self.together("control") == "worse":
            found.append("worse")
        order = ["worse", "your choice", "inconclusive", "non-inferior", "better"]
        return min(found, key=order.index) if found else "nothing"

    # What the sentence says

    def read(self) -> None:
        said = self.head()
        assert said == self.decided(), (said, self.decided())
        while not self.text.take(r"\.$"):
            self.text.must("; ")
            self.tail()

    def head(self) -> str:
        self.kinds_said: set[str] = set()
        text = self.text
        if text.take(r"There is nothing to compare swa.safetensors with"):
            return "nothing"
        if text.take(r"Do not ship swa.safetensors: "):
            one = self.gain()
            self.named = one.kind
            assert self.verdict(one) == "worse"
            assert self.together(one.kind) == "worse"
            self.must_say = [
                kind
                for kind in self.kinds()
                if kind != one.kind and "better" in {self.together(kind), self.verdict(self.primary(kind))}
            ]
            self.others_are_said()
            return "worse"
        if text.take(r"Whether to ship swa.safetensors is your choice: against "):
            self.named = self.other()
            text.must(" it is better by one metric, ")
            first = self.change(self.named)
            text.must(", and worse by the other, ")
            second = self.change(self.named)
            assert (self.verdict(first), self.verdict(second)) == ("better", "worse")
            assert (first.metric, second.metric) == (self.result.decision.primary, self.result.decision.secondary)
            self.must_say = [kind for kind in self.kinds() if kind != self.named]
            self.others_are_said()
            return "your choice"
        verb = text.take(r"(Ship|You may ship) swa.safetensors: ")
        if verb:
            self.shipped()
            return "better" if verb[1] == "Ship" else "non-inferior"
        self.not_known()
        return "inconclusive"

    def shipped(self) -> None:
        metric = self.result.score(self.result.decision.primary).label
        said = [self.gain()]
        while self.text.take(" and (?=[+-]|the same|[0-9])"):
            said.append(self.gain(again=metric))
        assert [one.kind for one in said] == self.kinds()
        assert {one.metric for one in said} == {self.result.decision.primary}
        kept = self.text.take(r", so not worse by more than ")
        assert bool(kept) == ("non-inferior" in map(self.verdict, said))
        if kept:
            for one in said:
                assert one.margin is not None
                assert self.gains(one)[1] > -one.margin
            self.margin(said[0])
        self.ensemble()
        for kind in self.kinds():
            second = self.one(kind, self.result.decision.secondary)
            if second and self.is_worse(second):
                assert f"against {second.other} is worse, but by less than the margin" in self.text.rest
            if second and self.verdict(second) == "better" and self.verdict(self.primary(kind)) != "better":
                assert f"that of {second.other} (" in self.text.rest
        self.must_say = []

    def ensemble(self) -> None:
        one = self.one("ensemble", self.result.decision.primary)
        row = self.result.of_kind("ensemble")[0]
        found = self.text.take(
            rf", (?P<said>no different from|no worse than|"
            rf"at most (?P<most>{NUMBER})(?P<unit>| points?) (?P<side>below|above)|"
            rf"(?P<link>and|but) (?P<by>{NUMBER})(?: points?)? (?P<how>over|against|higher than|lower than)) "
            r"the ensemble of (?P<members>\d+) at (?:1/(?P<cost>\d+)|(?P<part>[a-z ]+)) of its cost"
        )
        expected = one is not None and math.isfinite(one.ci_high - one.ci_low) and not one.dominated
        expected = expected and row.forward_passes > 1
        assert bool(found) == expected
        if not found or not one:
            return
        gain, low, _ = self.gains(one)
        assert int(found["members"]) == row.members
        assert (int(found["cost"]) if found["cost"] else COSTS[found["part"]]) == row.forward_passes
        higher, percent = self.result.score(one.metric).higher_is_better, self.result.score(one.metric).percent
        if found["said"] == "no different from":
            assert one.difference == one.ci_low == one.ci_high == 0
        elif found["said"] == "no worse than":
            assert low >= 0
        elif found["most"]:
            loss = -low * self.scale(one)
            assert loss * (1 - 1e-9) <= float(found["most"]) <= max(1.1 * loss, loss + 1)
            assert (found["side"] == "below") == higher
            assert bool(found["unit"]) == percent
        else:
            assert self.verdict(one) == ("better" if found["link"] == "and" else "worse")
            over = found["how"] in {"over", "higher than"}
            assert over == (one.difference > 0)
            signed = found["by"] if percent and higher else f"{'+' if over else '-'}{found['by']}"
            assert shows(signed, one.difference * self.scale(one))
            assert (gain > 0) == (found["link"] == "and")

    def not_known(self) -> None:
        text = self.text
        if text.take("Shipping swa.safetensors in place of "):
            self.named = self.other()
            one = self.primary(self.named)
            assert one.difference == one.ci_low == one.ci_high == 0
            text.must(f" changes no {self.result.score(one.metric).label}: it is the same on every {self.result.unit}")
        else:
            self.counted()
            sure = text.must(r" (?:(?:is|are) (?P<few>too few to tell)|cannot show) whether swa.safetensors is ")["few"]
            than = text.must(r"(better or worse than|worse than) ")[1]
            self.named = self.other()
            one = self.primary(self.named)
            assert (than == "worse than") == (one.margin is not None)
            if one.margin is not None:
                text.must(" by more than ")
                self.margin(one)
            text.must(": ")
            assert self.change(self.named) is one
            assert bool(sure) == math.isfinite(one.ci_high - one.ci_low)
            self.held(one)
        assert self.verdict(one) == self.together(self.named) == "inconclusive"
        second = self.one(self.named, self.result.decision.secondary)
        if second and self.verdict(second) == "better":
            assert f"is better than that of {second.other} (" in text.rest
        nothing = one.difference == one.ci_low == one.ci_high == 0
        others = [kind for kind in self.kinds() if kind != self.named]
        self.must_say = [kind for kind in others if nothing or self.together(kind) != "inconclusive"]
        self.others_are_said()

    def others_are_said(self) -> None:
        for kind in self.must_say:
            assert f"; against {self.primary(kind).other}: " in self.text.rest

    def tail(self) -> None:
        text, named = self.text, getattr(self, "named", None)
        if text.take("these data can resolve differences of "):
            assert named
            self.resolution(self.primary(named))
        elif text.take("averaging alone"):
            unshown = text.take(" is not shown to help")
            text.must(", against the last checkpoint with recomputed BatchNorm statistics: ")
            said = self.judged("control")
            found = [
                self.one("control", name) for name in (self.result.decision.primary, self.result.decision.secondary)
            ]
            assert bool(unshown) == ("better" not in [self.verdict(one) for one in found if one])
            for one in found[1:]:
                if one and self.verdict(one) in {"better", "worse"}:
                    assert one in said or self.verdict(one) == self.verdict(said[0])
        elif found := text.take(rf"against ({OTHER}): "):
            kind = self.kind(found[1])
            assert kind != named
            assert kind in INCUMBENTS
            said = self.judged(kind)
            second = self.one(kind, self.result.decision.secondary)
            assert said[0] is self.primary(kind)
            assert not second or self.verdict(second) not in {"better", "worse"} or second in said
        elif re.match(r"\w+ is better than that of ", text.rest):
            self.better_by_the_secondary()
        else:
            one = self.change_against()
            assert one.metric == self.result.decision.secondary
            assert self.verdict(one) == "non-inferior"
            assert self.is_worse(one)
            text.must(" is worse, but by less than ")
            self.margin(one)

    def better_by_the_secondary(self) -> None:
        label = self.text.must(r"(\w+) is better than ")[1]
        while True:
            self.text.must("that of ")
            one = self.by_label(self.other(), label)
            assert one.metric == self.result.decision.secondary
            assert self.verdict(one) == "better"
            assert self.verdict(self.primary(one.kind)) != "better"
            size, low, high = self.text.must(
                rf" \(({NUMBER})(?: points?)?, 95 % CI ({NUMBER}) to ({NUMBER})\)"
            ).groups()
            self.numbers(one, size, low, high)
            if not self.text.take(" and (?=that of)"):
                break
        asked = self.text.take(r", and (?:--margin|`margin`) sets the loss of (\w+) that you accept")
        if asked:
            assert asked[1] == self.result.score(self.result.decision.primary).label
            assert self.primary(one.kind).margin is None

    def resolution(self, one: Comparison) -> None:
        size = float(self.text.must(rf"({NUMBER})(?: points?)?")[1])
        assert not one.dominated
        assert size <= 100 or self.scale(one) == 1
        assert abs(size - one.smallest_resolvable * self.scale(one)) <= 0.051 * size
        if self.text.take(", and about "):
            count, unit = self.text.must(r"([\d,]+) (\w+) would be needed to tell in 80 % of cases if all ").groups()
            self.text.must("differences are as large as they look")
            needed, n = self.result.decision.units_needed, self.result.n_groups or self.result.n_examples
            assert needed
            assert n < needed <= int(count.replace(",", "")) <= 1.1 * needed + 1
            assert unit == ("groups" if self.result.n_groups else f"{self.result.unit}s")

    # Parts of claims

    def kind(self, other: str) -> str:
        found = [one.kind for one in self.result.comparisons if one.other == other]
        assert found, other
        return found[0]

    def other(self) -> str:
        return self.kind(self.text.must(OTHER)[0])

    def by_label(self, kind: str, label: str) -> Comparison:
        found = [
            one for score in self.result.scores if score.label == label for one in [self.one(kind, score.name)] if one
        ]
        assert found, (kind, label)
        return found[0]

    def numbers(self, one: Comparison, size: str, low: str, high: str) -> None:
        scale = self.scale(one)
        assert shows(size, one.difference * scale), (size, one)
        assert shows(low, one.ci_low * scale), (low, one)
        assert shows(high, one.ci_high * scale), (high, one)
        assert scale == 1 or all(abs(float(text)) <= 100 for text in (size, low, high)), one

    def change(self, kind: str) -> Comparison:
        """``accuracy +0.30 points (95 % CI -0.40 to +1.00)``."""
        same = self.text.take(r"the same (\w+) on every (\w+)")
        if same:
            one = self.by_label(kind, same[1])
            assert one.difference == one.ci_low == one.ci_high == 0
            assert same[2] == self.result.unit
            return one
        one = self.by_label(kind, self.text.must(r"(\w+) ")[1])
        self.figures(one, "95 % CI ")
        return one

    def figures(self, one: Comparison, bracket: str = "") -> None:
        """The difference and its interval."""
        odd = self.text.take(r"(n/a|infinitely higher|infinitely lower) \(no interval\)")
        if odd:
            meant = {"n/a": math.nan, "infinitely higher": math.inf, "infinitely lower": -math.inf}[odd[1]]
            assert one.difference == meant or math.isnan(one.difference) == math.isnan(meant) is True
            return
        size = self.text.must(rf"({NUMBER})(?: points)? \(")[1]
        if self.text.take(r"no interval\)"):
            assert not math.isfinite(one.ci_high - one.ci_low)
            assert shows(size, one.difference * self.scale(one))
        else:
            self.numbers(one, size, *self.text.must(rf"{bracket}({NUMBER}) to ({NUMBER})\)").groups())

    def change_against(self) -> Comparison:
        """The same, followed by what it is a change against."""
        other = re.search(rf" against ({OTHER})", self.text.rest)
        assert other, self.text.rest
        one = self.change(self.kind(other[1]))
        self.text.must(f" against {one.other}")
        return one

    def judged(self, kind: str) -> list[Comparison]:
        """Changes, each with its verdict."""
        said: list[Comparison] = []
        while not said or self.text.take(", and "):
            one = self.change(kind)
            said.append(one)
            if one.difference == one.ci_low == one.ci_high == 0:
                continue
            self.text.must(", ")
            self.word(one)
        return said

    def word(self, one: Comparison, *, why: bool = True) -> None:
        """A verdict."""
        word = self.text.must("better|inconclusive|not worse by more than |worse, but by less than |worse")[0]
        if word.endswith("than "):
            assert self.verdict(one) == "non-inferior"
            assert self.is_worse(one) == word.startswith("worse")
            self.margin(one)
        else:
            assert self.verdict(one) == word
        if why:
            self.held(one)

    def gain(self, again: str = "") -> Comparison:
        """``+5.24 points of accuracy over the last checkpoint (95 % CI +4.60 to +5.90)``, or in shorter words."""
        text, bracket = self.text, r" \((?:95 % CI )?"
        same = text.take(rf"the same (\w+) as ({OTHER})")
        if same:
            one = self.by_label(self.kind(same[2]), same[1])
            assert one.difference == 0
            if text.take(f" on every {self.result.unit}"):
                assert one.ci_low == one.ci_high == 0
            else:
                low, high = text.must(rf"{bracket}({NUMBER}) to ({NUMBER})\)").groups()
                self.numbers(one, "0", low, high)
            return one
        share = text.take(
            rf"({NUMBER})(?: points of (\w+))? (over|against) ({OTHER}){bracket}({NUMBER}) to ({NUMBER})\)"
        )
        if share:
            size, label, how, other, low, high = share.groups()
            one = self.by_label(self.kind(other), label or again)
            assert self.scale(one) == 100
            assert (how == "over") == (one.difference > 0)
            self.numbers(one, size, low, high)
            return one
        label = "" if again else text.must(r"(\w+) ")[1]
        size, how, other, low, high = text.must(
            rf"({NUMBER})(?: points)? (higher|lower) than that of ({OTHER}){bracket}({NUMBER}) to ({NUMBER})\)"
        ).groups()
        one = self.by_label(self.kind(other), label or again)
        assert (how == "higher") == (one.difference > 0)
        if low[0] in "+-" or float(low) == 0 == one.ci_low:
            self.numbers(one, f"{'+' if how == 'higher' else '-'}{size}", low, high)
        else:  # lower, by that much
            self.numbers(one, f"-{size}", f"-{high}", f"-{low}" if float(low) else low)
        return one

    def margin(self, one: Comparison) -> None:
        given = self.text.must(rf"the margin of ({NUMBER})( points?)?")
        assert one.margin is not None
        assert math.isclose(float(given[1]), one.margin * self.scale(one), rel_tol=1e-9)
        assert bool(given[2]) == self.result.score(one.metric).percent

    def counted(self) -> None:
        count = self.text.must(r"([\d,]+) (\w+)")
        assert int(count[1].replace(",", "")) == self.result.n_examples
        assert count[2].removesuffix("s") == self.result.unit
        groups = self.text.take(r" in ([\d,]+) groups?")
        assert (int(groups[1].replace(",", "")) if groups else None) == self.result.n_groups
        assert self.text.rest.startswith((" is", " cannot")) or self.result.n_examples != 1

    def held(self, one: Comparison) -> None:
        """Why an interval without zero is no difference."""
        few = self.text.take(r" \(the interval is not reliable: the difference rests on about ([\d,]+) (\w+)\)")
        assert bool(few) == (one.dominated and math.isfinite(one.ci_high - one.ci_low))
        if few:
            assert one.effective_n
            assert abs(int(few[1].replace(",", "")) - max(1, one.effective_n)) <= 0.5
            assert few[2].removesuffix("s") == ("group" if self.result.n_groups else self.result.unit)
            return
        given = self.text.take(r" \(p = ([^,)]+)(?:, with Holm over (\d+) comparisons ([^)]+))?\)")
        assert bool(given) == ((one.ci_low > 0 or one.ci_high < 0) and one.p_adjusted > 0.05)
        if given:
            assert is_p(given[1], one.p_value)
            assert int(given[2] or 1) == one.corrected_for
            assert is_p(given[3] or given[1], one.p_adjusted)


def is_p(text: str, p_value: float) -> bool:
    relation, _, number = text.rpartition(" ")
    if relation:
        return p_value > float(number) if relation == ">" else p_value < float(number)
    return abs(float(number) - p_value) <= 0.051 * p_value and (float(number) > 0.05) == (p_value > 0.05)
