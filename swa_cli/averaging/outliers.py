"""Checkpoints that lie apart from all others: of another run, say, or from before the training.

How far a checkpoint lies from the mean of all tells little: the odd one drags the mean along, and in a run that wanders
for long the first and the last lie far from it as well. But the checkpoints of one run hang together, each close to
some other. So the measure is the distance between two checkpoints over the distance that is usual between neighbours,
at some places of the model, and of these ratios the median. Up to `FAR` the two are neighbours. Neighbours, and theirs,
are one run, which is the largest such group; what belongs to another lies apart.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swa_cli.errors import shortened

FEWEST = 3
"""Checkpoints below which none can be told from the others."""
FAR = 5.0
"""In small CNNs trained at rates that end above zero at most 3.0 was seen within a run (of 3 to 50 checkpoints), and
5.9 for the last 4 of a run whose rate fell to zero; for one of another seed at least 6.8 beside 2 others and 9.1 beside
more, and 6.4 for an untrained one among late ones."""

Ratios = npt.NDArray[np.float16]
"""Between any two of K checkpoints, (K, K); infinite where all but one are equal."""


def ratios_at(values: npt.NDArray[np.float64]) -> Ratios | None:
    """Distances between checkpoints at one place, over what is usual there.

    Usual is the median of the distances from a checkpoint to its nearest; or half the distance that both of the two
    keep to all others, if that is more: steps are longer before a learning rate falls than after.

    Args:
        values: one row for each checkpoint, at least three.

    Returns:
        None where nothing can be told: all are equal, or some are not finite.
    """
    distances = _distances(values)
    if not np.isfinite(distances).all():
        return None
    itself = np.eye(len(values), dtype=np.bool_)
    two = np.partition(np.where(itself, np.inf, distances), 1, axis=1)
    nearest, second = two[:, 0], two[:, 1]
    apart = nearest[nearest > 0]
    if not len(apart):
        return None
    median = 0.0 if len(apart) == 1 else float(np.median(apart))
    without = np.where(distances == nearest[:, None], second[:, None], nearest[:, None])
    usual = np.maximum(median, np.minimum(without, without.T) / 2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(distances == 0, 0, distances / usual).astype(np.float16)


def outliers(places: Sequence[Ratios]) -> Mapping[int, float]:
    """Which checkpoints lie apart, and how many times as far from the nearest of the run as is usual within it."""
    if not places:
        return {}
    ratios = np.median(np.stack(places), axis=0).astype(np.float64)
    groups = _groups(ratios <= FAR)
    run = max(groups, key=lambda group: (len(group), max(group)))
    return {number: float(ratios[number, sorted(run)].min()) for number in range(len(ratios)) if number not in run}


def outlier_notice(found: Mapping[Path, float]) -> str:
    """What to tell of checkpoints that lie apart."""
    names = [
        f"{path} ({f'{ratio:,.0f} times' if math.isfinite(ratio) else 'all others are equal'})"
        for path, ratio in found.items()
    ]
    return (
        "far from the other checkpoints, by so many times the distance that is usual between neighbours: "
        f"{shortened(names)}. Another run, or too early in this one? Averaged all the same; leave out what does not "
        "belong (--exclude)."
    )


def _distances(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = values - values[len(values) // 2]  # they differ in their last digits only
        products = shifted @ shifted.T
        lengths = products.diagonal()
        squares = lengths[:, None] + lengths - 2 * products
        rounding = 1e-12 * (lengths[:, None] + lengths)
        return np.sqrt(np.where(squares <= rounding, 0, squares))


def _groups(linked: npt.NDArray[np.bool_]) -> list[set[int]]:
    """The numbers that hang together, directly or through others."""
    left = set(range(len(linked)))
    groups: list[set[int]] = []
    while left:
        group: set[int] = set()
        reached = {min(left)}
        while reached:
            group |= reached
            reached = {int(other) for number in reached for other in np.flatnonzero(linked[number])} - group
        groups.append(group)
        left -= group
    return groups
