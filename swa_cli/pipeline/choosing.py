"""What is chosen on validation data: the best checkpoint, how many to average, and which."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swa_cli.checkpoints import Checkpoint
from swa_cli.errors import UsageError
from swa_cli.evaluation import Candidate, Curve, Member, Observed, primary_of, scores_of

Scored = Callable[[Member], Observed]
"""A member's scores on validation data."""
Averaged = Callable[[Sequence[Checkpoint]], Mapping[str, Any]]
"""Weights of the average of some checkpoints."""


def windows(asked: Sequence[int] | str, n: int) -> list[int]:
    """For how many of the newest checkpoints averages are wanted; ``log``: 1, 2, 4, … and all.

    Raises:
        UsageError: more than there are.
    """
    if isinstance(asked, str):
        return sorted({*(2**power for power in range(n.bit_length()) if 2**power < n), n})
    if max(asked) > n:
        msg = f"--curve {max(asked)}: there are {n} checkpoints. Name smaller numbers, or take log."
        raise UsageError(msg)
    return sorted({*asked})


def window_members(
    asked: Sequence[int], checkpoints: Sequence[Checkpoint], averaged: Averaged, *, chosen_on: str
) -> list[Member]:
    """The averages of the newest k."""
    return [
        Member(
            name=f"SWA of the last {k}",
            kind="window",
            state_dict=averaged(checkpoints[-k:]),
            members=k,
            chosen_on=chosen_on,
        )
        for k in asked
    ]


def curve_of(observed: Observed) -> Curve:
    """Scores of the windows, and the k with the best primary one; of equal ones the largest, as the most stable."""
    rows = observed.of_kind("window")
    metric = primary_of(observed)
    metrics = observed.task.metrics(rows[0].records)
    points = tuple(
        Candidate(name=row.name, kind="window", scores=scores_of(row, metrics), members=row.members) for row in rows
    )
    sign = 1 if metric.higher_is_better else -1
    best = max(points, key=lambda point: (sign * point.scores[metric.name], point.members or 0))
    return Curve(split=observed.split, points=points, chosen=best.members or 0)


def greedy_soup(
    observed: Observed, checkpoints: Sequence[Checkpoint], averaged: Averaged, scored: Scored, *, chosen_on: str
) -> Member:
    """The greedy soup of Wortsman et al. 2022 (arXiv:2203.05482): best first, kept if the average gets strictly better.

    Args:
        observed: the checkpoints on validation data.
    """
    metric = primary_of(observed)
    sign = 1 if metric.higher_is_better else -1
    values = [sign * metric.of(row.records) for row in observed.of_kind("checkpoint")]
    order = sorted(range(len(values)), key=lambda place: (-values[place], -place))
    chosen = order[:1]
    soup = _soup(chosen, checkpoints, averaged, chosen_on)
    best = sign * metric.of(scored(soup).rows[0].records)
    for place in order[1:]:
        tried = _soup(sorted([*chosen, place]), checkpoints, averaged, chosen_on)
        value = sign * metric.of(scored(tried).rows[0].records)
        if value > best:
            chosen, soup, best = sorted([*chosen, place]), tried, value
    return soup


def _soup(places: Sequence[int], checkpoints: Sequence[Checkpoint], averaged: Averaged, chosen_on: str) -> Member:
    return Member(
        name="greedy soup",
        kind="greedy",
        state_dict=averaged([checkpoints[place] for place in places]),
        members=len(places),
        chosen_on=chosen_on,
    )
