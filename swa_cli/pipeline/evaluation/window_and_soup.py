"""Choosing how many checkpoints to average (windows), and which (the greedy soup)."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swa_cli.errors import DataError, UsageError, option
from swa_cli.evaluation import Candidate, Curve, Member, SplitRecords, primary_scores, scores_of
from swa_cli.formats import Checkpoint

Scored = Callable[[Member], SplitRecords]
"""Returns a member's records on validation data."""
Averaged = Callable[[Sequence[Checkpoint]], Mapping[str, Any]]
"""Returns the weights of the average of some checkpoints."""


def windows(asked: Sequence[int] | str, n: int) -> list[int]:
    """Return the window sizes to try; ``log`` stands for 1, 2, 4, … and all.

    Raises:
        UsageError: a window is larger than the number of checkpoints.
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
    """Return the averages of the newest k checkpoints; their names start with ``label``."""
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
    """Return the windows' scores and the k with the best primary score; of equal ones the largest.

    Raises:
        DataError: the primary score is undefined for all windows.
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
    """Return the greedy soup of Wortsman et al. 2022 (arXiv:2203.05482) and the indices of its checkpoints.

    Checkpoints are tried from best to worst, and kept if the average gets strictly better.

    Args:
        observed: records of the checkpoints on validation data.

    Raises:
        DataError: the primary score is undefined for all checkpoints.
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
