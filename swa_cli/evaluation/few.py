"""How many units a difference rests on, and what is done where they are few."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from swa_cli.tasks import Array

_FEWEST = 5
_SHARE = 1 / 12  # what is left of fewer than 60 units with tails as of a squared error
_PLENTY = 10


def effective_n(jackknife: Array) -> float | None:
    """How many units of the same weight have as certain a spread: (Σu²)² / Σu⁴, u the influence of each unit.

    About a third of the units for a normal distribution, a ninth for an exponential one; 1 where one unit is all.
    """
    squares = _influences(jackknife) ** 2
    total = float(squares.sum())
    return total * total / float((squares * squares).sum()) if 0 < total < math.inf else None


def top_share(jackknife: Array) -> float | None:
    """Of the sum of all influences, which are taken as positive, what the largest 1 % of the units (≥ 1) have."""
    sizes = np.sort(np.abs(_influences(jackknife)))
    total = float(sizes.sum())
    return float(sizes[-max(1, len(sizes) // 100) :].sum()) / total if 0 < total < math.inf else None


def is_dominated(effective: float | None, n_units: int) -> bool:
    """Whether intervals from the spread of so few units are too narrow too often (``benchmarks/coverage.py``)."""
    return effective is not None and effective < min(_FEWEST, _SHARE * n_units)


@dataclass(frozen=True, kw_only=True)
class Peers:
    """The spread of the differences of other models: the variance of one, and `effective_n` over all of them."""

    variance: float
    effective: float | None


def peers_of(jackknifes: Iterable[Array]) -> Peers:
    """Of at least one other model in this one's place."""
    of_each = [
        (len(one), squares.sum(), (squares * squares).sum())
        for one in jackknifes
        for squares in [_influences(one) ** 2]
    ]
    n = of_each[0][0]
    second, fourth = (float(np.mean([one[place] for one in of_each])) for place in (1, 2))
    return Peers(variance=(n - 1) / n * second, effective=second * second / fourth if 0 < second < math.inf else None)


def error_among(peers: Peers, jackknife: Array) -> float:
    """The standard error of a model that may have made no error by luck.

    Where few units make the difference, the spread that its peers would show in its place says more of how far off a
    model can be. The fewer the units, the more it counts.
    """
    n = len(jackknife)
    own = (n - 1) / n * float((_influences(jackknife) ** 2).sum())
    few = [one for one in (effective_n(jackknife), peers.effective) if one is not None]
    weight = min(1.0, _PLENTY / min(few, default=_PLENTY))
    return math.sqrt(own + weight * max(0.0, peers.variance - own))


def _influences(jackknife: Array) -> Array:
    return jackknife.mean() - jackknife
