"""Measuring how many units a difference rests on, and widening the error if they are few."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from swa_cli.tasks import Array

_FEWEST = 5
_SHARE = 1 / 12  # a squared error of normal values has about this effective share of fewer than 60 units
_PLENTY = 10


def effective_n(jackknife: Array) -> float | None:
    """Return how many equally weighted units would make the spread as certain: (Σu²)² / Σu⁴ of the influences u.

    About a third of the units for a normal distribution, a ninth for an exponential one, and 1 if one unit makes the
    whole difference. None if there is no spread, or it is not finite.
    """
    squares = _influences(jackknife) ** 2
    total = float(squares.sum())
    return total * total / float((squares * squares).sum()) if 0 < total < math.inf else None


def top_share(jackknife: Array) -> float | None:
    """Return the share of Σ|u| that the 1 % of units (at least one) with the largest influence u have, or None."""
    sizes = np.sort(np.abs(_influences(jackknife)))
    total = float(sizes.sum())
    return float(sizes[-max(1, len(sizes) // 100) :].sum()) / total if 0 < total < math.inf else None


def is_dominated(effective: float | None, n_units: int) -> bool:
    """Return whether so few units make the difference that intervals are often too narrow (docs/evaluation.md)."""
    return effective is not None and effective < min(_FEWEST, _SHARE * n_units)


@dataclass(frozen=True, kw_only=True)
class Peers:
    """The spread of other models' differences: the mean variance, and `effective_n` over all of them."""

    variance: float
    effective: float | None


def peers_of(jackknifes: Iterable[Array]) -> Peers:
    """Return the `Peers` of a model from the jackknifes of at least one other model in its place."""
    of_each = [
        (len(one), squares.sum(), (squares * squares).sum())
        for one in jackknifes
        for squares in [_influences(one) ** 2]
    ]
    n = of_each[0][0]
    second, fourth = (float(np.mean([one[place] for one in of_each])) for place in (1, 2))
    return Peers(variance=(n - 1) / n * second, effective=second * second / fourth if 0 < second < math.inf else None)


def error_among(peers: Peers, jackknife: Array) -> float:
    """Return a standard error for a model that may have made no error by luck.

    If few units make the difference, the spread that its peers would have in its place is more informative than its
    own. The fewer the units, the more weight it gets.
    """
    n = len(jackknife)
    own = (n - 1) / n * float((_influences(jackknife) ** 2).sum())
    few = [one for one in (effective_n(jackknife), peers.effective) if one is not None]
    weight = min(1.0, _PLENTY / min(few, default=_PLENTY))
    return math.sqrt(own + weight * max(0.0, peers.variance - own))


def _influences(jackknife: Array) -> Array:
    return jackknife.mean() - jackknife
