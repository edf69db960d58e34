"""From comparisons to whether the average is to be shipped."""

from collections.abc import Sequence

from swa_cli.evaluation.result import Comparison, Decision
from swa_cli.evaluation.verdict import Verdict

INCUMBENTS = ("last", "best")
"""Kinds of what would be shipped otherwise."""
CONTROL = "control"
"""The kind of what could be shipped otherwise, and counts only where it is better."""
DECIDING = (*INCUMBENTS, CONTROL)
"""Kinds of which the verdict depends on nothing but their own comparisons."""

WORST_FIRST: tuple[Verdict, ...] = ("worse", "inconclusive", "non-inferior", "better")


def decide(comparisons: Sequence[Comparison], *, primary: str, secondary: str | None) -> Decision:
    """The average against the last checkpoint and the best by validation: the worst of both verdicts.

    Against one of them it is better where the primary metric is and the secondary is not worse, or where the secondary
    is better and the primary non-inferior; worse where the primary is, or where the secondary is and the primary not
    better; non-inferior where the primary is and the secondary not worse. Where the primary is better and the
    secondary worse (``mixed``) nothing is decided. An average that is worse than the control is not to be shipped
    either: the last checkpoint with recomputed statistics is. A comparison that rests on a few examples is
    inconclusive, and so neither ships an average nor holds it back.

    Args:
        secondary: None where there is no other metric.
    """
    found: dict[tuple[str, str], Verdict] = {(one.kind, one.metric): one.verdict for one in comparisons}
    by_kind: dict[str, tuple[Verdict, Verdict | None]] = {
        kind: (found[kind, primary], found.get((kind, secondary or "")))
        for kind in DECIDING
        if (kind, primary) in found
    }
    pairs = [pair for kind, pair in by_kind.items() if kind != CONTROL or together(*pair) == "worse"]
    verdicts: list[Verdict] = [together(*pair) for pair in pairs] or ["inconclusive"]
    return Decision(
        verdict=min(verdicts, key=WORST_FIRST.index),
        mixed=("better", "worse") in pairs,
        primary=primary,
        secondary=secondary,
    )


def together(primary: Verdict, secondary: Verdict | None) -> Verdict:
    """What the two deciding metrics say together, against one of the others."""
    if secondary is None or secondary in {"inconclusive", "non-inferior"} or primary == "worse":
        return primary
    if secondary == "worse":
        return "inconclusive" if primary == "better" else "worse"
    return "better" if primary in {"better", "non-inferior"} else "inconclusive"
