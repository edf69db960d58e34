"""What is chosen on validation data: the best checkpoint, how many to average, and which."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swa_cli.errors import DataError, UsageError, option
from swa_cli.evaluation import Candidate, Curve, Member, SplitRecords, primary_scores, scores_of
from swa_cli.formats import Checkpoint

Scored = Callable[[Member], SplitRecords]
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
        msg = f"{option('curve', max(asked))}: there are {n} checkpoints. Name smaller numbers, or take log."
        raise UsageError(msg)
    return sorted({*asked})


def window_members(
    asked: Sequence[int], checkpoints: Sequence[Checkpoint], averaged: Averaged, *, label: str, chosen_on: str
) -> list[Member]:
    """The averages of the newest k; their names begin with ``label``."""
    return [
        Member(
            name=f"{label} of the last {k}",
            kind="window",
            state_dict=averaged(checkpoints[-k:]),
            members=k,
            chosen_on=chosen_on,
        )
        for k in asked
    ]


def curve_of(observed: SplitRecords) -> Curve:
    """Scores of the windows, and the k with the best primary one; of equal ones the largest, as the most stable.

    Raises:
        DataError: none has that score.
    """
    rows = observed.of_kind("window")
    metrics = observed.task.metrics(rows[0].records)
    points = tuple(
        Candidate(name=row.name, kind="window", scores=scores_of(row, metrics), members=row.members) for row in rows
    )
    merits = _known(primary_scores(observed, "window"), observed)
    _, chosen = max((merit, point.members or 0) for merit, point in zip(merits, points, strict=True))
    return Curve(split=observed.split, points=points, chosen=chosen)


def greedy_soup(
    observed: SplitRecords, checkpoints: Sequence[Checkpoint], averaged: Averaged, scored: Scored, *, chosen_on: str
) -> tuple[Member, list[int]]:
    """The greedy soup of Wortsman et al. 2022 (arXiv:2203.05482): best first, kept if the average gets strictly better.

    It comes with the places of its checkpoints.

    Args:
        observed: the checkpoints on validation data.

    Raises:
        DataError: none of them has the score that decides.
    """
    values = _known(primary_scores(observed, "checkpoint"), observed)
    order = sorted(range(len(values)), key=lambda place: (-values[place], -place))
    chosen: list[int] = []
    soup, best = None, -math.inf
    for place in order:
        tried = _soup(sorted([*chosen, place]), checkpoints, averaged, chosen_on)
        (value,) = primary_scores(scored(tried), "greedy")
        if soup is None or value > best:
            chosen, soup, best = sorted([*chosen, place]), tried, value
    assert soup is not None
    return soup, chosen


def _known(merits: list[float], observed: SplitRecords) -> list[float]:
    if max(merits) == -math.inf:
        msg = (
            f"nothing can be chosen on the {observed.split} split: {observed.task.primary} is not defined there for "
            f"any candidate. Check its labels, or leave out {option('curve')} and {option('greedy', True)}."
        )
        raise DataError(msg)
    return merits


def _soup(places: Sequence[int], checkpoints: Sequence[Checkpoint], averaged: Averaged, chosen_on: str) -> Member:
    return Member(
        name="greedy soup",
        kind="greedy",
        state_dict=averaged([checkpoints[place] for place in places]),
        members=len(places),
        chosen_on=chosen_on,
    )
