"""Weights of the checkpoints in a mean."""

import math
from collections.abc import Sequence
from pathlib import PurePath

from swa_cli.errors import UsageError, listed, option

_MOST_WHOLE = 1 << 31
"""Largest sum of integer weights for which means of integers are exact: products fit 64 bits."""


def ema_weights(n: int, decay: float) -> tuple[float, ...]:
    """Return the weights with which the mean of ``n`` checkpoints, oldest first, is their exponential moving average.

    The average is e_0 = x_0, e_t = d e_(t-1) + (1 - d) x_t, as in ``torch.optim.swa_utils.get_ema_avg_fn`` and timm's
    ``ModelEmaV2``. So w_0 = d^(n-1), w_i = (1 - d) d^(n-1-i), which add up to 1.

    Raises:
        UsageError: the decay does not lie between 0 and 1.

    >>> ema_weights(3, 0.5)
    (0.25, 0.25, 0.5)
    """
    if not 0 < decay < 1:
        msg = f"the decay of an EMA must lie between 0 and 1, found {decay:g}. Give {option('ema', 0.9)}, say."
        raise UsageError(msg)
    return tuple((1 - decay if i else 1.0) * decay ** (n - 1 - i) for i in range(n))


def checked_weights(weights: Sequence[float] | None, paths: Sequence[PurePath]) -> tuple[float, ...]:
    """Return one checked weight per file; all are 1 if they are equal.

    Args:
        paths: the files in the order of averaging.

    Raises:
        UsageError: there are too many or too few weights, or one is not a positive number.
    """
    if weights is None:
        return (1.0,) * len(paths)
    if len(weights) != len(paths):
        msg = (
            f"expected {len(paths)} weights, one for each checkpoint, found {len(weights)}. They count for the "
            "checkpoints in the order of averaging, oldest first:"
        )
        raise UsageError(msg, *listed([str(path) for path in paths]))
    for weight, path in zip(weights, paths, strict=True):
        if weight == 0:
            msg = f"{path} has the weight 0 and would count for nothing. Leave that checkpoint out."
            raise UsageError(msg)
        if not 0 < weight < math.inf:
            msg = (
                f"{path} has the weight {weight:g}, expected a positive number. Give {option('weights', (1, 1, 2))}, "
                "say."
            )
            raise UsageError(msg)
    if math.isinf(sum(weights)):
        msg = "the sum of the weights is too large for a float64. Only their ratios count: divide all by one number."
        raise UsageError(msg)
    if len(set(weights)) == 1:
        return (1.0,) * len(paths)
    return tuple(float(weight) for weight in weights)


def check_whole(weights: Sequence[float]) -> None:
    """Check that means of integers with these weights are exact.

    Raises:
        UsageError: a weight is not an integer, or their sum is too large.
    """
    if not all(weight.is_integer() for weight in weights) or sum(weights) > _MOST_WHOLE:
        msg = (
            f"the mean of integers ({option('integers', 'mean-round')}) is exact, and so takes whole weights only, of "
            f"a sum up to {_MOST_WHOLE:,}. Give such {option('weights')} (2,3 instead of 0.4,0.6), or choose "
            f"{option('integers', 'last')}."
        )
        raise UsageError(msg)
