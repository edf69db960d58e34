"""Deciding from the comparisons whether to ship the average."""

from collections.abc import Sequence

from swa_cli.evaluation.result import Comparison, Decision
from swa_cli.evaluation.verdict import Verdict

INCUMBENTS = ("last", "best")
"""Kinds of candidates that would be shipped without an average."""
CONTROL = "control"
"""The kind of candidate that forbids shipping if it is better, and has no other influence."""
DECIDING = (*INCUMBENTS, CONTROL)
"""Kinds whose comparisons the decision rests on."""

WORST_FIRST: tuple[Verdict, ...] = ("worse", "inconclusive", "non-inferior", "better")


def decide(comparisons: Sequence[Comparison], *, primary: str, secondary: str | None) -> Decision:
    """Judge the average against the last checkpoint and the best by validation; the worse verdict counts.

    `together` combines the verdicts of the two metrics against one incumbent. If the primary metric is better and the
    secondary worse (``mixed``), nothing is decided. An average that is worse than the control, the last checkpoint
    with recomputed BatchNorm statistics, is not shipped either. A comparison that rests on a few examples is
    inconclusive, so it neither ships an average nor forbids it.

    Args:
        secondary: the metric that must not be worse; None if there is none.
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
    """Combine the verdicts of the primary and the secondary metric against one candidate.

    Better: the primary is better and the secondary not worse, or the secondary is better and the primary non-inferior.
    Worse: the primary is worse, or the secondary is worse and the primary not better. Non-inferior: the primary is
    non-inferior and the secondary not worse. Otherwise inconclusive.
    """
    if secondary is None or secondary in {"inconclusive", "non-inferior"} or primary == "worse":
        return primary
    if secondary == "worse":
        return "inconclusive" if primary == "better" else "worse"
    return "better" if primary in {"better", "non-inferior"} else "inconclusive"
