"""Checkpoints that lie apart from all others: of another run, say, or from before the training.

How far a checkpoint lies from the mean of all says little: the odd one drags the mean along, and in a run that wanders
for long the first and the last lie far from it as well. But the checkpoints of one run hang together, each close to
some other. So the measure is the distance between two checkpoints over the distance that is usual between neighbours,
at some places of the model, and of these ratios the median. Up to `FAR` the two are neighbours. Neighbours, and theirs,
are one run, which is the largest such group; what belongs to another lies apart.

Of many checkpoints each is compared with those before and after it (`blocks_of`), so that time and memory grow with
their number and not with its square.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from swa_cli.errors import option, shortened

FEWEST = 3
"""Checkpoints below which none can be told from the others."""
FAR = 5.0
"""In small CNNs trained at rates that end above zero at most 3.0 was seen within a run (of 3 to 50 checkpoints), and
5.9 for the last 4 of a run whose rate fell to zero; for one of another seed at least 6.8 beside 2 others and 9.1 beside
more, and 6.4 for an untrained one among late ones."""

BLOCK = 128
"""Checkpoints that are compared with each other, each with each."""

Ratios = npt.NDArray[np.float16]
"""Between any two of K checkpoints, (K, K); infinite where all but one are equal."""


def blocks_of(count: int) -> list[slice]:
    """Blocks of checkpoints that are compared with each other; of many, each shares a half with the next.

    >>> [(block.start, block.stop) for block in blocks_of(300)]
    [(0, 128), (64, 192), (128, 256), (172, 300)]
    """
    starts = [*range(0, count - BLOCK, BLOCK // 2), max(0, count - BLOCK)]
    return [slice(start, min(start + BLOCK, count)) for start in starts]


def ratios_at(values: npt.NDArray[np.float64]) -> Ratios | None:
    """Distances between checkpoints at one place, over what is usual there.

    Usual is the median of the distances from a checkpoint to its nearest; or half the distance that both of the two
    keep to all others, if that is more: steps are longer before a learning rate falls than after.

    Args:
        values: one row for each checkpoint.

    Returns:
        None where nothing can be told: there are fewer than `FEWEST`, all are equal, or some are not finite.
    """
    if len(values) < FEWEST:
        return None
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


def outliers(places: Sequence[Sequence[Ratios | None]], count: int) -> Mapping[int, float]:
    """Which checkpoints lie apart, and how many times as far from the nearest of the run as is usual within it.

    Args:
        places: of each place, the ratios within each of the `blocks_of` so many checkpoints, where they are known.

    Returns:
        NaN where a checkpoint is not compared with any of the run.
    """
    compared: list[tuple[slice, npt.NDArray[np.float64]]] = []
    hang_together = list(range(count))  # each with the number of another one of its group, in the end the lowest
    for number, block in enumerate(blocks_of(count)):
        known = [ratios for place in places if (ratios := place[number]) is not None]
        size = block.stop - block.start
        ratios = np.median(np.stack(known), axis=0).astype(np.float64) if known else np.zeros((size, size))
        compared.append((block, ratios))
        for group in _groups(ratios <= FAR):
            _join([block.start + member for member in group], hang_together)
    groups: dict[int, list[int]] = {}
    for member in range(count):
        groups.setdefault(_lowest(member, hang_together), []).append(member)
    run = {*max(groups.values(), key=lambda group: (len(group), max(group)))} if groups else set[int]()
    found: dict[int, float] = {}
    for block, ratios in compared:
        of_run = np.array([member in run for member in range(block.start, block.stop)])
        for member in range(block.start, block.stop):
            if member not in run:
                near = float(ratios[member - block.start, of_run].min()) if of_run.any() else math.nan
                found[member] = float(np.fmin(near, found.get(member, math.nan)))
    return found


def outlier_notice(found: Mapping[PurePath, float]) -> str:
    """What to tell of checkpoints that lie apart."""
    names = [
        f"{path} ({'all others are equal' if math.isinf(ratio) else f'{ratio:,.0f} times'})"
        if not math.isnan(ratio)
        else str(path)
        for path, ratio in found.items()
    ]
    return (
        "far from the other checkpoints, by so many times the distance that is usual between neighbours: "
        f"{shortened(names)}. Another run, or too early in this one? Included all the same; leave out what does not "
        f"belong ({option('exclude')})."
    )


def _distances(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = values - values[len(values) // 2]  # they differ in their last digits only
        products = shifted @ shifted.T
        lengths = products.diagonal()
        squares = lengths[:, None] + lengths - 2 * products
        rounding = 1e-12 * (lengths[:, None] + lengths)
        return np.sqrt(np.where(squares <= rounding, 0, squares))


def _join(members: Sequence[int], hang_together: list[int]) -> None:
    lowest = min(_lowest(member, hang_together) for member in members)
    for member in members:
        hang_together[_lowest(member, hang_together)] = lowest


def _lowest(member: int, hang_together: list[int]) -> int:
    """The lowest of the group of ``member``; the ways there get shorter."""
    while hang_together[member] != member:
        hang_together[member] = hang_together[hang_together[member]]
        member = hang_together[member]
    return member


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
